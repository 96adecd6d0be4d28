//! What a writer keeps of an image, what it takes back, and when.

use vmdisk::block::BlockDevice;
use vmdisk::image::{Image, OpenOptions};

use crate::draw::{Draw, each};
use crate::fixtures::every_image;
use crate::header::{RawHeader, be};
use crate::support::Env;

use super::disk::{Disk, IMAGE, contents, to_write};

/// Where the header says which features it has.
const COMPATIBLE: usize = 80;
const AUTOCLEAR: usize = 88;
const HEADER_LENGTH: usize = 100;
const UNKNOWN_BIT: u64 = 1 << 62;
const UNKNOWN_ID: u32 = 0x1234_abcd;

/// One way to change the first bytes of a disk.
type Change = fn(&Image) -> vmdisk::Result<()>;

/// Each is enough for what was said about the disk not to be true any more.
const CHANGES: &[(&str, Change)] = &[
    ("a write", |image| image.write_at(1, b"x")),
    ("zeros", |image| image.write_zeroes(0, 64 << 10)),
    ("a discard", |image| image.discard(0, 64 << 10)),
];

fn open(env: &Env) -> Image {
    Image::open(env.path(IMAGE), &OpenOptions::to_write()).expect("an image")
}

fn header(env: &Env) -> RawHeader {
    RawHeader::read(&env.path(IMAGE))
}

/// Gives an image what a later version of the format might have: a feature of each kind that may
/// be unknown, an extension, and a longer header.
fn furnish(env: &Env) {
    let old = std::fs::read(env.path(IMAGE)).expect("the image");
    let len = be(&old, HEADER_LENGTH, 4) as usize;
    let mut end = len;
    while be(&old, end, 4) != 0 {
        end += 8 + (be(&old, end + 4, 4) as usize).next_multiple_of(8);
    }
    let mut new = old[..len].to_vec();
    for at in [COMPATIBLE, AUTOCLEAR] {
        new[at..at + 8].copy_from_slice(&(be(&old, at, 8) | UNKNOWN_BIT).to_be_bytes());
    }
    new[HEADER_LENGTH..HEADER_LENGTH + 4].copy_from_slice(&(len as u32 + 8).to_be_bytes());
    new.extend(b"the tail");
    new.extend(&old[len..end]);
    new.extend(UNKNOWN_ID.to_be_bytes());
    new.extend(11u32.to_be_bytes());
    new.extend(b"unknown too\0\0\0\0\0");
    new.extend([0; 8]);
    env.patch(IMAGE, 0, &new);
}

/// Unknown features and extensions and the header's unknown end outlive a session, except that
/// with the first change unknown features of the kind that ask for it are gone.
#[test]
fn what_is_unknown_is_kept() {
    for (what, change) in CHANGES {
        let env = Env::new();
        env.qemu_img("create -q -f qcow2 d.qcow2 2M");
        env.qemu_io_all(IMAGE, &["write -P 1 0 300k".to_owned()]);
        env.qemu_img("snapshot -c one d.qcow2");
        furnish(&env);
        let before = header(&env);
        assert_eq!(before.get("autoclear_features"), UNKNOWN_BIT);
        let mut expected = before.clone();
        for (name, value) in &mut expected.fields {
            if *name == "autoclear_features" {
                *value = 0;
            }
        }
        let image = open(&env);
        assert_eq!(header(&env), before, "{what}: opened");
        change(&image).expect("a change");
        assert_eq!(header(&env), expected, "{what}: changed");
        image.close().expect("the end");
        let mut disk = Disk::of(&env, what, Draw::from_seed(41));
        disk.ours(12);
        disk.reads_so_for_qemu();
        assert_eq!(header(&env), expected, "{what}: closed");
        let bytes = std::fs::read(env.path(IMAGE)).expect("the image");
        assert_eq!(&bytes[112..120], b"the tail", "{what}");
        let kept = expected.extensions.iter().find(|(id, _)| *id == UNKNOWN_ID);
        assert_eq!(kept.map(|(_, data)| &data[..]), Some(&b"unknown too"[..]), "{what}");
    }
}

/// Whoever opens an image to write and does not, or reads all of it, changes no byte of any file,
/// whatever the image is like.
#[test]
fn looking_changes_nothing() {
    let fixtures = every_image();
    let left_dirty = |name: &str| name.contains("killed");
    let fixtures: Vec<_> = fixtures.into_iter().filter(|(name, _)| !left_dirty(name)).collect();
    each(&fixtures, |(name, make)| {
        let env = Env::new();
        make(&env);
        let before = env.contents();
        for options in [OpenOptions::to_read(), to_write(&env)] {
            let image = Image::open(env.path(IMAGE), &options).expect("an image");
            contents(&image);
            image.write_at(0, &[]).ok();
            image.flush().expect("nothing to flush");
            image.close().expect("the end");
            assert_eq!(before, env.contents(), "{name}");
        }
    });
}

/// The first change makes bitmaps invalid, before the change can be seen; their extension stays.
#[test]
fn bitmaps_are_not_vouched_for_any_more() {
    for (what, change) in CHANGES {
        let env = Env::new();
        env.qemu_img("create -q -f qcow2 d.qcow2 2M");
        env.qemu_img("bitmap --add d.qcow2 a");
        env.qemu_io_all(IMAGE, &["write -P 1 0 300k".to_owned()]);
        let before = header(&env);
        assert_eq!(before.get("autoclear_features"), 1, "bitmaps are valid");
        let image = open(&env);
        contents(&image);
        assert_eq!(header(&env), before, "{what}: looked at");
        change(&image).expect("a change");
        assert_eq!(header(&env).get("autoclear_features"), 0, "{what}: changed");
        image.close().expect("the end");
        assert_eq!(header(&env).extensions, before.extensions, "{what}: closed");
    }
}

/// Late counts are announced with the first change and not before; the end takes that back.
#[test]
fn late_counts_are_announced() {
    for (what, change) in CHANGES {
        let env = Env::new();
        env.qemu_img("create -q -f qcow2 -o lazy_refcounts=on d.qcow2 2M");
        env.qemu_io_all(IMAGE, &["write -P 1 0 300k".to_owned()]);
        let is_dirty = || header(&env).get("incompatible_features") & 1 == 1;
        let image = open(&env);
        contents(&image);
        assert!(!is_dirty(), "{what}: looked at");
        change(&image).expect("a change");
        image.flush().expect("a flush");
        assert!(is_dirty(), "{what}: changed");
        image.close().expect("the end");
        assert!(!is_dirty(), "{what}: closed");
        env.is_clean(IMAGE);
    }
}
