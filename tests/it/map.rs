//! `map`, and the figures that are made from it, beside those of `qemu-img`.

use serde_json::{Value, json};
use vmdisk::block::{BlockDevice, Extents};
use vmdisk::image::{Image, OpenOptions};

use crate::fixtures::every_image;
use crate::support::{Env, VMDISK, message};

/// What `qemu-img map` tells and what we tell, as JSON.
fn both(env: &Env, image: &str, format: &str, more: &str) -> (Value, Value) {
    let theirs = env.qemu_img(&format!("map -f {format} --output=json {more} {image}")).json();
    let line = format!("map {image} --format {format} --output qemu-json {more}");
    (theirs, env.vmdisk(&line).exits(0).json())
}

/// One way to make a disk: its name and its format.
type MakeDisk = fn(&Env) -> (&'static str, &'static str);

/// Disks by the way that they are made: raw ones with holes, and images whose clusters were laid out
/// ahead, of which some were written since.
const MORE: &[(&str, MakeDisk)] = &[
    ("raw", |env| {
        env.write("d.raw", vec![1; 300 << 10]);
        ("d.raw", "raw")
    }),
    ("raw, nothing but a hole", |env| {
        env.run("truncate", ["-s", "3M", "d.raw"]).exits(0);
        ("d.raw", "raw")
    }),
    ("raw, of an odd length", |env| {
        env.write("d.raw", vec![1; 300_001]);
        env.run("truncate", ["-s", "900001", "d.raw"]).exits(0);
        ("d.raw", "raw")
    }),
    ("over raw of an odd length", |env| {
        env.write("base.raw", vec![1; 300_001]);
        env.qemu_img("create -q -f qcow2 -b base.raw -F raw d.qcow2 1M");
        ("d.qcow2", "qcow2")
    }),
    ("raw with holes", |env| {
        env.qemu_img("create -q -f raw d.raw 8M");
        env.qemu_io("raw", "d.raw", "write 1M 64k");
        env.qemu_io("raw", "d.raw", "write 5000k 200k");
        ("d.raw", "raw")
    }),
    ("over raw with holes", |env| {
        env.qemu_img("create -q -f raw base.raw 8M");
        env.qemu_io("raw", "base.raw", "write 1M 64k");
        env.qemu_img("create -q -f qcow2 -b base.raw -F raw d.qcow2 9M");
        env.qemu_io("qcow2", "d.qcow2", "write 1M 4k");
        ("d.qcow2", "qcow2")
    }),
    ("laid out, written here and there", |env| {
        env.qemu_img("create -q -f qcow2 -o preallocation=metadata d.qcow2 1G");
        for at in ["0", "3M", "500M", "1023M"] {
            env.qemu_io("qcow2", "d.qcow2", &format!("write {at} 70k"));
        }
        ("d.qcow2", "qcow2")
    }),
    ("laid out by us, counts of one bit", |env| {
        env.report("create d.qcow2 --size 300M --guest none --refcount-bits 1 --cluster-size 4K");
        env.qemu_io("qcow2", "d.qcow2", "write 7M 70k");
        ("d.qcow2", "qcow2")
    }),
    ("over what was laid out", |env| {
        env.qemu_img("create -q -f qcow2 -o preallocation=metadata base.qcow2 64M");
        env.qemu_io("qcow2", "base.qcow2", "write 3M 70k");
        env.qemu_img("create -q -f qcow2 -b base.qcow2 -F qcow2 d.qcow2");
        env.qemu_io("qcow2", "d.qcow2", "write 10M 70k");
        ("d.qcow2", "qcow2")
    }),
    ("nothing", |env| {
        env.qemu_img("create -q -f qcow2 d.qcow2 2T");
        ("d.qcow2", "qcow2")
    }),
];

