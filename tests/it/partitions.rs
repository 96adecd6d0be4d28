//! Partition tables as `sfdisk` and `sgdisk` make them, read, and grown with their disks; both
//! programs then look at what came of it.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::{Command, Stdio};

use vmdisk::block::{BlockDevice, MemoryDevice};
use vmdisk::guest::edit::{Content, Stage};
use vmdisk::guest::partitions::{
    Growth, GrowthRequest, Known, Note, Partition, Reading, Refusal, Table,
};
use vmdisk::host::Access;
use vmdisk::raw::Raw;

use super::draw::{Draw, each};
use super::support::Env;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// As the guests lay their disks out: a name, the label, the partitions in `sfdisk`'s words, the
/// number of the one that grows.
const LAYOUTS: &[(&str, &str, &[&str], u32)] = &[
    (
        "boot2docker before 18.09",
        "dos",
        &["disk2 : start=2048, size=2048000, type=82", "disk1 : start=2050048, type=83"],
        1,
    ),
    (
        "boot2docker",
        "gpt",
        &["disk2 : start=2048, size=2048000, type=swap", "disk1 : start=2050048, type=linux"],
        1,
    ),
    ("minikube", "gpt", &["disk1 : start=2048, type=linux"], 1),
    ("a data disk of Lima", "gpt", &["type=linux"], 1),
    (
        "Ubuntu in Lima and Colima",
        "gpt",
        &[
            "disk14 : start=2048, size=8192, type=21686148-6449-6E6F-744E-656564454649",
            "disk15 : start=10240, size=217088, type=uefi",
            "disk16 : start=227328, size=1869825, type=BC13C2FF-59E6-4262-A352-B275FD6F7172",
            "disk1 : start=2099200, type=linux, name=\"cloudimg-rootfs\", attrs=\"RequiredPartition,LegacyBIOSBootable,GUID:63\"",
        ],
        1,
    ),
];

impl Env {
    /// Makes the file `disk`, with a table.
    fn partitioned(&self, bytes: u64, label: &str, partitions: &[impl AsRef<str>]) {
        self.resized(bytes);
        let mut script = format!("label: {label}\n");
        for partition in partitions {
            script = script + partition.as_ref() + "\n";
        }
        self.sfdisk(&["-q", "--no-tell-kernel", "--wipe", "never", "disk"], &script);
    }

