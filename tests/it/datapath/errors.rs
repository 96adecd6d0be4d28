//! Errors of open images say which file they are about, and which offset they mean.

use std::path::{Path, PathBuf};
use std::process::Command;

use vmdisk::block::BlockDevice;
use vmdisk::image::Image;
use vmdisk::{Error, ErrorKind};

use crate::support::Env;

use super::disk::to_write;

const CLUSTER: u64 = 64 << 10;

fn open(env: &Env, name: &str) -> Image {
    Image::open(env.path(name), &to_write(env)).expect("an image")
}

/// The L2 entry of a guest cluster gets a reserved bit.
fn damage(env: &Env, image: &str, cluster: u64) {
    let bytes = std::fs::read(env.path(image)).expect("the image");
    let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("a word"));
    let table = word(word(40) as usize) & 0x00ff_ffff_ffff_fe00;
    env.patch(image, table + 8 * cluster + 7, &[0x80]);
}

#[track_caller]
fn is_about(error: &Error, kind: ErrorKind, file: &Path, guest: Option<u64>) {
    assert_eq!((error.kind(), error.path()), (kind, Some(file)), "{error}");
    assert_eq!((error.offset(), error.guest_offset()), (None, guest), "{error}");
    let place = guest.map(|at| format!(" at guest byte {at}"));
    let message = error.to_string();
    assert!(place.is_none_or(|place| message.contains(&place)), "{message}");
}

/// Damage is in the image that has it, also when another one shows its bytes; where there is none,
/// the caller asked this image for too much.
#[test]
fn damage_is_in_the_file_that_has_it() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 base.qcow2 1M");
    env.qemu_io_all("base.qcow2", &["write -P 1 0 1M".to_owned()]);
    env.qemu_img("create -q -f qcow2 -F qcow2 -b base.qcow2 top.qcow2");
    env.qemu_io_all("top.qcow2", &["write -P 2 0 256k".to_owned()]);
    env.write("d.raw", vec![0; 1 << 20]);
    damage(&env, "base.qcow2", 9);
    damage(&env, "top.qcow2", 2);
    let (top, base) = (env.path("top.qcow2"), env.path("base.qcow2").canonicalize().expect("it"));
    let image = open(&env, "top.qcow2");
    let mut buf = [0; 300];
    for (cluster, file) in [(2, &top), (9, &base)] {
        let at = cluster * CLUSTER + 5;
        let error = image.read_at(at, &mut buf).expect_err("damage");
        is_about(&error, ErrorKind::Corrupt, file, Some(at));
    }
    let at = 2 * CLUSTER;
    for done in [
        image.write_at(at, &[1; 5]),
        image.write_zeroes(at, CLUSTER),
        image.discard(at, CLUSTER),
        image.write_compressed(at, &[1; CLUSTER as usize]),
        image.extent(at, at + 1).map(drop),
        image.extents(0..1 << 20).try_for_each(|extent| extent.map(drop)),
    ] {
        let error = done.expect_err("damage");
        assert_eq!((error.kind(), error.path()), (ErrorKind::Corrupt, Some(&*top)), "{error}");
    }
    drop(image);
    for name in ["top.qcow2", "d.raw"] {
        let (image, path, end) = (open(&env, name), env.path(name), 1 << 20);
        for done in [
            image.read_at(end, &mut [0; 1]),
            image.write_at(end, &[0; 1]),
            image.write_zeroes(end, 1),
            image.discard(end, 1),
            image.extent(end, end + 1).map(drop),
        ] {
            is_about(&done.expect_err("too far"), ErrorKind::BadRequest, &path, Some(end));
        }
    }
    let error = open(&env, "d.raw").write_compressed(0, &[0; 512]).expect_err("raw");
    is_about(&error, ErrorKind::UnsupportedFeature, &env.path("d.raw"), None);
}

/// What is packed comes in whole clusters; what does not is refused with both figures.
#[test]
fn parts_of_clusters_are_not_packed() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 100k");
    let image = open(&env, "d.qcow2");
    for (at, len) in [(512, CLUSTER), (0, 600), (CLUSTER, 512), (CLUSTER + 512, 512)] {
        let error = image.write_compressed(at, &vec![1; len as usize]).expect_err("a part");
        is_about(&error, ErrorKind::BadRequest, &env.path("d.qcow2"), Some(at));
        let message = error.to_string();
        for says in ["multiples of the cluster size, 65536 bytes", &format!("found {len} bytes")] {
            assert!(message.contains(says), "{message}");
        }
    }
    // The end of the disk is the end of a cluster.
    image.write_compressed(CLUSTER, &[1; 36 << 10]).expect("the last cluster");
    image.close().expect("the end");
}

/// Tells the test below that files must stay small, and where to work.
const FOLDER: &str = "VMDISK_TEST_SMALL_FILES_IN";

/// What the system refuses to write is said of the file that it was meant for, whose offset it is;
/// what then is not written any more, of the image. The file of an image is changed by a flush.
#[test]
fn writes_that_files_are_too_small_for() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let folder = folder.canonicalize().expect("a folder");
    for (name, written) in [("plain.qcow2", "plain.qcow2"), ("d.qcow2", "data.raw")] {
        let mut options = vmdisk::image::OpenOptions::to_write();
        options.trust = options.trust.and(folder.clone());
        let (image, at) = (Image::open(folder.join(name), &options).expect("it"), 8 << 20);
        let error = image.write_at(at, &[1; 512]).expect_err("a file that is too large");
        assert_eq!(error.path(), Some(&*folder.join(written)), "{error}");
        assert!(error.offset().is_some_and(|at| at >= 1 << 20), "{error}");
        let (kind, errno) = (error.kind(), error.errno());
        assert_eq!((kind, error.guest_offset()), (ErrorKind::NoSpace, Some(at)), "{error}");
        let (place, offset) = (folder.join(written), error.offset().unwrap_or_default());
        let first = format!("{}: cannot write at byte {offset}", place.display());
        let later = image.write_at(at, &[1; 512]).expect_err("a latched image");
        let others = [image.flush(), image.close()].into_iter().filter_map(Result::err);
        for error in others.chain([later]) {
            assert_eq!(error.path(), Some(&*folder.join(name)), "{error}");
            assert_eq!((error.kind(), error.errno()), (kind, errno), "{error}");
            let message = error.to_string();
            let tells =
                ["an earlier write failed", &first].iter().all(|&says| message.contains(says));
            assert!(tells, "{message}");
        }
    }
}

#[test]
fn what_cannot_be_written_is_in_the_file_that_it_was_meant_for() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 plain.qcow2 16M");
    env.qemu_io_all("plain.qcow2", &["write 0 4M".to_owned()]);
    env.qemu_img("create -q -f qcow2 -o data_file=data.raw d.qcow2 16M");
    env.qemu_io_all("d.qcow2", &["write 0 64k".to_owned()]);
    // The signal that comes with the limit ends a program that does not ignore it.
    let limited = "trap '' XFSZ; ulimit -f 4096; exec \"$@\"";
    let mut run = Command::new("sh");
    run.args(["-c", limited, "sh"]).arg(std::env::current_exe().expect("this program"));
    run.args(["--exact", "datapath::errors::writes_that_files_are_too_small_for"]);
    let run = run.env(FOLDER, env.path("")).output().expect("a shell");
    let told = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && told.contains("1 passed"), "{told}");
}