/// Every field of every entry is as `qemu-img map` has it, for every way to make an image; the map
/// of a part is the part of the map; and the extents of the image, which the library reads in large
/// pieces, are those that it finds one by one.
#[test]
fn maps_are_those_of_qemu_img() {
    let mut maps = 0;
    let fixtures = every_image().into_iter().map(|(name, make)| (name, Ok(make)));
    for (name, make) in fixtures.chain(MORE.iter().map(|(name, make)| (*name, Err(*make)))) {
        let env = Env::new();
        let (image, format) = match make {
            Ok(make) => {
                make(&env);
                ("d.qcow2", "qcow2")
            }
            Err(make) => make(&env),
        };
        for part in ["", "--start-offset 100000 --max-length 500000"] {
            let (theirs, ours) = both(&env, image, format, part);
            assert_eq!(ours, theirs, "{name} {part}");
            maps += ours.as_array().expect("a list").len();
        }
        let image = Image::open(env.path(image), &OpenOptions::default()).expect("an image");
        let size = image.size();
        let one_by_one: Vec<_> = Extents::of(&image, 0..size).map(Result::unwrap).collect();
        let together: Vec<_> = image.extents(0..size).map(Result::unwrap).collect();
        assert_eq!(together, one_by_one, "{name}");
    }
    assert!(maps > 500, "only {maps} entries");
}

/// `--json` has the same entries, and whose they are; the protocol answers them page by page.
#[test]
fn pages_make_the_whole() {
    let env = Env::new();
    let found = every_image().into_iter().find(|(name, _)| *name == "snapshots of another size");
    found.expect("an image").1(&env);
    let (theirs, _) = both(&env, "d.qcow2", "qcow2", "");
    let report = env.report("map d.qcow2");
    assert_eq!(report["entries"], theirs);
    assert_eq!(report["images"][0]["format"], "qcow2");
    let (mut entries, mut start, mut pages) = (Vec::new(), json!(0), 0);
    while !start.is_null() {
        let params = json!({"path": "d.qcow2", "start_offset": start, "max_entries": 3});
        let page = ask(&env, "map", params)["result"].clone();
        let found = page["entries"].as_array().expect("a list");
        assert!(found.len() == 3 || page["next_start_offset_bytes"].is_null());
        entries.extend(found.iter().cloned());
        start = page["next_start_offset_bytes"].clone();
        pages += 1;
    }
    assert_eq!((Value::from(entries), pages > 3), (theirs, true));
    for most in [0, 100_001] {
        let error = ask(&env, "map", json!({"path": "d.qcow2", "max_entries": most}));
        assert_eq!(error["error"]["data"]["detail"]["field"], "max_entries", "{error:#}");
    }
}

fn ask(env: &Env, method: &str, params: Value) -> Value {
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let script = format!("echo '{request}' | \"$0\" rpc");
    env.run("sh", ["-c", &script, VMDISK]).json()
}

/// A qcow2 image whose size is no multiple of 512, which nobody makes, is mapped to its end, alone and
/// below another one.
#[test]
fn odd_sizes_of_qcow2() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 base.qcow2 512k");
    env.qemu_io("qcow2", "base.qcow2", "write 448k 64k");
    let size = (512u64 << 10) - 200;
    env.patch("base.qcow2", 24, &size.to_be_bytes());
    env.qemu_img("create -q -f qcow2 -b base.qcow2 -F qcow2 d.qcow2 1M");
    for (disk, end) in [("base.qcow2", size), ("d.qcow2", 1 << 20)] {
        let map = env.vmdisk(&format!("map {disk} --output qemu-json")).exits(0).json();
        let last = map.as_array().and_then(|map| map.last()).expect("an entry");
        let found = ["start", "length"].map(|field| last[field].as_u64().expect("a number"));
        assert_eq!(found[0] + found[1], end, "{map:#}");
    }
}

/// A part of a raw disk of an odd length ends where it was asked to, beyond the last byte, too.
#[test]
fn parts_of_odd_lengths() {
    let env = Env::new();
    env.write("d.raw", [1; 100]);
    for part in ["-s 94 -l 45", "-s 50 -l 500", "-s 10"] {
        let (theirs, ours) = both(&env, "d.raw", "raw", part);
        assert_eq!(ours, theirs, "{part}");
    }
}

