//! Clusters that are written compressed, as QEMU sees them.

use std::path::Path;

use vmdisk::block::{BlockDevice, ExtentKind};
use vmdisk::image::{Image, OpenOptions};

use crate::draw::{Draw, each, whole_matrix};
use crate::support::{Env, same_bytes};

/// What an image is like: the cluster size, the width of its counts in bits, how it packs.
#[derive(Debug, Clone, Copy)]
struct Case {
    cluster: u64,
    bits: u64,
    kind: &'static str,
    extended: bool,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, shift) in (9..=21).enumerate() {
        for width in 0..=6 {
            for (m, kind) in ["zlib", "zstd"].into_iter().enumerate() {
                if whole_matrix() || (n + m * 3) % 7 == width {
                    let (cluster, bits) = (1 << shift, 1 << width);
                    let extended = shift >= 14 && (n + m) % 2 == 1;
                    cases.push(Case { cluster, bits, kind, extended });
                }
            }
        }
    }
    cases
}

/// A cluster's worth of one byte, of words, of noise, or of both; or zeros.
fn contents(draw: &mut Draw, len: u64) -> Vec<u8> {
    let len = usize::try_from(len).expect("a length");
    let kind = draw.below(5);
    let mut data = vec![0; len];
    if kind == 1 {
        data.fill(draw.next() as u8 | 1);
    }
    if kind >= 2 {
        let mut at = 0;
        while at < len {
            let word = [&b"cluster "[..], b"disk ", b"of ", b"a ", b"\n"][draw.below(5) as usize];
            let noise = draw.next().to_le_bytes();
            let word = if kind == 3 || kind == 4 && draw.one_in(2) { &noise } else { word };
            let end = len.min(at + word.len());
            data[at..end].copy_from_slice(&word[..end - at]);
            at = end;
        }
    }
    data
}

fn open(path: &Path) -> Image {
    Image::open(path, &OpenOptions::to_write()).expect("the image")
}

/// Compressed clusters of the image.
fn packed(image: &Image, cluster: u64) -> u64 {
    let kind = |at| image.extent(at, image.size().min(at + cluster)).expect("an extent").kind;
    let starts = (0..image.size()).step_by(cluster as usize);
    starts.filter(|&at| kind(at) == ExtentKind::Compressed).count() as u64
}

/// Two threads, each with its half of the clusters; a few are written plainly, a few discarded.
fn write(image: &Image, disk: &mut [u8], cluster: u64, draw: &mut Draw) {
    let half = (disk.len() as u64 / cluster / 2 * cluster) as usize;
    let (head, tail) = disk.split_at_mut(half);
    let work = |start: u64, part: &mut [u8], mut draw: Draw| {
        for (at, piece) in
            (start..).step_by(cluster as usize).zip(part.chunks_mut(cluster as usize))
        {
            piece.copy_from_slice(&contents(&mut draw, piece.len() as u64));
            match draw.below(10) {
                0 => image.write_at(at, piece).expect("a plain write"),
                1 if draw.one_in(3) => image.flush().expect("a flush"),
                _ => {}
            }
            image.write_compressed(at, piece).expect("a compressed write");
            if draw.one_in(12) {
                image.write_zeroes(at, piece.len() as u64).expect("zeros");
                piece.fill(0);
            }
        }
    };
    let draws = (draw.fork(), draw.fork());
    std::thread::scope(|scope| {
        scope.spawn(|| work(0, head, draws.0));
        scope.spawn(|| work(half as u64, tail, draws.1));
    });
}

/// What is written compressed, over nothing, over other clusters of all kinds and over what a
/// snapshot keeps, QEMU reads; it counts as many compressed clusters, and nothing else is wrong.
#[test]
fn qemu_reads_what_is_written_compressed() {
    each(&cases(), |&Case { cluster, bits, kind, extended }| {
        let (env, mut draw) = (Env::new(), Draw::from_seed(cluster * 64 + bits));
        let size = (1 << 20).max(cluster * 5).min(cluster * 700) + 1536;
        env.qemu_img(&format!(
            "create -q -f qcow2 -o cluster_size={cluster},refcount_bits={bits},\
             compression_type={kind},extended_l2={extended} d.qcow2 {size}"
        ));
        let mut disk = vec![0; size as usize];
        let mut kept = None;
        for round in 0..3 {
            let image = open(&env.path("d.qcow2"));
            write(&image, &mut disk, cluster, &mut draw);
            image.close().expect("the end of it");
            env.is_clean("d.qcow2");
            same_bytes(&env.disk("qcow2", "d.qcow2"), &disk, "by QEMU");
            let image = Image::open(env.path("d.qcow2"), &OpenOptions::to_read()).expect("it");
            let mut found = vec![1; disk.len()];
            image.read_at(0, &mut found).expect("the disk");
            same_bytes(&found, &disk, "by us");
            let report = env.run("qemu-img", ["check", "--output=json", "d.qcow2"]).exits(0).json();
            let counted = report["compressed-clusters"].as_u64().unwrap_or(0);
            assert_eq!(packed(&image, cluster), counted, "round {round}");
            assert!(counted > 0, "round {round}");
            drop(image);
            // A reference more for every host cluster must fit its count.
            if round == 1 && bits >= 16 {
                env.qemu_img("snapshot -c kept d.qcow2");
                kept = Some(disk.clone());
            }
        }
        if let Some(kept) = kept {
            same_bytes(&env.snapshot_disk("d.qcow2", "kept"), &kept, "the snapshot");
        }
    });
}

/// What QEMU packed, in one go or cluster by cluster, is read whole and in pieces of any size.
#[test]
fn what_qemu_packed_is_read() {
    each(&cases(), |&Case { cluster, bits, kind, extended }| {
        let (env, mut draw) = (Env::new(), Draw::from_seed(cluster + bits));
        let size = (1 << 20).max(cluster * 5).min(cluster * 700) + 1536;
        let disk: Vec<u8> = (0..size)
            .step_by(cluster as usize)
            .flat_map(|at| contents(&mut draw, cluster.min(size - at)))
            .collect();
        env.write("s.raw", &disk);
        env.qemu_img(&format!(
            "convert -c -f raw -O qcow2 -o cluster_size={cluster},refcount_bits={bits},\
             compression_type={kind},extended_l2={extended} s.raw d.qcow2"
        ));
        let image = Image::open(env.path("d.qcow2"), &OpenOptions::to_read()).expect("the image");
        let mut found = vec![1; disk.len()];
        image.read_at(0, &mut found).expect("the disk");
        same_bytes(&found, &disk, "in one go");
        for _ in 0..200 {
            let at = draw.below(size);
            let len = (1 + draw.below(cluster * 2)).min(size - at);
            let mut found = vec![1; len as usize];
            image.read_at(at, &mut found).expect("a piece");
            same_bytes(&found, &disk[at as usize..(at + len) as usize], "a piece");
        }
    });
}
