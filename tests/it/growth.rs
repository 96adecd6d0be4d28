//! What is inside of a disk grows with it: image, partition and filesystem, in one command.

use std::fs::{self, File};

use serde_json::{Value, json};
use vmdisk::block::{BlockDevice, is_zero};
use vmdisk::guest::edit::{Content, Stage};
use vmdisk::guest::{FillRequest, InsideGrowth};
use vmdisk::host::Access;
use vmdisk::image::{Image, OpenOptions};
use vmdisk::raw::Raw;

use crate::draw::{Draw, each, whole_matrix};
use crate::ext4::FEATURES;
use crate::lived_in::{Layout, mib};
use crate::support::Env;

/// How the image is made of the raw disk `disk`: a name, its format, the commands of `qemu-img`.
const FORMS: &[(&str, &str, &[&str])] = &[
    ("raw", "raw", &["convert -O raw disk d.img"]),
    ("qcow2", "qcow2", &["convert -O qcow2 disk d.img"]),
    ("preallocated", "qcow2", &["convert -O qcow2 -o preallocation=metadata disk d.img"]),
    ("subclusters", "qcow2", &["convert -O qcow2 -o extended_l2=on disk d.img"]),
    ("version 2", "qcow2", &["convert -O qcow2 -o compat=0.10 disk d.img"]),
    ("compressed", "qcow2", &["convert -c -O qcow2 disk d.img"]),
    (
        "small clusters",
        "qcow2",
        &["convert -O qcow2 -o cluster_size=4k,refcount_bits=1 disk d.img"],
    ),
    (
        "large clusters",
        "qcow2",
        &["convert -O qcow2 -o cluster_size=2M,lazy_refcounts=on disk d.img"],
    ),
    (
        "overlay",
        "qcow2",
        &["convert -O qcow2 disk base.qcow2", "create -q -f qcow2 -b base.qcow2 -F qcow2 d.img"],
    ),
];

/// A disk of 160 MiB as its guest left it, in one of the forms.
fn lived_in(layout: &Layout, form: usize) -> Env {
    let env = Env::new();
    layout.make(&env, "disk", mib(160));
    for command in FORMS[form].2 {
        env.qemu_img(command);
    }
    env
}

/// The image is sound, and what its guest sees is whole and fills the disk.
#[track_caller]
fn is_grown(env: &Env, layout: &Layout, image: &str, format: &str, bytes: u64) {
    if format == "qcow2" {
        env.is_clean(image);
    }
    env.see(format, image);
    assert_eq!(fs::metadata(env.path("seen")).expect("a disk").len(), bytes);
    if layout.data > 0 {
        env.table_is_sound("seen");
        let (start, len) = env.partition("seen", layout.data);
        assert!(start + len + mib(2) > bytes, "{start} {len} of {bytes}");
    }
    env.filesystem_is_whole("seen", layout.data);
}

