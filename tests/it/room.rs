//! The room that a disk takes on the host: what is discarded and zeroed gives it back, or keeps
//! it, as asked.

use std::os::unix::fs::MetadataExt;

use vmdisk::block::{BlockDevice, DeviceOptions, Discard, ExtentKind};
use vmdisk::host::Access;
use vmdisk::host::storage::{Allocation, Storage};
use vmdisk::image::{Image, OpenOptions};

use crate::support::Env;

const MIB: u64 = 1 << 20;

fn options(discard: Discard, detect_zeroes: bool) -> OpenOptions {
    let device =
        DeviceOptions { writable: true, discard, detect_zeroes, ..DeviceOptions::default() };
    OpenOptions { device, ..OpenOptions::default() }
}

fn allocated(env: &Env, disk: &str) -> u64 {
    std::fs::metadata(env.path(disk)).expect("the disk").blocks() * 512
}

fn open(env: &Env, disk: &str, options: &OpenOptions) -> Image {
    Image::open(env.path(disk), options).expect("an image")
}

/// A disk with 8 MiB of data at 1 MiB, whatever is below.
fn filled(disk: &str, create: &str) -> Env {
    let env = Env::new();
    env.report("create base.qcow2 --size 16M");
    env.report(&format!("create {disk} --size 16M {create}"));
    let image = open(&env, disk, &options(Discard::Unmap, false));
    image.write_at(MIB, &vec![7; 8 << 20]).expect("a write");
    image.close().expect("on the medium");
    env
}

/// What is discarded reads as zeros where it was mapped, and its room goes back to the host; in
/// the other modes the file keeps it, and in the last even the mapping stays.
#[test]
fn discarded_room_goes_where_it_is_told() {
    for create in ["", "--cluster-size 2M", "--extended-l2 on", "--backing base.qcow2"] {
        for discard in [Discard::Unmap, Discard::Free, Discard::KeepAllocated] {
            let env = filled("d.qcow2", create);
            let before = allocated(&env, "d.qcow2");
            let image = open(&env, "d.qcow2", &options(discard, false));
            // Half a cluster at each end is kept: only whole clusters are given up.
            image.discard(2 * MIB - 512, 4 * MIB + 1024).expect("a discard");
            image.flush().expect("on the medium");
            let after = allocated(&env, "d.qcow2");
            match discard {
                Discard::Unmap => assert!(after + 4 * MIB <= before + 128 * 1024, "{create}"),
                _ => assert!(after >= before, "{create} {discard:?}: {after} of {before}"),
            }
            let mut found = vec![1; 4 << 20];
            image.read_at(2 * MIB, &mut found).expect("a read");
            assert!(found.iter().all(|&byte| byte == 0), "{create} {discard:?}");
            let mut edges = [0; 2];
            image.read_at(2 * MIB - 1, &mut edges[..1]).expect("a read");
            image.read_at(6 * MIB, &mut edges[1..]).expect("a read");
            assert_eq!(edges, [7; 2], "{create} {discard:?}");
            let written = image.extent(2 * MIB, 6 * MIB).expect("an extent");
            let hidden = create.contains("backing") || discard == Discard::KeepAllocated;
            let kind = if hidden { ExtentKind::Zero } else { ExtentKind::Unallocated };
            assert_eq!((written.kind, written.len), (kind, 4 * MIB), "{create} {discard:?}");
            // The room is used again before the file grows.
            let len = || std::fs::metadata(env.path("d.qcow2")).expect("the disk").len();
            let end = len();
            image.write_at(2 * MIB, &vec![9; 4 << 20]).expect("a write");
            assert_eq!(len(), end, "{create} {discard:?}");
            image.close().expect("on the medium");
            env.is_clean("d.qcow2");
        }
    }
}

/// Zeros take no room, whether they are said or found in what is written.
#[test]
fn zeros_take_no_room() {
    for create in ["", "--extended-l2 on", "--backing base.qcow2"] {
        let env = filled("d.qcow2", create);
        let before = allocated(&env, "d.qcow2");
        let image = open(&env, "d.qcow2", &options(Discard::Unmap, true));
        image.write_at(10 * MIB, &vec![0; 4 << 20]).expect("a write");
        image.write_zeroes(MIB, 2 * MIB).expect("zeros");
        image.close().expect("on the medium");
        assert!(allocated(&env, "d.qcow2") <= before + 128 * 1024, "{create}");
        env.is_clean("d.qcow2");
        assert!(env.guest_bytes("d.qcow2", MIB, 2 << 20).iter().all(|&byte| byte == 0));
        assert!(env.guest_bytes("d.qcow2", 3 * MIB, 1 << 20).iter().all(|&byte| byte == 7));
    }
}

/// The runs of a raw disk: where they begin, how long they are, and whether they are zeros that
/// take no room.
fn ours(image: &Image) -> Vec<(u64, u64, bool)> {
    let extents = image.extents(0..image.size()).map(|extent| extent.expect("an extent"));
    let runs = extents.map(|extent| {
        let is_data = extent.kind == ExtentKind::Data { host_offset: extent.offset };
        assert!(is_data || extent.kind == ExtentKind::Zero, "{extent:?}");
        (extent.offset, extent.len, !is_data)
    });
    runs.collect()
}

