//! `check`, its repairs and taking them back, at the command line.

use std::fs::{self, File};

use serde_json::Value;

use crate::draw::whole_matrix;
use crate::support::{Env, Run, failure};

/// An image with data, in clusters of 64 KiB.
fn image() -> Env {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 64M");
    env.qemu_io("qcow2", "d.qcow2", "write -P 7 0 256k");
    env
}

fn damaged(kind: &str, seed: u32) -> Env {
    let env = image();
    let report = env.report(&format!("damage d.qcow2 --kind {kind} --seed {seed}"));
    assert_ne!(report["offsets_bytes"], Value::Array(Vec::new()), "{kind} has a place");
    env
}

/// An image with one cluster that is counted and not used.
fn leaking() -> Env {
    let env = image();
    env.qemu_io("qcow2", "d.qcow2", "write -P 1 0 1M");
    let before = bytes(&env);
    env.qemu_io("qcow2", "d.qcow2", "discard 512k 64k");
    let after = bytes(&env);
    // The discarded entry, but not the count.
    let changed: Vec<_> = (0..after.len()).filter(|&at| before[at] != after[at]).collect();
    let count = *changed.first().expect("a count");
    env.patch("d.qcow2", count as u64, &before[count..count + 1]);
    env
}

fn bytes(env: &Env) -> Vec<u8> {
    fs::read(env.path("d.qcow2")).expect("the image")
}

/// What a check says in JSON, and that it ends with this code.
fn checked(env: &Env, flags: &str, code: i32) -> Value {
    env.vmdisk(&format!("check d.qcow2 --json {flags}")).exits(code).json()
}

/// The codes of `qemu-img check`, and the same from both.
#[test]
fn exit_codes_are_those_of_qemu_img() {
    let cases = [(image(), 0, "clean"), (leaking(), 3, "leaks")];
    let corrupt = ["undercount", "copied-flag", "beyond-file", "misaligned", "reserved-bit"];
    let corrupt = corrupt.map(|kind| (damaged(kind, 1), 2, "corrupt"));
    for (env, code, verdict) in cases.into_iter().chain(corrupt) {
        let before = bytes(&env);
        assert_eq!(checked(&env, "", code)["verdict"], verdict);
        let text = env.vmdisk("check d.qcow2").exits(code).stdout;
        assert!(text.contains("d.qcow2 is "), "{text}");
        env.run("qemu-img", ["check", "-q", "d.qcow2"]).exits(code);
        assert!(bytes(&env) == before, "a check changes nothing");
    }
}

