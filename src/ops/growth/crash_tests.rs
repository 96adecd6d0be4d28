//! A power cut while a disk grows with everything inside leaves the old disk or the new one, each
//! with a filesystem that `e2fsck` has nothing to say against.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::block::BlockDevice;
use crate::host::recording::RecordingStorage;
use crate::host::storage::{MemoryStorage, Storage};
use crate::qcow2::check::{Severity, scan};
use crate::qcow2::crash_states_tests::each_state;
use crate::qcow2::geometry::{ClusterBits, Geometry, RefcountOrder};
use crate::qcow2::{
    CompressionType, CreateOptions, Header, HeaderForm, L1Capacity, Preallocation, Qcow2,
    ResizeOptions, Version, create,
};
use crate::task::{Cancel, Silent, Task};
use crate::units::{ByteSize, VirtualSize};

const OLD: u64 = 2 << 20;
const NEW: u64 = 5 << 20;
/// Where the partition begins, in bytes.
const START: u64 = 64 * 512;

fn run(folder: &TempDir, program: &str, args: &[&str], input: &str) {
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    let mut command = Command::new("env");
    command.arg(format!("PATH={path}")).arg(program).args(args).current_dir(folder.path());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

/// A disk with a table of this kind and a filesystem in its only partition.
fn lived_in(label: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    File::create(folder.path().join("disk")).unwrap().set_len(OLD).unwrap();
    let last = (OLD >> 9) - 64 - 34;
    let script = format!("label: {label}\ndisk1 : start=64, size={last}\n");
    run(&folder, "sfdisk", &["-q", "--no-tell-kernel", "disk"], &script);
    fs::create_dir(folder.path().join("files")).unwrap();
    fs::write(folder.path().join("files/kept"), [7; 100_000]).unwrap();
    let (offset, size) = (format!("offset={START}"), format!("{}k", last / 2));
    let features = ["-t", "ext4", "-b", "1024", "-g", "1024", "-O", "^has_journal", "-N", "64"];
    let rest = ["-q", "-F", "-d", "files", "-E", &offset, "disk", &size];
    run(&folder, "mke2fs", &[&features[..], &rest].concat(), "");
    fs::read(folder.path().join("disk")).unwrap()
}

fn is_sound(disk: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("disk"), disk).unwrap();
    run(&folder, "e2fsck", &["-fn", &format!("disk?offset={START}")], "");
    run(&folder, "sfdisk", &["--verify", "disk"], "");
}

fn virtual_size(bytes: u64) -> VirtualSize {
    VirtualSize::round_up(ByteSize::from_bytes(bytes)).unwrap()
}

fn image_of(disk: &[u8], preallocation: Preallocation) -> Vec<u8> {
    let (bits, order) = (ClusterBits::new(12).unwrap(), RefcountOrder::new(4).unwrap());
    let options = CreateOptions {
        version: Version::V3,
        geometry: Geometry::new(bits, order, false).unwrap(),
        virtual_size: virtual_size(OLD),
        backing: None,
        compression: CompressionType::Zlib,
        lazy_refcounts: false,
        dirty: false,
        header_form: HeaderForm::Qemu,
        l1_capacity: L1Capacity::AsNeeded,
        preallocation,
    };
    let storage = MemoryStorage::default();
    create(&storage, &options, disk, Task::new(&Silent, &Cancel::new())).unwrap();
    storage.contents()
}

fn open(storage: Arc<dyn Storage>) -> Qcow2 {
    let header = Header::read(&*storage).unwrap();
    Qcow2::open(Box::new(storage), header, None).unwrap()
}

fn grow(image: &mut Qcow2) {
    let request = FillRequest { disk_bytes: NEW, restore: false };
    let plan = InsideGrowth::plan(image, request).unwrap();
    let inside = Inside::Planned { plan, left: None };
    assert!(inside.report().refusal.is_none(), "{inside:?}");
    let options = ResizeOptions { virtual_size: virtual_size(NEW), preallocation: None };
    let patches = inside.stages().concat();
    image.resize_with(&options, &patches, Task::new(&Silent, &Cancel::new())).unwrap();
}

fn contents(image: &Qcow2) -> Vec<u8> {
    let mut disk = vec![0; image.size() as usize];
    image.read_at(0, &mut disk).unwrap();
    disk
}

#[test]
fn a_power_cut_leaves_the_old_filesystem_or_the_new_one() {
    let every = if std::env::var("VMDISK_MATRIX").is_ok_and(|all| all == "full") { 1 } else { 6 };
    let (mut states, mut seen) = (0, [0; 2]);
    for (label, preallocation) in [("gpt", Preallocation::Off), ("dos", Preallocation::Metadata)] {
        let old = lived_in(label);
        let before = image_of(&old, preallocation);
        let recorder = Arc::new(RecordingStorage::new(before.clone()));
        grow(&mut open(recorder.clone()));
        let new = contents(&open(Arc::new(MemoryStorage::new(recorder.contents()))));
        is_sound(&old);
        is_sound(&new);
        let mut number = 0;
        each_state(&[before], &recorder.records(), &mut 5, |state| {
            number += 1;
            if number % every != 0 {
                return;
            }
            states += 1;
            let storage = Arc::new(MemoryStorage::new(state.files[0].clone()));
            let image = open(storage.clone());
            let task_ends = Cancel::new();
            let found = scan(&*storage, image.header(), Task::new(&Silent, &task_ends)).unwrap();
            let worst = found.findings.iter().map(|finding| finding.severity()).max();
            assert!(worst <= Some(Severity::Leak), "{label}: {:?}", found.findings);
            let disk = contents(&image);
            let is = [&old, &new].iter().position(|disk_was| **disk_was == disk);
            seen[is.unwrap_or_else(|| panic!("{label}: neither the old disk nor the new one"))] +=
                1;
        });
    }
    println!("{states} crash states, {} old and {} new", seen[0], seen[1]);
    assert!(seen[0] >= 50 && seen[1] >= 30, "{seen:?}");
}
