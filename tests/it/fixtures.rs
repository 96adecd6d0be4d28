//! Images as QEMU's tools make them, in all the ways that matter.

use std::process::Command;

use crate::draw::Draw;
use crate::support::Env;

/// One way to make an image `d.qcow2`.
pub(crate) type Make = fn(&Env);

fn create(env: &Env, options: &str, size: &str) {
    let options = if options.is_empty() { String::new() } else { format!("-o {options}") };
    env.qemu_img(&format!("create -q -f qcow2 {options} d.qcow2 {size}"));
}

fn io(env: &Env, commands: &[&str]) {
    let commands: Vec<_> = commands.iter().map(|&command| command.to_owned()).collect();
    env.qemu_io_all("d.qcow2", &commands);
}

/// Data that packs, and data that does not.
fn compressible(env: &Env) {
    let mut draw = Draw::seeded(1);
    let mut bytes = vec![7; 1 << 20];
    bytes.extend((0..1u32 << 19).map(|n| if n % 5 == 0 { draw.next() as u8 } else { 3 }));
    bytes.resize(2 << 20, 0);
    env.write("s.raw", bytes);
}

/// Two snapshots with writes before, between and behind them.
fn snapshots(env: &Env) {
    io(env, &["write -P 1 0 300k", "write -P 2 1M 64k"]);
    env.qemu_img("snapshot -c one d.qcow2");
    io(env, &["write -P 3 100k 200k", "discard 1M 64k"]);
    env.qemu_img("snapshot -c two d.qcow2");
    io(env, &["write -P 4 0 10k", "write -z 200k 64k", "write -P 5 1500k 100k"]);
}

fn written(env: &Env) {
    io(env, &["write -P 1 0 300k", "write -P 2 1M 64k", "write -z 100k 100k", "discard 0 64k"]);
}

/// Makes an image whose last writer was killed: it is dirty, its counts as they may be.
fn killed(env: &Env, commands: &[&str]) {
    let mut qemu_io = Command::new("qemu-io");
    qemu_io.current_dir(env.path("")).args(["-f", "qcow2"]);
    for command in commands.iter().chain(&["flush", "sigraise 9"]) {
        qemu_io.args(["-c", command]);
    }
    let output = qemu_io.arg("d.qcow2").output().expect("qemu-io");
    assert_eq!(output.status.code(), None, "qemu-io ends by the signal: {output:?}");
    assert_eq!(env.qemu_info("d.qcow2")["dirty-flag"], true);
}

