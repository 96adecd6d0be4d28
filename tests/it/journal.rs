//! A raw disk whose change was interrupted: found by the program, completed or refused.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Mutex;

use vmdisk::ErrorKind;
use vmdisk::block::{BlockDevice, Patch, PatchContent};
use vmdisk::image::journal::{PendingState, pending};
use vmdisk::image::{Change, Image, OpenOptions};
use vmdisk::raw::RawAllocation;
use vmdisk::task::{Cancel, Progress, Task};
use vmdisk::units::{ByteSize, VirtualSize};

use crate::support::Env;

const OLD: usize = 1 << 20;
const NEW: usize = 3 << 20;

/// A disk in a folder, and a link to it in another.
struct Machine {
    env: Env,
    disk: PathBuf,
    link: PathBuf,
    journal: PathBuf,
    old: Vec<u8>,
    new: Vec<u8>,
    /// The journal, as it lay beside the disk meanwhile.
    saved: Vec<u8>,
}

/// Keeps what lies there while the file becomes longer.
struct Saves(PathBuf, Mutex<Vec<u8>>);

impl Progress for Saves {
    fn advance(&self, _: &'static str, _: u64, _: u64) {
        *self.1.lock().unwrap() = fs::read(&self.0).expect("a journal");
        assert_eq!(fs::metadata(&self.0).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

impl Machine {
    /// With a disk that was changed, as `Image` does it.
    fn new() -> Machine {
        let env = Env::new();
        fs::create_dir(env.path("disks")).unwrap();
        let (disk, link) = (env.path("disks/m.raw"), env.path("m.raw"));
        symlink("disks/m.raw", &link).unwrap();
        let old: Vec<u8> = (0..OLD).map(|n| (n % 251) as u8).collect();
        fs::write(&disk, &old).unwrap();
        let journal = env.path("disks/m.raw.vmdisk-journal");

        let (head, tail) = (vec![0xaa; 700], vec![0xbb; 1024]);
        let bytes = |offset: usize, bytes| Patch {
            offset: offset as u64,
            content: PatchContent::Bytes(bytes),
        };
        let zeros = Patch { offset: 300_000, content: PatchContent::Zeros(200_000) };
        let virtual_size = VirtualSize::round_up(ByteSize::from_bytes(NEW as u64)).unwrap();
        let change = Change {
            raw_allocation: RawAllocation::Zeros,
            stages: vec![vec![bytes(NEW - 1024, &tail)], vec![bytes(100, &head)], vec![zeros]],
            ..Change::of_size(virtual_size)
        };
        let mut new = old.clone();
        new.resize(NEW, 0);
        change.stages.iter().flatten().for_each(|patch| patch.put_over(0, &mut new));

        let (saves, cancel) = (Saves(journal.clone(), Mutex::default()), Cancel::new());
        let mut image = Image::open(&link, &OpenOptions::to_write()).unwrap();
        image.apply_atomically(&change, Task::new(&saves, &cancel)).unwrap();
        assert_eq!(image.size(), NEW as u64);
        image.close().unwrap();
        assert!(fs::read(&disk).unwrap() == new && !journal.exists());
        let saved = saves.1.into_inner().unwrap();
        Machine { env, disk, link, journal, old, new, saved }
    }

    /// As it was when the power went: everything before this byte of the disk is new.
    fn interrupt(&self, new_until: usize) {
        let mut disk = self.old.clone();
        if new_until > 0 {
            disk.resize(NEW, 0);
            disk[..new_until].copy_from_slice(&self.new[..new_until]);
        }
        fs::write(&self.disk, disk).unwrap();
        fs::write(&self.journal, &self.saved).unwrap();
    }

    fn is_complete(&self) {
        assert!(fs::read(&self.disk).unwrap() == self.new && !self.journal.exists());
    }

    fn files(&self) -> (Vec<u8>, Vec<u8>) {
        (fs::read(&self.disk).unwrap(), fs::read(&self.journal).unwrap())
    }
}

#[test]
fn whoever_writes_next_completes_it() {
    let machine = Machine::new();
    let note = "a change of the disk that had been interrupted was completed first";
    for new_until in [0, 512, 350_208, NEW] {
        machine.interrupt(new_until);
        let info = machine.env.report("info m.raw");
        assert_eq!(info["journal"]["state"], "pending", "{info:#}");
        let report = machine.env.report("resize m.raw --size 3M");
        assert_eq!((&report["changed"], &report["notes"][0]), (&true.into(), &note.into()));
        assert_eq!(report["old_virtual_size_bytes"], OLD as u64);
        machine.is_complete();

        machine.interrupt(new_until);
        let report = machine.env.report("ensure m.raw --size 4M");
        assert_eq!((&report["action"], &report["notes"][0]), (&"grown".into(), &note.into()));
        fs::File::options().write(true).open(&machine.disk).unwrap().set_len(NEW as u64).unwrap();
        machine.is_complete();

        machine.interrupt(new_until);
        Image::open(&machine.link, &OpenOptions::to_write()).unwrap().close().unwrap();
        machine.is_complete();
    }
    machine.interrupt(512);
    let told = machine.env.vmdisk("resize m.raw --size 3M -v").exits(0).stderr;
    assert!(told.contains("found the journal ") && told.contains("completed the inter"), "{told}");
    // An error that comes later does not promise that nothing was changed.
    machine.interrupt(0);
    let error = machine.env.fails("resize m.raw --size 2M", 1, "would_shrink");
    assert_eq!(error["data"]["changed"], true, "{error:#}");
    machine.is_complete();
    let info = machine.env.report("info m.raw");
    assert!(info.get("journal").is_none(), "{info:#}");
}

#[test]
fn readers_act_on_nothing() {
    let machine = Machine::new();
    machine.interrupt(512);
    let before = machine.files();
    let image = Image::open(&machine.link, &OpenOptions::to_read()).unwrap();
    assert_eq!(image.size(), NEW as u64);
    drop(image);
    assert_eq!(pending(&machine.link).unwrap().unwrap().state, PendingState::Pending);
    machine.env.vmdisk("create m.raw --size 3M --if-exists keep").exits(0);
    assert!(machine.files() == before);
}

/// The guest has run in between: nothing is written, whoever asks.
#[test]
fn a_disk_that_was_used_since_is_left_alone() {
    let machine = Machine::new();
    machine.interrupt(NEW);
    let mut disk = fs::read(&machine.disk).unwrap();
    disk[400] ^= 1;
    fs::write(&machine.disk, disk).unwrap();
    let before = machine.files();
    let verbs = [
        "resize m.raw --size 4M",
        "ensure m.raw --size 4M",
        "create m.raw --size 4M --if-exists replace",
    ];
    for verb in verbs {
        let run = machine.env.vmdisk(verb);
        assert_eq!(run.code, Some(1), "{run:?}");
        let named =
            ["m.raw: ", "m.raw.vmdisk-journal", "at byte 100", "delete the journal by hand"];
        assert!(named.iter().all(|part| run.stderr.contains(part)), "{run:?}");
        assert!(machine.files() == before, "{verb:?}");
    }
    let error = Image::open(&machine.link, &OpenOptions::to_write()).unwrap_err();
    assert_eq!((error.kind(), error.changed()), (ErrorKind::JournalStale, false));
    let info = machine.env.report("info m.raw");
    assert_eq!(info["journal"]["state"], "stale", "{info:#}");
    // A file that is none, and one that is a link to elsewhere.
    fs::write(&machine.journal, "nothing of the kind").unwrap();
    let run = machine.env.vmdisk("resize m.raw --size 4M");
    assert!(run.stderr.contains("is no journal of vmdisk"), "{run:?}");
    fs::rename(&machine.journal, machine.env.path("elsewhere")).unwrap();
    symlink(machine.env.path("elsewhere"), &machine.journal).unwrap();
    assert_ne!(machine.env.vmdisk("resize m.raw --size 4M").code, Some(0));
    assert!(fs::read(&machine.disk).unwrap() == before.0);
    // By hand.
    fs::remove_file(&machine.journal).unwrap();
    machine.env.vmdisk("resize m.raw --size 4M").exits(0);
}

/// A new disk inherits no journal: that of the old one is settled, or the new one is not made.
#[test]
fn a_journal_outlives_no_disk() {
    let machine = Machine::new();
    machine.interrupt(512);
    machine.env.vmdisk("create m.raw --size 4M --if-exists replace").exits(0);
    assert!(!machine.journal.exists());
    machine.interrupt(512);
    fs::remove_file(&machine.disk).unwrap();
    for verb in ["create", "ensure"] {
        let run = machine.env.vmdisk(&format!("{verb} disks/m.raw --size 4M"));
        assert_ne!(run.code, Some(0));
        assert!(run.stderr.contains("the journal of a disk that is gone"), "{run:?}");
        assert!(!machine.disk.exists() && machine.journal.exists());
    }
}

/// A qcow2 image needs none: everything becomes true at once.
#[test]
fn a_qcow2_image_changes_without_one() {
    let env = Env::new();
    env.report("create m.qcow2 --size 1M");
    let path = env.path("m.qcow2");
    let virtual_size = VirtualSize::round_up(ByteSize::from_bytes(NEW as u64)).unwrap();
    let bytes = PatchContent::Bytes(&[0xcc; 1000]);
    let stages = [NEW as u64 - 1000, 0].map(|offset| vec![Patch { offset, content: bytes }]);
    let change = Change { stages: stages.to_vec(), ..Change::of_size(virtual_size) };
    let (saves, cancel) = (Saves(path.clone(), Mutex::default()), Cancel::new());
    let mut image = Image::open(&path, &OpenOptions::to_read()).unwrap();
    let error = image.apply_atomically(&change, Task::new(&saves, &cancel)).unwrap_err();
    assert_eq!((error.kind(), error.changed()), (ErrorKind::Permission, false));
    drop(image);
    let mut image = Image::open(&path, &OpenOptions::to_write()).unwrap();
    image.apply_atomically(&change, Task::new(&saves, &cancel)).unwrap();
    image.close().unwrap();
    env.is_clean("m.qcow2");
    let mut expected = vec![0; NEW];
    change.stages.iter().flatten().for_each(|patch| patch.put_over(0, &mut expected));
    assert!(env.guest_bytes("m.qcow2", 0, NEW) == expected);
}
