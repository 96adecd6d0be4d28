//! `vmdisk compact`: a disk that was filled and emptied again takes about what it would anew.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;

use serde_json::Value;

use crate::draw::{Draw, each, whole_matrix};
use crate::ext4::FEATURES;
use crate::lived_in::{Layout, mib};
use crate::support::Env;

/// How the image is made of the raw disk `disk`: a name, its format, the commands of `qemu-img`, and
/// whether internal snapshots are taken of it.
const FORMS: &[(&str, &str, &[&str], bool)] = &[
    ("raw", "raw", &["convert -O raw -S 0 disk d.img"], false),
    ("plain", "qcow2", &["convert -O qcow2 disk d.img"], false),
    ("preallocated", "qcow2", &["convert -O qcow2 -o preallocation=metadata disk d.img"], false),
    ("subclusters", "qcow2", &["convert -O qcow2 -o extended_l2=on disk d.img"], false),
    ("version 2", "qcow2", &["convert -O qcow2 -o compat=0.10 disk d.img"], false),
    ("compressed", "qcow2", &["convert -c -O qcow2 disk d.img"], false),
    ("small clusters", "qcow2", &["convert -O qcow2 -o cluster_size=4k disk d.img"], false),
    (
        "overlay",
        "qcow2",
        &["convert -O qcow2 empty base.qcow2", "create -q -f qcow2 -b base.qcow2 -F qcow2 d.img"],
        false,
    ),
    ("snapshot", "qcow2", &["convert -O qcow2 disk d.img", "snapshot -c one d.img"], true),
    (
        "laid out subclusters",
        "qcow2",
        &["convert -O qcow2 -o preallocation=metadata,extended_l2=on disk d.img"],
        false,
    ),
];

/// Makes the raw disk `disk` of a layout, with files between which others were that are gone, and
/// `empty`, the same before anything was written.
fn lived_in(env: &Env, layout: &Layout, features: &[&str]) {
    layout.make_with(env, "disk", mib(160), features);
    fs::copy(env.path("disk"), env.path("empty")).expect("a copy");
    let mut random = Draw::from_seed(3);
    let mut noise = |len: u64, mask: u64| -> Vec<u8> {
        (0..len / 8).flat_map(|_| (random.next() & mask).to_le_bytes()).collect()
    };
    env.write("noise", noise(mib(44), u64::MAX));
    env.write("few", noise(300 << 10, 0x0f0f_0f0f_0f0f_0f0f));
    let (start, len) = env.partition("disk", layout.data);
    env.take_out("disk", layout.data);
    let names = || (0..60).map(|n| format!("{}-{n}", if n % 3 == 0 { "kept" } else { "gone" }));
    let mut script: String = names().map(|name| format!("write few {name}\n")).collect();
    script.push_str("write noise gone\nrm gone\n");
    script
        .extend(names().filter(|name| name.starts_with("gone")).map(|name| format!("rm {name}\n")));
    env.write("script", script);
    env.system("debugfs", &["-w", "-f", "script", "part"]).exits(0);
    fs::remove_dir_all(env.path("files-as-read")).expect("a folder");
    fs::create_dir(env.path("files-as-read")).expect("a folder");
    env.system("debugfs", &["-R", "rdump / files-as-read", "part"]).exits(0);
    let part = fs::read(env.path("part")).expect("the partition");
    let disk = File::options().write(true).open(env.path("disk")).expect("the disk");
    assert_eq!(part.len() as u64, len);
    std::os::unix::fs::FileExt::write_all_at(&disk, &part, start).expect("the partition");
}

