//! Every combination of layout options: made, read back by QEMU, written to by QEMU; or refused,
//! exactly where the format or the preset forbids it. And the same images as `qemu-img` makes them.

use std::fmt;
use std::fs;

use serde_json::{Value, json};

use crate::draw::{Draw, each, whole_matrix};
use crate::header::RawHeader;
use crate::payload::{MAGIC, classic};
use crate::support::{Env, PUBLIC_KEY, VMDISK, same_bytes};

/// What of the payload's room belongs to it above a backing file, in bytes.
const FOOTPRINT: usize = 4608;
/// Disks above this size are compared as sparse files, in bytes.
const IN_MEMORY: u64 = 16 << 20;
/// The size of the base's disk: whole sectors, and a whole number of no larger cluster.
const BASE_SIZE: usize = 717_312;

/// The options of one image, as they are given or left out.
#[derive(Clone, Default)]
struct Case {
    preset: Option<&'static str>,
    compat: Option<&'static str>,
    cluster: Option<u64>,
    refcount: Option<u64>,
    preallocation: Option<&'static str>,
    backing: Option<&'static str>,
    extended: Option<bool>,
    compression: Option<&'static str>,
    lazy: Option<bool>,
    key: bool,
    size: u64,
}

const PRESETS: &[Option<&str>] =
    &[None, None, None, Some("qemu"), Some("hyperkit"), Some("compat-0.10")];
const COMPATS: &[Option<&str>] = &[None, Some("0.10"), Some("1.1")];
const CLUSTERS: &[Option<u64>] = &[
    None,
    Some(512),
    Some(1 << 10),
    Some(4 << 10),
    Some(16 << 10),
    Some(64 << 10),
    Some(256 << 10),
    Some(2 << 20),
];
const REFCOUNTS: &[Option<u64>] =
    &[None, Some(1), Some(2), Some(4), Some(8), Some(16), Some(32), Some(64)];
const PREALLOCATIONS: &[Option<&str>] =
    &[None, Some("off"), Some("tables"), Some("metadata"), Some("falloc"), Some("full")];
const BACKINGS: &[Option<&str>] = &[None, Some("qcow2"), Some("raw")];
const SWITCHES: &[Option<bool>] = &[None, Some(false), Some(true)];
const COMPRESSIONS: &[Option<&str>] = &[None, None, Some("zlib"), Some("zstd")];
/// Whole clusters, odd ends, and less than a cluster.
const SIZES: &[u64] = &[1 << 20, (1 << 20) + 1536, (3 << 20) - 512, (5 << 20) + 4608, 6144];
const HUGE: u64 = (20_000 << 20) + 4608;

/// What an image must be, worked out from its options alone.
#[derive(Debug)]
struct Expected {
    v3: bool,
    hyperkit: bool,
    cluster: u64,
    refcount: u64,
    preallocation: &'static str,
    extended: bool,
    compression: &'static str,
    lazy: bool,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vmdisk create {}", self.line())
    }
}

impl Case {
    fn line(&self) -> String {
        let mut line = format!("d.qcow2 --size {}B", self.size);
        let mut add = |flag: &str, value: Option<String>| {
            if let Some(value) = value {
                line += &format!(" --{flag} {value}");
            }
        };
        let on_off = |on: bool| if on { "on" } else { "off" }.to_owned();
        add("preset", self.preset.map(str::to_owned));
        add("compat", self.compat.map(str::to_owned));
        add("cluster-size", self.cluster.map(|size| size.to_string()));
        add("refcount-bits", self.refcount.map(|bits| bits.to_string()));
        add("preallocation", self.preallocation.map(str::to_owned));
        add("backing", self.backing.map(|format| format!("base.{format}")));
        add("backing-format", self.backing.map(str::to_owned));
        add("extended-l2", self.extended.map(on_off));
        add("compression-type", self.compression.map(str::to_owned));
        add("lazy-refcounts", self.lazy.map(on_off));
        add("ssh-key", self.key.then(|| "id.pub".to_owned()));
        if self.key && self.backing.is_some() {
            line += " --overwrite-guest";
        }
        line
    }

