use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::*;
use crate::host::storage::Storage;

fn names(dir: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(dir.path()).unwrap().map(Result::unwrap);
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn staged(target: &Path, contents: &[u8]) -> Staging {
    let staging = Staging::begin(target, DEFAULT_MODE, None).unwrap();
    staging.storage().write_at(0, contents).unwrap();
    staging
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let dir = TempDir::new().unwrap();
    let target = dir.path().join("disk.qcow2");
    let staging = staged(&target, b"whole");
    assert!(!target.exists());
    assert_eq!(names(&dir).len(), 1, "the temporary file alone");
    staging.publish(Publish::NoReplace).unwrap();
    assert_eq!(names(&dir), ["disk.qcow2"]);
    assert_eq!(fs::read(&target).unwrap(), b"whole");
    assert_eq!(target.metadata().unwrap().mode() & 0o7777, 0o600);

    drop(staged(&dir.path().join("other"), b"half"));
    assert_eq!(names(&dir), ["disk.qcow2"]);
}

#[test]
fn what_appeared_meanwhile_stays_unless_it_is_to_be_replaced() {
    let dir = TempDir::new().unwrap();
    let target = dir.path().join("disk.raw");
    let staging = staged(&target, b"ours");
    fs::write(&target, "theirs").unwrap();
    let error = staging.publish(Publish::NoReplace).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists);
    assert!(!error.changed());
    assert_eq!(fs::read(&target).unwrap(), b"theirs");
    assert_eq!(names(&dir), ["disk.raw"]);

    let other = Publish::Replace(FileId::of(dir.path()).unwrap());
    let error = staged(&target, b"ours").publish(other).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists, "{error}");
    let this = Publish::Replace(FileId::of(&target).unwrap());
    staged(&target, b"ours").publish(this).unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"ours");
    assert_eq!(names(&dir), ["disk.raw"]);

    fs::create_dir(dir.path().join("folder")).unwrap();
    let error = staged(&dir.path().join("folder"), b"")
        .publish(Publish::Replace(FileId::of(&dir.path().join("folder")).unwrap()))
        .unwrap_err();
    assert!(!error.changed(), "{error}");
    assert_eq!(names(&dir), ["disk.raw", "folder"]);
}

#[test]
fn mode_and_owner_are_there_from_the_first_moment() {
    let dir = TempDir::new().unwrap();
    let target = dir.path().join("disk.raw");
    let mut owner = Owner::current();
    if owner.user == 0 {
        owner = Owner { user: 1234, group: Some(5678) };
    }
    let staging = Staging::begin(&target, 0o640, Some(owner)).unwrap();
    staging.publish(Publish::NoReplace).unwrap();
    let found = target.metadata().unwrap();
    assert_eq!((found.uid(), Some(found.gid())), (owner.user, owner.group));
    assert_eq!(found.mode() & 0o7777, 0o640);
}

#[test]
fn targets_without_a_folder_or_a_name_are_refused() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let begin =
        |target: &str| Staging::begin(&dir.path().join(target), DEFAULT_MODE, None).unwrap_err();
    let missing = begin("missing/disk.raw");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert_eq!(missing.path(), Some(&*dir.path().join("missing")));
    assert_eq!(begin("file/disk.raw").kind(), ErrorKind::NotFound);
    assert_eq!(begin("..").kind(), ErrorKind::BadRequest);
}