/// What `dumpe2fs` calls free in a partition of a raw disk, in bytes of the disk.
fn free_blocks(env: &Env, disk: &str, number: u32) -> Vec<Range<u64>> {
    let (start, _) = env.partition(disk, number);
    env.take_out(disk, number);
    let dump = env.system("dumpe2fs", &["part"]).exits(0).stdout;
    let size = dump.lines().find_map(|line| line.strip_prefix("Block size:")).expect("a size");
    let size: u64 = size.trim().parse().expect("a size");
    let runs = dump.lines().filter_map(|line| line.strip_prefix("  Free blocks: "));
    let runs = runs.flat_map(|runs| runs.split(", ")).filter(|run| !run.is_empty());
    let number = |text: &str| text.trim().parse::<u64>().expect("a block");
    let run = |run: &str| {
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        start + number(first) * size..start + (number(last) + 1) * size
    };
    runs.map(run).collect()
}

/// Outside of free blocks, two disks are the same, byte for byte; in them, what was given up is zeros
/// or what is below.
fn only_free_blocks_changed(env: &Env, number: u32, case: &str) {
    let read = |name: &str| fs::read(env.path(name)).expect("a disk");
    let (before, after, below) = (read("disk"), read("seen"), read("empty"));
    let free = free_blocks(env, "disk", number);
    assert!(free.iter().map(|run| run.end - run.start).sum::<u64>() > mib(40), "{case}");
    let mut at = 0;
    for run in free.into_iter().chain(std::iter::once(before.len() as u64..before.len() as u64)) {
        let (start, end) = (run.start as usize, run.end as usize);
        assert!(before[at..start] == after[at..start], "{case}: bytes from {at} to {start}");
        for ((new, old), below) in
            after[start..end].iter().zip(&before[start..end]).zip(&below[start..end])
        {
            assert!(new == old || *new == 0 || new == below, "{case}: bytes from {start} to {end}");
        }
        at = end;
    }
    assert_eq!(before.len(), after.len(), "{case}");
}

fn allocated(env: &Env, name: &str) -> u64 {
    fs::metadata(env.path(name)).expect("a file").blocks() * 512
}

fn bytes(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("{field} of {report:#}"))
}

/// Layouts, forms and filesystems as they come. `VMDISK_MATRIX=full` tries 200.
#[test]
fn a_disk_takes_what_it_would_anew() {
    let mut draw = Draw::seeded(15);
    let count = if whole_matrix() { 200 } else { FORMS.len() };
    let cases: Vec<_> = (0..count).map(|number| (number, draw.fork())).collect();
    each(&cases, |(number, draw)| {
        let mut draw = draw.clone();
        let (name, format, commands, has_snapshot) = FORMS[number % FORMS.len()];
        let layout = draw.pick(Layout::ALL);
        let features = draw.pick(FEATURES);
        let options = format!("{features} -b {}", draw.pick(&["1024", "2048", "4096"]));
        let options: Vec<_> = options.split_whitespace().collect();
        let env = Env::new();
        lived_in(&env, &layout, &options);
        commands.iter().for_each(|command| drop(env.qemu_img(command)));
        if name == "overlay" {
            env.qemu_img("convert -n -f raw -O qcow2 disk d.img");
        }
        if has_snapshot {
            // What is deleted later is the snapshot's alone.
            env.qemu_io("qcow2", "d.img", "write -P 7 0 512");
            env.qemu_io("qcow2", "d.img", "write -s disk 0 512");
        }
        let case = format!("{} as {name}, {options:?}", layout.name);
        println!("{case}");
        let snapshot = has_snapshot.then(|| env.snapshot_disk("d.img", "one"));
        let line = format!("compact d.img --format {format}");
        let told = env.report(&format!("{line} --dry-run"));
        assert_eq!((&told["changed"], &told["dry_run"]), (&Value::from(false), &Value::from(true)));
        let done = env.report(&line);
        assert_eq!(done["guest_aware"], true, "{case}: {done:#}");
        for field in ["guest_free_bytes", "swap_bytes", "zero_bytes", "leaked_bytes"] {
            assert_eq!(told[field], done[field], "{case}: {field}");
        }
        assert!(bytes(&done, "guest_free_bytes") > mib(40), "{case}: {done:#}");
        assert_eq!(bytes(&done, "allocated_bytes"), allocated(&env, "d.img"), "{case}");
        env.see(format, "d.img");
        env.filesystem_is_whole("seen", layout.data);
        only_free_blocks_changed(&env, layout.data, &case);
        if format == "qcow2" {
            env.is_clean("d.img");
        }
        if let Some(disk) = snapshot {
            assert!(env.snapshot_disk("d.img", "one") == disk, "{case}: the snapshot");
        } else {
            // What the same contents take in a new file of the same kind.
            let convert = commands[0].replace("preallocation=metadata", "lazy_refcounts=off");
            let convert = convert.replace("-S 0", "-S 4k").replace("disk d.img", "seen anew");
            env.qemu_img(&convert.replace("empty base.qcow2", "seen anew"));
            let taken = |name: &str| match format {
                "raw" => allocated(&env, name),
                _ => fs::metadata(env.path(name)).expect("a file").len(),
            };
            let (found, anew) = (taken("d.img"), taken("anew"));
            println!("{case}: {found} of {anew}");
            assert!(found <= anew + anew / 20, "{case}: {found} of {anew}");
        }
        let again = env.report(&line);
        assert_eq!(again["reclaimed_bytes"], 0, "{case}: {again:#}");
        assert_eq!(bytes(&again, "file_size_bytes"), bytes(&done, "file_size_bytes"), "{case}");
    });
}