    /// Makes the file `disk` so long, with holes.
    fn resized(&self, bytes: u64) {
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false);
        let file = options.open(self.path("disk")).expect("a file");
        file.set_len(bytes).expect("a file of this length");
    }

    #[track_caller]
    fn sfdisk(&self, args: &[&str], script: &str) -> String {
        let mut command = Command::new("sfdisk");
        command.env("PATH", PATH).args(args).current_dir(self.path("."));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("sfdisk");
        child.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("a script");
        let output = child.wait_with_output().expect("its output");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?} {script}: {text} {words}");
        text
    }

    #[track_caller]
    fn sgdisk(&self, args: &[&str]) -> String {
        let path = format!("PATH={PATH}");
        let program = [path.as_str(), "sgdisk"].into_iter();
        self.run("env", program.chain(args.iter().copied()).chain(["disk"])).exits(0).stdout
    }

    fn dump(&self) -> String {
        self.sfdisk(&["--dump", "disk"], "")
    }

    fn read_table(&self) -> Reading {
        let disk = Raw::open(Box::new(self.storage("disk", Access::Read))).expect("a disk");
        Table::read(&disk).expect("a disk that can be read")
    }

    #[track_caller]
    fn table(&self) -> Table {
        table(self.read_table())
    }

    #[track_caller]
    fn refused(&self) -> Refusal {
        match self.read_table() {
            Reading::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    /// Why the partition cannot grow.
    #[track_caller]
    fn cannot_grow(&self, partition: u32, disk_bytes: u64) -> Refusal {
        let request = GrowthRequest { partition, disk_bytes, restore: false };
        self.table().growth(&request).expect_err("a refusal")
    }

    /// Makes the file so long, and the partition reach to its end.
    #[track_caller]
    fn grow(&self, request: GrowthRequest) -> Growth {
        let growth = self.table().growth(&request).expect("a growth");
        let old = std::fs::metadata(self.path("disk")).expect("a file").len();
        self.resized(request.disk_bytes);
        for edit in &growth.edits {
            let Content::Bytes(bytes) = &edit.content else { panic!("{edit:?}") };
            let stages = if edit.offset < old { OLD } else { &[Stage::Beyond] };
            assert!(stages.contains(&edit.stage), "{:?} at {}", edit.stage, edit.offset);
            self.patch("disk", edit.offset, bytes);
        }
        growth
    }

    /// Neither program has anything to say against it.
    #[track_caller]
    fn is_sound(&self) {
        let verdict = self.sfdisk(&["--verify", "disk"], "");
        assert!(verdict.contains("No errors detected"), "{verdict}");
        if self.dump().contains("label: gpt") {
            let verdict = self.sgdisk(&["--verify"]);
            assert!(verdict.contains("No problems found"), "{verdict}");
        }
        assert_eq!(self.table().note(), None);
    }
}

/// The stages of what is written on a disk as long as it was: a GPT may know less of it.
const OLD: &[Stage] = &[Stage::Partitions, Stage::BackupTable, Stage::Beyond];

/// Where administrators' programs are found, whoever runs the tests.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[track_caller]
fn table(reading: Reading) -> Table {
    match reading {
        Reading::Table(table) => *table,
        other => panic!("{other:?}"),
    }
}

const fn to(partition: u32, disk_bytes: u64) -> GrowthRequest {
    GrowthRequest { partition, disk_bytes, restore: false }
}

/// A dump without what may change: the last usable sector, and the size of one partition.
fn without_size(dump: &str, partition: u32) -> Vec<String> {
    let start = format!("disk{partition} :");
    let kept = dump.lines().filter(|line| !line.starts_with("last-lba:"));
    let kept = kept.map(|line| match line.starts_with(&start) {
        true => line
            .split(", ")
            .filter(|field| !field.starts_with("size="))
            .collect::<Vec<_>>()
            .join(", "),
        false => line.to_owned(),
    });
    kept.collect()
}

/// The partitions, as they should be after this.
fn grown(before: &[Partition], growth: &Growth) -> Vec<Partition> {
    let mut after = before.to_vec();
    let one = after.iter_mut().find(|one| one.number == growth.partition).expect("the partition");
    assert_eq!((one.start_bytes, one.len_bytes), (growth.start_bytes, growth.old_len_bytes));
    one.len_bytes = growth.new_len_bytes;
    after
}

#[test]
fn tables_as_guests_make_them_grow_with_their_disks() {
    each(LAYOUTS, |&(_, label, partitions, number)| {
        let (env, fresh) = (Env::new(), Env::new());
        env.partitioned(20 * GIB, label, partitions);
        // The guest's `fdisk` leaves what the host wrote before.
        env.patch("disk", 0, b"boot2docker, please format-me");
        let (dump, before) = (env.dump(), env.table());
        assert_eq!(before.last().map(|last| last.number), Some(number));
        let known = before.partition(number).expect("it").kind.known();
        assert_eq!(known, Some(Known::Linux));

        let growth = env.grow(to(number, 40 * GIB));
        env.is_sound();
        assert_eq!(without_size(&env.dump(), number), without_size(&dump, number));
        let after = env.table();
        assert_eq!(after.partitions(), grown(before.partitions(), &growth));
        let mut head = [0; 29];
        let disk = Raw::open(Box::new(env.storage("disk", Access::Read))).expect("a disk");
        disk.read_at(0, &mut head).expect("its beginning");
        assert_eq!(&head, b"boot2docker, please format-me");

        // As if the disk had been made so large.
        fresh.partitioned(40 * GIB, label, partitions);
        let size = |table: Table| table.partitions().iter().map(|one| one.len_bytes).max();
        assert_eq!(size(fresh.table()), size(after));
        // Once more changes nothing.
        let again = env.grow(to(number, 40 * GIB));
        assert!(again.edits.is_empty() && again.note.is_none(), "{again:?}");
        assert_eq!(again.new_len_bytes, growth.new_len_bytes);
    });
}

#[test]
fn an_mbr_is_what_sfdisk_would_make_of_it() {
    let sizes = [100 * MIB, 7 * GIB, 8 * GIB, 2048 * GIB];
    each(&sizes, |&size| {
        let (ours, theirs) = (Env::new(), Env::new());
        let script = ["start=2048, size=20M, type=83", "start=43008, size=30M, type=83, bootable"];
        ours.partitioned(60 * MIB, "dos", &script);
        std::fs::copy(ours.path("disk"), theirs.path("disk")).expect("a copy");
        ours.grow(to(2, size));
        ours.is_sound();
        theirs.resized(size);
        // It counts to one sector less than 32 bits can, but in a new table.
        if size < 2048 * GIB {
            theirs.sfdisk(&["-q", "--no-tell-kernel", "-N", "2", "disk"], ", +");
            let first =
                |env: &Env| std::fs::read(env.path("disk")).map(|disk| disk[..512].to_vec());
            if size < GIB {
                assert_eq!(first(&ours).expect("ours"), first(&theirs).expect("theirs"));
            }
            assert_eq!(ours.dump(), theirs.dump());
        } else {
            assert_eq!(ours.table().last().map(Partition::end_bytes), Some(size));
        }
    });
}

#[test]
fn a_gpt_is_what_sfdisk_would_make_of_it_but_for_its_last_megabyte() {
    let (ours, theirs) = (Env::new(), Env::new());
    let script = ["disk2 : size=20M, type=swap", "disk1 : size=30M, attrs=\"GUID:63\", name=a"];
    ours.partitioned(60 * MIB, "gpt", &script);
    std::fs::copy(ours.path("disk"), theirs.path("disk")).expect("a copy");
    let growth = ours.grow(to(1, 5 * GIB));
    ours.is_sound();
    theirs.resized(5 * GIB);
    theirs.sfdisk(&["-q", "--no-tell-kernel", "-N", "1", "disk"], ", +");
    let dumps = [ours.dump(), theirs.dump()];
    let last_lba =
        |dump: &str| dump.lines().find(|line| line.starts_with("last-lba")).map(str::to_owned);
    assert_eq!(last_lba(&dumps[0]), last_lba(&dumps[1]));
    assert_eq!(without_size(&dumps[0], 1), without_size(&dumps[1], 1));
    let theirs = theirs.table().last().expect("it").len_bytes;
    assert!(growth.new_len_bytes <= theirs && theirs - growth.new_len_bytes < MIB, "{growth:?}");
    assert_eq!(growth.new_len_bytes % MIB, 0);
}

/// A table drawn from a seed: its partitions in `sfdisk`'s words, and the number of the last.
fn layout(draw: &mut Draw, label: &str, disk_bytes: u64) -> (Vec<String>, u32) {
    let gpt = label == "gpt";
    let mut numbers: Vec<u64> = (1..=if gpt { 24 } else { 4 }).collect();
    let count = 1 + draw.below(if gpt { 7 } else { 4 });
    let room = (disk_bytes / 512 - 4096) / count;
    let (mut lines, mut last) = (Vec::new(), 0);
    for index in 0..count {
        let number = numbers.swap_remove(draw.below(numbers.len() as u64) as usize);
        let start = 2048 + index * room + draw.below(room / 3);
        let start = if draw.one_in(2) { start } else { start.next_multiple_of(8) };
        let size = 1 + draw.below(room / 2);
        let mut line = format!("disk{number} : start={start}, size={size}");
        if gpt {
            line += draw.pick(&[", type=linux", ", type=uefi", ", type=swap", ""]);
            line += draw.pick(&["", ", name=\"data\"", ", name=\"\u{e4}\u{1f4be} x\""]);
            line += draw.pick(&["", ", attrs=\"GUID:60\"", ", attrs=\"RequiredPartition\""]);
        } else {
            line += draw.pick(&[", type=83", ", type=82", ", type=c", ", type=83, bootable"]);
        }
        lines.push(line);
        last = number as u32;
    }
    // The entries of a table are in no order either.
    let by = draw.below(count) as usize;
    lines.rotate_left(by);
    (lines, last)
}

#[test]
fn tables_of_all_kinds_grow_by_all_amounts() {
    let mut draw = Draw::seeded(20);
    let cases: Vec<u64> = (0..60).map(|_| draw.next()).collect();
    each(&cases, |&seed| {
        let (env, mut draw) = (Env::new(), Draw::from_seed(seed));
        let label = draw.pick(&["gpt", "gpt", "dos"]);
        let old = 8 * MIB + draw.sectors(3 * GIB);
        let (mut lines, last) = layout(&mut draw, label, old);
        let length = [128, 128, 32, 200];
        if label == "gpt" {
            lines.insert(0, format!("table-length: {}\n", draw.pick(&length)));
        }
        env.partitioned(old, label, &lines);
        let dump = env.dump();
        // A disk that somebody made longer before, and did nothing else to.
        let earlier = if draw.one_in(2) { 0 } else { draw.sectors(2 * GIB) };
        env.resized(old + earlier);
        let new =
            old + earlier + draw.pick(&[0, 512, 1000, 20 * 512, MIB, 5 * GIB, 3 * GIB + 4096]);
        let before = env.table();
        let growth = env.grow(to(last, new));
        assert_eq!(growth.note, None);
        env.is_sound();
        assert_eq!(without_size(&env.dump(), last), without_size(&dump, last));
        let after = env.table();
        assert_eq!(after.partitions(), grown(before.partitions(), &growth));
        let left = new - after.last().expect("it").end_bytes();
        assert!(left < MIB + 64 * 1024, "{left} of {new}");
        assert!(env.grow(to(last, new)).edits.is_empty());
    });
}

#[test]
fn a_damaged_gpt_is_read_from_its_backup_and_restored_on_request() {
    // The header of the primary, an entry of it, all of it; a disk as it was, and one made longer.
    let damages: [(u64, &[u8]); 4] =
        [(512, &[0; 512]), (560, &[9]), (1024, &[9]), (512, &[0; 16896])];
    each(&damages, |&(at, bytes)| {
        for size in [3 * GIB, 5 * GIB] {
            let env = Env::new();
            env.partitioned(3 * GIB, "gpt", LAYOUTS[1].2);
            let (dump, before) = (env.dump(), env.table());
            env.patch("disk", at, bytes);
            env.resized(size);
            let table = env.table();
            assert_eq!(
                (table.partitions(), table.note()),
                (before.partitions(), Some(Note::PrimaryDamaged))
            );
            let refusal = env.cannot_grow(1, 6 * GIB);
            assert_eq!(refusal.name(), "damaged_primary_gpt", "{refusal}");
            let growth = env.grow(GrowthRequest { restore: true, ..to(1, 6 * GIB) });
            assert_eq!(growth.note, Some(Note::PrimaryDamaged));
            env.is_sound();
            assert_eq!(without_size(&env.dump(), 1), without_size(&dump, 1));
        }
    });
}

#[test]
fn a_damaged_backup_is_made_anew() {
    // The header, the entries; and a sound one that says something else.
    for case in 0..3 {
        let env = Env::new();
        env.partitioned(3 * GIB, "gpt", LAYOUTS[2].2);
        match case {
            0 => env.patch("disk", 3 * GIB - 512, &[0; 512]),
            1 => env.patch("disk", 3 * GIB - 33 * 512, &[9]),
            _ => {
                let mut backup = vec![0; 33 * 512];
                let disk = Raw::open(Box::new(env.storage("disk", Access::Read))).expect("it");
                disk.read_at(3 * GIB - 33 * 512, &mut backup).expect("the backup");
                env.sgdisk(&["--change-name=1:other"]);
                env.patch("disk", 3 * GIB - 33 * 512, &backup);
                assert_eq!(env.table().note(), Some(Note::BackupDiffers));
            }
        }
        assert!(env.table().note().is_some());
        let dump = env.dump();
        let growth = env.grow(to(1, 4 * GIB));
        assert!(growth.note.is_some());
        env.is_sound();
        assert_eq!(without_size(&env.dump(), 1), without_size(&dump, 1));
    }
}

#[test]
fn tables_that_cannot_be_believed_are_refused() {
    let env = Env::new();
    env.partitioned(4 * MIB, "gpt", &["type=linux"]);
    let image = std::fs::read(env.path("disk")).expect("the disk");
    let patched = |patches: &[(usize, &[u8])]| {
        let mut bytes = image.clone();
        for (at, patch) in patches {
            bytes[*at..*at + patch.len()].copy_from_slice(patch);
        }
        match Table::read(&MemoryDevice::new(bytes)).expect("a disk that can be read") {
            Reading::Refused(refusal) => refusal.name(),
            Reading::Nothing => "nothing",
            Reading::Table(table) => table.refusal().map_or("table", Refusal::name),
        }
    };
    let end = image.len();
    let mut large = [0; 520];
    large[..8].copy_from_slice(b"EFI PART");
    assert_eq!(patched(&[]), "table");
    assert_eq!(patched(&[(1024, &[1]), (end - 33 * 512, &[1])]), "damaged_table");
    assert_eq!(patched(&[(512, &[0; 8]), (end - 512, &[0; 8])]), "protective_mbr_without_gpt");
    assert_eq!(patched(&[(512, &[0; 8]), (end - 512, &[0; 8]), (4096, &large)]), "sector_size");
    assert_eq!(patched(&[(510, &[0, 0])]), "unannounced_gpt");
    assert_eq!(patched(&[(450, &[0x83])]), "unannounced_gpt");
    let second = [0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0];
    assert_eq!(patched(&[(462, &second)]), "hybrid_mbr");
    assert_eq!(patched(&[(454, &[2])]), "damaged_table");
    env.resized(3 * MIB);
    assert_eq!(env.table().refusal().map(Refusal::name), Some("partition_beyond_disk"));
    env.resized(0);
    env.partitioned(64 * MIB, "gpt", &["size=20M, type=linux"]);
    env.resized(48 * MIB);
    assert_eq!(env.cannot_grow(1, GIB).name(), "table_beyond_disk");
    env.resized(0);
    env.resized(64 * MIB);
    assert_eq!(env.read_table(), Reading::Nothing);
    env.resized(100);
    assert_eq!(env.read_table(), Reading::Nothing);
    env.resized(0);
    env.partitioned(64 * MIB, "dos", &["size=20M, type=83"]);
    env.patch("disk", 446 + 16 + 12, &[1]);
    assert_eq!(env.cannot_grow(1, GIB).name(), "damaged_table");
    env.patch("disk", 446, &second[..4]);
    env.patch("disk", 450, &[0xEE]);
    assert_eq!(env.refused(), Refusal::ProtectiveWithoutGpt);
}

#[test]
fn partitions_that_cannot_grow_are_refused_each_with_its_reason() {
    let fails = |label: &str, partitions: &[&str], number: u32, size: u64| {
        let env = Env::new();
        env.partitioned(64 * MIB, label, partitions);
        env.cannot_grow(number, size)
    };
    let two = ["size=20M, type=83", "size=20M, type=83"];
    for label in ["dos", "gpt"] {
        let types = |gpt, dos| if label == "gpt" { gpt } else { dos };
        let fails = |partitions: &[&str], number, size| fails(label, partitions, number, size);
        let two = if label == "gpt" { ["size=20M", "size=20M"] } else { two };
        assert_eq!(fails(&two, 1, GIB), Refusal::NotLast { number: 1, last: 2 });
        assert_eq!(fails(&two, 3, GIB), Refusal::NoSuchPartition { number: 3 });
        let smaller = Refusal::SmallerDisk { disk_bytes: 64 * MIB, wanted_bytes: 63 * MIB };
        assert_eq!(fails(&two, 2, 63 * MIB), smaller);
        let lvm = types("type=E6D6D379-F507-44C2-A23C-238F2A3DF928", "type=8e");
        assert_eq!(fails(&[lvm], 1, GIB), Refusal::Lvm { number: 1 });
        let luks = types("type=CA7D7CCB-63ED-4C53-861C-1742536059CC", "type=e8");
        assert_eq!(fails(&[luks], 1, GIB), Refusal::Luks { number: 1 });
        let raid = types("type=A19D880F-05FC-4D3B-A006-743F0F84911E", "type=fd");
        assert_eq!(fails(&[raid], 1, GIB), Refusal::Raid { number: 1 });
    }
    assert_eq!(fails("gpt", &[], 1, GIB), Refusal::NoPartition);
    let nested = ["size=20M, type=83", "type=5", "type=83"];
    assert_eq!(fails("dos", &nested, 1, GIB), Refusal::Extended { number: 2 });
    let size = 2048 * GIB + 512;
    assert_eq!(fails("dos", &two, 2, size), Refusal::MbrLimit { disk_bytes: size });

    // No program makes partitions that overlap, or of a table that has none.
    let env = Env::new();
    env.partitioned(64 * MIB, "dos", &two);
    env.patch("disk", 446 + 16 + 8, &4096u32.to_le_bytes());
    assert_eq!(env.cannot_grow(2, GIB), Refusal::Overlap { first: 1, second: 2 });
}

/// A disk of 256 KiB, and the larger one that it grows to.
struct Small {
    original: Vec<u8>,
    disk: MemoryDevice,
    grown: MemoryDevice,
}

impl Small {
    fn new(label: &str, partitions: &[&str]) -> Small {
        let env = Env::new();
        env.partitioned(MIB / 4, label, partitions);
        let original = std::fs::read(env.path("disk")).expect("the disk");
        let disk = MemoryDevice::new(original.clone());
        Small { original, disk, grown: MemoryDevice::new(vec![0; (MIB + MIB / 8) as usize]) }
    }

    /// The disk with a few bits of its table flipped.
    fn flip(&self, draw: &mut Draw) -> Reading {
        let end = self.disk.size();
        self.disk.write_at(0, &self.original).expect("the disk");
        for _ in 0..=draw.below(3) {
            let at = match draw.below(6) {
                0 => 446 + draw.below(66),
                1 => 512 + draw.below(92),
                2 => 1024 + draw.below(256),
                3 => end - 512 + draw.below(92),
                4 => end - 33 * 512 + draw.below(256),
                _ => draw.below(34 * 512),
            };
            let mut byte = [0];
            self.disk.read_at(at, &mut byte).expect("a byte");
            self.disk.write_at(at, &[byte[0] ^ 1 << draw.below(8)]).expect("a byte");
        }
        Table::read(&self.disk).expect("it can be read")
    }

    fn request(&self, partition: u32, restore: bool) -> GrowthRequest {
        GrowthRequest { partition, disk_bytes: self.grown.size(), restore }
    }

    /// What its table is after the growth.
    fn after(&self, growth: &Growth) -> Table {
        let mut bytes = vec![0; self.disk.size() as usize];
        self.disk.read_at(0, &mut bytes).expect("the disk");
        self.grown.write_zeroes(MIB, MIB / 8).expect("the disk");
        self.grown.write_at(0, &bytes).expect("the disk");
        for edit in &growth.edits {
            let Content::Bytes(new) = &edit.content else { panic!("{edit:?}") };
            self.grown.write_at(edit.offset, new).expect("room on the disk");
        }
        table(Table::read(&self.grown).expect("it can be read"))
    }
}

#[test]
fn a_corrupted_table_is_refused_or_means_the_same() {
    let mut draw = Draw::seeded(21);
    let two = ["disk2 : start=34, size=100, type=swap", "disk1 : start=200, size=250, name=a"];
    let small = Small::new("gpt", &["first-lba: 34", two[0], two[1]]);
    let before = table(Table::read(&small.disk).expect("it can be read"));
    let (mut refused, mut same) = (0, 0);
    for _ in 0..1000 {
        let Reading::Table(table) = small.flip(&mut draw) else {
            refused += 1;
            continue;
        };
        same += 1;
        assert_eq!(table.partitions(), before.partitions());
        let Ok(growth) = table.growth(&small.request(1, true)) else { continue };
        if table.note() == Some(Note::PrimaryDamaged) {
            let refusal = table.growth(&small.request(1, false)).expect_err("a refusal");
            assert_eq!(refusal.name(), "damaged_primary_gpt");
        }
        let after = small.after(&growth);
        assert_eq!(after.partitions(), grown(before.partitions(), &growth));
        assert_eq!((after.note(), after.refusal()), (None, None));
    }
    assert!(refused > 20 && same > 500, "{refused} refused, {same} the same");
}

#[test]
fn nothing_but_the_end_of_one_partition_changes_in_a_corrupted_mbr() {
    let mut draw = Draw::seeded(22);
    let two = ["start=34, size=100, type=83", "start=200, size=250, type=83"];
    let small = Small::new("dos", &two);
    for _ in 0..1000 {
        let Reading::Table(before) = small.flip(&mut draw) else { continue };
        let Some(last) = before.last() else { continue };
        let Ok(growth) = before.growth(&small.request(last.number, false)) else { continue };
        let after = small.after(&growth);
        assert_eq!(after.partitions(), grown(before.partitions(), &growth));
        assert_eq!(after.refusal(), None);
    }
}
