use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::*;
use crate::task::Cancel;

fn with_file(contents: &[u8]) -> (TempDir, FileStorage) {
    let dir = TempDir::new().unwrap();
    let path = resolve(dir.path()).unwrap().join("disk.raw");
    fs::write(&path, contents).unwrap();
    let storage = FileStorage::open(&path, Access::Write).unwrap();
    (dir, storage)
}

#[test]
fn what_cannot_be_a_disk_is_named_without_hanging() {
    let dir = TempDir::new().unwrap();
    let root = resolve(dir.path()).unwrap();
    let at = |name: &str| root.join(name);
    mkfifo(&at("pipe"), Mode::S_IRWXU).unwrap();
    let _listener = UnixListener::bind(at("socket")).unwrap();
    fs::write(at("file"), "x").unwrap();
    symlink(at("file"), at("link")).unwrap();
    let cases = [
        (at("pipe"), "a pipe"),
        (at("socket"), "a socket"),
        (at("link"), "a symbolic link"),
        (dir.path().to_owned(), "a folder"),
        ("/dev/zero".into(), "a character device"),
    ];
    for (path, what) in cases {
        for access in [Access::Read, Access::Write] {
            let error = FileStorage::open(&path, access).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotADisk, "{error}");
            assert!(error.to_string().contains(&format!("is {what}:")), "{error}");
        }
    }
    let missing = FileStorage::open(&at("missing"), Access::Read).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    fs::create_dir(at("folder")).unwrap();
    fs::write(at("folder/file"), "x").unwrap();
    symlink("folder", at("way")).unwrap();
    let error = FileStorage::open(&at("way/file"), Access::Read).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotADisk, "{error}");
    assert!(error.to_string().contains("through a symbolic link"), "{error}");
    let through_link = resolve(&at("link")).unwrap();
    assert_eq!(FileStorage::open(&through_link, Access::Read).unwrap().path(), through_link);
    assert_eq!(FileId::of(&at("link")).unwrap(), FileId::of(&at("file")).unwrap());
}

#[test]
fn reading_ends_with_the_file() {
    let (_dir, storage) = with_file(b"0123456789");
    let mut buf = [0; 8];
    assert_eq!(storage.read_at(0, &mut buf).unwrap(), 8);
    assert_eq!(storage.read_at(6, &mut buf).unwrap(), 4);
    assert_eq!(&buf[..4], b"6789");
    for beyond in [10, 1 << 40, i64::MAX as u64, u64::MAX] {
        assert_eq!(storage.read_at(beyond, &mut buf).unwrap(), 0, "{beyond}");
    }
}

#[test]
fn writing_lengthens_and_names_path_and_offset_when_refused() {
    let (_dir, storage) = with_file(b"");
    storage.write_at(4096, b"end").unwrap();
    assert_eq!(storage.len().unwrap(), 4099);
    storage.set_len(10).unwrap();
    storage.sync().unwrap();
    let beyond = storage.write_at(u64::MAX - 1, b"xy").unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::NoSpace);
    assert_eq!(storage.set_len(1 << 63).unwrap_err().kind(), ErrorKind::NoSpace);
    let read_only = FileStorage::open(storage.path(), Access::Read).unwrap();
    let error = read_only.write_at(7, b"x").unwrap_err();
    assert_eq!((error.path(), error.offset()), (Some(storage.path()), Some(7)));
    assert_eq!(storage.len().unwrap(), 10);
}

/// The system takes what fits and says how much that was; the rest is tried, and refused.
#[test]
fn a_write_that_was_cut_short_is_an_error() {
    const MARK: &str = "VMDISK_TEST_FILE_TOO_LARGE";
    let data: Vec<u8> = (0..64 << 10).map(|n| (n % 251) as u8).collect();
    if let Some(path) = std::env::var_os(MARK) {
        let storage = FileStorage::open(Path::new(&path), Access::Write).unwrap();
        let error = storage.write_at(0, &data).unwrap_err();
        let written = storage.len().unwrap() as usize;
        assert!(0 < written && written < data.len(), "{written} bytes were written");
        assert_eq!((error.path(), error.offset()), (Some(Path::new(&path)), Some(0)), "{error}");
        assert_eq!(fs::read(&path).unwrap(), data[..written]);
        return;
    }
    // The limit is a process's own: this very test again, in one that has it.
    let (_dir, storage) = with_file(b"");
    let name = "host::file::tests::a_write_that_was_cut_short_is_an_error";
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\""]);
    limited.arg(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]);
    let output = limited.env(MARK, storage.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    assert!(storage.len().unwrap() > 0);
}

