//! Growing and shrinking whatever QEMU and this program make: what stays is unchanged, what is
//! added is zeros, and the image is clean after every step.

use std::fmt;
use std::fs;
use std::process::Command;

use crate::draw::{Draw, each, whole_matrix};
use crate::header::{RawHeader, table};
use crate::support::{Env, same_bytes};

/// The largest disk of a walk, in bytes.
const LARGEST: u64 = 6 << 20;
/// Resizes in a walk.
const STEPS: usize = 6;

/// What an image is before it is resized.
#[derive(Clone)]
struct Case {
    by_qemu: bool,
    v3: bool,
    cluster: u64,
    refcount: u64,
    extended: bool,
    lazy: bool,
    preallocation: &'static str,
    kind: Kind,
    draw: Draw,
}

/// What makes a resize hard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// Above a base of this many bytes and format.
    Overlay(u64, &'static str),
    /// With an internal snapshot.
    Snapshot,
    /// Its clusters are compressed.
    Compressed(&'static str),
    /// Killed while it was written to, with lazy reference counts.
    Dirty,
}

const SHORT: u64 = 300 * 1024 + 512;
const LONG: u64 = (5 << 20) + 1536;
const KINDS: &[Kind] = &[
    Kind::Plain,
    Kind::Plain,
    Kind::Overlay(SHORT, "raw"),
    Kind::Overlay(LONG, "raw"),
    Kind::Overlay(LONG, "qcow2"),
    Kind::Snapshot,
    Kind::Compressed("zlib"),
    Kind::Compressed("zstd"),
    Kind::Dirty,
];

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let maker = if self.by_qemu { "qemu-img create -o " } else { "vmdisk create with " };
        write!(f, "{maker}{}, {:?}", self.options(), self.kind)
    }
}

impl Case {
    fn drawn(draw: &mut Draw, kind: Kind) -> Case {
        let v3 = kind != Kind::Dirty && kind != Kind::Compressed("zstd") && kind != Kind::Snapshot;
        let v3 = !v3 || !draw.one_in(4);
        let cluster = draw.pick(&[512, 512, 1024, 4096, 16384, 65536, 262_144, 2 << 20]);
        let counts: &[u64] =
            if kind == Kind::Snapshot { &[4, 8, 16, 64] } else { &[1, 2, 4, 8, 16, 32, 64] };
        // More than one compressed cluster may share a host cluster.
        let counts = if matches!(kind, Kind::Compressed(_)) { &[16, 32, 64] } else { counts };
        let extended = v3 && cluster >= 16384 && draw.one_in(2);
        let overlay = matches!(kind, Kind::Overlay(..));
        let preallocations: &[&str] =
            if overlay && !extended { &["off"] } else { &["off", "metadata", "falloc", "full"] };
        // Writing in place leaves an image clean.
        let off = matches!(kind, Kind::Compressed(_) | Kind::Dirty);
        let compressed = matches!(kind, Kind::Compressed(_));
        Case {
            by_qemu: compressed || draw.one_in(2),
            v3,
            cluster,
            refcount: if v3 { draw.pick(counts) } else { 16 },
            extended,
            lazy: v3 && (kind == Kind::Dirty || draw.one_in(4)),
            preallocation: if off { "off" } else { draw.pick(preallocations) },
            kind,
            draw: draw.fork(),
        }
    }

    /// Options by the names that both programs have.
    fn named(&self) -> Vec<(&'static str, String)> {
        let on_off = |on: bool| if on { "on" } else { "off" }.to_owned();
        let mut named = vec![
            ("compat", if self.v3 { "1.1" } else { "0.10" }.to_owned()),
            ("cluster_size", self.cluster.to_string()),
            ("preallocation", self.preallocation.to_owned()),
        ];
        if self.v3 {
            named.push(("refcount_bits", self.refcount.to_string()));
            named.push(("extended_l2", on_off(self.extended)));
            named.push(("lazy_refcounts", on_off(self.lazy)));
            if let Kind::Compressed(how) = self.kind {
                named.push(("compression_type", how.to_owned()));
            }
        }
        named
    }

    fn options(&self) -> String {
        let named = self.named();
        named.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
    }