/// What QEMU's tools make, in all the ways that matter to counting.
pub(crate) const IMAGES: &[(&str, Make)] = &[
    ("empty", |env| create(env, "", "2M")),
    ("plain", |env| {
        create(env, "", "2M");
        written(env);
    }),
    ("version 2", |env| {
        create(env, "compat=0.10", "2M");
        written(env);
    }),
    ("clusters of 512 bytes", |env| {
        create(env, "cluster_size=512", "2M");
        written(env);
    }),
    ("clusters of 512 bytes, snapshots", |env| {
        create(env, "cluster_size=512", "2M");
        snapshots(env);
    }),
    ("clusters of 2 MiB", |env| {
        create(env, "cluster_size=2M", "20M");
        written(env);
    }),
    ("counts of 1 bit", |env| {
        create(env, "refcount_bits=1,cluster_size=4k", "2M");
        written(env);
    }),
    ("counts of 2 bits, snapshots", |env| {
        create(env, "refcount_bits=2,cluster_size=4k", "2M");
        snapshots(env);
    }),
    ("counts of 4 bits, snapshots", |env| {
        create(env, "refcount_bits=4,cluster_size=1k", "2M");
        snapshots(env);
    }),
    ("counts of 8 bits", |env| {
        create(env, "refcount_bits=8", "2M");
        written(env);
    }),
    ("counts of 32 bits, snapshots", |env| {
        create(env, "refcount_bits=32,cluster_size=512", "2M");
        snapshots(env);
    }),
    ("counts of 64 bits, snapshots", |env| {
        create(env, "refcount_bits=64,cluster_size=4k", "2M");
        snapshots(env);
    }),
    ("deflate", |env| {
        compressible(env);
        env.qemu_img("convert -c -O qcow2 s.raw d.qcow2");
    }),
    ("deflate, small clusters, counts of 4 bits, written", |env| {
        compressible(env);
        env.qemu_img("convert -c -O qcow2 -o cluster_size=4k,refcount_bits=4 s.raw d.qcow2");
        written(env);
    }),
    ("zstd, snapshots", |env| {
        compressible(env);
        env.qemu_img("convert -c -O qcow2 -o compression_type=zstd s.raw d.qcow2");
        snapshots(env);
    }),
    ("deflate, snapshots", |env| {
        compressible(env);
        env.qemu_img("convert -c -O qcow2 -o cluster_size=8k s.raw d.qcow2");
        snapshots(env);
    }),
    ("subclusters", |env| {
        create(env, "extended_l2=on,cluster_size=16k", "2M");
        written(env);
        io(env, &["write -P 9 700k 512", "write -z 701k 1k"]);
    }),
    ("subclusters, snapshots", |env| {
        create(env, "extended_l2=on", "2M");
        snapshots(env);
    }),
    ("metadata for all", |env| create(env, "preallocation=metadata,cluster_size=4k", "2M")),
    ("bitmaps", |env| {
        create(env, "cluster_size=512", "2M");
        env.qemu_img("bitmap --add -g 512 d.qcow2 a");
        env.qemu_img("bitmap --add -g 64k d.qcow2 b");
        written(env);
    }),
    ("a bitmap and snapshots", |env| {
        create(env, "", "2M");
        env.qemu_img("bitmap --add d.qcow2 a");
        snapshots(env);
    }),
    ("bitmaps that nobody vouches for", |env| {
        create(env, "cluster_size=512", "2M");
        env.qemu_img("bitmap --add -g 512 d.qcow2 a");
        written(env);
        env.patch("d.qcow2", 95, &[0]);
    }),
    ("overlay", |env| {
        env.write("base.raw", vec![5; 1 << 20]);
        env.qemu_img("create -q -f qcow2 -b base.raw -F raw d.qcow2 2M");
        snapshots(env);
    }),
    ("external data", |env| {
        create(env, "data_file=data.raw,cluster_size=4k", "2M");
        written(env);
    }),
    ("lazy, killed", |env| {
        create(env, "lazy_refcounts=on", "2M");
        killed(env, &["write -P 1 0 300k", "discard 0 64k"]);
    }),
];

/// An overlay `d.qcow2` with this size and these options, if any, above a file that
/// [`bases`] makes.
fn overlay(env: &Env, options: &str, base: &str, format: &str, size: &str) {
    let options = if options.is_empty() { String::new() } else { format!("-o {options}") };
    env.qemu_img(&format!("create -q -f qcow2 {options} -b {base} -F {format} d.qcow2 {size}"));
}

/// Files to lie below an image: each is full of what cannot be taken for anything else.
fn bases(env: &Env, options: &str) {
    let mut draw = Draw::from_seed(3);
    let bytes: Vec<u8> = (0..(1 << 20) + 1536).map(|_| draw.next() as u8 | 1).collect();
    env.write("base.raw", bytes);
    env.qemu_img("convert -f raw -O qcow2 -c base.raw packed.qcow2");
    let options = if options.is_empty() { String::new() } else { format!("-o {options}") };
    env.qemu_img(&format!("convert -f raw -O qcow2 {options} base.raw base.qcow2"));
}