/// The same as QEMU tells it. All of a raw disk is its own.
fn theirs(env: &Env, disk: &str) -> Vec<(u64, u64, bool)> {
    let map = env.run("qemu-img", ["map", "-f", "raw", "--output=json", disk]).exits(0).json();
    let runs = map.as_array().expect("a list").iter().map(|run| {
        let flag = |name: &str| run[name].as_bool().expect("a flag");
        let number = |name: &str| run[name].as_u64().expect("a number");
        assert!(flag("present") && flag("zero") != flag("data"), "{run}");
        assert_eq!(number("offset"), number("start"), "{run}");
        (number("start"), number("length"), flag("zero"))
    });
    runs.collect()
}

/// Holes of a raw disk are zeros, and so is room that is reserved and was never written; zeros that
/// were written are data. It is all as QEMU has it, whoever made the holes.
#[test]
fn holes_of_raw_disks_are_told_as_qemu_tells_them() {
    let env = Env::new();
    for (n, size) in [16 * MIB, 16 * MIB + 512, 5120, 1 << 43].into_iter().enumerate() {
        let name = format!("d{n}.raw");
        env.qemu_img(&format!("create -q -f raw {name} {size}"));
        let image = open(&env, &name, &OpenOptions::to_read());
        assert_eq!(ours(&image), theirs(&env, &name), "{name}: empty");
        drop(image);
        let image = open(&env, &name, &options(Discard::Unmap, false));
        let at = [MIB, 4 * MIB, 8 * MIB].map(|at| at.min(size));
        image.write_at(size / 2, &[7; 512]).expect("a write");
        image.write_at(at[0], &vec![0; (size - at[0]).min(MIB) as usize]).expect("a write");
        image.write_at(size - 100, &[7; 100]).expect("a write");
        let runs = ours(&image);
        image.close().expect("on the medium");
        assert_eq!(runs, theirs(&env, &name), "{name}: written");
        if size < 16 * MIB {
            continue;
        }
        let storage = env.storage(&name, Access::Write);
        storage.allocate(at[1], 2 * MIB, Allocation::Reserve).expect("room");
        storage.write_at(at[1] + MIB, &[7; 4096]).expect("a write");
        drop(storage);
        let image = open(&env, &name, &options(Discard::Unmap, false));
        image.write_zeroes(at[1] + MIB + 65_536, 65_536).expect("zeros");
        image.discard(at[0] + 65_536, 65_536).expect("a discard");
        let runs = ours(&image);
        image.close().expect("on the medium");
        assert_eq!(runs, theirs(&env, &name), "{name}: with holes");
        let zeros: u64 = runs.iter().filter(|run| run.2).map(|run| run.1).sum();
        assert!(zeros > size - 2 * MIB && runs.len() >= 7, "{name}: {runs:?}");
        env.qemu_io("raw", &name, &format!("discard {} 256k", at[0] + 524_288));
        let image = open(&env, &name, &OpenOptions::to_read());
        assert_eq!(ours(&image), theirs(&env, &name), "{name}: discarded by QEMU");
    }
}

/// A raw disk's holes are the file's; without leave to write, nothing is.
#[test]
fn raw_disks_have_holes() {
    let env = Env::new();
    env.write("d.raw", vec![7; 8 << 20]);
    let before = allocated(&env, "d.raw");
    let image = open(&env, "d.raw", &options(Discard::Free, false));
    image.discard(MIB, 4 * MIB).expect("a discard");
    image.close().expect("on the medium");
    assert_eq!(allocated(&env, "d.raw"), before);
    let image = open(&env, "d.raw", &options(Discard::Unmap, true));
    image.discard(MIB, 4 * MIB).expect("a discard");
    image.write_zeroes(6 * MIB, MIB).expect("zeros");
    image.write_at(7 * MIB, &[0; 4096]).expect("a write");
    image.write_at(7 * MIB + 4096, b"text").expect("a write");
    image.close().expect("on the medium");
    assert!(allocated(&env, "d.raw") + 4 * MIB <= before);
    let bytes = std::fs::read(env.path("d.raw")).expect("the disk");
    let mut expected = vec![7; 8 << 20];
    expected[1 << 20..5 << 20].fill(0);
    expected[6 << 20..(7 << 20) + 4096].fill(0);
    expected[(7 << 20) + 4096..][..4].copy_from_slice(b"text");
    assert!(bytes == expected);
    let image = open(&env, "d.raw", &OpenOptions::to_read());
    let refused = [image.write_at(0, b"x"), image.write_zeroes(0, 1), image.discard(0, 4096)];
    for done in refused {
        assert_eq!(done.expect_err("read only").kind(), vmdisk::ErrorKind::Permission);
    }
    image.flush().expect("nothing to do");
}
