//! The disk of a snapshot, read through the library, against what `qemu-img convert -l` makes of it.

use vmdisk::ErrorKind;
use vmdisk::block::BlockDevice;
use vmdisk::image::gate::Trust;
use vmdisk::image::{Image, OpenOptions};

use crate::draw::each;
use crate::fixtures::every_image;
use crate::support::{Env, same_bytes};

const IMAGE: &str = "d.qcow2";

/// To read the disk of a snapshot.
pub(super) fn at(env: &Env, snapshot: &str) -> OpenOptions {
    let trust = Trust::default().and(env.path(""));
    OpenOptions { snapshot: Some(snapshot.to_owned()), trust, ..OpenOptions::to_read() }
}

/// The whole disk of a snapshot, as we read it.
pub(super) fn disk_at(env: &Env, image: &str, snapshot: &str) -> Vec<u8> {
    let disk = Image::open(env.path(image), &at(env, snapshot)).expect("a snapshot");
    let mut bytes = vec![1; disk.size() as usize];
    disk.read_at(0, &mut bytes).expect("its disk");
    bytes
}

#[test]
fn a_snapshot_reads_as_qemu_reads_it() {
    let images: Vec<_> =
        every_image().into_iter().filter(|(name, _)| name.contains("snapshots")).collect();
    assert!(images.len() > 15);
    each(&images, |(name, make)| {
        let env = Env::new();
        make(&env);
        let info = env.qemu_info(IMAGE);
        let size = info["virtual-size"].as_u64().expect("a size");
        for snapshot in info["snapshots"].as_array().expect("snapshots") {
            let (id, called) = (snapshot["id"].as_str(), snapshot["name"].as_str());
            let (id, called) = (id.expect("an id"), called.expect("a name"));
            let mut theirs = env.snapshot_disk(IMAGE, called);
            let ours = disk_at(&env, IMAGE, called);
            // QEMU gives each the size that the image has now.
            assert_eq!(theirs.len() as u64, size);
            assert!(ours.len() as u64 == size || *name == "snapshots of another size");
            assert!(theirs[ours.len()..].iter().all(|&byte| byte == 0));
            theirs.truncate(ours.len());
            same_bytes(&ours, &theirs, &format!("{name}: {called}"));
            same_bytes(&disk_at(&env, IMAGE, id), &theirs, &format!("{name}: {id}"));
        }
    });
}

#[test]
fn what_is_no_snapshot_is_refused_by_its_name() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 1M");
    env.qemu_img("create -q -f raw d.raw 1M");
    let refused = |image: &str, options: &OpenOptions| {
        let error = Image::open(env.path(image), options).expect_err("no such snapshot");
        (error.kind(), error.to_string())
    };
    let (kind, text) = refused(IMAGE, &at(&env, "one"));
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(text.contains("'one': the image has none"), "{text}");
    for name in ["one", "two", "two", "2"] {
        env.qemu_img(&format!("snapshot -c {name} d.qcow2"));
    }
    assert_eq!(disk_at(&env, IMAGE, "one").len(), 1 << 20);
    // Twice that name, and the id of one that is the name of another.
    for (name, ids) in [("two", ["'2'", "'3'"]), ("2", ["'2'", "'4'"])] {
        let (kind, text) = refused(IMAGE, &at(&env, name));
        assert_eq!(kind, ErrorKind::BadRequest);
        assert!(ids.iter().all(|id| text.contains(id)), "{text}");
    }
    assert_eq!(refused(IMAGE, &at(&env, "three")).0, ErrorKind::NotFound);
    let written = OpenOptions { snapshot: Some("one".to_owned()), ..OpenOptions::to_write() };
    assert_eq!(refused(IMAGE, &written).0, ErrorKind::BadRequest);
    assert_eq!(refused("d.raw", &at(&env, "one")).0, ErrorKind::UnsupportedFeature);
}