/// Every width of reference counts and size of clusters, and entries that refer to zeros.
pub(crate) const LAYOUTS: &[(&str, Make)] = &[
    ("counts of 1 bit, clusters of 512 bytes", |env| {
        create(env, "refcount_bits=1,cluster_size=512", "2M");
        written(env);
    }),
    ("counts of 2 bits", |env| create(env, "refcount_bits=2,cluster_size=4k", "2M")),
    ("counts of 4 bits", |env| create(env, "refcount_bits=4,cluster_size=2k", "2M")),
    ("counts of 8 bits, snapshots", |env| {
        create(env, "refcount_bits=8,cluster_size=1k", "2M");
        snapshots(env);
    }),
    ("counts of 32 bits", |env| create(env, "refcount_bits=32,cluster_size=512", "2M")),
    ("counts of 64 bits", |env| create(env, "refcount_bits=64,cluster_size=512", "2M")),
    ("clusters of 16 KiB, version 2", |env| create(env, "compat=0.10,cluster_size=16k", "2M")),
    ("version 2, snapshots", |env| {
        create(env, "compat=0.10,cluster_size=4k", "2M");
        snapshots(env);
    }),
    ("version 2, deflate, snapshots", |env| {
        compressible(env);
        env.qemu_img("convert -c -O qcow2 -o compat=0.10,cluster_size=8k s.raw d.qcow2");
        snapshots(env);
    }),
    ("snapshots of another size", |env| {
        create(env, "cluster_size=4k", "2M");
        snapshots(env);
        env.qemu_img("resize -q -f qcow2 d.qcow2 3M");
        io(env, &["write -P 6 1900k 700k"]);
    }),
    ("clusters of 2 MiB, snapshots", |env| {
        create(env, "cluster_size=2M", "9M");
        snapshots(env);
    }),
    ("clusters of 2 MiB, subclusters", |env| {
        create(env, "cluster_size=2M,extended_l2=on", "9M");
        written(env);
    }),
    ("an odd size", |env| {
        create(env, "", "1537k");
        written(env);
    }),
    ("an odd size, subclusters", |env| {
        create(env, "extended_l2=on,cluster_size=32k", "1119744");
        written(env);
    }),
    ("smaller than a cluster", |env| create(env, "cluster_size=2M", "700k")),
    ("zeros, allocated and not", |env| {
        create(env, "preallocation=metadata", "2M");
        io(env, &["write -z 0 600k", "write -z -u 1M 300k", "write -P 3 200k 1k"]);
    }),
    ("metadata for all, subclusters", |env| {
        create(env, "preallocation=metadata,extended_l2=on", "2M");
        io(env, &["write -P 9 700k 512", "write -z 701k 64k"]);
    }),
    ("all reserved", |env| create(env, "preallocation=falloc", "2M")),
    ("all written", |env| create(env, "preallocation=full,cluster_size=8k", "2M")),
    ("subclusters, zstd", |env| {
        compressible(env);
        env.qemu_img(
            "convert -c -O qcow2 -o extended_l2=on,compression_type=zstd,cluster_size=16k s.raw \
             d.qcow2",
        );
        io(env, &["write -P 8 20k 3k", "write -z 40k 2k"]);
    }),
    ("subclusters, deflate, snapshots", |env| {
        compressible(env);
        env.qemu_img("convert -c -O qcow2 -o extended_l2=on,cluster_size=16k s.raw d.qcow2");
        snapshots(env);
    }),
    ("lazy", |env| {
        create(env, "lazy_refcounts=on", "2M");
        written(env);
    }),
    ("lazy, snapshots, killed", |env| {
        create(env, "lazy_refcounts=on,cluster_size=4k", "2M");
        snapshots(env);
        killed(env, &["write -P 1 0 300k", "discard 0 64k", "write -P 4 1M 300k"]);
    }),
    ("lazy, deflate, subclusters, killed", |env| {
        compressible(env);
        env.qemu_img(
            "convert -c -O qcow2 -o lazy_refcounts=on,extended_l2=on,cluster_size=16k s.raw \
             d.qcow2",
        );
        killed(env, &["write -P 1 0 300k", "discard 0 64k"]);
    }),
];

