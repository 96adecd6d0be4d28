use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::*;
use crate::host::storage::Storage;

pub(super) fn image() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.raw");
    fs::write(&path, vec![0; 1 << 20]).unwrap();
    (dir, path)
}

pub(super) fn try_lock(path: &Path, mode: LockMode) -> Result<FileStorage> {
    wait_lock(path, mode, Duration::ZERO)
}

fn wait_lock(path: &Path, mode: LockMode, timeout: Duration) -> Result<FileStorage> {
    let access = if mode == LockMode::Writer { Access::Write } else { Access::Read };
    let policy = LockPolicy { timeout, required: true };
    open_locked(path, access, mode, &policy, &Cancel::new())
}

#[test]
fn writers_exclude_everybody_and_readers_writers() {
    let (_dir, path) = image();
    let writer = try_lock(&path, LockMode::Writer).unwrap();
    assert!(writer.lock_state().flock);
    assert_eq!(writer.lock_state().ofd, cfg!(target_os = "linux"));
    for mode in [LockMode::Writer, LockMode::Reader] {
        let error = try_lock(&path, mode).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        assert_eq!(error.path(), Some(&*path.canonicalize().unwrap()));
        if cfg!(target_os = "linux") {
            assert_eq!(error.holder().map(|holder| holder.pid), Some(std::process::id()));
        }
    }
    try_lock(&path, LockMode::Shared).unwrap();
    drop(writer);
    let reader = try_lock(&path, LockMode::Reader).unwrap();
    try_lock(&path, LockMode::Reader).unwrap();
    assert_eq!(try_lock(&path, LockMode::Writer).unwrap_err().kind(), ErrorKind::Locked);
    drop(reader);
    let shared = try_lock(&path, LockMode::Shared).unwrap();
    try_lock(&path, LockMode::Writer).unwrap();
    drop(shared);
}

#[test]
fn a_read_only_descriptor_can_keep_others_out() {
    let (_dir, path) = image();
    let policy = LockPolicy::default();
    let cancel = Cancel::new();
    let writer = open_locked(&path, Access::Read, LockMode::Writer, &policy, &cancel).unwrap();
    assert_eq!(try_lock(&path, LockMode::Writer).unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(try_lock(&path, LockMode::Reader).unwrap_err().kind(), ErrorKind::Locked);
    let again = writer.lock(LockMode::Reader, &policy, &cancel).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Internal, "it would lose what it has");
    assert_eq!(try_lock(&path, LockMode::Reader).unwrap_err().kind(), ErrorKind::Locked);
}

#[test]
fn a_timeout_waits_and_a_wish_to_stop_ends_it() {
    let (_dir, path) = image();
    let writer = try_lock(&path, LockMode::Writer).unwrap();
    let start = Instant::now();
    let timeout = Duration::from_millis(120);
    let error = wait_lock(&path, LockMode::Reader, timeout).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(start.elapsed() >= timeout);

    let cancel = Cancel::new();
    let policy = LockPolicy { timeout: Duration::from_secs(600), required: true };
    std::thread::scope(|scope| {
        let waiting =
            scope.spawn(|| open_locked(&path, Access::Write, LockMode::Writer, &policy, &cancel));
        std::thread::sleep(Duration::from_millis(30));
        assert!(!waiting.is_finished());
        cancel.trip();
        assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        let waiting = scope.spawn(|| wait_lock(&path, LockMode::Writer, policy.timeout));
        std::thread::sleep(Duration::from_millis(30));
        drop(writer);
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn of_eight_that_wait_each_comes_in_alone() {
    let (_dir, path) = image();
    let inside = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (path, inside) = (&path, &inside);
            scope.spawn(move || {
                for _ in 0..3 {
                    let mode = if number == 7 { LockMode::Reader } else { LockMode::Writer };
                    let _held = wait_lock(path, mode, Duration::from_secs(60)).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    std::thread::sleep(Duration::from_millis(3));
                    assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
                }
            });
        }
    });
    assert_eq!(inside.load(Ordering::SeqCst), 0);
}

#[test]
fn what_was_replaced_while_waiting_is_opened_anew() {
    let (dir, path) = image();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("disk.raw", &link).unwrap();
    let link = &link;
    let old = try_lock(&path, LockMode::Writer).unwrap();
    std::thread::scope(|scope| {
        let timeout = Duration::from_secs(60);
        let waiting = scope.spawn(move || wait_lock(link, LockMode::Writer, timeout));
        std::thread::sleep(Duration::from_millis(50));
        fs::write(dir.path().join("new"), "new").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        let old_id = old.id().unwrap();
        drop(old);
        let opened = waiting.join().unwrap().unwrap();
        assert_ne!(opened.id().unwrap(), old_id);
        assert_eq!(opened.id().unwrap(), FileId::of(&path).unwrap());
        assert_eq!(opened.len().unwrap(), 3);
        assert_eq!(try_lock(&path, LockMode::Reader).unwrap_err().kind(), ErrorKind::Locked);
    });
}
