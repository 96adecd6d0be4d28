//! Persistent bitmaps, both ways with QEMU: it reads, writes and merges ours, and we its.

use std::ops::Range;
use std::process::Command;

use serde_json::{Value, json};
use vmdisk::block::BlockDevice;
use vmdisk::image::{Image, OpenOptions};

use crate::draw::{Draw, each, whole_matrix};
use crate::fixtures::every_image;
use crate::support::{Env, message, same_bytes, until};

/// What a bitmap has as dirty, as a program hears it from `qemu-nbd`.
fn dirty(env: &Env, image: &str, bitmap: &str) -> Vec<Range<u64>> {
    let socket = env.path(format!("{image}.nbd"));
    let path = socket.to_str().expect("UTF-8");
    let server =
        env.spawn("qemu-nbd", ["-r", "-t", "-f", "qcow2", "-B", bitmap, "-k", path, image]);
    until("qemu-nbd's socket", || socket.exists());
    let from = format!("driver=nbd,path={path},x-dirty-bitmap=qemu:dirty-bitmap:{bitmap}");
    let map = ["map", "--output=json", "--image-opts", from.as_str()];
    let map = env.run("qemu-img", map).exits(0).json();
    server.kill();
    let _ = std::fs::remove_file(socket);
    let number = |run: &Value, name: &str| run[name].as_u64().expect("a number");
    let mut found: Vec<Range<u64>> = Vec::new();
    for run in map.as_array().expect("runs") {
        let (start, len) = (number(run, "start"), number(run, "length"));
        if run["data"] == false {
            match found.last_mut() {
                Some(last) if last.end == start => last.end = start + len,
                _ => found.push(start..start + len),
            }
        }
    }
    found
}

fn bytes(runs: &[Range<u64>]) -> u64 {
    runs.iter().map(|run| run.end - run.start).sum()
}

/// What a bitmap has as dirty when these parts of the disk were written.
fn granules(written: &[Range<u64>], granularity: u64, size: u64) -> Vec<Range<u64>> {
    let mut granules: Vec<u64> = written
        .iter()
        .flat_map(|run| run.start / granularity..run.end.div_ceil(granularity))
        .collect();
    granules.sort_unstable();
    granules.dedup();
    let mut runs: Vec<Range<u64>> = Vec::new();
    for granule in granules {
        let end = ((granule + 1) * granularity).min(size);
        match runs.last_mut() {
            Some(last) if last.end == granule * granularity => last.end = end,
            _ => runs.push(granule * granularity..end),
        }
    }
    runs
}

/// The flags and granularities of all bitmaps, as QEMU tells them.
fn as_qemu_tells(env: &Env, image: &str) -> Value {
    let found = env.qemu_info(image)["format-specific"]["data"]["bitmaps"].clone();
    if found.is_null() { json!([]) } else { found }
}

/// The same, as we tell them.
fn as_we_tell(report: &Value) -> Value {
    let flags = |bitmap: &Value| -> Value {
        let flags = [("in-use", "in_use"), ("auto", "enabled")];
        flags.iter().filter(|(_, ours)| bitmap[*ours] == true).map(|(name, _)| *name).collect()
    };
    let bitmaps = report["bitmaps"].as_array().expect("a list").iter();
    bitmaps
        .map(|bitmap| {
            json!({
                "name": bitmap["name"],
                "granularity": bitmap["granularity_bytes"],
                "flags": flags(bitmap),
            })
        })
        .collect()
}

