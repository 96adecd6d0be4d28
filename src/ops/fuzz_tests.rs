//! Runs of bytes as the file of a stranger: what the fuzzer finds its way with.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Context, InfoRequest, InspectRequest, SafetyVerdict, info, inspect};
use crate::block::BlockDevice;
use crate::error::{Error, ErrorKind};
#[cfg(test)]
use crate::fuzz_tests::again;
use crate::host::LockPolicy;
use crate::image::gate::Trust;
use crate::image::{Image, OpenOptions};
use crate::qcow2::fuzz_damaged_tests::Hurt;
use crate::task::{Cancel, Silent};
use crate::units::ByteSize;

/// The largest disk that is taken from a stranger.
const MAX_SIZE: ByteSize = ByteSize::from_bytes(1 << 40);

/// Whatever a file holds, `inspect` tells what it claims; what it finds safe, `info` tells more of,
/// and it opens without any file that it names. Nobody changes it.
pub fn open(bytes: &[u8]) {
    let hurt = Hurt::read(bytes);
    FOLDER.with(|folder| {
        let path = folder.path().join("d.qcow2");
        fs::write(&path, hurt.file()).unwrap();
        look(&path);
        assert!(fs::read(&path).unwrap() == hurt.file(), "looking changes nothing");
    });
}

thread_local! {
    static FOLDER: tempfile::TempDir = tempfile::tempdir().unwrap();
}

fn look(path: &Path) {
    let (cancel, trust, locks) = (Cancel::new(), Trust::none(), LockPolicy::default());
    let context = Context { progress: &Silent, cancel: &cancel, trust: &trust, locks: &locks };
    let mut judged = InspectRequest::new(path);
    judged.untrusted = true;
    judged.max_size = Some(MAX_SIZE);
    let claimed = inspect(&judged, context).unwrap();
    let text = serde_json::to_string(&claimed).unwrap();
    assert_eq!(text, serde_json::to_string(&inspect(&judged, context).unwrap()).unwrap());
    // A cluster is at most 2 MiB, but what is told of it is not.
    assert!(text.len() < 1 << 20, "{} bytes", text.len());
    let told = info(&request(path), context).inspect_err(known);
    let opened = Image::open(path, &OpenOptions { trust, ..OpenOptions::to_read() });
    let opened = opened.inspect_err(known);
    if claimed.verdict != Some(SafetyVerdict::Safe) {
        return;
    }
    let image = opened.unwrap();
    assert!(image.size() <= MAX_SIZE.bytes());
    if let Ok(told) = told {
        assert_eq!(told.virtual_size_bytes, image.size());
        let names = told.qcow2.map(|it| (it.backing_file, it.data_file));
        assert!(names.is_none_or(|names| names == (None, None)), "a safe image names no file");
    }
}

fn request(path: &Path) -> InfoRequest {
    InfoRequest { path: PathBuf::from(path), format: None, chain: true, qemu: true }
}

/// It is an error that a file can bring about.
fn known(error: &Error) {
    let kinds = [
        ErrorKind::Corrupt,
        ErrorKind::UnsupportedFeature,
        ErrorKind::FormatMismatch,
        ErrorKind::BackingRefused,
        ErrorKind::BackingMissing,
        ErrorKind::BadSize,
        ErrorKind::Dirty,
    ];
    assert!(kinds.contains(&error.kind()), "{}: {error}", error.kind());
}

#[test]
fn strangers_are_looked_at() {
    again(include_str!("../../tests/data/fuzz/open.txt"), open);
}
