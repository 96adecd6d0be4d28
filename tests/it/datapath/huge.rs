//! Disks that are far larger than what is in them.

use std::time::{Duration, Instant};

use vmdisk::block::{BlockDevice, ExtentKind, Extents};
use vmdisk::image::{Image, OpenOptions};

use crate::support::Env;

use super::disk::IMAGE;

/// Where something is written, besides the very end.
const PLACES: &[u64] = &[0, (1 << 30) - 300, (1 << 40) - 5, (3 << 40) + 77];

/// What is written far apart is where it was written, and nothing else is.
fn far_apart(options: &str, size: u64) {
    let env = Env::new();
    env.qemu_img(&format!("create -q -f qcow2 -o {options} {IMAGE} {size}"));
    let image = Image::open(env.path(IMAGE), &OpenOptions::to_write()).expect("an image");
    let places = PLACES.iter().filter(|&&at| at + 1000 < size).copied();
    let places: Vec<_> = places.chain([size - 1000]).collect();
    for (n, &at) in places.iter().enumerate() {
        image.write_at(at, &[n as u8 + 1; 1000]).expect("a write");
    }
    image.write_zeroes(size - 500, 500).expect("zeros");
    image.close().expect("the end");
    env.is_clean(IMAGE);
    let mut commands = vec![format!("read -P 0 {} 500", size - 500)];
    for (n, &at) in places.iter().enumerate() {
        let len = if at + 1000 == size { 500 } else { 1000 };
        commands.push(format!("read -P {} {at} {len}", n + 1));
        commands.push(format!("write -P {} {at} 10", n + 101));
    }
    env.qemu_io_all(IMAGE, &commands);
    let image = Image::open(env.path(IMAGE), &OpenOptions::to_read()).expect("an image");
    for (n, &at) in places.iter().enumerate() {
        let mut found = [0; 400];
        image.read_at(at, &mut found).expect("a read");
        assert_eq!((found[0], found[9]), (n as u8 + 101, n as u8 + 101), "{options}: {at}");
        assert!(found[10..].iter().all(|&byte| byte == n as u8 + 1), "{options}: {at}");
        let around = at.saturating_sub(1 << 22)..(at + (1 << 22)).min(size);
        let data = Extents::of(&image, around).map(|extent| extent.expect("an extent"));
        let data: u64 = data
            .filter(|extent| matches!(extent.kind, ExtentKind::Data { .. }))
            .map(|extent| extent.len)
            .sum();
        assert!((1..=4 << 20).contains(&data), "{options}: {data} bytes of data around {at}");
    }
}

#[test]
fn what_is_far_apart_is_found() {
    for (options, size) in [
        ("cluster_size=64k", 8 << 40),
        ("cluster_size=2M,extended_l2=on", 60 << 40),
        ("cluster_size=512", 20 << 30),
        ("cluster_size=4k,refcount_bits=1,lazy_refcounts=on", 4 << 40),
        ("compat=0.10", (5 << 40) + 512),
    ] {
        far_apart(options, size);
    }
}

/// Passing over what was never written takes no time, however large it is.
#[test]
fn nothing_takes_no_time() {
    let env = Env::new();
    let size = 64 << 30;
    env.qemu_img(&format!("create -q -f qcow2 {IMAGE} {size}"));
    let image = Image::open(env.path(IMAGE), &OpenOptions::to_write()).expect("an image");
    let start = Instant::now();
    image.discard(0, size).expect("a discard");
    image.write_zeroes(0, size).expect("zeros");
    let extents: Vec<_> = Extents::of(&image, 0..size).collect();
    assert_eq!(extents.len(), 1);
    image.close().expect("the end");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    env.is_clean(IMAGE);
}