    /// The image that these options ask for, or `None` where two of them exclude each other.
    fn expected(&self) -> Option<Expected> {
        let hyperkit = self.preset == Some("hyperkit");
        let old = self.preset == Some("compat-0.10");
        if old && self.compat == Some("1.1") {
            return None;
        }
        let v3 = !old && self.compat != Some("0.10");
        let cluster = self.cluster.unwrap_or(65536);
        let refcount = self.refcount.unwrap_or(16);
        let preallocation = self.preallocation.unwrap_or(match (hyperkit, self.backing) {
            (true, _) => "off",
            (false, Some(_)) => "tables",
            (false, None) => "metadata",
        });
        let maps = matches!(preallocation, "metadata" | "falloc" | "full");
        let needs_subclusters = maps && self.backing.is_some();
        let extended = self.extended.unwrap_or(needs_subclusters && v3);
        let compression = self.compression.unwrap_or("zlib");
        let lazy = self.lazy.unwrap_or(hyperkit);
        let only_v3 = refcount != 16 || extended || compression != "zlib" || lazy;
        let forbidden = !v3 && only_v3
            || extended && cluster < 16384
            || needs_subclusters && !extended
            || hyperkit
                && (self.backing.is_some()
                    || !v3
                    || extended
                    || compression != "zlib"
                    || refcount != 16
                    || !lazy
                    || cluster < 4096);
        let expected = Expected {
            v3,
            hyperkit,
            cluster,
            refcount,
            preallocation,
            extended,
            compression,
            lazy,
        };
        (!forbidden).then_some(expected)
    }

    /// The options that the layout depends on are given; the others are drawn.
    fn draw_rest(&mut self, draw: &mut Draw) {
        self.compression = draw.pick(COMPRESSIONS);
        self.lazy = draw.pick(SWITCHES);
        self.key = draw.one_in(2);
        self.size = draw.pick(SIZES);
        let tables = self.cluster.unwrap_or(65536) >= 65536;
        let writes = matches!(self.preallocation, Some("falloc" | "full"));
        if tables && !writes && draw.one_in(10) {
            self.size = HUGE;
        }
        if self.backing.is_some() {
            self.size = self.size.max(1 << 20);
        }
    }

    fn drawn(draw: &mut Draw) -> Case {
        let mut case = Case {
            preset: draw.pick(PRESETS),
            compat: draw.pick(COMPATS),
            cluster: draw.pick(CLUSTERS),
            refcount: draw.pick(REFCOUNTS),
            preallocation: draw.pick(PREALLOCATIONS),
            backing: draw.pick(BACKINGS),
            extended: draw.pick(SWITCHES),
            ..Case::default()
        };
        case.draw_rest(draw);
        case
    }

    /// Every layout, each with something drawn for the rest.
    fn all(draw: &mut Draw) -> Vec<Case> {
        let mut cases = vec![Case::default()];
        let multiply = |cases: &mut Vec<Case>, count: usize, set: &dyn Fn(&mut Case, usize)| {
            let old = std::mem::take(cases);
            cases.extend(old.iter().flat_map(|case| {
                (0..count).map(|value| {
                    let mut case = case.clone();
                    set(&mut case, value);
                    case
                })
            }));
        };
        multiply(&mut cases, COMPATS.len(), &|case, i| case.compat = COMPATS[i]);
        multiply(&mut cases, CLUSTERS.len(), &|case, i| case.cluster = CLUSTERS[i]);
        multiply(&mut cases, REFCOUNTS.len(), &|case, i| case.refcount = REFCOUNTS[i]);
        let values = PREALLOCATIONS;
        multiply(&mut cases, values.len(), &|case, i| case.preallocation = values[i]);
        multiply(&mut cases, BACKINGS.len(), &|case, i| case.backing = BACKINGS[i]);
        multiply(&mut cases, SWITCHES.len(), &|case, i| case.extended = SWITCHES[i]);
        for case in &mut cases {
            case.preset = draw.pick(PRESETS);
            case.draw_rest(draw);
        }
        cases
    }
}

/// Some valid cases and some that are not, or all of them.
fn cases(seed: u64, valid: usize, invalid: usize) -> Vec<Case> {
    let mut draw = Draw::seeded(seed);
    if whole_matrix() {
        return Case::all(&mut draw);
    }
    let mut left = [invalid, valid];
    let mut cases = Vec::new();
    while left != [0, 0] {
        let case = Case::drawn(&mut draw);
        let left = &mut left[usize::from(case.expected().is_some())];
        if *left > 0 {
            *left -= 1;
            cases.push(case);
        }
    }
    cases
}

/// What the base holds: patterns at its beginning, in its middle and at its end.
fn base_disk() -> Vec<u8> {
    let mut disk = vec![0; BASE_SIZE];
    disk[..6000].fill(0x11);
    disk[300_000..400_000].fill(0x22);
    disk[BASE_SIZE - 700..].fill(0x33);
    disk
}

