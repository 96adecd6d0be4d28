//! Images that are refused when they are opened: by name, and before any byte is changed.

use vmdisk::block::{BlockDevice, DeviceOptions};
use vmdisk::host::Access;
use vmdisk::host::storage::{Allocation, Storage};
use vmdisk::image::{Image, OpenOptions};
use vmdisk::qcow2::{Header, Qcow2, ResizeOptions};
use vmdisk::raw::{Raw, RawAllocation};
use vmdisk::task::{Cancel, Silent, Task};
use vmdisk::units::{ByteSize, VirtualSize};
use vmdisk::{Error, ErrorKind};

use crate::support::{Env, same_bytes};

use super::disk::{IMAGE, contents};

/// An image that must not be opened.
struct Refused {
    what: &'static str,
    make: fn(&Env),
    /// How the attempts to read and to write it end; `None` where it may be read.
    read: Option<ErrorKind>,
    write: ErrorKind,
    /// What the message must say.
    says: &'static str,
}

fn create(env: &Env, options: &str) {
    env.qemu_img(&format!("create -q -f qcow2 {options} d.qcow2 2M"));
    env.qemu_io_all(IMAGE, &["write -P 1 0 300k".to_owned()]);
}

fn encrypted(env: &Env, format: &str) {
    // Deriving the key is to take no time.
    let iterations = if format == "luks" { ",encrypt.iter-time=10" } else { "" };
    let options = format!("encrypt.format={format},encrypt.key-secret=s{iterations}");
    let args = ["create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=abc", "-o"];
    env.run("qemu-img", args.into_iter().chain([&options[..], "d.qcow2", "2M"])).exits(0);
}

/// Sets an incompatible feature, which the image itself names.
fn feature(env: &Env, bit: u8, name: &[u8]) {
    create(env, "");
    let mut record = vec![0, bit];
    record.extend(name);
    record.resize(48, 0);
    // The first record of the table of names is right behind the head of the extension.
    env.patch(IMAGE, 112 + 8, &record);
    env.patch(IMAGE, 72 + 7 - u64::from(bit / 8), &[1 << (bit % 8)]);
}

fn overlay(env: &Env, base: &str) {
    env.write("base.raw", vec![5; 1 << 20]);
    env.qemu_img("create -q -f qcow2 -b base.raw -F raw d.qcow2");
    env.qemu_img(&format!("rebase -q -u -f qcow2 -b {base} -F raw d.qcow2"));
}

const UNSUPPORTED: Option<ErrorKind> = Some(ErrorKind::UnsupportedFeature);

const REFUSED: &[Refused] = &[
    Refused {
        what: "LUKS",
        make: |env| encrypted(env, "luks"),
        read: UNSUPPORTED,
        write: ErrorKind::UnsupportedFeature,
        says: "encrypted (LUKS)",
    },
    Refused {
        what: "AES",
        make: |env| encrypted(env, "aes"),
        read: UNSUPPORTED,
        write: ErrorKind::UnsupportedFeature,
        says: "encrypted (AES)",
    },
    Refused {
        what: "a feature with a name",
        make: |env| feature(env, 17, b"quantum foam"),
        read: UNSUPPORTED,
        write: ErrorKind::UnsupportedFeature,
        says: "bit 17 ('quantum foam')",
    },
    Refused {
        what: "a feature with a name for a terminal",
        make: |env| feature(env, 63, b"\x1b[31mred\nline \xff"),
        read: UNSUPPORTED,
        write: ErrorKind::UnsupportedFeature,
        says: r"bit 63 ('\x1b[31mred\nline \xff')",
    },
    Refused {
        what: "a feature without a name",
        make: |env| {
            create(env, "-o cluster_size=4k");
            env.patch(IMAGE, 78, &[2]);
        },
        read: UNSUPPORTED,
        write: ErrorKind::UnsupportedFeature,
        says: "bit 9",
    },
    Refused {
        what: "an unknown way to pack",
        make: |env| {
            create(env, "-o compression_type=zstd");
            env.patch(IMAGE, 104, &[7]);
        },
        read: UNSUPPORTED,
        write: ErrorKind::UnsupportedFeature,
        says: "compression type 7",
    },
    Refused {
        what: "a version to come",
        make: |env| {
            create(env, "");
            env.patch(IMAGE, 7, &[4]);
        },
        read: UNSUPPORTED,
        write: ErrorKind::UnsupportedFeature,
        says: "version 4",
    },
    Refused {
        what: "marked corrupt",
        make: |env| {
            create(env, "");
            env.patch(IMAGE, 79, &[2]);
        },
        read: None,
        write: ErrorKind::Corrupt,
        says: "marked corrupt",
    },
    Refused {
        what: "the data file is gone",
        make: |env| {
            create(env, "-o data_file=data.raw");
            std::fs::remove_file(env.path("data.raw")).expect("the data file");
        },
        read: Some(ErrorKind::BackingMissing),
        write: ErrorKind::BackingMissing,
        says: "external data file 'data.raw' is missing",
    },
    Refused {
        what: "the base is gone",
        make: |env| overlay(env, "gone.raw"),
        read: Some(ErrorKind::BackingMissing),
        write: ErrorKind::BackingMissing,
        says: "backing file 'gone.raw' is missing",
    },
    Refused {
        what: "the base lies elsewhere",
        make: |env| overlay(env, "/etc/passwd"),
        read: Some(ErrorKind::BackingRefused),
        write: ErrorKind::BackingRefused,
        says: "'/etc/passwd' lies outside",
    },
    Refused {
        what: "the base is no file",
        make: |env| overlay(env, "nbd:localhost:1"),
        read: Some(ErrorKind::BackingRefused),
        write: ErrorKind::BackingRefused,
        says: "protocol 'nbd' is not followed",
    },
    Refused {
        what: "an encrypted base",
        make: |env| {
            encrypted(env, "aes");
            std::fs::rename(env.path(IMAGE), env.path("base.qcow2")).expect("a new name");
            env.write("base.raw", vec![5; 1 << 20]);
            env.qemu_img("create -q -f qcow2 -b base.raw -F raw d.qcow2");
            env.qemu_img("rebase -q -u -f qcow2 -b base.qcow2 -F qcow2 d.qcow2");
        },
        read: UNSUPPORTED,
        write: ErrorKind::UnsupportedFeature,
        says: "encrypted (AES)",
    },
];

