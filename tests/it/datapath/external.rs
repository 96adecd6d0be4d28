//! External data files: a name in an image, which leads to a file that the guest would write.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use vmdisk::block::{BlockDevice, DeviceOptions};
use vmdisk::image::chain::Opening;
use vmdisk::image::gate::Trust;
use vmdisk::image::{Image, OpenOptions};
use vmdisk::task::Cancel;
use vmdisk::{ErrorKind, Result};

use crate::support::Env;

use super::disk::IMAGE;

/// An image that names `secret` in its folder, or under it, as its data file.
fn downloaded(secret: &str) -> Env {
    let env = Env::new();
    fs::create_dir(env.path("in")).expect("a folder");
    env.qemu_img(&format!("create -q -f qcow2 -o data_file={secret},data_file_raw=on {IMAGE} 64k"));
    env.write(secret, vec![b'k'; 64 << 10]);
    env
}

fn options(writable: bool, trust: Trust) -> OpenOptions {
    let device = DeviceOptions { writable, ..DeviceOptions::default() };
    OpenOptions { device, trust, ..OpenOptions::default() }
}

/// A file that an image alone names may be read beside it; to be written, it takes a caller who
/// names the file or its folder.
#[test]
fn a_data_file_is_written_only_where_the_caller_says() {
    for secret in ["id_rsa", "in/id_rsa"] {
        let env = downloaded(secret);
        let open = |options| Image::open(env.path(IMAGE), &options);
        let mut found = [0; 512];
        let image = open(options(false, Trust::default())).expect("to be read");
        image.read_at(0, &mut found).expect("a read");
        assert_eq!(found, [b'k'; 512], "{secret}");
        drop(image);

        let before = env.contents();
        let elsewhere = Trust::default().and(env.path("elsewhere"));
        for trust in [Trust::default(), Trust::none(), elsewhere] {
            let error = open(options(true, trust.clone())).expect_err("a refusal");
            let (kind, message) = (error.kind(), error.to_string());
            assert_eq!((kind, error.changed()), (ErrorKind::BackingRefused, false), "{message}");
            assert!(message.contains(&format!("external data file '{secret}'")), "{message}");
            let may_be_read = message.contains("may be read, and not written");
            assert_eq!(may_be_read, trust != Trust::none(), "{message}");
        }
        assert_eq!(before, env.contents(), "{secret}");

        let named = [env.path(""), env.path(secret)].map(|place| Trust::none().and(place));
        for (n, trust) in named.into_iter().chain([Trust::Full]).enumerate() {
            let image = open(options(true, trust)).expect("to be written");
            image.write_at(0, &[n as u8; 512]).expect("a write");
            image.close().expect("the end");
            let written = fs::read(env.path(secret)).expect("the data file");
            assert_eq!(written[..512], [n as u8; 512], "{secret}");
        }
    }
}

/// The data file of an image below is only read, whatever is done to the image above.
#[test]
fn a_data_file_below_is_read() {
    let env = downloaded("data.raw");
    env.qemu_img(&format!("create -q -f qcow2 -b {IMAGE} -F qcow2 top.qcow2"));
    let before = fs::read(env.path("data.raw")).expect("the data file");
    let image = Image::open(env.path("top.qcow2"), &OpenOptions::to_write()).expect("an image");
    image.write_at(0, b"above").expect("a write");
    image.close().expect("the end");
    assert_eq!(fs::read(env.path("data.raw")).expect("the data file"), before);
}

/// A relative name in an image leads from the folder of the path that was opened, be it a link's;
/// in an image below, from where that file really is.
#[test]
fn relative_names_lead_from_the_path_that_was_opened() {
    let env = Env::new();
    for folder in ["a", "real", "deep"] {
        fs::create_dir(env.path(folder)).expect("a folder");
    }
    env.write("deep/base.raw", vec![7; 64 << 10]);
    env.qemu_img("create -q -f qcow2 -u -F raw -b base.raw deep/mid.qcow2 64k");
    env.qemu_img("create -q -f qcow2 -u -F qcow2 -b mid.qcow2 real/top.qcow2 64k");
    symlink("../real/top.qcow2", env.path("a/link.qcow2")).expect("a link");
    symlink("../deep/mid.qcow2", env.path("a/mid.qcow2")).expect("a link");
    let image = Image::open(env.path("a/link.qcow2"), &options(false, Trust::Full)).expect("it");
    let mid = env.path("deep/mid.qcow2").canonicalize().expect("a file");
    assert_eq!(image.backing_file(), Some(&*mid));
    let mut found = [0; 512];
    image.read_at(0, &mut found).expect("a read");
    assert_eq!(found, [7; 512]);
    let error = Image::open(env.path("real/top.qcow2"), &OpenOptions::to_read());
    assert_eq!(error.expect_err("no such file").kind(), ErrorKind::BackingMissing);
}