    fn create(&self, env: &Env, size: u64) {
        let backing = match self.kind {
            Kind::Overlay(_, format) => Some(format!("base.{format}")),
            _ => None,
        };
        if self.by_qemu {
            let format = backing.as_ref().map(|name| name.replace("base.", "-F "));
            let backing = backing.map(|name| format!("-b {name} {}", format.unwrap_or_default()));
            let (options, backing) = (self.options(), backing.unwrap_or_default());
            env.qemu_img(&format!("create -q -f qcow2 {backing} -o {options} d.qcow2 {size}"));
            return;
        }
        let flag = |(name, value): &(&str, String)| format!("--{} {value}", name.replace('_', "-"));
        let flags = self.named().iter().map(flag).collect::<Vec<_>>().join(" ");
        let format = backing.as_ref().map(|name| name.replace("base.", "--backing-format "));
        let backing =
            backing.map(|name| format!("--backing {name} {}", format.unwrap_or_default()));
        let backing = backing.unwrap_or_default();
        env.report(&format!("create d.qcow2 --size {size}B --guest none {flags} {backing}"));
    }
}

/// The guest's disk as a list of bytes that follows what is done to the image.
struct Model {
    bytes: Vec<u8>,
}

impl Model {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// A write of the guest, here and as a command for `qemu-io`.
    fn write(&mut self, draw: &mut Draw, at: u64, len: u64) -> String {
        let byte = u8::try_from(1 + draw.below(255)).expect("a byte");
        let (start, end) = (index(at), index(at + len));
        self.bytes[start..end].fill(byte);
        format!("write -P {byte} {at} {len}")
    }

    /// Some writes anywhere, and mostly one into the last cluster.
    fn writes(&mut self, draw: &mut Draw, count: usize) -> Vec<String> {
        let mut commands = Vec::new();
        for _ in 0..count {
            let len = draw.sectors(self.size().min(100_000));
            let at = draw.below((self.size() - len) / 512 + 1) * 512;
            commands.push(self.write(draw, at, len));
        }
        if !draw.one_in(3) {
            let len = 512.min(self.size());
            commands.push(self.write(draw, self.size() - len, len));
        }
        commands
    }

    fn resize(&mut self, size: u64) {
        self.bytes.resize(index(size), 0);
    }