/// On images of every kind, QEMU sees after each action just what was done, finds nothing wrong, and
/// the disk stays as it was. Version 2 has no bitmaps.
#[test]
fn every_action_on_images_of_every_kind() {
    let step = if whole_matrix() { 1 } else { 5 };
    let images: Vec<_> = every_image().into_iter().step_by(step).collect();
    each(&images, |(name, make)| {
        let env = Env::new();
        make(&env);
        if env.qemu_info("d.qcow2")["format-specific"]["data"]["compat"] == "0.10" {
            let error = env.refuses("bitmap add d.qcow2 x", "unsupported_feature");
            assert!(message(&error).contains("version 2"), "{error:#}");
            return;
        }
        let leaks = name.contains("nobody vouches");
        let disk = env.disk("qcow2", "d.qcow2");
        let actions = [
            "add d.qcow2 x",
            "add d.qcow2 y --granularity 512 --disabled",
            "enable d.qcow2 y",
            "disable d.qcow2 x",
            "merge d.qcow2 x y",
            "remove d.qcow2 x",
            "clear d.qcow2 y",
            "remove d.qcow2 --all",
        ];
        for action in actions {
            let report = env.report(&format!("bitmap {action}"));
            assert_eq!(as_we_tell(&report), as_qemu_tells(&env, "d.qcow2"), "{name}: {action}");
            let listed = env.report("bitmap list d.qcow2");
            assert_eq!(listed["bitmaps"], report["bitmaps"], "{name}: {action}");
            let idle = action.starts_with("merge") || action.starts_with("clear");
            assert_eq!(report["changed"], !idle, "{name}: {action}");
            let check = env.run("qemu-img", ["check", "-q", "-f", "qcow2", "d.qcow2"]);
            let fine = check.code == Some(0) || leaks && check.code == Some(3);
            assert!(fine, "{name}: {action}: {check:?}");
        }
        same_bytes(&env.disk("qcow2", "d.qcow2"), &disk, name);
    });
}

/// QEMU's writes and our merges agree on what is dirty, whatever the granularities, in one image and
/// out of another, and so do QEMU's merges.
#[test]
fn what_is_dirty_is_agreed_upon() {
    let mut draw = Draw::seeded(11);
    let cases = if whole_matrix() { 60 } else { 4 };
    let cases: Vec<u64> = (0..cases).map(|_| draw.fork().next()).collect();
    each(&cases, |seed| {
        let (env, mut draw) = (Env::new(), Draw::from_seed(*seed));
        let size = draw.pick(&[7 << 20, (64 << 20) - 512, (1 << 30) + 1536]);
        let fine = [512u64, 4096, 65536];
        let coarse = [65536u64, 2 << 20, 1 << 31];
        for image in ["d.qcow2", "other.qcow2"] {
            let cluster = draw.pick(&["512", "4k", "64k"]);
            env.qemu_img(&format!("create -q -f qcow2 -o cluster_size={cluster} {image} {size}"));
        }
        let granularity = [draw.pick(&fine), draw.pick(&coarse), draw.pick(&fine)];
        let add = |image: &str, name: &str, granularity: u64| {
            env.report(&format!("bitmap add {image} {name} --granularity {granularity}"));
        };
        add("d.qcow2", "a", granularity[0]);
        add("d.qcow2", "b", granularity[1]);
        env.qemu_img(&format!("bitmap --add -g {} other.qcow2 c", granularity[2]));
        let mut written = [Vec::new(), Vec::new()];
        for (image, written) in ["d.qcow2", "other.qcow2"].into_iter().zip(&mut written) {
            let mut commands = Vec::new();
            for _ in 0..1 + draw.below(5) {
                let len = draw.sectors(200 << 10).min(size);
                let at = draw.below((size - len) / 512 + 1) * 512;
                written.push(at..at + len);
                commands.push(format!("write {at} {len}"));
            }
            env.qemu_io_all(image, &commands);
        }
        let [here, there] = written;
        for (image, name, granularity, written) in [
            ("d.qcow2", "a", granularity[0], &here),
            ("d.qcow2", "b", granularity[1], &here),
            ("other.qcow2", "c", granularity[2], &there),
        ] {
            let expected = granules(written, granularity, size);
            assert_eq!(dirty(&env, image, name), expected, "{seed}: {name}");
            let listed = env.report(&format!("bitmap list {image} --count"));
            let ours = listed["bitmaps"].as_array().expect("a list").iter();
            let ours = ours.filter(|bitmap| bitmap["name"] == name).collect::<Vec<_>>();
            assert_eq!(ours[0]["dirty_bytes"], bytes(&expected), "{seed}: {name}");
        }
        std::fs::copy(env.path("d.qcow2"), env.path("qemu.qcow2")).expect("a copy");
        env.report("bitmap merge d.qcow2 a c --source other.qcow2");
        env.qemu_img("bitmap --merge c -b other.qcow2 -F qcow2 qemu.qcow2 a");
        env.is_clean("d.qcow2");
        let through = granules(&there, granularity[2], size);
        let merged: Vec<_> = here.iter().chain(&through).cloned().collect();
        let expected = granules(&merged, granularity[0], size);
        assert_eq!(dirty(&env, "qemu.qcow2", "a"), expected, "{seed}: QEMU's");
        assert_eq!(dirty(&env, "d.qcow2", "a"), expected, "{seed}: ours");
        // And once more into a coarser or a finer one, ours by QEMU and QEMU's by us.
        env.qemu_img("bitmap --merge a -f qcow2 d.qcow2 b");
        env.report("bitmap merge qemu.qcow2 b a");
        env.is_clean("qemu.qcow2");
        let expected = granules(&expected, granularity[1], size);
        assert_eq!(dirty(&env, "d.qcow2", "b"), expected, "{seed}: ours, by QEMU");
        assert_eq!(dirty(&env, "qemu.qcow2", "b"), expected, "{seed}: QEMU's, by us");
        // What was cleared becomes dirty by what is written then, in what is still enabled.
        for image in ["d.qcow2", "qemu.qcow2"] {
            env.report(&format!("bitmap clear {image} a"));
            env.report(&format!("bitmap disable {image} b"));
            assert_eq!(dirty(&env, image, "a"), [], "{seed}: cleared");
            env.qemu_io_all(image, &["write 1M 3k".to_owned()]);
            let written = std::iter::once(1 << 20..(1 << 20) + 3072).collect::<Vec<_>>();
            let now = granules(&written, granularity[0], size);
            assert_eq!(dirty(&env, image, "a"), now, "{seed}: written since");
            assert_eq!(dirty(&env, image, "b"), expected, "{seed}: disabled");
            env.is_clean(image);
        }
    });
}