/// Whatever bit of an entry of a bitmap directory is wrong: what QEMU does not take is not clean,
/// and is taken once it is mended. The format has one flag more than QEMU knows: extra data, whose flag
/// this is, is no damage where all else is in order.
#[test]
fn a_bitmap_that_qemu_does_not_take_is_not_clean() {
    let env = image();
    env.qemu_img("bitmap --add d.qcow2 days");
    let sound = bytes(&env);
    let extension = sound.windows(4).position(|word| word == [0x23, 0x85, 0x28, 0x75]);
    let at = extension.expect("the bitmaps extension") + 24;
    let directory = u64::from_be_bytes(sound[at..at + 8].try_into().expect("8 bytes")) as usize;
    let mut refused = 0;
    let step = if whole_matrix() { 1 } else { 5 };
    let extra_data_compatible = 15 * 8 + 2;
    for bit in (0..24 * 8).step_by(step).filter(|bit| *bit != extra_data_compatible) {
        env.write("d.qcow2", &sound);
        let byte = sound[directory + bit / 8] ^ 1 << (bit % 8);
        env.patch("d.qcow2", (directory + bit / 8) as u64, &[byte]);
        if env.run("qemu-img", ["check", "-q", "d.qcow2"]).code == Some(0) {
            continue;
        }
        refused += 1;
        let verdict = env.vmdisk("check d.qcow2").code;
        assert!(matches!(verdict, Some(2 | 3)), "bit {bit}: {verdict:?}");
        env.vmdisk("check d.qcow2 --repair all").exits(0);
        env.run("qemu-img", ["check", "-q", "d.qcow2"]).exits(0);
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn what_cannot_be_checked_says_why() {
    let env = image();
    env.qemu_img("create -q -f raw d.raw 1M");
    env.write("short.qcow2", b"QFI\xfb");
    let fails = |line: &str, code: i32, kind: &str| {
        let run = env.vmdisk(&format!("{line} --json")).exits(code);
        assert_eq!(run.json()["error"]["data"]["kind"], kind, "{line}");
        assert_eq!(run.json()["error"]["data"]["changed"], false, "{line}");
    };
    fails("check none.qcow2", 1, "not_found");
    fails("check d.raw", 63, "unsupported_feature");
    fails("check short.qcow2", 1, "corrupt");
    fails("check d.qcow2 --format raw", 63, "unsupported_feature");
    fails("check --undo none", 1, "not_found");
    fails("check --undo d.raw", 64, "bad_request");
    for usage in ["check", "check d.qcow2 --repair some", "check d.qcow2 --dry-run"] {
        env.vmdisk(usage).exits(64);
    }
    let busy = File::open(env.path("d.qcow2")).expect("the image");
    busy.lock().expect("a lock");
    fails("check d.qcow2", 75, "locked");
    fails("check d.qcow2 --repair all", 75, "locked");
}

#[test]
fn a_repair_is_saved_first_and_taken_back() {
    let leaking = [("leak", "leaks", leaking())];
    let damages = ["beyond-file", "no-counts"].map(|kind| (kind, "all", damaged(kind, 1)));
    for (kind, level, env) in leaking.into_iter().chain(damages) {
        let (before, disk) = (bytes(&env), env.disk("qcow2", "d.qcow2"));
        let plan = &checked(
            &env,
            &format!("--repair {level} --dry-run"),
            if kind == "leak" { 3 } else { 2 },
        )["repair"];
        assert_eq!(plan["changed"], false);
        assert!(bytes(&env) == before && env.names() == ["d.qcow2"], "a dry run changes nothing");

        let report = checked(&env, &format!("--repair {level}"), 0);
        let repair = &report["repair"];
        assert_eq!((&report["verdict"], &repair["changed"]), (&"clean".into(), &true.into()));
        for told in ["lost", "replaced_bytes", "added_bytes", "copied_clusters", "leaks_before"] {
            assert_eq!(repair[told], plan[told], "{told} is as the dry run said");
        }
        env.is_clean("d.qcow2");
        if kind == "beyond-file" {
            assert_eq!(repair["lost"][0]["length_bytes"], 65536);
            assert_eq!(repair["lost"][0]["kept"], false);
        } else {
            assert!(env.disk("qcow2", "d.qcow2") == disk, "{kind}: nothing is lost");
        }
        let mended = bytes(&env);
        let nothing = &checked(&env, "--repair all", 0)["repair"];
        assert_eq!((&nothing["changed"], nothing.get("undo_file")), (&false.into(), None));

        let saved = env.names().into_iter().find(|name| name != "d.qcow2").expect("a saved file");
        assert!(saved.starts_with("d.qcow2.repair-"), "{saved}");
        assert!(repair["undo_file"].as_str().expect("a name").ends_with(&saved));
        let undone = env.report(&format!("check --undo {saved}"));
        assert_eq!(undone["changed"], true);
        assert!(bytes(&env) == before, "{kind}: it is what it was, byte for byte");
        assert_eq!(env.report(&format!("check --undo {saved}"))["changed"], false);

        // Written to since: nothing is put back.
        env.write("d.qcow2", &mended);
        env.qemu_io("qcow2", "d.qcow2", "write 20M 1M");
        let since = bytes(&env);
        let run = env.vmdisk(&format!("check --undo {saved} --json")).exits(1);
        assert_eq!(failure(&run, "corrupt")["data"]["changed"], false);
        assert!(bytes(&env) == since);
    }
}

/// Only counts of what nothing uses are lowered, whatever else is wrong.
#[test]
fn leaks_are_dropped_from_an_image_that_is_otherwise_sound() {
    let env = leaking();
    env.vmdisk("damage d.qcow2 --kind copied-flag --seed 3").exits(0);
    let report = checked(&env, "--repair leaks", 2);
    assert_eq!((&report["leaks"], &report["corruptions"]), (&0.into(), &1.into()));
    assert_eq!(report["repair"]["level"], "leaks");
    assert_eq!(checked(&env, "--repair all", 0)["verdict"], "clean");
}

/// The counts of a snapshot that is not listed any more: what has one owner now says so.
#[test]
fn what_a_lost_snapshot_counted_is_dropped() {
    let env = image();
    env.qemu_img("snapshot -c one d.qcow2");
    let disk = env.disk("qcow2", "d.qcow2");
    // No snapshots, and an unknown program vouches for something.
    env.patch("d.qcow2", 60, &0u32.to_be_bytes());
    env.patch("d.qcow2", 88, &[0x80]);
    let before = bytes(&env);
    let report = checked(&env, "--repair leaks", 0);
    assert!(report["repair"]["leaks_before"].as_u64().expect("a number") >= 5, "{report}");
    assert_eq!(bytes(&env)[88..96], [0; 8], "nobody vouches for what was changed");
    env.is_clean("d.qcow2");
    assert!(env.disk("qcow2", "d.qcow2") == disk);
    let saved = report["repair"]["undo_file"].as_str().expect("a name");
    env.report(&format!("check --undo {saved}"));
    assert!(bytes(&env) == before);
}

/// Half of a download: the guest ranges that are lost are few, however many clusters they are.
#[test]
fn a_file_that_was_cut_is_mended_at_once() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 -o preallocation=metadata d.qcow2 8G");
    File::options()
        .write(true)
        .open(env.path("d.qcow2"))
        .expect("the image")
        .set_len(4 << 30)
        .expect("a cut");
    let report = checked(&env, "--repair all", 0);
    let lost = report["repair"]["lost"].as_array().expect("a list");
    assert_eq!((lost.len(), &report["repair"]["lost_left_out"]), (1, &0.into()), "{report}");
    let bytes = report["repair"]["lost_bytes"].as_u64().expect("a number");
    assert!((4 << 30..5 << 30).contains(&bytes), "{bytes}");
    env.is_clean("d.qcow2");
}

/// A file that ends in an L2 table: QEMU reads zeros there and finds nothing wrong, but what the
/// missing entries led to is lost.
#[test]
fn a_table_that_is_cut_short_is_damage() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 1G");
    env.qemu_io("qcow2", "d.qcow2", "write -z 0 64k");
    let len = bytes(&env).len() as u64 - (64 << 10) + 1024;
    let file = File::options().write(true).open(env.path("d.qcow2")).expect("the image");
    file.set_len(len).expect("a cut");
    let before = bytes(&env);
    env.run("qemu-img", ["check", "-q", "d.qcow2"]).exits(0);
    let report = checked(&env, "", 2);
    assert_eq!(report["findings"][0]["kind"], "cut_short", "{report}");
    assert_eq!(report["findings"][0]["repairable_by"], "all");
    checked(&env, "--repair leaks", 2);
    assert!(bytes(&env) == before, "leaks alone are not told from what is lost");
    let report = checked(&env, "--repair all", 0);
    let lost = &report["repair"]["lost"];
    assert_eq!((&lost[0]["guest_offset_bytes"], lost.get(1)), (&(128 << 16).into(), None));
    assert_eq!(report["repair"]["lost_bytes"], (8192 - 128) << 16);
    env.is_clean("d.qcow2");
    let saved = report["repair"]["undo_file"].as_str().expect("a name");
    env.report(&format!("check --undo {saved}"));
    assert!(bytes(&env) == before);
}