/// Compressed data takes what it would anew, however much of what lay beside it is gone.
#[test]
fn compressed_data_lies_side_by_side_again() {
    let mut draw = Draw::seeded(16);
    let count = if whole_matrix() { 40 } else { 6 };
    let cases: Vec<_> = (0..count).map(|number| (number, draw.fork())).collect();
    each(&cases, |(number, draw)| {
        let mut draw = draw.clone();
        let env = Env::new();
        // Clusters that get smaller by much, by little and not at all.
        let masks = [1u8, 3, 15, 63, 255].map(|mask| u64::from_le_bytes([mask; 8]));
        let mut disk = Vec::new();
        for _ in 0..400 {
            let mask = draw.pick(&masks);
            disk.extend((0..8192).flat_map(|_| (draw.next() & mask).to_le_bytes()));
        }
        env.write("disk", disk);
        let options = draw.pick(&[
            "",
            "-o cluster_size=16k",
            "-o cluster_size=512k",
            "-o compression_type=zstd",
        ]);
        env.qemu_img(&format!("convert -c -O qcow2 {options} disk d.qcow2"));
        let (share, longest) = draw.pick(&[(2, 1), (3, 1), (2, 8), (5, 40), (12, 2)]);
        let mut at = 0;
        let mut discards = Vec::new();
        while at < 400 {
            let len = 1 + draw.below(longest);
            if draw.below(share) == 0 {
                discards.push(format!("discard {} {}", at << 16, len.min(400 - at) << 16));
            }
            at += len;
        }
        env.qemu_io_all("d.qcow2", &discards);
        let is_shared = number % 3 == 2;
        if is_shared {
            env.qemu_img("snapshot -c one d.qcow2");
            env.qemu_io("qcow2", "d.qcow2", "write -P 7 0 512");
        }
        let case = format!("{options:?}, {share}, {longest}, {is_shared}");
        let before = env.disk("qcow2", "d.qcow2");
        let snapshot = is_shared.then(|| env.snapshot_disk("d.qcow2", "one"));
        let done = env.report("compact d.qcow2");
        env.is_clean("d.qcow2");
        assert!(env.disk("qcow2", "d.qcow2") == before, "{case}");
        env.qemu_img(&format!("convert -c -O qcow2 {options} d.qcow2 anew"));
        let len = |name: &str| fs::metadata(env.path(name)).expect("a file").len();
        let (found, anew) = (bytes(&done, "file_size_bytes"), len("anew"));
        println!("{case}: {found} of {anew}");
        match snapshot {
            Some(disk) => assert!(env.snapshot_disk("d.qcow2", "one") == disk, "{case}"),
            None => assert!(found <= anew + anew / 20, "{case}: {found} of {anew}"),
        }
        let again = env.report("compact d.qcow2");
        assert_eq!(again["changed"], false, "{case}: {again:#}");
        assert_eq!(len("d.qcow2"), found, "{case}");
    });
}