/// A process that holds a `flock` on `path` until its input ends; `None` where there is no such
/// program.
fn hold_flock(path: &Path) -> Option<Child> {
    let mut child = Command::new("flock")
        .args(["-o", "-x"])
        .arg(path)
        .args(["-c", "echo held; read line"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    Some(child)
}

#[test]
fn only_what_a_dead_run_of_ours_left_is_removed() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let kept = [
        ".vmdisk-.tmp",
        ".vmdisk-abcdefgh.tmp.bak",
        ".vmdisk-abcdef-h.tmp",
        ".vmdisk-short.tmp",
        "vmdisk-abcdefgh.tmp",
    ];
    for name in kept.iter().chain(&[".vmdisk-deadDEAD0000.tmp", ".vmdisk-alive000.tmp"]) {
        fs::write(at(name), name).unwrap();
    }
    fs::create_dir(at(".vmdisk-folder00.tmp")).unwrap();
    symlink(at(".vmdisk-.tmp"), at(".vmdisk-symlink0.tmp")).unwrap();
    let foreign = Owner::current().user == 0;
    if foreign {
        fs::write(at(".vmdisk-foreign0.tmp"), "").unwrap();
        chown(at(".vmdisk-foreign0.tmp"), Some(1234), None).unwrap();
    }
    let Some(mut alive) = hold_flock(&at(".vmdisk-alive000.tmp")) else { return };
    let before = names(&dir).len();

    let first = staged(&at("one"), b"");
    assert!(!at(".vmdisk-deadDEAD0000.tmp").exists());
    assert_eq!(names(&dir).len(), before, "one gone, one new");
    let second = staged(&at("two"), b"");
    first.publish(Publish::NoReplace).unwrap();
    second.publish(Publish::NoReplace).unwrap();
    assert!(at(".vmdisk-alive000.tmp").exists());
    assert_eq!(at(".vmdisk-foreign0.tmp").exists(), foreign);

    drop(alive.stdin.take());
    alive.wait().unwrap();
    drop(staged(&at("three"), b""));
    assert!(!at(".vmdisk-alive000.tmp").exists());
    for name in kept.iter().chain(&[".vmdisk-folder00.tmp", ".vmdisk-symlink0.tmp"]) {
        assert!(at(name).symlink_metadata().is_ok(), "{name}");
    }
}

#[test]
fn a_file_that_was_taken_away_before_it_was_locked_is_not_used() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x");
    let file = File::create_new(&path).unwrap();
    let cleaner = File::open(&path).unwrap();
    cleaner.lock().unwrap();
    assert_eq!(claim(&file, &path), None, "the cleaner has its lock");
    fs::remove_file(&path).unwrap();
    cleaner.unlock().unwrap();
    assert_eq!(claim(&file, &path), None, "it has no name any more");
    let other = File::create_new(&path).unwrap();
    assert_eq!(claim(&file, &path), None, "the name is another file's");
    assert!(claim(&other, &path).is_some_and(|state| state.flock));
}

#[test]
fn cleaners_and_makers_do_not_disturb_one_another() {
    let dir = TempDir::new().unwrap();
    let makers = [0, 1, 2].map(|maker| {
        let folder = dir.path().to_owned();
        std::thread::spawn(move || {
            for round in 0..40 {
                let target = folder.join(format!("{maker}-{round}"));
                staged(&target, b"whole").publish(Publish::NoReplace).unwrap();
            }
        })
    });
    while !makers.iter().all(|maker| maker.is_finished()) {
        stale::remove_all(dir.path());
    }
    makers.into_iter().for_each(|maker| maker.join().unwrap());
    let names = names(&dir);
    assert_eq!(names.len(), 120);
    assert!(names.iter().all(|name| fs::read(dir.path().join(name)).unwrap() == b"whole"));
}

/// Some systems share blocks with new files alone: then another temporary file takes the first one's
/// place, with its promises.
#[test]
fn what_is_made_anew_takes_the_place_of_the_first() {
    let dir = TempDir::new().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("disk.raw"));
    fs::write(&source, "theirs").unwrap();
    fs::set_permissions(&source, Permissions::from_mode(0o444)).unwrap();
    let mut staging = staged(&target, b"first");
    let first = names(&dir);
    assert!(!staging.make_anew(|_| Ok(None)).unwrap());
    assert!(staging.make_anew(|_| Err(Errno::EIO.into())).is_err());
    assert_eq!(names(&dir), first, "it is as before");
    let copy = |path: &Path| {
        fs::copy(&source, path)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        OpenOptions::new().read(true).write(true).open(path).map(Some)
    };
    assert!(staging.make_anew(copy).unwrap());
    stale::remove_all(dir.path());
    let second = names(&dir);
    assert!(second.len() == 2 && second != first, "one took the place of the other: {second:?}");
    staging.storage().write_at(0, b"O").unwrap();
    staging.publish(Publish::NoReplace).unwrap();
    assert_eq!(names(&dir), ["disk.raw", "source"]);
    assert_eq!(fs::read(&target).unwrap(), b"Oheirs");
    assert_eq!(fs::read(&source).unwrap(), b"theirs");
    assert_eq!(target.metadata().unwrap().mode() & 0o7777, 0o600);
}

/// Blocks are shared, or nothing happens, as `can_reflink` says.
#[test]
fn a_file_shares_blocks_or_is_as_before() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().canonicalize().unwrap().join("source");
    fs::write(&path, [7; 1 << 16]).unwrap();
    let source = FileStorage::open(&path, Access::Read).unwrap();
    let mut staging = staged(&dir.path().join("disk.raw"), b"first");
    let able = crate::host::abilities_of(dir.path()).unwrap().reflink;
    assert_eq!(staging.reflink(&source).unwrap(), able);
    let len = if able { 1 << 16 } else { 5 };
    assert_eq!((staging.storage().len().unwrap(), names(&dir).len()), (len, 2));
}