/// Images with other files: what lies below them, or their data.
pub(crate) const CHAINS: &[(&str, Make)] = &[
    ("over raw, shorter", |env| {
        bases(env, "");
        overlay(env, "", "base.raw", "raw", "2M");
    }),
    ("over raw, longer, odd size", |env| {
        bases(env, "");
        overlay(env, "cluster_size=4k", "base.raw", "raw", "700928");
        io(env, &["write -P 1 0 10k"]);
    }),
    ("over raw, clusters of 2 MiB", |env| {
        bases(env, "");
        overlay(env, "cluster_size=2M", "base.raw", "raw", "5M");
    }),
    ("over qcow2", |env| {
        bases(env, "cluster_size=512");
        overlay(env, "", "base.qcow2", "qcow2", "2M");
        written(env);
    }),
    ("over qcow2, snapshots, subclusters", |env| {
        bases(env, "");
        overlay(env, "extended_l2=on", "base.qcow2", "qcow2", "2M");
        snapshots(env);
    }),
    ("over packed data", |env| {
        bases(env, "");
        overlay(env, "cluster_size=8k,lazy_refcounts=on", "packed.qcow2", "qcow2", "2M");
        snapshots(env);
    }),
    ("over version 2", |env| {
        bases(env, "compat=0.10");
        overlay(env, "", "base.qcow2", "qcow2", "2M");
    }),
    ("version 2 over version 2", |env| {
        bases(env, "compat=0.10");
        overlay(env, "compat=0.10,cluster_size=4k", "base.qcow2", "qcow2", "2M");
        snapshots(env);
    }),
    ("version 2 over raw", |env| {
        bases(env, "");
        overlay(env, "compat=0.10", "base.raw", "raw", "1M");
    }),
    ("three over one another", |env| {
        bases(env, "cluster_size=2k");
        overlay(env, "cluster_size=512", "base.qcow2", "qcow2", "1500k");
        written(env);
        let middle = std::fs::rename(env.path("d.qcow2"), env.path("middle.qcow2"));
        middle.expect("a new name");
        overlay(env, "", "middle.qcow2", "qcow2", "2M");
        written(env);
    }),
    ("over raw, metadata for all", |env| {
        bases(env, "");
        overlay(env, "preallocation=metadata,extended_l2=on", "base.raw", "raw", "2M");
    }),
    ("external data, large clusters", |env| {
        create(env, "data_file=data.raw", "1537k");
        written(env);
    }),
    ("external data, subclusters", |env| {
        create(env, "data_file=data.raw,extended_l2=on,cluster_size=16k", "2M");
        written(env);
    }),
    ("raw external data", |env| {
        create(env, "data_file=data.raw,data_file_raw=on", "2M");
        written(env);
    }),
    ("raw external data, lazy, small clusters", |env| {
        create(env, "data_file=data.raw,data_file_raw=on,lazy_refcounts=on,cluster_size=4k", "2M");
        written(env);
    }),
    ("raw external data, killed", |env| {
        create(env, "data_file=data.raw,data_file_raw=on,lazy_refcounts=on,cluster_size=4k", "2M");
        written(env);
        // Every cluster has its entry: nothing that QEMU writes makes it dirty.
        env.patch("d.qcow2", 79, &[0b101]);
    }),
    ("external data, killed", |env| {
        create(env, "data_file=data.raw,lazy_refcounts=on,cluster_size=4k", "2M");
        killed(env, &["write -P 1 0 300k", "write -P 2 1M 64k", "discard 0 64k"]);
    }),
    ("external data over raw", |env| {
        bases(env, "");
        overlay(env, "data_file=data.raw", "base.raw", "raw", "2M");
    }),
    ("over external data", |env| {
        create(env, "data_file=data.raw,cluster_size=4k", "1100k");
        io(env, &["write -P 1 0 300k", "write -z 100k 100k"]);
        let middle = std::fs::rename(env.path("d.qcow2"), env.path("middle.qcow2"));
        middle.expect("a new name");
        overlay(env, "", "middle.qcow2", "qcow2", "2M");
        snapshots(env);
    }),
];

/// Every one of these images.
pub(crate) fn every_image() -> Vec<(&'static str, Make)> {
    [IMAGES, LAYOUTS, CHAINS].concat()
}
