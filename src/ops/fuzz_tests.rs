//! Runs of bytes as the file of a stranger: what the fuzzer finds its way with.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    Context, InfoRequest, InspectRequest, SafetyVerdict, amend, bitmap_add, bitmap_clear,
    bitmap_disable, bitmap_list, bitmap_merge, bitmap_remove, info, inspect, map, measure, rebase,
    snapshot_apply, snapshot_create, snapshot_delete, snapshot_list,
};
use crate::block::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
#[cfg(test)]
use crate::fuzz_tests::again;
use crate::host::LockPolicy;
use crate::host::storage::MemoryStorage;
use crate::image::gate::Trust;
use crate::image::{Image, OpenOptions};
use crate::qcow2::Header;
use crate::qcow2::check::scan;
use crate::qcow2::fuzz_damaged_tests::Hurt;
use crate::task::{Cancel, Silent, Task};
use crate::units::ByteSize;

/// The largest disk that is taken from a stranger.
const MAX_SIZE: ByteSize = ByteSize::from_bytes(1 << 40);

/// Whatever a file holds, `inspect` tells what it claims; what it finds safe, `info` tells more of,
/// and it opens without any file that it names; snapshots, bitmaps and runs are listed or refused.
/// Nobody changes it.
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
    let _ = snapshot_list(&asked(json!({ "path": path })), context).inspect_err(known);
    let _ = bitmap_list(&asked(json!({ "path": path, "count": true })), context).inspect_err(known);
    if told.as_ref().is_ok_and(|told| told.virtual_size_bytes <= MAX_SIZE.bytes()) {
        let _ = map(&asked(json!({ "path": path })), context).inspect_err(known);
        let _ = measure(&asked(json!({ "path": path })), context).inspect_err(known);
    }
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

/// A request, as a client makes it.
fn asked<R: DeserializeOwned>(request: Value) -> R {
    serde_json::from_value(request).unwrap()
}

/// The longest file that comes of a change, in bytes: the largest L1 table, and more than the rest.
const MAX_LEN: u64 = 64 << 20;

/// Whatever a file holds: a change of its snapshots, its bitmaps, its kind or what is below it is done,
/// or refused with nothing changed. What was sound is sound afterwards, and what could be read of the
/// disk reads as before, unless an older one was asked for.
pub fn change(bytes: &[u8]) {
    let Some((&what, rest)) = bytes.split_first() else { return };
    let hurt = Hurt::read(rest);
    FOLDER.with(|folder| {
        let path = folder.path().join("changed.qcow2");
        fs::write(&path, hurt.file()).unwrap();
        let places = places(&path);
        let (sound, shown) = (soundness(hurt.file()), shown(&path, &places));
        let done = change_at(&path, what);
        assert!(fs::metadata(&path).unwrap().len() <= MAX_LEN, "it became too long");
        let after = fs::read(&path).unwrap();
        if let Err(error) = &done {
            refused(error);
            assert!(error.changed() || after == hurt.file(), "{error}: but something changed");
        }
        if let Some(sound) = sound {
            let now = soundness(&after).expect("a header that made sense");
            assert!(sound.0 > 0 || now <= sound, "{what}: {sound:?} became {now:?}: {done:?}");
        }
        if done.is_err() || what % CHANGES != APPLY {
            let still = self::shown(&path, &places);
            let differs = shown.iter().zip(&still).position(|(was, is)| !still_shows(was, is));
            assert_eq!(differs, None, "{what}: what is read changed: {done:?}");
        }
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
        assert!(names.len() <= 2, "{names:?}");
    });
}

/// Corruptions of an image, where it can be scanned, and counts that are too high: those behind the end
/// of the file may come to lie in it.
fn soundness(file: &[u8]) -> Option<(u64, u64)> {
    let storage = MemoryStorage::new(file.to_vec());
    let header = Header::read(&storage).ok()?;
    let report = scan(&storage, &header, Task::new(&Silent, &Cancel::new())).ok()?;
    Some((report.corruptions, report.leaks + report.counted_beyond_file))
}

/// A new image has whole sectors: its end may be longer by zeros.
fn still_shows(was: &Option<Vec<u8>>, is: &Option<Vec<u8>>) -> bool {
    let Some(was) = was else { return true };
    let rest = is.as_ref().and_then(|is| is.strip_prefix(&was[..]));
    rest.is_some_and(|rest| rest.iter().all(|&byte| byte == 0))
}

/// Some places of the disk.
fn places(path: &Path) -> Vec<u64> {
    let Ok(image) = to_read(path) else { return Vec::new() };
    let size = image.size();
    let places = (0..64).map(|n| n * 1024).chain([size / 2, size.saturating_sub(512)]);
    places.filter(|at| *at < size).collect()
}