    fn is_what_reads(&self, env: &Env, when: &str) {
        same_bytes(&env.disk("qcow2", "d.qcow2"), &self.bytes, when);
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("an offset in memory")
}

/// A base full of a pattern, so that anything of it that shows is seen.
fn make_base(env: &Env, len: u64) -> Vec<u8> {
    let base: Vec<u8> = (0..len).map(|at| (at / 512 % 251 + 1) as u8).collect();
    env.write("base.raw", &base);
    env.qemu_img("convert -f raw -O qcow2 base.raw base.qcow2");
    base
}

fn written(case: &Case, env: &Env, draw: &mut Draw) -> Model {
    let size = draw.sectors(LARGEST / 2) + 600 * 512;
    let mut model = Model { bytes: vec![0; index(size)] };
    match case.kind {
        Kind::Overlay(len, _) => {
            let base = make_base(env, len);
            // A base longer than the disk comes about by shrinking: this program refuses to make
            // one.
            let full = size.max(len);
            case.create(env, full);
            model.bytes = base;
            model.resize(full);
            if full > size {
                env.report(&format!("resize d.qcow2 --size {size}B --shrink"));
                env.is_clean("d.qcow2");
                model.resize(size);
            }
            env.qemu_io_all("d.qcow2", &model.writes(draw, 3));
        }
        Kind::Compressed(_) => {
            let commands = model.writes(draw, 4);
            assert!(!commands.is_empty());
            env.write("source.raw", &model.bytes);
            let options = case.options();
            env.qemu_img(&format!("convert -c -O qcow2 -o {options} source.raw d.qcow2"));
            env.qemu_io_all("d.qcow2", &model.writes(draw, 1));
        }
        Kind::Dirty => {
            case.create(env, size);
            killed_while_writing(env, &model.writes(draw, 3));
        }
        Kind::Plain | Kind::Snapshot => {
            case.create(env, size);
            env.qemu_io_all("d.qcow2", &model.writes(draw, 4));
        }
    }
    model
}

/// Writes, and ends without closing the image: it stays dirty, its counts as they may be.
fn killed_while_writing(env: &Env, commands: &[String]) {
    let mut qemu_io = Command::new("qemu-io");
    qemu_io.current_dir(env.path("")).args(["-f", "qcow2"]);
    for command in commands.iter().map(String::as_str).chain(["flush", "sigraise 9"]) {
        qemu_io.args(["-c", command]);
    }
    qemu_io.arg("d.qcow2");
    let output = qemu_io.output().expect("qemu-io");
    assert_eq!(output.status.code(), None, "qemu-io ends by the signal: {output:?}");
    assert_eq!(env.qemu_info("d.qcow2")["dirty-flag"], true);
}

fn walk(case: &Case) {
    let env = Env::new();
    let mut draw = case.draw.clone();
    let mut model = written(case, &env, &mut draw);
    let mut snapshots = Vec::new();
    let mut path = format!("{}", model.size());
    for step in 0..STEPS {
        if case.kind == Kind::Snapshot && step % 3 == 0 {
            let name = format!("s{step}");
            env.qemu_img(&format!("snapshot -c {name} d.qcow2"));
            snapshots.push((name, model.bytes.clone()));
            env.qemu_io_all("d.qcow2", &model.writes(&mut draw, 1));
        }
        let size = draw.sectors(LARGEST);
        path += &format!(" -> {size}");
        let grows = size > model.size();
        let layouts = ["", "", "", " --preallocation off", " --preallocation metadata"];
        let preallocation = draw.pick(&layouts[..if grows { 5 } else { 4 }]);
        path += preallocation;
        let run = env.vmdisk(&format!("resize d.qcow2 --size {size}B --shrink{preallocation}"));
        assert_eq!(run.code, Some(0), "resized {path}: {run:?}");
        let check = env.run("qemu-img", ["check", "-f", "qcow2", "d.qcow2"]);
        assert_eq!(check.code, Some(0), "resized {path}: {}{}", check.stdout, check.stderr);
        model.resize(size);
        model.is_what_reads(&env, &format!("resized {path}"));
        for (name, bytes) in &snapshots {
            // QEMU shows as much of a snapshot as the disk has now.
            let found = env.snapshot_disk("d.qcow2", name);
            let both = found.len().min(bytes.len());
            let what = format!("snapshot {name}, resized {path}");
            same_bytes(&found[..both], &bytes[..both], &what);
        }
        env.qemu_io_all("d.qcow2", &model.writes(&mut draw, 1));
        env.is_clean("d.qcow2");
    }
    model.is_what_reads(&env, &format!("written after {path}"));
    for (name, bytes) in &snapshots {
        env.qemu_img(&format!("snapshot -a {name} d.qcow2"));
        same_bytes(&env.disk("qcow2", "d.qcow2"), bytes, &format!("back to {name} after {path}"));
        env.is_clean("d.qcow2");
    }
}

/// A disk with data at random places is grown and shrunk six times by odd amounts, with a write
/// between the steps. After every step the image has no error and no leak, the bytes that both
/// disks have are unchanged, all that was added is zeros (also above a longer base, and where an
/// earlier disk had data), and every snapshot reads as it did.
#[test]
fn a_walk_of_sizes_keeps_every_byte() {
    let mut draw = Draw::seeded(3);
    let count = if whole_matrix() { 60 } else { 4 };
    let kinds = KINDS.iter().flat_map(|kind| std::iter::repeat_n(*kind, count));
    let cases: Vec<_> = kinds.map(|kind| Case::drawn(&mut draw, kind)).collect();
    each(&cases, walk);
}

/// Clusters of 512 bytes with the widest and the narrowest counts: within a few megabytes the L1
/// table, the refcount table and its blocks move and multiply, there and back.
#[test]
fn tables_grow_and_move_there_and_back() {
    let mut draw = Draw::seeded(4);
    let mut cases = Vec::new();
    for refcount in [1, 64] {
        for preallocation in ["off", "metadata"] {
            for by_qemu in [false, true] {
                let plain = Case::drawn(&mut draw, Kind::Plain);
                let (v3, extended, cluster) = (true, false, 512);
                cases.push(Case {
                    by_qemu,
                    v3,
                    extended,
                    cluster,
                    refcount,
                    preallocation,
                    ..plain
                });
            }
        }
    }
    each(&cases, |case| {
        let env = Env::new();
        let mut draw = case.draw.clone();
        let mut model = Model { bytes: vec![0; 66_048] };
        case.create(&env, model.size());
        let sizes: [u64; 6] = [1 << 20, 9_000_448, 30_000_128, 700_416, 24_000_000, 512];
        for size in sizes {
            env.qemu_io_all("d.qcow2", &model.writes(&mut draw, 2));
            let run = env.vmdisk(&format!("resize d.qcow2 --size {size}B --shrink"));
            assert_eq!(run.code, Some(0), "to {size}: {run:?}");
            let check = env.run("qemu-img", ["check", "-f", "qcow2", "d.qcow2"]);
            assert_eq!(check.code, Some(0), "to {size}: {}{}", check.stdout, check.stderr);
            model.resize(size);
            model.is_what_reads(&env, &format!("resized to {size}"));
        }
    });
}

/// What is laid out for added clusters is inferred: `metadata` where the last L2 table below the
/// old end is fully mapped, whoever made the image, else `off`; a flag overrules it.
#[test]
fn preallocation_is_inferred_from_the_disks_end() {
    let env = Env::new();
    let inferred = |made: &str, flags: &str, preallocation: &str, then: &str| {
        env.run("sh", ["-c", &format!("rm -f d.qcow2; {made}")]).exits(0);
        let grown = env.report(&format!("resize d.qcow2 --size +100M {flags}"));
        assert_eq!(grown["preallocation"], preallocation, "{made}");
        assert_eq!(grown["preallocation_inferred"], flags.is_empty(), "{made}");
        env.is_clean("d.qcow2");
        let again = env.report("resize d.qcow2 --size +1M");
        assert_eq!(again["preallocation"], then, "{made}: grown once more");
        let shrunk = env.report("resize d.qcow2 --size 10M --shrink");
        assert_eq!(shrunk["preallocation"], serde_json::Value::Null, "{made}: shrunk");
        assert_eq!(shrunk["preallocation_inferred"], false, "{made}: shrunk");
        env.is_clean("d.qcow2");
    };
    let vmdisk = crate::support::VMDISK;
    let create = "qemu-img create -q -f qcow2 d.qcow2 600M";
    let metadata = format!("{create} -o preallocation=metadata");
    let ours = format!("{vmdisk} create d.qcow2 --size 600M");
    let table = format!("{create} && qemu-io -f qcow2 -c 'write 512M 88M' d.qcow2 >/dev/null");
    let but_one = format!("{create} && qemu-io -f qcow2 -c 'write 512M 87M' d.qcow2 >/dev/null");
    inferred(create, "", "off", "off");
    inferred(&metadata, "", "metadata", "metadata");
    inferred(&metadata, "--preallocation off", "off", "off");
    // The last table keeps what the old disk left unmapped.
    inferred(create, "--preallocation metadata", "metadata", "off");
    inferred(create, "--preallocation tables", "tables", "off");
    inferred(&ours, "", "metadata", "metadata");
    inferred(&format!("{ours} --preallocation off"), "", "off", "off");
    inferred(&table, "", "metadata", "metadata");
    inferred(&but_one, "", "off", "off");
}

/// A resize to the size that the disk has changes nothing, by any way of saying it; a smaller one
/// needs the flag; sizes beyond the format are refused.
#[test]
fn sizes_that_change_nothing_or_are_refused() {
    let env = Env::new();
    env.report("create d.qcow2 --size 5M --cluster-size 512 --preallocation off");
    let before = fs::read(env.path("d.qcow2")).expect("the image");
    for size in ["5M", "5242880B", "+0B", "5242369B"] {
        let report = env.report(&format!("resize d.qcow2 --size {size}"));
        assert_eq!(report["changed"], false, "{size}");
    }
    assert!(before == fs::read(env.path("d.qcow2")).expect("the image"));
    env.refuses("resize d.qcow2 --size 4M", "would_shrink");
    env.refuses("resize d.qcow2 --size 1M --shrink --preallocation full", "incompatible_options");
    env.refuses("resize d.qcow2 --size 0B --shrink", "bad_size");
    env.refuses("resize d.qcow2 --size 129G", "bad_size");
    env.refuses("resize d.qcow2 --size +8E", "bad_size");
    env.report("resize d.qcow2 --size 128G --preallocation off");
    env.is_clean("d.qcow2");
}

/// Shrinking gives room back to the host, keeps a written cluster below the cut and the bytes in
/// front of an odd cut, and is immediate for an empty disk of any size.
#[test]
fn shrinking_gives_room_back() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 100M");
    env.qemu_io_all("d.qcow2", &["write -P 1 9M 1M".to_owned(), "write -P 2 20M 60M".to_owned()]);
    let on_host = || {
        let info = env.report("info d.qcow2");
        info["allocated_bytes"].as_u64().expect("a number")
    };
    assert!(on_host() > 61 << 20);
    let report = env.report("resize d.qcow2 --size 10485248B --shrink");
    assert!(report["freed_bytes"].as_u64() >= Some(60 << 20), "{report:#}");
    assert!(on_host() < 2 << 20, "{} bytes", on_host());
    let len = std::fs::metadata(env.path("d.qcow2")).expect("the disk").len();
    assert!(len < 2 << 20, "the file is cut behind its last used cluster, not at {len}");
    env.is_clean("d.qcow2");
    env.qemu_io("qcow2", "d.qcow2", "read -P 1 9M 1048064");
    env.report("resize d.qcow2 --size 100M");
    env.qemu_io("qcow2", "d.qcow2", "read -P 0 10485248 94372352");
    env.is_clean("d.qcow2");