/// A folder with the key and both bases, to be linked into the folder of each case.
fn templates() -> Env {
    let env = Env::new();
    env.write("id.pub", PUBLIC_KEY);
    env.write("base.raw", base_disk());
    env.qemu_img("convert -f raw -O qcow2 base.raw base.qcow2");
    env
}

fn furnished(templates: &Env) -> Env {
    let env = Env::new();
    for name in ["id.pub", "base.raw", "base.qcow2"] {
        fs::hard_link(templates.path(name), env.path(name)).expect("a link in the same system");
    }
    env
}

/// The beginning of the guest's disk as it must be; everything behind it is zero.
fn beginning(case: &Case) -> Vec<u8> {
    let mut disk = if case.backing.is_some() { base_disk() } else { vec![0; 1 << 20] };
    disk.truncate(usize::try_from(case.size).unwrap_or(usize::MAX));
    if case.key {
        disk[..FOOTPRINT].fill(0);
        let payload = classic(PUBLIC_KEY);
        disk[..payload.len()].copy_from_slice(&payload);
    } else if case.backing.is_none() {
        disk[..MAGIC.len()].copy_from_slice(MAGIC.as_bytes());
    }
    disk
}

/// Holds the guest's disk against its expected beginning, zeros behind.
fn holds(env: &Env, size: u64, beginning: &[u8], when: &str) {
    if size <= IN_MEMORY {
        let mut expected = beginning.to_vec();
        expected.resize(usize::try_from(size).expect("a small disk"), 0);
        same_bytes(&env.disk("qcow2", "d.qcow2"), &expected, when);
        return;
    }
    let raw = fs::File::create(env.path("expected.raw")).expect("a file");
    std::io::Write::write_all(&mut &raw, beginning).expect("room");
    raw.set_len(size).expect("a sparse file");
    env.qemu_img("compare -f qcow2 -F raw d.qcow2 expected.raw");
}

/// `qemu-img info`, `vmdisk info` and what was asked for agree on every field.
fn told_alike(env: &Env, case: &Case, expected: &Expected) {
    let theirs = env.qemu_info("d.qcow2");
    let compat = if expected.v3 { "1.1" } else { "0.10" };
    let mut specific = json!({
        "compat": compat,
        "compression-type": expected.compression,
        "refcount-bits": expected.refcount,
    });
    if expected.v3 {
        specific["lazy-refcounts"] = json!(expected.lazy);
        specific["extended-l2"] = json!(expected.extended);
        specific["corrupt"] = json!(false);
    }
    assert_eq!(theirs["format-specific"]["data"], specific);
    assert_eq!(theirs["virtual-size"], case.size);
    assert_eq!(theirs["cluster-size"], expected.cluster);
    assert_eq!(theirs["dirty-flag"], expected.hyperkit);
    let name = case.backing.map(|format| format!("base.{format}"));
    assert_eq!(theirs["backing-filename"], json!(name));
    assert_eq!(theirs["backing-filename-format"], json!(case.backing));

    let ours = env.report("info d.qcow2");
    assert_eq!(ours["virtual_size_bytes"], case.size);
    assert_eq!(ours["format_doubt"], Value::Null);
    let ours = &ours["qcow2"];
    let fields = [
        ("compat", json!(compat)),
        ("cluster_size_bytes", json!(expected.cluster)),
        ("refcount_bits", json!(expected.refcount)),
        ("extended_l2", json!(expected.extended)),
        ("compression_type", json!(expected.compression)),
        ("lazy_refcounts", json!(expected.lazy)),
        ("dirty", json!(expected.hyperkit)),
        ("corrupt", json!(false)),
        ("backing_file", json!(name)),
        ("backing_format", json!(case.backing)),
        ("bitmaps", json!(0)),
        ("snapshots", json!([])),
    ];
    for (field, value) in fields {
        assert_eq!(ours[field], value, "{field}");
    }
}