/// What is in doubt is refused, and nothing is changed.
#[test]
fn doubts_are_refused() {
    let env = Env::new();
    Layout::MINIKUBE.make(&env, "disk", mib(160));
    env.qemu_img("convert -O qcow2 disk good.qcow2");
    let (start, _) = env.partition("disk", 1);
    let with = |name: &str, offset: u64, value: &[u8]| {
        fs::copy(env.path("disk"), env.path("damaged")).expect("a copy");
        env.patch("damaged", start + offset, value);
        env.qemu_img(&format!("convert -f raw -O qcow2 damaged {name}"));
    };
    // The journal needs recovery; a checksum that is wrong; a machine that sleeps.
    with("mounted.qcow2", 1024 + 0x60, &[0xc6]);
    with("wrong.qcow2", 1024 + 0x0c, &[1, 2, 3]);
    fs::write(env.path("swap"), vec![0; mib(4) as usize]).expect("a disk");
    env.system("mkswap", &["swap"]).exits(0);
    env.patch("swap", 4086, b"S1SUSPEND\0");
    // What was made where another one had been.
    with("both.qcow2", 0x1_0040, b"_BHRfS_M");
    // What was made of it later left its superblock: md 1.1, ZFS; md 1.2 and a filesystem over swap.
    let md = 0xa92b_4efc_u32.to_le_bytes();
    with("md.qcow2", 0, &md);
    with("zfs.qcow2", (128 << 10) + 3072, &0x00ba_b10c_u64.to_le_bytes());
    for (name, offset, mark) in [("md", 4096, &md[..]), ("ext", 1024 + 0x38, &[0x53, 0xef])] {
        fs::write(env.path(name), vec![5; mib(4) as usize]).expect("a disk");
        env.system("mkswap", &[name]).exits(0);
        env.patch(name, offset, mark);
    }
    // The whole disk is a member of an array, with the partition table that it had before.
    fs::copy(env.path("disk"), env.path("damaged")).expect("a copy");
    env.patch("damaged", 0, &md);
    env.qemu_img("convert -f raw -O qcow2 damaged whole.qcow2");
    let images =
        ["whole.qcow2", "mounted.qcow2", "wrong.qcow2", "both.qcow2", "md.qcow2", "zfs.qcow2"];
    let disks = ["swap --format raw", "md --format raw", "ext --format raw"];
    for name in images.into_iter().chain(disks) {
        env.refuses(&format!("compact {name}"), "guest_refused");
    }
    env.report("compact mounted.qcow2 --guest-fs off --dry-run");
    env.report("compact md --format raw --guest-fs off --dry-run");
    env.qemu_img("create -q -f qcow2 empty.qcow2 64M");
    env.refuses("compact empty.qcow2 --guest-fs require", "guest_refused");
    assert_eq!(env.report("compact empty.qcow2")["changed"], false);
    // Others lie above it.
    env.qemu_img("create -q -f qcow2 -b good.qcow2 -F qcow2 above.qcow2");
    env.refuses("compact good.qcow2", "has_dependents");
    env.report("compact good.qcow2 --guest-fs off");
    env.report("compact good.qcow2 --force");
    env.qemu_img("bitmap --add above.qcow2 b0");
    let kept = env.report("compact above.qcow2");
    assert_eq!(kept["guest_aware"], false, "{kept:#}");
    env.refuses("compact above.qcow2 --guest-fs require", "guest_refused");
    assert!(env.report("bitmap list above.qcow2")["bitmaps"][0]["name"] == "b0");
    env.patch("above.qcow2", 48, &[0xff; 8]);
    env.refuses("compact above.qcow2", "corrupt");
}