    env.qemu_img("create -q -f qcow2 huge.qcow2 1T");
    let start = std::time::Instant::now();
    env.report("resize huge.qcow2 --size 1G --shrink");
    assert!(start.elapsed().as_secs() < 2, "{:?}", start.elapsed());
    env.is_clean("huge.qcow2");
    env.report("resize huge.qcow2 --size 8T");
    env.report("resize huge.qcow2 --size 1G --shrink");
    env.is_clean("huge.qcow2");
}

/// Allocates clusters the way hyperkit does: a data cluster and, where it is missing, an L2 table
/// behind the end of the file, with the flag for "used once" and without touching a count.
fn hyperkit_writes(env: &Env, guest_cluster: u64, byte: u8) {
    const CLUSTER: u64 = 65536;
    const COPIED: u64 = 1 << 63;
    let path = env.path("d.qcow2");
    let header = RawHeader::read(&path);
    let append = |bytes: Vec<u8>| {
        let end = fs::metadata(&path).expect("the image").len().next_multiple_of(CLUSTER);
        env.patch("d.qcow2", end, &bytes);
        end
    };
    let entry_at = header.get("l1_table_offset") + guest_cluster / 8192 * 8;
    let mut l2 = table(&path, entry_at, 1)[0] & !COPIED;
    if l2 == 0 {
        l2 = append(vec![0; index(CLUSTER)]);
        env.patch("d.qcow2", entry_at, &(l2 | COPIED).to_be_bytes());
    }
    let data = append(vec![byte; index(CLUSTER)]);
    env.patch("d.qcow2", l2 + guest_cluster % 8192 * 8, &(data | COPIED).to_be_bytes());
}