/// The file to save to is the caller's choice, and is never written over.
#[test]
fn a_repair_is_saved_where_the_caller_says() {
    let env = damaged("beyond-file", 1);
    env.write("kept", b"kept");
    let run = env.vmdisk("check d.qcow2 --repair all --save-to kept --json").exits(1);
    assert_eq!(failure(&run, "exists")["data"]["changed"], false);
    let before = bytes(&env);
    let report = checked(&env, "--repair all --save-to saved", 0);
    assert_eq!(report["repair"]["undo_file"], "saved");
    assert_eq!(env.names(), ["d.qcow2", "kept", "saved"]);
    // It does not lie beside the disk that it is about: another one may, with the same name.
    let run = env.vmdisk("check --undo saved --json").exits(64);
    assert_eq!(run.json()["error"]["data"]["kind"], "bad_request");
    assert_eq!(env.report("check d.qcow2 --undo saved")["changed"], true);
    assert!(bytes(&env) == before);
    // What a person is told to do works as it stands.
    for place in ["", "--save-to 'it is'"] {
        let line = format!("\"$0\" check d.qcow2 --repair all {place}");
        let text = env.run("sh", ["-c", &line, crate::support::VMDISK]).exits(0).stdout;
        let (_, told) = text.split_once("to take it back: vmdisk ").expect("a command");
        let line = format!("\"$0\" {}", told.lines().next().expect("a line"));
        env.run("sh", ["-c", &line, crate::support::VMDISK]).exits(0);
        assert!(bytes(&env) == before, "{line}");
    }
    for usage in ["check d.qcow2 --save-to s", "check d.qcow2 --repair all --dry-run --save-to s"] {
        env.vmdisk(usage).exits(64);
    }
}

/// What cannot be mended leaves the image alone, and says what it is.
#[test]
fn what_cannot_be_mended_is_left_alone() {
    let env = image();
    env.qemu_img("snapshot -c one d.qcow2");
    let header = bytes(&env);
    let table = u64::from_be_bytes(header[64..72].try_into().expect("8 bytes"));
    env.patch("d.qcow2", table, &u64::MAX.to_be_bytes());
    let before = bytes(&env);
    let run: Run = env.vmdisk("check d.qcow2 --repair all --json").exits(2);
    let repair = &run.json()["repair"];
    assert_eq!(repair["changed"], false);
    assert!(!repair["unmended"].as_array().expect("a list").is_empty());
    assert!(bytes(&env) == before && env.names() == ["d.qcow2"]);
    let text = env.vmdisk("check d.qcow2 --repair all").exits(2).stdout;
    assert!(text.contains("cannot be mended"), "{text}");
}

/// An image that was not closed is not touched but by a repair, which clears the mark.
#[test]
fn marks_are_cleared_once_the_image_is_sound() {
    let env = image();
    let incompatible = 72;
    for (bit, name) in [(1u8, "dirty"), (2, "marked_corrupt")] {
        env.patch("d.qcow2", incompatible + 7, &[bit]);
        assert_eq!(checked(&env, "", 0)[name], true);
        let report = checked(&env, "--repair all", 0);
        assert_eq!((&report[name], &report["repair"]["changed"]), (&false.into(), &true.into()));
        env.is_clean("d.qcow2");
    }
}