#[track_caller]
fn is_refusal(error: &Error, kind: ErrorKind, says: &str, what: &str) {
    assert_eq!((error.kind(), error.changed()), (kind, false), "{what}: {error}");
    let message = error.to_string();
    assert!(message.contains(says), "{what}: {message}");
    assert!(!message.chars().any(char::is_control), "{what}: {message:?}");
}

/// What cannot be read or written as it should be is not opened, and says why.
#[test]
fn what_cannot_be_done_is_not_begun() {
    for Refused { what, make, read, write, says } in REFUSED {
        let env = Env::new();
        make(&env);
        let before = env.contents();
        let open = |options| Image::open(env.path(IMAGE), &options);
        match (open(OpenOptions::to_read()), read) {
            (Err(error), Some(kind)) => is_refusal(&error, *kind, says, what),
            (Ok(image), None) => drop(contents(&image)),
            (found, _) => panic!("{what}: {found:?}"),
        }
        let error = open(OpenOptions::to_write()).expect_err(what);
        is_refusal(&error, *write, says, what);
        assert_eq!(before, env.contents(), "{what}");
    }
}

/// What is opened to be read is not written, and nothing is written beyond the end.
#[test]
fn what_may_not_be_written_is_not_written() {
    for format in ["qcow2", "raw"] {
        let env = Env::new();
        let name = format!("disk.{format}");
        env.qemu_img(&format!("create -q -f {format} {name} 1M"));
        let before = env.contents();
        let refused = |options: OpenOptions, at: u64, kind: ErrorKind| {
            let image = Image::open(env.path(&name), &options).expect("an image");
            for done in
                [image.write_at(at, &[1; 600]), image.write_zeroes(at, 600), image.discard(at, 600)]
            {
                let error = done.expect_err("a refusal");
                assert_eq!((error.kind(), error.changed()), (kind, false), "{name}: {error}");
            }
            image.close().expect("the end");
        };
        refused(OpenOptions::to_write(), (1 << 20) - 599, ErrorKind::BadRequest);
        refused(OpenOptions::to_write(), u64::MAX - 10, ErrorKind::BadRequest);
        assert_eq!(before, env.contents(), "{name}");
        let image = Image::open(env.path(&name), &OpenOptions::to_read()).expect("an image");
        let error = image.write_at(0, &[1; 600]).expect_err("a refusal");
        assert_eq!(error.kind(), ErrorKind::Permission, "{name}: {error}");
        same_bytes(&contents(&image), &vec![0; 1 << 20], &name);
        image.close().expect("the end");
        assert_eq!(before, env.contents(), "{name}");
    }
}

/// A file that was opened to be read is not changed as a whole either, and not found out about
/// halfway: nothing of it is written, and the error says so.
#[test]
fn what_is_only_read_is_not_changed() {
    for (what, options) in [("clean", ""), ("dirty", "-o lazy_refcounts=on")] {
        let env = Env::new();
        create(&env, options);
        env.write("d.raw", vec![1; 1 << 20]);
        if what == "dirty" {
            env.patch(IMAGE, 79, &[1]);
        }
        let before = env.contents();
        let storage = |name| env.storage(name, Access::Read);
        let (size, cancel) = (ByteSize::from_bytes(3 << 20), Cancel::new());
        let (size, task) =
            (VirtualSize::round_up(size).expect("a size"), Task::new(&Silent, &cancel));
        let open = || {
            let storage = storage(IMAGE);
            let header = Header::read(&storage).expect("a header");
            Qcow2::open(Box::new(storage), header, None).expect("an image")
        };
        let raw = || Raw::open(Box::new(storage("d.raw"))).expect("a disk");
        let options = ResizeOptions { virtual_size: size, preallocation: None };
        let writable = DeviceOptions { writable: true, ..DeviceOptions::default() };
        for error in [
            open().resize(&options, task).map(drop),
            open().rebuild_refcounts(task),
            raw().resize(size, RawAllocation::Reserve, task),
            Raw::open_with(Box::new(storage("d.raw")), &writable).map(drop),
            storage(IMAGE).write_at(0, b"x"),
            storage(IMAGE).set_len(7),
            storage(IMAGE).allocate(0, 8 << 20, Allocation::Reserve),
            storage(IMAGE).punch_hole(0, 4096),
            storage(IMAGE).zero_range(0, 4096),
        ] {
            is_refusal(&error.expect_err("a refusal"), ErrorKind::Permission, "to be read", what);
        }
        assert_eq!(before, env.contents(), "{what}");
    }
}