/// A disk of the preset `hyperkit` into which hyperkit has written without counting: growing and
/// shrinking it makes the counts true, keeps the data, and leaves it a disk that hyperkit reads
/// and may go on writing to.
#[test]
fn a_disk_of_hyperkit_grows_with_true_counts() {
    let env = Env::new();
    env.write("id.pub", crate::support::PUBLIC_KEY);
    env.report("create d.qcow2 --size 1G --preset hyperkit --ssh-key id.pub");
    let payload = env.guest_bytes("d.qcow2", 0, 4096);
    for (cluster, byte) in [(1, 0x41), (100, 0x42), (8191, 0x43), (8192, 0x44), (16383, 0x45)] {
        hyperkit_writes(&env, cluster, byte);
    }
    for (step, size) in ["3G", "40000M", "700M", "2G"].iter().enumerate() {
        let report = env.report(&format!("resize d.qcow2 --size {size} --shrink"));
        assert_eq!(report["refcounts_rebuilt"], true, "{size}");
        env.is_clean("d.qcow2");
        let info = env.report("info d.qcow2");
        for (field, value) in [("lazy_refcounts", true), ("dirty", true), ("corrupt", false)] {
            assert_eq!(info["qcow2"][field], value, "{size}: {field}");
        }
        let header = RawHeader::read(&env.path("d.qcow2"));
        assert_eq!(header.get("header_length"), 104, "{size}");
        assert_eq!(header.get("autoclear_features"), 0, "{size}");
        let l1 = header.get("l1_size");
        assert_eq!(l1 % 8192, 0, "{size}: the L1 table fills its clusters");
        // What hyperkit destroys images by: zero flags, and more than one reference.
        for entry in header.l1(&env.path("d.qcow2")).into_iter().filter(|&entry| entry != 0) {
            let entries = table(&env.path("d.qcow2"), entry & 0x00ff_ffff_ffff_fe00, 8192);
            assert!(entries.iter().all(|entry| entry & 1 == 0), "{size}: a zero flag");
        }
        assert_eq!(env.guest_bytes("d.qcow2", 0, 4096), payload, "{size}");
        let mut kept = vec![(1, 0x41), (100, 0x42), (8191, 0x43)];
        if step < 2 {
            kept.extend([(8192, 0x44), (16383, 0x45)]);
        } else {
            kept.push((8192, 0x44));
        }
        for (cluster, byte) in kept {
            let bytes = env.guest_bytes("d.qcow2", cluster * 65536, 65536);
            assert!(bytes.iter().all(|&found| found == byte), "{size}: cluster {cluster}");
        }
        hyperkit_writes(&env, 200 + step as u64, 0x50);
    }
    // In the end QEMU takes it over, counts included.
    env.qemu_io("qcow2", "d.qcow2", "write -P 9 1G 64k");
    env.is_clean("d.qcow2");
}