/// What the preallocation asked for left in the file, and the header's own numbers.
fn laid_out(env: &Env, case: &Case, expected: &Expected, report: &Value) {
    let path = env.path("d.qcow2");
    let header = RawHeader::read(&path);
    if expected.v3 {
        let length = if expected.hyperkit { 104 } else { 112 };
        assert_eq!(header.get("header_length"), length);
    }
    let entry = if expected.extended { 16 } else { 8 };
    let clusters = case.size.div_ceil(expected.cluster);
    let tables = clusters.div_ceil(expected.cluster / entry);
    let l1 = header.l1(&path);
    let mapped = l1.iter().filter(|&&entry| entry != 0).count() as u64;
    let len = fs::metadata(&path).expect("the image").len();
    assert_eq!(report["preallocation"], expected.preallocation);
    assert_eq!(report["file_size_bytes"], len);
    match expected.preallocation {
        "off" => assert!(mapped <= 10, "{mapped} tables without preallocation"),
        _ => assert_eq!(mapped, tables, "every table is there"),
    }
    if matches!(expected.preallocation, "metadata" | "falloc" | "full") {
        assert!(len >= case.size, "every cluster has an address");
    }
    if matches!(expected.preallocation, "falloc" | "full") {
        let allocated = report["allocated_bytes"].as_u64().expect("a number");
        assert!(allocated >= case.size, "{allocated} of {}", case.size);
    }
}

/// GNU tar takes the key out of what the guest reads.
fn key_is_found(env: &Env) {
    let kept = env.guest_bytes("d.qcow2", 0, 4096);
    env.write("kept.tar", kept);
    env.run("tar", ["-xf", "kept.tar", ".ssh"]).exits(0);
    for name in [".ssh/authorized_keys", ".ssh/authorized_keys2"] {
        assert_eq!(fs::read_to_string(env.path(name)).expect("a key"), PUBLIC_KEY);
    }
}

/// The guest writes at the beginning, in the middle and into the last sector.
fn guest_writes(env: &Env, case: &Case, beginning: &mut Vec<u8>) {
    let (middle, last) = (case.size / 1024 * 512, case.size - 512);
    let places = [(0x51, 0, 512), (0x52, middle, 512), (0x53, last, 512)];
    let write = places.iter().map(|(byte, at, len)| format!("write -P {byte} {at} {len}"));
    let read = places.iter().map(|(byte, at, len)| format!("read -P {byte} {at} {len}"));
    env.qemu_io_all("d.qcow2", &write.chain(read).collect::<Vec<_>>());
    if case.size <= IN_MEMORY {
        beginning.resize(usize::try_from(case.size).expect("a small disk"), 0);
        for (byte, at, len) in places {
            let at = usize::try_from(at).expect("a small disk");
            beginning[at..at + len].fill(byte);
        }
        holds(env, case.size, beginning, "after the guest's writes");
    }
    env.is_clean("d.qcow2");
}

fn create_keeps_its_promises(templates: &Env, case: &Case) {
    let env = furnished(templates);
    let line = format!("create {}", case.line());
    let Some(expected) = case.expected() else {
        env.fails(&line, 2, "incompatible_options");
        let left = fs::read_dir(env.path("")).expect("the folder").count();
        assert_eq!(left, 3, "a refused image leaves nothing behind");
        return;
    };
    let report = env.report(&line);
    env.is_clean("d.qcow2");
    told_alike(&env, case, &expected);
    laid_out(&env, case, &expected, &report);
    let mut beginning = beginning(case);
    holds(&env, case.size, &beginning, "as created");
    if case.key {
        key_is_found(&env);
    }
    guest_writes(&env, case, &mut beginning);
}

/// A disk of any valid combination of options is what was asked for in every field, begins with
/// the payload, shows its base, takes a guest's writes, and is free of errors and leaks before and
/// after them; any other combination is refused and leaves nothing.
#[test]
fn every_combination_is_made_as_asked_or_refused() {
    let templates = templates();
    each(&cases(1, 70, 60), |case| create_keeps_its_promises(&templates, case));
}

/// The same image as `qemu-img` makes it opens here, tells the same, and grows and shrinks.
fn theirs_is_resized(templates: &Env, case: &Case, draw: &mut Draw) {
    let Some(mut expected) = case.expected().filter(|expected| !expected.hyperkit) else { return };
    if expected.preallocation == "tables" {
        expected.preallocation = "off";
    }
    let env = furnished(templates);
    let on_off = |on: bool| if on { "on" } else { "off" };
    let mut options = format!(
        "compat={},cluster_size={},preallocation={}",
        if expected.v3 { "1.1" } else { "0.10" },
        expected.cluster,
        expected.preallocation
    );
    if expected.v3 {
        options += &format!(
            ",refcount_bits={},extended_l2={},compression_type={},lazy_refcounts={}",
            expected.refcount,
            on_off(expected.extended),
            expected.compression,
            on_off(expected.lazy)
        );
    }
    let backing = case.backing.map(|format| format!("-b base.{format} -F {format}"));
    let backing = backing.unwrap_or_default();
    env.qemu_img(&format!("create -q -f qcow2 {backing} -o {options} d.qcow2 {}", case.size));
    told_alike(&env, case, &expected);
    let mut disk = if case.backing.is_some() { base_disk() } else { Vec::new() };
    let longer = case.size + draw.sectors(4 << 20);
    let shorter = draw.sectors(case.size.min(IN_MEMORY));
    for size in [longer, shorter, shorter + 66_048] {
        disk.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        env.report(&format!("resize d.qcow2 --size {size}B --shrink"));
        env.is_clean("d.qcow2");
        assert_eq!(env.qemu_info("d.qcow2")["virtual-size"], size);
        holds(&env, size, &disk, &format!("resized to {size}"));
    }
}

