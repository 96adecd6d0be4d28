//! Reads and writes the disk in a file through one of the libraries, and prints how many
//! nanoseconds that took, without opening and closing. Everybody gets the same offsets.
//!
//! `datapath ENGINE WORK FILE`: the engine is `vmdisk`, `imago`, `qcow2-rs` or `raw`, which is the
//! system's positional calls on a raw file; the works are the functions below.

mod engine;

use std::env::args;
use std::fs::{File, read_dir};
use std::io::{self, Error, Read, Result, copy};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vmdisk::block::BlockDevice;
use vmdisk::image::{Image, OpenOptions};

use self::engine::{Disk, Engine};

/// What single requests read and write: a page.
const PAGE: u64 = 4 << 10;
/// What sequential requests write, and what is filled at once: a cluster of the usual size.
const CLUSTER: u64 = 64 << 10;
/// The disk whose clusters are all there.
const DISK: u64 = 8 << 30;
/// Of so many of its clusters one is filled: 2 GiB, so that every table is needed and the data
/// stays in the page cache.
const SPREAD: u64 = 4;
/// Requests at random offsets.
const REQUESTS: u32 = 400_000;
/// The same across a disk that is too large for any cache of its tables.
const FAR_REQUESTS: u32 = 20_000;
/// What is written sequentially.
const SEQUENTIAL: u64 = 1 << 30;
/// Clusters that are written each before its neighbours.
const SCATTERED: usize = 200_000;
/// What a thread takes of a disk at once.
const PIECE: u64 = 1 << 20;
/// The bytes of a source of compressed images.
const SOURCE: u64 = 1 << 30;

fn main() -> Result<()> {
    let arguments: Vec<String> = args().skip(1).collect();
    let [engine, work, file] = arguments.as_slice() else {
        return Err(Error::other("usage: datapath ENGINE WORK FILE"));
    };
    let (engine, file) = (Engine::named(engine)?, Path::new(file));
    let elapsed = match work.as_str() {
        "fill" => fill(&*engine.open(file, true)?),
        "read" => read(&*engine.open(file, false)?),
        "write" => write(&*engine.open(file, true)?),
        "append" => append(&*engine.open(file, true)?),
        "scatter" => scatter(&*engine.open(file, true)?),
        "far" => far(&*engine.open(file, false)?),
        "open" => open(engine, file),
        "unpack" => unpack(file),
        "gather" => gather(file),
        _ => Err(Error::other(format!("{work} is not a work"))),
    }?;
    println!("{}", elapsed.as_nanos());
    Ok(())
}

/// Writes every fourth cluster of the disk; each page begins with its offset.
fn fill(disk: &dyn Disk) -> Result<Duration> {
    let start = Instant::now();
    let mut memory = vec![0xa5; CLUSTER as usize];
    for cluster in 0..DISK / CLUSTER / SPREAD {
        let offset = cluster * SPREAD * CLUSTER;
        for page in (0..CLUSTER).step_by(PAGE as usize) {
            tag(&mut memory[page as usize..], offset + page);
        }
        disk.write(offset, &memory)?;
    }
    disk.flush()?;
    Ok(start.elapsed())
}

/// Reads pages of what was filled, at random.
fn read(disk: &dyn Disk) -> Result<Duration> {
    let mut memory = Aligned::new();
    let page = memory.page();
    let mut offsets = Offsets::new(DISK);
    let start = Instant::now();
    for _ in 0..REQUESTS {
        let offset = offsets.filled();
        disk.read(offset, page)?;
        if page[..8] != offset.to_ne_bytes() {
            return Err(Error::other(format!("other bytes at {offset}")));
        }
    }
    Ok(start.elapsed())
}

/// Writes pages of what was filled, at random; what is written is what was there. No flush.
fn write(disk: &dyn Disk) -> Result<Duration> {
    let mut memory = Aligned::new();
    let page = memory.page();
    page.fill(0xa5);
    let mut offsets = Offsets::new(DISK);
    let start = Instant::now();
    for _ in 0..REQUESTS {
        let offset = offsets.filled();
        tag(page, offset);
        disk.write(offset, page)?;
    }
    Ok(start.elapsed())
}

/// Writes the disk from its beginning, and flushes.
fn append(disk: &dyn Disk) -> Result<Duration> {
    let memory = vec![0xa5; CLUSTER as usize];
    let start = Instant::now();
    for offset in (0..SEQUENTIAL).step_by(CLUSTER as usize) {
        disk.write(offset, &memory)?;
    }
    disk.flush()?;
    Ok(start.elapsed())
}