/// Opens the image as `Image::open` does, with or without locks.
fn open(env: &Env, image: &str, locked: bool, writable: bool) -> Result<Image> {
    let options = options(writable, Trust::Full);
    if locked {
        return Image::open(env.path(image), &options);
    }
    let opening = Opening { trust: &options.trust, locks: None, cancel: &Cancel::new() };
    let top = opening.named_by_caller(&env.path(image), None, writable)?;
    let below = opening.below(&top, &[])?;
    opening.assemble(top, below, &[], &options.device)
}

/// Guest data would be written over the tables of an image, or two images over one another's: a
/// data file that is any other file of its chain is refused, by whatever name it comes.
#[test]
fn a_data_file_is_no_other_file_of_its_chain() {
    type Way = fn(&Env, &str);
    const WAYS: [Way; 2] = [
        |env, file| symlink(file, env.path("data.raw")).expect("a link"),
        |env, file| fs::hard_link(env.path(file), env.path("data.raw")).expect("a link"),
    ];
    // A chain of `top.qcow2`, `mid.qcow2` and `base.raw`, the upper two with data files.
    let chain = || {
        let env = Env::new();
        env.qemu_img("create -q -f raw base.raw 64k");
        let over = "create -q -f qcow2 -F raw -b base.raw -o data_file=below.raw mid.qcow2";
        env.qemu_img(over);
        env.qemu_img("create -q -f qcow2 -F qcow2 -b mid.qcow2 -o data_file=data.raw top.qcow2");
        fs::remove_file(env.path("data.raw")).expect("the data file");
        env
    };
    for (file, way) in ["top.qcow2", "mid.qcow2", "below.raw", "base.raw"]
        .into_iter()
        .flat_map(|file| WAYS.map(|way| (file, way)))
    {
        let env = chain();
        way(&env, file);
        let before = env.contents();
        for (locked, writable) in [(true, false), (true, true), (false, false), (false, true)] {
            let error = open(&env, "top.qcow2", locked, writable).expect_err(file);
            let message = error.to_string();
            assert_eq!(error.kind(), ErrorKind::BackingCycle, "{file}: {message}");
            assert!(message.contains("the external data file of"), "{file}: {message}");
        }
        assert_eq!(before, env.contents(), "{file}");
    }
}

/// An image that names itself, and a new disk that would take the place of a data file below it.
#[test]
fn a_data_file_is_not_the_disk_itself() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 -o data_file=e.qcow2 d.qcow2 1M");
    let bytes = fs::read(env.path(IMAGE)).expect("the image");
    let at = bytes.windows(7).position(|name| name == b"e.qcow2").expect("the name");
    env.refuses("create e.qcow2 --backing d.qcow2 --if-exists replace", "has_dependents");
    env.refuses("create e.qcow2 --backing d.qcow2 --if-exists replace --force", "backing_cycle");
    env.patch(IMAGE, at as u64, b"d.qcow2");
    for locked in [true, false] {
        let error = open(&env, IMAGE, locked, true).expect_err("itself");
        assert_eq!(error.kind(), ErrorKind::BackingCycle, "{error}");
    }
    env.refuses("create o.qcow2 --backing d.qcow2", "backing_cycle");
}

/// What an image names is looked at before it is opened: what cannot be a disk is refused at once
/// whatever is trusted, and a device without being opened, unless everything is trusted.
#[test]
fn what_is_no_file_is_not_opened() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 -o data_file=node data.qcow2 1M");
    env.qemu_img("create -q -f qcow2 -u -b node -F raw over.qcow2 1M");
    let is_refused = |what: &str, trust: &Trust, kind: ErrorKind| {
        for (image, writable) in [("data.qcow2", false), ("data.qcow2", true), ("over.qcow2", true)]
        {
            let options = if writable { OpenOptions::to_write() } else { OpenOptions::to_read() };
            let options = OpenOptions { trust: trust.clone(), ..options };
            let start = Instant::now();
            let error = Image::open(env.path(image), &options).expect_err(what);
            assert_eq!(error.kind(), kind, "{what}, {image}: {error}");
            assert!(start.elapsed() < Duration::from_secs(1), "{what}, {image}");
        }
    };
    let allowed = Trust::default().and(env.path(""));
    fs::remove_file(env.path("node")).expect("the data file");
    env.run("mkfifo", ["node"]).exits(0);
    for trust in [&allowed, &Trust::Full] {
        is_refused("a pipe", trust, ErrorKind::NotADisk);
    }
    let start = Instant::now();
    env.refuses("info node", "not_a_disk");
    assert!(start.elapsed() < Duration::from_secs(1));
    fs::remove_file(env.path("node")).expect("the pipe");
    let listens = UnixListener::bind(env.path("node")).expect("a socket");
    is_refused("a socket", &allowed, ErrorKind::NotADisk);
    drop(listens);
    fs::remove_file(env.path("node")).expect("the socket");
    // Only root makes devices. Opening this one would say that there is no such device.
    if env.run("mknod", ["node", "b", "240", "77"]).code == Some(0) {
        is_refused("a device", &allowed, ErrorKind::BackingRefused);
        fs::remove_file(env.path("node")).expect("the device");
    }
    fs::create_dir(env.path("node")).expect("a folder");
    is_refused("a folder", &allowed, ErrorKind::NotADisk);
}