/// Swap is given up, but for its header.
#[test]
fn swap_is_emptied() {
    let env = Env::new();
    for page in [4 << 10, 16 << 10, 64 << 10] {
        fs::write(env.path("swap"), vec![5; mib(8) as usize]).expect("a disk");
        env.system("mkswap", &["-p", &page.to_string(), "swap"]).exits(0);
        let head = fs::read(env.path("swap")).expect("the disk")[..page].to_vec();
        let done = env.report("compact swap --format raw");
        assert_eq!(bytes(&done, "swap_bytes"), mib(8) - page as u64);
        let left = fs::read(env.path("swap")).expect("the disk");
        assert!(left[..page] == head && left[page..].iter().all(|&byte| byte == 0));
        env.system("swaplabel", &["swap"]).exits(0);
    }
    // Nobody knows what is behind the last page that the header names; nor what another header says.
    fs::write(env.path("swap"), vec![5; mib(8) as usize]).expect("a disk");
    env.system("mkswap", &["swap", "4096"]).exits(0);
    let done = env.report("compact swap --format raw");
    assert_eq!(bytes(&done, "swap_bytes"), mib(4) - (4 << 10));
    env.patch("swap", 1024, &[2]);
    assert_eq!(bytes(&env.report("compact swap --format raw"), "swap_bytes"), 0);
}

/// Of an external data file, holes are made and nothing moves; it is written where that is allowed.
#[test]
fn data_files_get_holes() {
    for raw in ["on", "off"] {
        let env = Env::new();
        let options = format!("data_file=d.data,data_file_raw={raw}");
        env.qemu_img(&format!("create -q -f qcow2 -o {options} d.qcow2 8M"));
        env.qemu_io("qcow2", "d.qcow2", "write -P 7 0 8M");
        env.qemu_io("qcow2", "d.qcow2", "write -P 0 1M 5M");
        let before = env.disk("qcow2", "d.qcow2");
        env.refuses("compact d.qcow2", "backing_refused");
        let done = env.report("compact d.qcow2 --trust full");
        assert_eq!(bytes(&done, "zero_bytes"), mib(5), "{done:#}");
        assert!(env.disk("qcow2", "d.qcow2") == before);
        env.is_clean("d.qcow2");
        assert!(allocated(&env, "d.data") <= mib(3) + (64 << 10), "raw={raw}");
        assert_eq!(fs::metadata(env.path("d.data")).expect("a file").len(), mib(8), "raw={raw}");
    }
}

/// Where nothing says what is free, data is read for zeros; bitmaps stay true, what is below is hidden.
#[test]
fn zeros_are_found() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 base.qcow2 8M");
    env.qemu_io("qcow2", "base.qcow2", "write -P 9 0 8M");
    env.qemu_img("create -q -f qcow2 -b base.qcow2 -F qcow2 d.qcow2");
    env.qemu_io("qcow2", "d.qcow2", "write -P 0 1M 3M");
    env.qemu_io("qcow2", "d.qcow2", "write -P 3 6M 1M");
    env.qemu_img("bitmap --add d.qcow2 b0");
    let before = env.disk("qcow2", "d.qcow2");
    assert_eq!(env.report("compact d.qcow2 --read-zeros never")["zero_bytes"], 0);
    let done = env.report("compact d.qcow2");
    assert_eq!(bytes(&done, "zero_bytes"), mib(3), "{done:#}");
    assert!(env.disk("qcow2", "d.qcow2") == before);
    assert!(bytes(&done, "file_size_bytes") < mib(2), "{done:#}");
    env.is_clean("d.qcow2");
    assert_eq!(env.qemu_info("d.qcow2")["format-specific"]["data"]["bitmaps"][0]["name"], "b0");
}