#[test]
fn room_is_taken_and_given_back() {
    const MIB: u64 = 1 << 20;
    let (_dir, storage) = with_file(b"");
    storage.allocate(0, 0, Allocation::Reserve).unwrap();
    match storage.allocate(0, 4 * MIB, Allocation::Reserve) {
        Ok(()) => assert!(storage.info().unwrap().allocated_bytes >= 4 * MIB),
        Err(error) => assert_eq!(error.kind(), ErrorKind::UnsupportedFeature, "{error}"),
    }
    storage.write_at(0, &[7; 4096]).unwrap();
    storage.allocate(4096, 4 * MIB + 1, Allocation::Zeros).unwrap();
    assert_eq!(storage.len().unwrap(), 4 * MIB + 4097);
    storage.sync().unwrap();
    let before = storage.info().unwrap().allocated_bytes;
    assert!(before > 4 * MIB);
    storage.punch_hole(1000, 3 * MIB).unwrap();
    storage.punch_hole(u64::MAX, 5).unwrap();
    let mut buf = [1; 4096];
    storage.read_at(0, &mut buf).unwrap();
    assert_eq!(buf[..1000], [7; 1000]);
    assert_eq!(storage.len().unwrap(), 4 * MIB + 4097);
    if cfg!(target_os = "linux") {
        assert_eq!(buf[1000..], [0; 3096]);
        assert!(storage.info().unwrap().allocated_bytes < before - 2 * MIB);
    }
}

#[test]
fn nocow_is_asked_of_btrfs_alone() {
    let (_dir, storage) = with_file(b"");
    storage.set_nocow().unwrap();
}

#[test]
fn a_block_device_has_a_length_that_stays() {
    let Ok(devices) = fs::read_dir("/sys/block") else { return };
    let mut paths = devices.flatten().map(|entry| Path::new("/dev").join(entry.file_name()));
    // Only root may look, and not everywhere is there a device.
    let device = paths.find_map(|path| {
        let storage = FileStorage::open(&path, Access::Read).ok()?;
        (storage.len().ok()? >= 4096).then_some(storage)
    });
    let Some(device) = device else { return };
    assert_eq!(device.info().unwrap().kind, FileKind::BlockDevice);
    let len = device.len().unwrap();
    device.set_len(len).unwrap();
    assert_eq!(device.set_len(len + 512).unwrap_err().kind(), ErrorKind::UnsupportedFeature);
    device.allocate(0, len, Allocation::Reserve).unwrap();
    let error = device.allocate(512, len, Allocation::Reserve).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let mut buf = [0; 600];
    assert_eq!(device.read_at(len - 512, &mut buf).unwrap(), 512);
}

#[test]
fn small_inputs_are_files_or_pipes_with_a_limit() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let read = |name: &str, max| read_small_file(&at(name), max, &Cancel::new());
    fs::write(at("key"), "12345").unwrap();
    symlink(at("key"), at("link")).unwrap();
    assert_eq!(read("link", 5).unwrap(), b"12345");
    let error = read("key", 4).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadRequest);
    assert!(error.to_string().contains("larger than 4 bytes"), "{error}");
    assert_eq!(read(".", 5).unwrap_err().kind(), ErrorKind::BadRequest);
    assert_eq!(read("missing", 5).unwrap_err().kind(), ErrorKind::NotFound);
    let endless = read_small_file(Path::new("/dev/zero"), 5, &Cancel::new()).unwrap_err();
    assert_eq!(endless.kind(), ErrorKind::BadRequest);
}

#[test]
fn a_pipe_is_waited_for_while_somebody_writes() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("pipe");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    let nobody = read_small_file(&path, 9, &Cancel::new()).unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::BadRequest);

    // As a shell does for `<(command)`.
    let (kept_open, mut writer) = io::pipe().unwrap();
    let by_number = PathBuf::from(format!("/dev/fd/{}", kept_open.as_raw_fd()));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_small_file(&by_number, 9, &Cancel::new()));
        writer.write_all(b"slow").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert!(!reader.is_finished());
        writer.write_all(b" key").unwrap();
        drop(writer);
        assert_eq!(reader.join().unwrap().unwrap(), b"slow key");
    });

    let cancel = Cancel::new();
    let _writer = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    cancel.trip();
    let error = read_small_file(&path, 9, &cancel).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}