/// Each way to be refused, and that nothing is changed by it.
#[test]
fn refusals() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 10G");
    env.qemu_img("create -q -f qcow2 other.qcow2 11G");
    env.report("create raw.raw --size 1M");
    env.report("bitmap add d.qcow2 a");
    env.report("bitmap add other.qcow2 a");
    let says = |line: &str, kind: &str, words: &[&str]| {
        let error = env.refuses(line, kind);
        let told = words.iter().all(|word| message(&error).contains(word));
        assert!(told, "{line}: {words:?} in {error:#}");
    };
    says("bitmap add d.qcow2 a", "exists", &["'a'"]);
    says("bitmap add d.qcow2 b --granularity 256", "bad_size", &["256", "512", "2 GiB"]);
    says("bitmap add d.qcow2 b --granularity 4G", "bad_size", &["4294967296"]);
    says("bitmap add d.qcow2 b --granularity 3000", "bad_size", &["powers of two"]);
    says("bitmap add d.qcow2 b --granularity x", "bad_size", &["x"]);
    let long = "n".repeat(1024);
    says(&format!("bitmap add d.qcow2 {long}"), "bad_request", &["1 to 1023", "1024"]);
    env.refuses_args(&["bitmap", "add", "d.qcow2", ""], "bad_request");
    for action in ["remove", "clear", "enable", "disable"] {
        says(&format!("bitmap {action} d.qcow2 b"), "not_found", &["'b'"]);
        says(&format!("bitmap {action} d.qcow2"), "bad_request", &[]);
        says(&format!("bitmap {action} raw.raw b"), "unsupported_feature", &["raw"]);
    }
    says("bitmap list raw.raw", "unsupported_feature", &["qcow2"]);
    says("bitmap list none.qcow2", "not_found", &[]);
    says("bitmap merge d.qcow2 a b", "not_found", &["'b'"]);
    says("bitmap merge d.qcow2 b a", "not_found", &["'b'"]);
    let sizes = ["11811160064", "10737418240"];
    says("bitmap merge d.qcow2 a a --source other.qcow2", "bad_size", &sizes);
    says("bitmap merge d.qcow2 a a --source raw.raw", "unsupported_feature", &["qcow2"]);
    // What a guest wrote into its raw disk is not taken for an image.
    std::fs::copy(env.path("d.qcow2"), env.path("guest.raw")).expect("a copy");
    says("bitmap add guest.raw b", "format_mismatch", &[]);
    says("bitmap merge d.qcow2 a a --source none.qcow2", "not_found", &[]);
    says("bitmap remove d.qcow2 a --all", "incompatible_options", &[]);
    env.fails("bitmap", 2, "bad_request");
    says("bitmap twist d.qcow2 a", "bad_request", &["twist"]);
    // QEMU has no more than 2^32 bits.
    env.qemu_img("create -q -f qcow2 large.qcow2 2T");
    env.report("bitmap add large.qcow2 fits --granularity 512");
    env.is_clean("large.qcow2");
    std::fs::remove_file(env.path("large.qcow2")).expect("the image");
    env.qemu_img("create -q -f qcow2 larger.qcow2 2199023256064");
    says("bitmap add larger.qcow2 b --granularity 512", "bad_size", &["512", "2199023256064"]);
    let qemu = env.run("qemu-img", ["bitmap", "--add", "-g", "512", "larger.qcow2", "b"]);
    assert_ne!(qemu.code, Some(0));
    // A damaged image is not written to: what seems free may be the only copy of something.
    env.qemu_io_all("d.qcow2", &["write -P 1 0 1M".to_owned()]);
    let bytes = std::fs::read(env.path("d.qcow2")).expect("the image");
    let l1 = u64::from_be_bytes(bytes[40..48].try_into().expect("eight bytes"));
    env.patch("d.qcow2", l1, &[0x80, 0, 0, 1, 0, 0, 0, 0]);
    for action in ["add d.qcow2 b", "remove d.qcow2 a", "disable d.qcow2 a"] {
        says(&format!("bitmap {action}"), "corrupt", &["damaged"]);
    }
    // An image for hyperkit, which counts nothing and knows no bitmaps.
    env.report("create hyperkit.qcow2 --size 1M --preset hyperkit");
    says("bitmap add hyperkit.qcow2 a", "unsupported_feature", &["hyperkit"]);
}