/// Zeros that were written to a part of a cluster, the rest of which was only laid out, are zeros.
#[test]
fn zeros_beside_holes_are_found() {
    for options in ["preallocation=metadata", "preallocation=metadata,extended_l2=on"] {
        let env = Env::new();
        env.qemu_img(&format!("create -q -f qcow2 -o {options} d.qcow2 8M"));
        let writes = ["write -P 0 1044k 200k", "write -P 5 3M 512", "write -P 0 5128k 4k"];
        env.qemu_io_all("d.qcow2", &writes.map(str::to_owned));
        let before = env.disk("qcow2", "d.qcow2");
        let done = env.report("compact d.qcow2 --read-zeros always");
        // Subclusters beside those that were never written keep their cluster.
        let most = if options.contains("extended") { 9 } else { 6 };
        assert!(bytes(&done, "file_size_bytes") <= most * (64 << 10), "{options}: {done:#}");
        assert!(env.disk("qcow2", "d.qcow2") == before, "{options}");
        let again = env.report("compact d.qcow2 --read-zeros always");
        assert_eq!(again["changed"], false, "{options}: {again:#}");
    }
}

/// A machine that starts is compacted where that is worth it, and what speaks against it is a note.
#[test]
fn a_machine_starts_compact() {
    let env = Env::new();
    lived_in(&env, &Layout::BOOT2DOCKER, &["-t", "ext4"]);
    env.qemu_img("convert -O qcow2 disk m.qcow2");
    let ensure = |share: &str| env.report(&format!("ensure m.qcow2 --compact-above {share}"));
    assert_eq!(ensure("95%")["compaction"], Value::Null);
    // A guest that is not to be looked at keeps what it calls free.
    assert_eq!(ensure("30% --guest-fs off")["compaction"], Value::Null);
    let done = ensure("30%");
    assert!(bytes(&done["compaction"], "guest_free_bytes") > mib(40), "{done:#}");
    let again = ensure("1%");
    assert_eq!((&again["compaction"], &again["changed"]), (&Value::Null, &Value::from(false)));
    env.refuses("ensure m.qcow2 --compact-above 0%", "bad_request");
    // Somebody pulled the plug.
    let (start, _) = env.partition("disk", 1);
    env.patch("disk", start + 1024 + 0x60, &[0xc6]);
    env.qemu_img("convert -O qcow2 disk n.qcow2");
    let noted = env.report("ensure n.qcow2 --compact-above 1%");
    assert!(noted["notes"].to_string().contains("not compacted"), "{noted:#}");
}

/// On a device, what lies behind the end is given back, for it is not cut.
#[test]
fn devices_are_not_cut() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 8M");
    env.qemu_io("qcow2", "d.qcow2", "write -P 7 0 8M");
    env.qemu_io("qcow2", "d.qcow2", "write -P 0 1M 5M");
    let before = env.disk("qcow2", "d.qcow2");
    fs::write(env.path("backing"), vec![0; mib(16) as usize]).expect("a file");
    env.patch("backing", 0, &fs::read(env.path("d.qcow2")).expect("the image"));
    let mut losetup = std::process::Command::new("losetup");
    let attached = losetup.args(["--find", "--show"]).arg(env.path("backing")).output();
    let Some(device) = attached.ok().filter(|output| output.status.success()) else {
        println!("no loop device can be had: block devices were not tested");
        return;
    };
    let device = String::from_utf8_lossy(&device.stdout).trim().to_owned();
    let done = env.vmdisk(&format!("compact {device} --format qcow2 --json"));
    env.system("losetup", &["--detach", &device]).exits(0);
    let done = done.exits(0).json();
    assert_eq!((bytes(&done, "zero_bytes"), bytes(&done, "moved_bytes")), (mib(5), mib(2)));
    env.is_clean("backing");
    assert!(env.disk("qcow2", "backing") == before);
    assert!(allocated(&env, "backing") < mib(4), "{}", allocated(&env, "backing"));
}
