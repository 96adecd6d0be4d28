//! What an open image tells of itself, and how it is resized while it is used.

use vmdisk::ErrorKind;
use vmdisk::block::{BlockDevice, ExtentKind};
use vmdisk::image::probe::Format;
use vmdisk::image::{Image, OpenOptions};
use vmdisk::qcow2::Version;
use vmdisk::task::{Cancel, Silent, Task};
use vmdisk::units::{ByteSize, VirtualSize};

use crate::support::{Env, same_bytes};

use super::disk::{contents, to_write};

fn resize(image: &mut Image, bytes: u64) -> vmdisk::Result<()> {
    let size = VirtualSize::round_up(ByteSize::from_bytes(bytes)).expect("a size");
    image.resize(size, Task::new(&Silent, &Cancel::new()))
}

fn files() -> Env {
    let env = Env::new();
    env.write("base.raw", vec![3; 1 << 20]);
    env.qemu_img("create -q -f qcow2 plain.qcow2 1M");
    env.qemu_img("create -q -f qcow2 -F raw -b base.raw -o cluster_size=4k over.qcow2");
    env.qemu_img("create -q -f qcow2 -o lazy_refcounts=on,extended_l2=on lazy.qcow2 1M");
    env.qemu_img("create -q -f qcow2 -o data_file=data.raw external.qcow2 1M");
    env.qemu_img("create -q -f raw d.raw 1M");
    env
}

/// Which files it consists of, its format, its clusters, and all that its header says.
#[test]
fn an_image_tells_what_it_is() {
    let env = files();
    let open = |name: &str| Image::open(env.path(name), &OpenOptions::to_read()).expect("it");
    let real = |name: &str| Some(env.path(name).canonicalize().expect("a file"));
    let over = open("over.qcow2");
    assert_eq!((over.path(), over.format()), (&*env.path("over.qcow2"), Format::Qcow2));
    assert_eq!(
        (over.size(), over.cluster_size(), over.is_writable()),
        (1 << 20, Some(4096), false)
    );
    assert_eq!((over.backing_file(), over.data_file()), (real("base.raw").as_deref(), None));
    let header = over.header().expect("a header");
    let named = header.backing.as_ref().expect("a backing file");
    assert_eq!((&named.name[..], named.format.as_deref()), (&b"base.raw"[..], Some(&b"raw"[..])));
    assert_eq!((header.version, header.geometry.extended_l2()), (Version::V3, false));
    let external = open("external.qcow2");
    assert_eq!(
        (external.backing_file(), external.data_file()),
        (None, real("data.raw").as_deref())
    );
    let raw = Image::open(env.path("d.raw"), &OpenOptions::to_write()).expect("it");
    assert_eq!((raw.format(), raw.cluster_size(), raw.is_writable()), (Format::Raw, None, true));
    assert!(raw.header().is_none() && raw.backing_file().is_none() && raw.data_file().is_none());
}

/// Whoever has any disk at hand can ask for its runs.
#[test]
fn any_disk_has_extents() {
    let env = files();
    let image = Image::open(env.path("over.qcow2"), &OpenOptions::to_write()).expect("it");
    image.write_at(4096, &[1; 8192]).expect("a write");
    let any: &dyn BlockDevice = &image;
    let kinds = |extents: vmdisk::block::Extents<'_>| -> Vec<_> {
        extents.map(|extent| extent.map(|e| (e.offset, e.len, e.kind)).expect("it")).collect()
    };
    let found = kinds(any.extents(0..any.size()));
    assert_eq!(found[0], (0, 4096, ExtentKind::Unallocated));
    assert_eq!(found[1..].iter().map(|run| run.1).sum::<u64>(), (1 << 20) - 4096);
    assert_eq!(found, kinds(image.extents(0..image.size())));
    let boxed: Box<dyn BlockDevice> = Box::new(image);
    assert_eq!(found, kinds(boxed.extents(0..boxed.size())));
}

/// An open disk grows and shrinks between writes, and QEMU finds it sound and as we left it.
#[test]
fn an_open_image_grows_and_shrinks() {
    let env = files();
    for name in ["plain.qcow2", "over.qcow2", "lazy.qcow2", "d.raw"] {
        let mut image = Image::open(env.path(name), &to_write(&env)).expect("an image");
        let mut model = contents(&image);
        for (n, size) in [3 << 20, 100 << 10, (9 << 20) + 512].into_iter().enumerate() {
            image.write_at(50_000, &[n as u8 + 10; 9000]).expect("a write");
            model[50_000..59_000].fill(n as u8 + 10);
            resize(&mut image, size).expect("another size");
            model.resize(size as usize, 0);
            assert_eq!(image.size(), size, "{name}");
            image.write_at(size - 20_000, &[n as u8 + 20; 20_000]).expect("a write");
            model[size as usize - 20_000..].fill(n as u8 + 20);
            same_bytes(&contents(&image), &model, &format!("{name} of {size}"));
        }
        image.close().expect("the end");
        let (_, format) = name.split_once('.').expect("a format");
        same_bytes(&env.disk(format, name), &model, name);
        if format == "qcow2" {
            env.is_clean(name);
        }
    }
}

/// An image that may not be resized is refused before anything is written, and used on.
#[test]
fn what_may_not_be_resized_is_used_on() {
    let env = files();
    for name in ["plain.qcow2", "d.raw"] {
        let before = env.contents();
        let mut image = Image::open(env.path(name), &OpenOptions::to_read()).expect("an image");
        let error = resize(&mut image, 2 << 20).expect_err("only read");
        assert_eq!((error.kind(), error.changed()), (ErrorKind::Permission, false), "{error}");
        assert_eq!(error.path(), Some(&*env.path(name)), "{error}");
        assert_eq!(before, env.contents(), "{name}");
    }
    let mut image = Image::open(env.path("external.qcow2"), &to_write(&env)).expect("an image");
    let error = resize(&mut image, 2 << 20).expect_err("an external data file");
    assert_eq!((error.kind(), error.changed()), (ErrorKind::UnsupportedFeature, false), "{error}");
    image.write_at(0, &[5; 512]).expect("a write");
    image.close().expect("the end");
}