/// What is read there; nothing where it cannot be.
fn shown(path: &Path, places: &[u64]) -> Vec<Option<Vec<u8>>> {
    let Ok(image) = to_read(path) else { return vec![None; places.len()] };
    let read = |at: &u64| {
        let mut sector = vec![0; 512.min(image.size().saturating_sub(*at)) as usize];
        image.read_at(*at, &mut sector).ok().map(|()| sector)
    };
    places.iter().map(read).collect()
}

fn to_read(path: &Path) -> Result<Image> {
    Image::open(path, &OpenOptions { trust: Trust::none(), ..OpenOptions::to_read() })
}

const CHANGES: u8 = 16;
const APPLY: u8 = 1;

fn change_at(path: &Path, what: u8) -> Result<()> {
    let (cancel, trust, locks) = (Cancel::new(), Trust::none(), LockPolicy::default());
    let context = Context { progress: &Silent, cancel: &cancel, trust: &trust, locks: &locks };
    let first = |list: Result<Vec<String>>| {
        let list = list.unwrap_or_default();
        list.into_iter().next().unwrap_or_else(|| "none".to_owned())
    };
    let snapshot = || {
        let list = snapshot_list(&asked(json!({ "path": path })), context);
        first(list.map(|list| list.snapshots.into_iter().map(|it| it.id).collect()))
    };
    let bitmap = || {
        let list = bitmap_list(&asked(json!({ "path": path })), context);
        first(list.map(|list| list.bitmaps.into_iter().map(|it| it.name).collect()))
    };
    let new = |value: Value| amend(&asked(value), context).map(drop);
    match what % CHANGES {
        0 => snapshot_create(&asked(json!({ "path": path, "name": "new" })), context).map(drop),
        APPLY => {
            let request = json!({ "path": path, "snapshot": snapshot(), "disk_only": what > 127 });
            snapshot_apply(&asked(request), context).map(drop)
        }
        2 => {
            let request = json!({ "path": path, "snapshot": snapshot() });
            snapshot_delete(&asked(request), context).map(drop)
        }
        3 => bitmap_add(&asked(json!({ "path": path, "name": "new" })), context).map(drop),
        4 => {
            let request = match what > 127 {
                true => json!({ "path": path, "all": true }),
                false => json!({ "path": path, "name": bitmap() }),
            };
            bitmap_remove(&asked(request), context).map(drop)
        }
        5 => bitmap_clear(&asked(json!({ "path": path, "name": bitmap() })), context).map(drop),
        6 => bitmap_disable(&asked(json!({ "path": path, "name": bitmap() })), context).map(drop),
        7 => {
            bitmap_add(&asked(json!({ "path": path, "name": "new" })), context)?;
            let request = json!({ "path": path, "name": "new", "from": [bitmap()] });
            bitmap_merge(&asked(request), context).map(drop).map_err(Error::after_changes)
        }
        8 => new(json!({ "path": path, "compat": "0.10" })),
        9 => new(json!({ "path": path, "compat": "1.1", "lazy_refcounts": true })),
        10 => new(json!({ "path": path, "compat": "1.1", "refcount_bits": 64 })),
        11 => new(json!({ "path": path, "refcount_bits": 1 })),
        12 => new(json!({ "path": path, "cluster_size": "4K" })),
        13 => new(
            json!({ "path": path, "compression_type": if what > 127 { "zstd" } else { "zlib" } }),
        ),
        14 => new(json!({ "path": path, "extended_l2": true, "cluster_size": "16K" })),
        _ => rebase(&asked(json!({ "path": path, "no_backing": true })), context).map(drop),
    }
}

/// It is an error that a file, and what is asked of it, can bring about.
fn refused(error: &Error) {
    let kinds = [
        ErrorKind::BadRequest,
        ErrorKind::IncompatibleOptions,
        ErrorKind::NotFound,
        ErrorKind::Exists,
        ErrorKind::HasSnapshots,
    ];
    if !kinds.contains(&error.kind()) {
        known(error);
    }
}

/// Each change of each image, sound and with one field of its header changed.
#[test]
fn changes_keep_their_promises() {
    for what in (0..CHANGES).flat_map(|what| [what, what + 128]) {
        (0..12).for_each(|image| change(&[what, image]));
    }
    again(include_str!("../../tests/data/fuzz/change.txt"), change);
}

#[test]
fn strangers_are_looked_at() {
    again(include_str!("../../tests/data/fuzz/open.txt"), open);
}