/// Layouts, forms, filesystems and sizes as they come. `VMDISK_MATRIX=full` tries 500.
#[test]
fn disk_partition_and_filesystem_grow_in_one_command() {
    let mut draw = Draw::seeded(14);
    let count = if whole_matrix() { 500 } else { 2 * FORMS.len() };
    let cases: Vec<_> = (0..count).map(|number| (number, draw.fork())).collect();
    each(&cases, |(number, draw)| {
        let mut draw = draw.clone();
        let (name, format, commands) = FORMS[number % FORMS.len()];
        let layout = draw.pick(Layout::ALL);
        let features = draw.pick(FEATURES);
        let block = draw.pick(&["1024", "2048", "4096"]);
        // Small inodes have no room for data.
        let small = !features.contains("inline_data");
        let inode = if small { draw.pick(&["128", "256"]) } else { "256" };
        let ratio = draw.pick(&["4096", "8192", "16384"]);
        let options = format!("{features} -b {block} -I {inode} -i {ratio}");
        let options: Vec<_> = options.split_whitespace().collect();
        let old = mib(130) + draw.sectors(mib(70));
        let most = draw.pick(&[300, 300, 300, 1500]);
        let new = old + mib(20) + draw.sectors(mib(most));
        let env = Env::new();
        layout.make_with(&env, "disk", old, &options);
        commands.iter().for_each(|command| drop(env.qemu_img(command)));
        let line = format!("d.img --format {format} --size {new}B");
        let case = format!("{} in {name}, {old} -> {new}, {options:?}", layout.name);
        println!("{case}");
        if features.contains("^resize_inode") {
            // There is room for some more groups in the last block of their table, or there is not.
            let grown = env.vmdisk(&format!("resize {line} --guest-fs require")).code == Some(0);
            if grown {
                is_grown(&env, &layout, "d.img", format, new);
            }
            return;
        }
        let report = env.report(&format!("resize {line} --guest-fs require"));
        assert_eq!(report["changed"], true, "{case}: {report:#}");
        assert_eq!(report["virtual_size_bytes"], new, "{case}");
        let growth = &report["growth"];
        assert_eq!(growth["refusal"], Value::Null, "{case}");
        let grown = |step: &Value| {
            let bytes = |field: &str| step[field].as_u64().expect("a size");
            assert!(bytes("old_size_bytes") <= old, "{case}: {growth:#}");
            assert!(bytes("size_bytes") > bytes("old_size_bytes"), "{case}: {growth:#}");
            assert_eq!(step["todo"], Value::Null, "{case}");
        };
        grown(&growth["filesystem"]);
        if layout.data > 0 {
            grown(&growth["partition"]);
        }
        is_grown(&env, &layout, "d.img", format, new);
        let before = fs::read(env.path("d.img")).expect("the image");
        let again = env.report(&format!("resize {line}"));
        assert_eq!(again["changed"], false, "{case}: {again:#}");
        assert!(fs::read(env.path("d.img")).expect("the image") == before, "{case}");
    });
}

/// The commonest case: somebody grew the disk before, and the guest never saw it.
#[test]
fn a_disk_that_is_small_inside_is_filled_up() {
    let cases: Vec<_> = (0..FORMS.len()).collect();
    each(&cases, |&form| {
        let layout = Layout::ALL[form % Layout::ALL.len()];
        let env = lived_in(&layout, form);
        let (_, format, _) = FORMS[form];
        env.qemu_img(&format!("resize -q -f {format} d.img 300M"));
        let line = format!("ensure d.img --format {format}");
        // A backing file that is there has to be asked for.
        let line = match FORMS[form].0 {
            "overlay" => format!("{line} --backing base.qcow2"),
            _ => line,
        };
        let inside = env.report(&format!("guest d.img --format {format}"));
        assert!(inside.to_string().contains("would_grow_to_bytes"), "{inside:#}");
        let report = env.report(&format!("{line} --size 300M"));
        assert_eq!((&report["action"], &report["changed"]), (&json!("grown"), &json!(true)));
        assert_eq!(report["old_virtual_size_bytes"], report["virtual_size_bytes"]);
        is_grown(&env, &layout, "d.img", format, mib(300));
        for size in ["", "--size 300M"] {
            let report = env.report(&format!("{line} {size}"));
            assert_eq!(
                (&report["action"], &report["changed"]),
                (&json!("unchanged"), &json!(false))
            );
        }
        let inside = env.report(&format!("guest d.img --format {format}"));
        assert!(!inside.to_string().contains("would_grow_to_bytes"), "{inside:#}");
    });
}

#[test]
fn growing_again_and_again_leaves_everything_whole() {
    let env = lived_in(&Layout::BOOT2DOCKER, 1);
    for (size, bytes) in
        [("400M", mib(400)), ("1G", mib(1024)), ("3G", mib(3072)), ("9G", mib(9216))]
    {
        env.report(&format!("resize d.img --format qcow2 --size {size} --guest-fs require"));
        is_grown(&env, &Layout::BOOT2DOCKER, "d.img", "qcow2", bytes);
    }
}