/// Writes a page of very many clusters, in random order, none twice: where a cluster lies in the
/// file says nothing of where its neighbour does.
fn scatter(disk: &dyn Disk) -> Result<Duration> {
    let mut clusters: Vec<u64> = (0..disk.size() / CLUSTER).collect();
    let mut offsets = Offsets::new(disk.size());
    for last in (1..clusters.len()).rev() {
        clusters.swap(last, offsets.next() as usize % (last + 1));
    }
    let memory = vec![0xa5; PAGE as usize];
    let start = Instant::now();
    for cluster in clusters.iter().take(SCATTERED) {
        disk.write(cluster * CLUSTER, &memory)?;
    }
    disk.flush()?;
    Ok(start.elapsed())
}

/// Reads pages of the whole disk, at random, whatever is there.
fn far(disk: &dyn Disk) -> Result<Duration> {
    let mut memory = Aligned::new();
    let page = memory.page();
    let mut offsets = Offsets::new(disk.size());
    let start = Instant::now();
    for _ in 0..FAR_REQUESTS {
        disk.read(offsets.any(), page)?;
    }
    Ok(start.elapsed())
}

/// Opens the disk and reads one page of its middle.
fn open(engine: Engine, file: &Path) -> Result<Duration> {
    let mut memory = Aligned::new();
    let page = memory.page();
    let start = Instant::now();
    let disk = engine.open(file, false)?;
    disk.read(disk.size() / 2 / CLUSTER * CLUSTER, page)?;
    Ok(start.elapsed())
}

/// Reads everything through vmdisk by two threads, each taking the next piece.
fn unpack(file: &Path) -> Result<Duration> {
    let image = Image::open(file, &OpenOptions::to_read()).map_err(io::Error::other)?;
    let disk: &dyn BlockDevice = &image;
    let next = AtomicU64::new(0);
    let read_pieces = || -> vmdisk::Result<()> {
        let mut memory = vec![0; PIECE as usize];
        loop {
            let offset = next.fetch_add(PIECE, Ordering::Relaxed);
            let Some(left) = disk.size().checked_sub(offset).filter(|left| *left > 0) else {
                return Ok(());
            };
            disk.read_at(offset, &mut memory[..left.min(PIECE) as usize])?;
        }
    };
    let start = Instant::now();
    thread::scope(|scope| {
        let other = scope.spawn(read_pieces);
        read_pieces()?;
        other.join().unwrap_or_else(|_| panic!("the other thread did"))
    })
    .map_err(Error::other)?;
    Ok(start.elapsed())
}

/// Makes a file of what is installed: programs, libraries, texts.
fn gather(file: &Path) -> Result<Duration> {
    let start = Instant::now();
    let mut gathered = File::create(file)?;
    let mut left = SOURCE;
    let mut folders: Vec<PathBuf> =
        ["/usr/share", "/usr/lib", "/usr/bin"].map(PathBuf::from).into();
    while let Some(folder) = folders.pop() {
        let entries = read_dir(folder)?.collect::<Result<Vec<_>>>()?;
        for entry in entries {
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if let Ok(part) = File::open(entry.path())
                && kind.is_file()
            {
                left -= copy(&mut part.take(left), &mut gathered)?;
            }
        }
    }
    Ok(start.elapsed())
}

/// A page begins with its offset, so that a wrong one is seen.
fn tag(page: &mut [u8], offset: u64) {
    page[..8].copy_from_slice(&offset.to_ne_bytes());
}

/// Memory that holds a page at an address that no library has to work around.
struct Aligned(Vec<u8>);

impl Aligned {
    fn new() -> Aligned {
        Aligned(vec![0; 2 * PAGE as usize])
    }

    fn page(&mut self) -> &mut [u8] {
        let before = self.0.as_ptr().align_offset(PAGE as usize);
        &mut self.0[before..][..PAGE as usize]
    }
}

/// The same random offsets for everybody (splitmix64).
struct Offsets {
    state: u64,
    size: u64,
}

impl Offsets {
    fn new(size: u64) -> Offsets {
        Offsets { state: 42, size }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A page of the disk.
    fn any(&mut self) -> u64 {
        self.next() % (self.size / PAGE) * PAGE
    }

    /// A page of a cluster that was filled.
    fn filled(&mut self) -> u64 {
        let (page, stride) = (self.any(), SPREAD * CLUSTER);
        page / stride * stride + page % CLUSTER
    }
}