/// Names of every length and of other alphabets, and that what cannot be told apart is not.
#[test]
fn names() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 1M");
    let names = ["a", "ä ö", "a\tb", &"n".repeat(1023), "-", "--all", "'\"\\"];
    for name in names {
        env.run(crate::support::VMDISK, ["bitmap", "add", "d.qcow2", "--", name]).exits(0);
        env.is_clean("d.qcow2");
    }
    let told = as_qemu_tells(&env, "d.qcow2");
    let told: Vec<_> = told.as_array().expect("a list").iter().map(|b| &b["name"]).collect();
    assert_eq!(told, names);
    for name in names {
        env.run(crate::support::VMDISK, ["bitmap", "remove", "d.qcow2", "--", name]).exits(0);
        env.is_clean("d.qcow2");
    }
    assert_eq!(as_qemu_tells(&env, "d.qcow2"), json!([]));
    // One of QEMU's that is not UTF-8 is told, and goes with all.
    env.qemu_img("bitmap --add d.qcow2 xyz");
    let bytes = std::fs::read(env.path("d.qcow2")).expect("the image");
    let at = bytes.windows(3).rposition(|three| three == b"xyz").expect("the name");
    env.patch("d.qcow2", at as u64, &[0xff]);
    let list = env.report("bitmap list d.qcow2");
    assert_eq!(list["bitmaps"][0]["name"], "\\xffyz");
    assert_eq!(list["bitmaps"][0]["name_bytes_hex"], "ff797a");
    env.report("bitmap remove d.qcow2 --all");
    env.is_clean("d.qcow2");
}

/// A bitmap that nobody saved can only be removed, and the error says so.
#[test]
fn what_was_not_saved_is_only_removed() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 2M");
    env.qemu_img("create -q -f qcow2 other.qcow2 2M");
    env.qemu_img("bitmap --add d.qcow2 a");
    env.qemu_img("bitmap --add other.qcow2 a");
    let mut killed = Command::new("qemu-io");
    killed.current_dir(env.path("")).args(["-f", "qcow2", "-c", "write 0 64k", "-c", "sigraise 9"]);
    assert_eq!(killed.arg("d.qcow2").output().expect("qemu-io").status.code(), None);
    let list = env.report("bitmap list d.qcow2 --count");
    assert_eq!(list["bitmaps"][0]["in_use"], true, "{list:#}");
    assert_eq!(list["bitmaps"][0].get("dirty_bytes"), None, "{list:#}");
    assert_eq!(as_we_tell(&list), as_qemu_tells(&env, "d.qcow2"));
    for action in ["clear d.qcow2 a", "enable d.qcow2 a", "disable d.qcow2 a"] {
        let error = env.refuses(&format!("bitmap {action}"), "dirty");
        assert!(message(&error).contains("only be removed"), "{error:#}");
        let hint = error["data"]["hint"].as_str().unwrap_or_default();
        assert!(hint.contains("vmdisk bitmap remove"), "{error:#}");
    }
    env.refuses("bitmap merge other.qcow2 a a --source d.qcow2", "dirty");
    env.refuses("bitmap merge d.qcow2 a a --source other.qcow2", "dirty");
    // Another may be added beside it, and stays when that goes.
    env.report("bitmap add d.qcow2 b");
    let report = env.report("bitmap remove d.qcow2 a");
    assert!(report["freed_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{report:#}");
    assert_eq!(as_we_tell(&report), as_qemu_tells(&env, "d.qcow2"));
    env.is_clean("d.qcow2");
}