/// What may not be touched: a name, and what makes it so of the raw disk `disk`.
type Spoiled = (&'static str, fn(&Env));

/// Changes a field of the superblock, with its checksum.
fn set_field(env: &Env, field: &str, value: &str) {
    set_field_of(env, "disk", Layout::BOOT2DOCKER.data, field, value);
}

fn set_field_of(env: &Env, disk: &str, partition: u32, field: &str, value: &str) {
    let (start, _) = env.partition(disk, partition);
    let request = format!("set_super_value {field} {value}");
    let place = format!("{disk}?offset={start}");
    env.system("debugfs", &["-w", "-R", &request, &place]).exits(0);
}

fn set_type(env: &Env, partition: &str, kind: &str) {
    env.system("sfdisk", &["-q", "--no-tell-kernel", "--part-type", "disk", partition, kind])
        .exits(0);
}

fn retable(env: &Env, layout: &str) {
    let script = format!("label: gpt\n{layout}\n");
    env.write("script", script);
    let line = "PATH=/usr/sbin:/sbin:$PATH sfdisk -q --no-tell-kernel --wipe never disk < script";
    env.run("sh", ["-c", line]).exits(0);
}

const SPOILED: &[Spoiled] = &[
    ("needs_recovery", |env| set_field(env, "feature_incompat", "0x46")),
    ("not_clean", |env| set_field(env, "state", "0")),
    ("has_errors", |env| set_field(env, "state", "3")),
    ("orphans", |env| set_field(env, "last_orphan", "12")),
    ("luks", |env| set_type(env, "1", "CA7D7CCB-63ED-4C53-861C-1742536059CC")),
    ("lvm", |env| set_type(env, "1", "E6D6D379-F507-44C2-A23C-238F2A3DF928")),
    ("partition_not_last", |env| {
        retable(
            env,
            "disk1 : start=43008, size=260000, type=linux\ndisk2 : start=306000, type=swap",
        );
        env.patch("disk", 306_000 * 512 + 4086, b"SWAPSPACE2");
    }),
    ("member_of_array", |env| {
        let (start, len) = env.partition("disk", 1);
        env.patch("disk", start + (len - 8192) / 4096 * 4096, &0xa92b_4efc_u32.to_le_bytes());
    }),
    ("filesystem_beyond_partition", |env| {
        let (start, _) = env.partition("disk", 1);
        let size = format!("start={}, size=200000, type=linux", start / 512);
        retable(env, &format!("disk2 : start=2048, size=40960, type=swap\ndisk1 : {size}"));
    }),
    ("damaged_primary_gpt", |env| env.patch("disk", 512 + 60, &[0xFF])),
    ("unsupported_contents", |env| {
        let (start, _) = env.partition("disk", 1);
        env.patch("disk", start, b"XFSB");
        env.patch("disk", start + 1024, &[0; 1024]);
    }),
    // Another filesystem was there before, or is there now.
    ("unsupported_contents", |env| {
        let (start, _) = env.partition("disk", 1);
        env.patch("disk", start + 0x1_0040, b"_BHRfS_M");
    }),
];

/// With `auto` the disk alone grows, and the report says why and what to type in the guest; with
/// `require` nothing is changed.
#[test]
fn what_may_not_be_touched_is_left_alone() {
    let formats = [("raw", "convert -O raw disk d.img"), ("qcow2", "convert -O qcow2 disk d.img")];
    let cases: Vec<_> =
        SPOILED.iter().flat_map(|spoiled| formats.map(|format| (spoiled, format))).collect();
    each(&cases, |&((name, spoil), (format, convert))| {
        let env = Env::new();
        Layout::BOOT2DOCKER.make(&env, "disk", mib(160));
        spoil(&env);
        env.qemu_img(convert);
        env.see(format, "d.img");
        let (inside, file) =
            (fs::read(env.path("seen")).expect("a disk"), fs::read(env.path("d.img")));
        let line = format!("resize d.img --format {format} --size 200M");
        let error = env.fails(&format!("{line} --guest-fs require"), 1, "guest_refused");
        assert_eq!(error["data"]["changed"], false);
        assert!(
            fs::read(env.path("d.img")).expect("the image") == file.expect("the image"),
            "{name}"
        );
        let report = env.report(&line);
        let growth = &report["growth"];
        assert_eq!(report["virtual_size_bytes"], mib(200), "{report:#}");
        assert_eq!(growth["refusal"]["name"], *name, "{growth:#}");
        for step in ["partition", "filesystem"] {
            assert_eq!(growth[step]["old_size_bytes"], growth[step]["size_bytes"], "{growth:#}");
        }
        env.see(format, "d.img");
        let seen = fs::read(env.path("seen")).expect("a disk");
        assert!(seen[..inside.len()] == inside && seen[inside.len()..].iter().all(|&b| b == 0));
        let text = env.vmdisk(&format!("guest d.img --format {format}")).exits(0).stdout;
        assert!(text.contains("would not grow"), "{text}");
    });
}

/// A machine that crashed must start again: where there is nothing to gain, it is all the same
/// what its filesystem is like.
#[test]
fn an_unclean_filesystem_that_fills_its_disk_is_no_obstacle() {
    let env = Env::new();
    Layout::BOOT2DOCKER.make(&env, "disk", mib(160));
    set_field(&env, "feature_incompat", "0x46");
    env.qemu_img("convert -O raw disk d.raw");
    for how in ["require", "auto"] {
        let report = env.report(&format!("ensure d.raw --size 160M --guest-fs {how}"));
        assert_eq!(report["action"], "unchanged", "{report:#}");
        assert_eq!(report["growth"]["refusal"], Value::Null, "{report:#}");
    }
    env.fails("ensure d.raw --size 200M --guest-fs require", 1, "guest_refused");
    assert_eq!(
        env.report("guest d.raw")["partition_table"]["partitions"][0]["filesystem"]["clean"],
        false
    );
}

/// What an image above has of a disk is a part of what its guest sees: it would be the old bitmap
/// beside the new table.
#[test]
fn a_disk_below_others_grows_outside_alone() {
    let env = lived_in(&Layout::MINIKUBE, 8);
    env.refuses("resize base.qcow2 --size 300M", "has_dependents");
    for line in ["resize base.qcow2 --force", "ensure base.qcow2"] {
        env.fails(&format!("{line} --size 300M --guest-fs require"), 1, "has_dependents");
    }
    let report = env.report("resize base.qcow2 --force --size 280M");
    assert_eq!(report["growth"]["refusal"]["name"], "has_dependents");
    let report = env.report("ensure base.qcow2 --size 300M");
    assert_eq!(report["virtual_size_bytes"], mib(300));
    assert_eq!(report["growth"]["refusal"]["name"], "has_dependents");
    assert!(!report.to_string().contains("todo"), "{report:#}");
    env.see("qcow2", "d.img");
    env.filesystem_is_whole_as_it_is("seen", 1);
}

/// The first call makes an overlay over a disk that a guest has lived in, and fills it: the machine's
/// first start sees the size that was asked for.
#[test]
fn an_overlay_is_filled_from_the_start() {
    let env = Env::new();
    Layout::MINIKUBE.make(&env, "disk", mib(160));
    env.qemu_img("convert -O qcow2 disk base.qcow2");
    let base = fs::read(env.path("base.qcow2")).expect("the base");
    let line = "ensure d.qcow2 --backing base.qcow2 --size 400M --guest-fs require";
    let report = env.report(line);
    assert_eq!((&report["action"], &report["changed"]), (&json!("created"), &json!(true)));
    assert!(report["growth"]["filesystem"]["size_bytes"].as_u64() > Some(mib(390)), "{report:#}");
    is_grown(&env, &Layout::MINIKUBE, "d.qcow2", "qcow2", mib(400));
    assert_eq!(env.report(line)["action"], "unchanged");
    assert!(fs::read(env.path("base.qcow2")).expect("the base") == base);
    // What could not be filled is not made.
    set_field_of(&env, "disk", Layout::MINIKUBE.data, "state", "0");
    env.qemu_img("convert -O qcow2 disk unclean.qcow2");
    let line = "ensure e.qcow2 --backing unclean.qcow2 --size 400M --guest-fs";
    env.fails(&format!("{line} require"), 1, "guest_refused");
    assert!(!env.path("e.qcow2").exists());
    let report = env.report(&format!("{line} auto"));
    assert_eq!(report["growth"]["refusal"]["name"], "not_clean", "{report:#}");
}

/// Where everything at once is not possible, the disk alone grows: there is no name for a journal
/// beside this one.
#[test]
fn what_keeps_the_inside_from_growing_does_not_keep_the_disk() {
    let env = Env::new();
    let name = "d".repeat(246) + ".raw";
    Layout::MINIKUBE.make(&env, &name, mib(160));
    env.fails(&format!("resize {name} --size 300M --guest-fs require"), 2, "bad_request");
    assert_eq!(env.report(&format!("info {name}"))["virtual_size_bytes"], mib(160));
    for (line, changed) in [("resize", true), ("ensure", false)] {
        let report = env.report(&format!("{line} {name} --size 300M"));
        assert_eq!(report["changed"], changed, "{report:#}");
        assert_eq!(report["growth"]["refusal"]["name"], "bad_request", "{report:#}");
        assert_eq!(report["virtual_size_bytes"], mib(300));
    }
    env.report(&format!("create {} --size 1M", "n".repeat(247) + ".raw"));
}

/// A filesystem that only its guest can grow, and that fills its place, is no reason to fail.
#[test]
fn what_fills_its_place_is_left_alone_without_a_word() {
    let env = Env::new();
    Layout::MINIKUBE.make(&env, "d.raw", mib(160));
    let (start, len) = env.partition("d.raw", 1);
    env.patch("d.raw", start, &[0; 2048]);
    env.patch("d.raw", start, b"XFSB\0\0\x10\0");
    env.patch("d.raw", start + 8, &(len / 4096).to_be_bytes());
    let report = env.report("ensure d.raw --size 160M --guest-fs require");
    assert_eq!(report["growth"]["refusal"], Value::Null, "{report:#}");
    let report = env.report("ensure d.raw --size 400M");
    assert_eq!(report["growth"]["refusal"]["name"], "unsupported_contents");
    let todo = &report["growth"]["filesystem"]["todo"];
    assert_eq!(todo, "sudo xfs_growfs \"$(findmnt -nfo TARGET -t xfs)\"", "{report:#}");
}

/// A guest may start after any of the writes to a raw disk: it finds its partition, and of the GPT
/// the copy that it looks at.
#[test]
fn between_any_two_writes_there_is_a_partition_table() {
    for moved in [false, true] {
        let env = Env::new();
        Layout::BOOT2DOCKER.make(&env, "disk", mib(160));
        let file = File::options().write(true).open(env.path("disk")).expect("the disk");
        file.set_len(mib(300)).expect("its length");
        if moved {
            // The backup is at the new end already: it changes where it is.
            env.system("sgdisk", &["-e", "disk"]).exits(0);
        }
        let disk = Raw::open(Box::new(env.storage("disk", Access::Read))).expect("the disk");
        let request = FillRequest { disk_bytes: mib(300), restore: false };
        let plan = InsideGrowth::plan(&disk, request).expect("a plan");
        assert_eq!(plan.refusal, None);
        let (mut writes, mut last) = (0, None);
        for edit in &plan.edits {
            match &edit.content {
                Content::Bytes(bytes) => env.patch("disk", edit.offset, bytes),
                Content::Zeros(len) => env.patch("disk", edit.offset, &vec![0; *len as usize]),
            }
            writes += 1;
            // Linux takes the primary, or nothing.
            let dump = env.system("sfdisk", &["--dump", "disk"]).exits(0);
            assert!(!dump.stderr.contains("primary GPT table is corrupt"), "{dump:?}");
            let (start, len) = env.partition("disk", 1);
            assert!(len >= mib(130) && start == 43008 * 512, "{writes}: {dump:?}");
            let table = (edit.stage == Stage::Partitions, edit.stage == Stage::BackupTable);
            assert!(!(table.1 && last == Some(Stage::Partitions)), "the backup comes first");
            last = Some(edit.stage);
        }
        assert!(writes > 5);
        env.table_is_sound("disk");
        env.filesystem_is_whole("disk", 1);
    }
}

#[test]
fn off_leaves_what_is_inside_alone_and_is_not_looked_at() {
    let env = lived_in(&Layout::MINIKUBE, 0);
    let before = fs::read(env.path("d.img")).expect("the disk");
    let report = env.report("resize d.img --format raw --size 400M --guest-fs off");
    assert_eq!(report["growth"], Value::Null);
    let after = fs::read(env.path("d.img")).expect("the disk");
    assert!(after[..before.len()] == before);
    env.fails(
        "resize d.img --format raw --size 400M --guest-fs off --restore-gpt",
        2,
        "incompatible_options",
    );
    env.fails("resize d.img --format raw --size 160M --guest-fs require", 1, "would_shrink");
    env.fails(
        "resize d.img --format raw --size 160M --shrink --guest-fs require",
        2,
        "incompatible_options",
    );
    let shrunk = env.report("resize d.img --format raw --size 160M --shrink");
    assert_eq!(shrunk["growth"], Value::Null);
}

#[test]
fn a_damaged_gpt_is_restored_when_that_is_asked_for() {
    let env = lived_in(&Layout::BOOT2DOCKER, 0);
    env.patch("d.img", 512 + 60, &[0xFF]);
    let report = env.report("resize d.img --format raw --size 400M --restore-gpt");
    assert_eq!(report["growth"]["refusal"], Value::Null, "{report:#}");
    is_grown(&env, &Layout::BOOT2DOCKER, "d.img", "raw", mib(400));
}

/// A disk that nobody formatted yet has nothing that could stay small.
#[test]
fn a_payload_waits_for_its_guest_and_nothing_else() {
    let env = Env::new();
    for path in ["d.qcow2", "d.raw"] {
        env.report(&format!("create {path} --size 64M"));
        let report = env.report(&format!("resize {path} --size 128M --guest-fs require"));
        assert_eq!(report["growth"], json!({"contents": "payload"}));
        let inside = env.report(&format!("guest {path}"));
        assert_eq!(inside["contents"], "payload");
        assert_eq!(inside["partition_table"], Value::Null);
    }
}

/// What hyperkit's reader cannot take does not come in by growing: where an entry says zero, it
/// destroys the image.
#[test]
fn a_disk_for_hyperkit_stays_one() {
    let env = Env::new();
    Layout::BOOT2DOCKER.make(&env, "disk", mib(160));
    env.report("create d.qcow2 --preset hyperkit --size 300M --guest none");
    let image = Image::open(env.path("d.qcow2"), &OpenOptions::to_write()).expect("the image");
    for (number, chunk) in fs::read(env.path("disk")).expect("the disk").chunks(1 << 20).enumerate()
    {
        if !is_zero(chunk) {
            image.write_at((number as u64) << 20, chunk).expect("a write");
        }
    }
    // Where the filesystem will have its tables, there is something else.
    for at in (mib(160)..mib(300)).step_by(1 << 20) {
        image.write_at(at, &vec![b'x'; 1 << 20]).expect("a write");
    }
    image.close().expect("the end");
    let rules = || {
        let report = env.vmdisk("check d.qcow2 --for hyperkit --json").json();
        report["for"]["broken"].to_string()
    };
    let before = rules();
    let report = env.report("resize d.qcow2 --size 300M --guest-fs require");
    assert_eq!(report["changed"], true);
    assert_eq!(rules(), before);
    env.see("qcow2", "d.qcow2");
    env.filesystem_is_whole("seen", 1);
}

#[test]
fn a_guest_is_described() {
    let env = lived_in(&Layout::BOOT2DOCKER, 1);
    let report = env.report("guest d.img --format qcow2");
    let table = &report["partition_table"];
    assert_eq!((&report["contents"], &table["kind"]), (&json!("gpt"), &json!("gpt")));
    let data = &table["partitions"][0];
    let filesystem = &data["filesystem"];
    assert_eq!(data["type"], "linux");
    assert_eq!(filesystem["label"], "boot2docker-data");
    assert_eq!(filesystem["clean"], true);
    let bytes = |field: &str| filesystem[field].as_u64().expect("a size");
    assert_eq!(bytes("used_bytes") + bytes("free_bytes"), bytes("size_bytes"));
    assert!(bytes("used_bytes") > 4_000_000);
    assert_eq!(table["partitions"][1]["type"], "swap");
    let text = env.vmdisk("guest d.img --format qcow2").exits(0).stdout;
    assert!(text.contains("ext4 'boot2docker-data'") && text.contains("clean"), "{text}");
}