/// What cannot be looked at is refused, and an image that is damaged in its midst ends a list there.
#[test]
fn refusals() {
    let env = Env::new();
    env.report("create d.qcow2 --size 1M --guest none");
    let error = env.refuses("map d.qcow2 --start-offset 2M", "bad_request");
    assert!(message(&error).contains("1048576"), "{error:#}");
    env.fails("map d.qcow2 --output qemu-json", 2, "incompatible_options");
    env.refuses("map d.qcow2 --picture --output qemu-json", "incompatible_options");
    env.qemu_img("create -q -f qcow2 -b missing.qcow2 -F qcow2 -u o.qcow2 1M");
    env.refuses("map o.qcow2", "backing_missing");
    env.refuses("map d.qcow2 --trust everybody", "bad_request");
    // An entry that is not aligned, behind those of 512 KiB.
    let offset = env.vmdisk("map d.qcow2 --output qemu-json").exits(0).json()[0]["offset"].clone();
    let tables = offset.as_u64().expect("an offset") - 65536;
    env.patch("d.qcow2", tables + 8 * 8, &[0x80, 0, 0, 0, 0, 1, 0x02, 0]);
    let broken = env.vmdisk("map d.qcow2 --output qemu-json").exits(1);
    assert!(broken.stdout.contains("\"length\":524288") && !broken.stdout.ends_with("]\n"));
    assert!(broken.stderr.contains("data cluster"), "{}", broken.stderr);
}

/// The bar has 80 columns and no colours where it is not on a terminal, and what it says adds up.
#[test]
fn pictures() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 80M");
    env.qemu_io("qcow2", "d.qcow2", "write 20M 20M");
    env.qemu_io("qcow2", "d.qcow2", "write -z 60M 10M");
    let picture = env.vmdisk("map d.qcow2 --picture").exits(0).stdout;
    let (bar, legend) = picture.split_once('\n').expect("lines");
    assert_eq!(
        bar,
        [".".repeat(20), "D".repeat(20), ".".repeat(20), "Z".repeat(10), ".".repeat(10)].concat()
    );
    assert!(
        legend.contains("data         20 MiB (25.0 %)") && !picture.contains('\x1b'),
        "{picture}"
    );

    // `script` is a terminal.
    let on_terminal = |variables: &str| {
        let command =
            format!("stty cols 40; TERM=xterm {variables} '{VMDISK}' map d.qcow2 --picture");
        env.run("script", ["-qec", &command, "/dev/null"]).exits(0).stdout
    };
    let coloured = on_terminal("");
    let bar = coloured.lines().next().expect("a line");
    assert_eq!(bar.matches("\x1b[32m█").count(), 10, "{coloured}");
    assert_eq!(bar.matches("\x1b[0m").count(), 40, "{coloured}");
    let plain = on_terminal("NO_COLOR=1");
    assert!(!plain.contains('\x1b') && plain.starts_with("..........DDDDDDDDDD"), "{plain}");

    env.report("map d.qcow2 --svg d.svg");
    let svg = std::fs::read_to_string(env.path("d.svg")).expect("a picture");
    assert!(svg.contains("<title id=\"title\">Allocation of d.qcow2</title>"), "{svg}");
    assert!(svg.contains("data 20 MiB (25.0 %)"), "{svg}");
    let parse = "import sys, xml.dom.minidom as m; m.parse(sys.argv[1])";
    env.run("python3", ["-c", parse, "d.svg"]).exits(0);
    let run = env.vmdisk("map d.qcow2 --svg -").exits(0);
    assert_eq!(run.stdout.trim_end(), svg.trim_end());
    env.refuses("map d.qcow2 --svg - --picture", "incompatible_options");
    // Over itself, and over nothing else.
    env.report("map d.qcow2 --svg d.svg");
    env.write("notes.txt", "mine");
    env.refuses("map d.qcow2 --svg notes.txt", "exists");
    env.refuses("map d.qcow2 --svg d.qcow2", "bad_request");
    assert_eq!(env.names(), ["d.qcow2", "d.svg", "notes.txt"]);
}