/// What is written by vmdisk takes back that bitmaps are true; they are told as lost, their room as
/// leaked, and a new one makes a new beginning.
#[test]
fn what_vmdisk_writes_makes_bitmaps_worthless() {
    let env = Env::new();
    env.report("create d.qcow2 --size 2M");
    env.report("bitmap add d.qcow2 a");
    env.report("bitmap add d.qcow2 b");
    let error = env.refuses("resize d.qcow2 --size 4M", "unsupported_feature");
    assert!(message(&error).contains("bitmaps"), "{error:#}");
    let image = Image::open(env.path("d.qcow2"), &OpenOptions::to_write()).expect("an image");
    image.write_at(70_000, &[7; 5000]).expect("a write");
    image.close().expect("the end");
    let list = env.report("bitmap list d.qcow2");
    assert_eq!((&list["bitmaps"], &list["lost"]), (&json!([]), &json!(2)));
    let error = env.refuses("bitmap clear d.qcow2 a", "not_found");
    assert!(message(&error).contains("does not keep bitmaps"), "{error:#}");
    let check = env.vmdisk("check d.qcow2 --json").exits(3).json();
    assert!(check["leaks"].as_u64().is_some_and(|leaks| leaks > 0), "{check:#}");
    let report = env.report("bitmap add d.qcow2 a");
    assert_eq!(as_we_tell(&report), as_qemu_tells(&env, "d.qcow2"));
    assert!(report["notes"][0].as_str().is_some_and(|note| note.contains("2 bitmaps were lost")));
    env.report("check d.qcow2 --repair leaks");
    env.is_clean("d.qcow2");
    let disk = env.disk("qcow2", "d.qcow2");
    env.report("bitmap remove d.qcow2 --all");
    same_bytes(&env.disk("qcow2", "d.qcow2"), &disk, "the disk");
    env.report("resize d.qcow2 --size 4M");
    env.is_clean("d.qcow2");
    // Those that nobody vouches for go too.
    env.qemu_img("bitmap --add d.qcow2 a");
    env.patch("d.qcow2", 95, &[0]);
    assert_eq!(env.report("bitmap remove d.qcow2 --all")["changed"], true);
    assert_eq!(env.report("bitmap remove d.qcow2 --all")["changed"], false);
    assert_eq!(env.report("bitmap list d.qcow2")["lost"], 0);
}

/// However often bitmaps change, the file does not become longer: room that is free is used first.
#[test]
fn a_file_does_not_grow_with_each_change() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 1G");
    env.report("bitmap add d.qcow2 a");
    env.report("bitmap disable d.qcow2 a");
    let len = || std::fs::metadata(env.path("d.qcow2")).expect("the image").len();
    let before = len();
    for _ in 0..5 {
        env.report("bitmap enable d.qcow2 a");
        env.report("bitmap disable d.qcow2 a");
    }
    assert_eq!(len(), before);
    env.is_clean("d.qcow2");
}

/// While a machine uses the image, bitmaps are told as in use and nothing is changed.
#[test]
fn while_a_machine_runs() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 2M");
    env.report("bitmap add d.qcow2 a");
    let socket = env.path("s").display().to_string();
    let machine = env.spawn("qemu-nbd", ["-t", "-f", "qcow2", "-k", &socket, "d.qcow2"]);
    // QEMU does not vouch for them for a moment while it writes that they are in use.
    until("bitmaps in use", || env.report("bitmap list d.qcow2")["bitmaps"][0]["in_use"] == true);
    env.fails("bitmap add d.qcow2 b", 75, "locked");
    machine.signal("TERM");
    machine.wait();
    assert_eq!(env.report("bitmap list d.qcow2")["bitmaps"][0]["in_use"], false);
}