/// Every image that `qemu-img create` makes with these options is understood and resized here.
#[test]
fn every_image_of_qemu_img_is_understood_and_resized() {
    let templates = templates();
    let mut draw = Draw::seeded(2);
    let cases = cases(2, 40, 0).into_iter().map(|case| (case, draw.fork())).collect::<Vec<_>>();
    each(&cases, |(case, draw)| theirs_is_resized(&templates, case, &mut draw.clone()));
}

/// Values that the format does not have, and options that the other format has, are refused by
/// name, each with its own kind.
#[test]
fn values_out_of_range_are_refused() {
    let table = [
        ("d.qcow2 --size 1M --cluster-size 3000", "bad_request"),
        ("d.qcow2 --size 1M --cluster-size 256", "bad_request"),
        ("d.qcow2 --size 1M --cluster-size 4M", "bad_request"),
        ("d.qcow2 --size 1M --refcount-bits 0", "bad_request"),
        ("d.qcow2 --size 1M --refcount-bits 3", "bad_request"),
        ("d.qcow2 --size 1M --refcount-bits 128", "bad_request"),
        ("d.qcow2 --size 1M --compat 1.0", "bad_request"),
        ("d.qcow2 --size 1M --preallocation some", "bad_request"),
        ("d.qcow2", "bad_request"),
        ("d.qcow2 --size 0B", "bad_size"),
        ("d.qcow2 --size 1000000", "bad_size"),
        ("d.qcow2 --size 4096B --ssh-key id.pub", "bad_size"),
        ("d.qcow2 --size 129G --cluster-size 512 --preallocation off", "bad_size"),
        ("d.qcow2 --size 3P --preallocation off", "bad_size"),
        ("d.qcow2 --size 2P --preallocation off --extended-l2 on", "bad_size"),
        ("d.raw --size 1M --backing base.raw --backing-format raw", "incompatible_options"),
        ("d.raw --size 1M --cluster-size 512", "incompatible_options"),
        ("d.raw --size 1M --compat 1.1", "incompatible_options"),
        ("d.raw --size 1M --lazy-refcounts off", "incompatible_options"),
        ("d.raw --size 1M --preallocation metadata", "incompatible_options"),
        ("d.qcow2 --size 1M --guest none --ssh-key id.pub", "incompatible_options"),
    ];
    let templates = templates();
    for (line, kind) in table {
        let env = furnished(&templates);
        env.fails(&format!("create {line}"), 2, kind);
        assert_eq!(fs::read_dir(env.path("")).expect("the folder").count(), 3, "{line}");
    }
}

/// The largest disk of every cluster size can be made and opened by QEMU; one sector more cannot.
#[test]
fn the_largest_disk_of_every_cluster_size_is_the_formats() {
    let per_table = |cluster: u64, entry: u64| cluster / entry * cluster;
    let largest = |cluster, entry| per_table(cluster, entry).saturating_mul((32 << 20) / 8);
    for (cluster, entry) in [(512, 8), (1024, 8), (4096, 8), (16384, 16), (65536, 8), (65536, 16)] {
        let env = Env::new();
        let max = largest(cluster, entry);
        let extended = if entry == 16 { "on" } else { "off" };
        let line = |size: u64| {
            format!(
                "create d.qcow2 --size {size}B --cluster-size {cluster} --extended-l2 {extended} \
                 --preallocation off --guest none"
            )
        };
        env.fails(&line(max + 512), 2, "bad_size");
        env.report(&line(max));
        env.is_clean("d.qcow2");
        assert_eq!(env.qemu_info("d.qcow2")["virtual-size"], max);
        env.qemu_io("qcow2", "d.qcow2", &format!("write -P 7 {} 512", max - 512));
        env.is_clean("d.qcow2");
        env.run(VMDISK, ["resize", "d.qcow2", "--size", "1M", "--shrink"]).exits(0);
        env.is_clean("d.qcow2");
    }
}