/// The figures of `qemu-img measure`, for sizes and for disks, over options that matter to them.
#[test]
fn sizes_are_those_of_qemu_img() {
    let same = |env: &Env, disk: &str, format: &str, options: &[(&str, &str)]| {
        let theirs = figures_of_qemu(env, &format!("-f {format} {disk}"), options);
        assert_eq!(figures(env, disk, options), theirs, "{disk} {options:?}");
    };
    let env = Env::new();
    let clusters = ["512", "4096", "65536", "2097152"];
    let mut measured = 0;
    for size in ["512B", "65536B", "700K", "1G", "20G", "1T"] {
        for cluster in clusters {
            for (option, values) in [
                ("refcount_bits", &["1", "8", "16", "64"][..]),
                ("preallocation", &["off", "metadata", "falloc", "full"]),
                ("compat", &["0.10", "1.1"]),
                ("extended_l2", &["on"]),
            ] {
                let small = option == "extended_l2" && cluster.len() < 5;
                if small || size == "1T" && cluster == "512" {
                    continue;
                }
                let value = values[measured % values.len()];
                let theirs = size.trim_end_matches('B');
                let options = [("cluster_size", cluster), (option, value)];
                let what = format!("--size {theirs}");
                let ours = if theirs == size { what.clone() } else { format!("--size {size}") };
                let found = figures(&env, &ours, &options);
                assert_eq!(found, figures_of_qemu(&env, &what, &options), "{ours} {options:?}");
                measured += 1;
            }
        }
    }
    assert!(measured > 70, "{measured}");
    let step =
        if std::env::var("VMDISK_MATRIX").is_ok_and(|matrix| matrix == "full") { 1 } else { 3 };
    let bitmaps = |name: &str| name.contains("bitmap");
    for (number, (name, make)) in every_image().into_iter().enumerate() {
        if name.contains("killed") || number % step != 0 && !bitmaps(name) {
            continue;
        }
        let env = Env::new();
        make(&env);
        let cluster = clusters[measured % clusters.len()];
        measured += 1;
        same(&env, "d.qcow2", "qcow2", &[("cluster_size", cluster)]);
        same(&env, "d.qcow2", "qcow2", &[]);
    }
    let env = Env::new();
    env.write("d.raw", vec![1; 300 << 10]);
    same(&env, "d.raw", "raw", &[]);
    let raw = env.vmdisk("measure d.raw --format raw --output qemu-json").exits(0).json();
    assert_eq!(raw, json!({"required": 300 << 10, "fully-allocated": 300 << 10}));
    let error = env.refuses("measure d.raw --format raw --refcount-bits 8", "incompatible_options");
    assert!(message(&error).contains("refcount bits"), "{error:#}");
    env.refuses("measure", "bad_request");
    env.refuses("measure d.raw --size 1G", "incompatible_options");
    env.refuses("measure --size 1T --cluster-size 512", "bad_size");
}

fn figures(env: &Env, what: &str, options: &[(&str, &str)]) -> Value {
    let flag = |(name, value): &(&str, &str)| format!(" --{} {value}", name.replace('_', "-"));
    let flags: String = options.iter().map(flag).collect();
    env.vmdisk(&format!("measure --output qemu-json {what}{flags}")).exits(0).json()
}

fn figures_of_qemu(env: &Env, what: &str, options: &[(&str, &str)]) -> Value {
    let options: Vec<_> = options.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let options = match options.is_empty() {
        true => String::new(),
        false => format!("-o {}", options.join(",")),
    };
    env.qemu_img(&format!("measure -O qcow2 --output=json {options} {what}")).json()
}
