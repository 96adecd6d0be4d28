//! `check --for hyperkit`: an image for each rule of that reader, and what its sessions leave.

use std::fs;

use serde_json::Value;

use crate::support::Env;

/// Where fields of the header are, in bytes.
const BACKING: u64 = 8;
const CRYPT_METHOD: u64 = 32;
const L1_OFFSET: u64 = 40;
const REFCOUNT_TABLE: u64 = 48;
const INCOMPATIBLE: u64 = 72;
const COMPATIBLE: u64 = 80;
const AUTOCLEAR: u64 = 88;
const EXTENSIONS: u64 = 104;

const CLUSTER: usize = 65536;

/// An image of the preset with 1024 data clusters.
fn preset() -> Env {
    let env = Env::new();
    let options = "--size 64M --preset hyperkit --preallocation metadata --guest none";
    env.vmdisk(&format!("create d.qcow2 {options}")).exits(0);
    env
}

/// An image of QEMU's with these options and some data.
fn of_qemu(options: &str) -> Env {
    let env = Env::new();
    env.qemu_img(&format!("create -q -f qcow2 -o {options} d.qcow2 64M"));
    env.qemu_io("qcow2", "d.qcow2", "write -P 7 0 256k");
    env
}

/// The same, with lazy refcounts and dirty as the preset.
fn lazy(options: &str) -> Env {
    let env = of_qemu(&format!("lazy_refcounts=on{options}"));
    dirty(&env);
    env
}

fn dirty(env: &Env) {
    let now = word(env, INCOMPATIBLE);
    env.patch("d.qcow2", INCOMPATIBLE, &(now | 1).to_be_bytes());
}

fn patched(at: u64, bytes: &[u8]) -> Env {
    let env = preset();
    env.patch("d.qcow2", at, bytes);
    env
}

fn bytes(env: &Env) -> Vec<u8> {
    fs::read(env.path("d.qcow2")).expect("the image")
}

fn word(env: &Env, at: u64) -> u64 {
    let at = at as usize;
    u64::from_be_bytes(bytes(env)[at..at + 8].try_into().expect("8 bytes"))
}

/// Where the first entry of the first L2 table is.
fn l2(env: &Env) -> u64 {
    word(env, word(env, L1_OFFSET)) & 0x00ff_ffff_ffff_fe00
}

/// With another first L2 entry, made from the first two.
fn remapped(entry: impl FnOnce(u64, u64) -> u64) -> Env {
    let env = preset();
    let at = l2(&env);
    let entry = entry(word(&env, at), word(&env, at + 8));
    env.patch("d.qcow2", at, &entry.to_be_bytes());
    env
}

/// With the first block of counts all zeros.
fn uncount(env: &Env) {
    let block = word(env, word(env, REFCOUNT_TABLE));
    env.patch("d.qcow2", block, &[0; CLUSTER]);
}

/// An image of version 2 with data behind a header as a session with discard leaves it.
fn discarded() -> Env {
    let env = of_qemu("compat=0.10");
    uncount(&env);
    let names = [(0u8, 0u8, "dirty bit"), (0, 1, "corrupt bit"), (1, 0, "lazy refcounts")];
    let mut fields = [1u64, 1, 0, 4 << 32 | 104].map(u64::to_be_bytes).concat();
    fields.extend(0x6803_f857_u32.to_be_bytes());
    fields.extend((48 * names.len() as u32).to_be_bytes());
    for (kind, bit, name) in names {
        let mut record = vec![kind, bit];
        record.extend(name.as_bytes());
        record.resize(48, 0);
        fields.extend(record);
    }
    env.patch("d.qcow2", INCOMPATIBLE, &fields);
    env
}

fn checked(env: &Env, flags: &str, code: i32) -> Value {
    env.vmdisk(&format!("check d.qcow2 --json {flags}")).exits(code).json()
}

/// The names of the rules that are broken, in the order of the report.
fn names(report: &Value) -> Vec<&str> {
    let broken = report["for"]["broken"].as_array().expect("a list");
    broken.iter().map(|broken| broken["rule"].as_str().expect("a name")).collect()
}

/// Whoever reads the report finds the rule, what comes of it, and where.
fn broken(env: &Env, rules: &[&str]) -> Value {
    let before = bytes(env);
    let report = checked(env, "--for hyperkit", if rules.is_empty() { 0 } else { 2 });
    assert_eq!(report["for"]["reader"], "hyperkit");
    assert_eq!(names(&report), rules, "{report:#}");
    let text = env.vmdisk("check d.qcow2 --for hyperkit").stdout;
    for rule in rules {
        assert!(text.contains(&format!("({rule})")), "{text}");
    }
    assert!(bytes(env) == before, "a check changes nothing");
    report["for"]["broken"].clone()
}

#[test]
fn what_the_preset_writes_breaks_no_rule() {
    for options in ["", "--preallocation metadata", "--cluster-size 4K", "--cluster-size 2M"] {
        let env = Env::new();
        env.vmdisk(&format!("create d.qcow2 --size 1G --preset hyperkit {options}")).exits(0);
        broken(&env, &[]);
        let text = env.vmdisk("check d.qcow2 --for hyperkit").exits(0).stdout;
        assert!(text.contains("hyperkit takes it as it is"), "{text}");
        assert_eq!(checked(&env, "", 0).get("for"), None, "only where it is asked for");
    }
}

#[test]
fn each_rule_of_the_header_is_named() {
    let effect = |env: &Env, rule: &str, effect: &str, at: u64| {
        let broken = broken(env, &[rule]);
        assert_eq!(broken[0]["effect"], effect, "{rule}");
        assert_eq!(broken[0]["host_offset_bytes"], at, "{rule}");
        assert_eq!(broken[0]["count"], 1, "{rule}");
    };
    effect(&lazy(""), "header_length", "refused", 100);
    effect(&patched(AUTOCLEAR, &4u64.to_be_bytes()), "autoclear_features", "refused", 88);
    effect(&patched(CRYPT_METHOD, &1u32.to_be_bytes()), "encryption", "reads_otherwise", 32);
    effect(&patched(COMPATIBLE, &[0; 8]), "not_lazy", "freezes", 80);
    effect(&patched(INCOMPATIBLE, &[0; 8]), "lazy_not_dirty", "miscounts", 72);
    // The corrupt bit is taken.
    broken(&patched(INCOMPATIBLE, &3u64.to_be_bytes()), &[]);

    let extension = [0x1234_5678_u32, 400].map(u32::to_be_bytes).concat();
    effect(&patched(EXTENSIONS, &extension), "extensions_beyond_sector", "refused", 104);
    let extension = [0x1234_5678_u32, 392].map(u32::to_be_bytes).concat();
    broken(&patched(EXTENSIONS, &extension), &[]);

    // Nothing is opened that an image names.
    let env = preset();
    env.patch("d.qcow2", 512, b"none");
    env.patch("d.qcow2", BACKING, &[&512u64.to_be_bytes()[..], &4u32.to_be_bytes()].concat());
    effect(&env, "backing_file", "reads_otherwise", 8);
}

#[test]
fn each_feature_of_qemu_is_named() {
    let features = ["header_length", "incompatible_features"];
    for options in [",extended_l2=on", ",compression_type=zstd"] {
        assert_eq!(broken(&lazy(options), &features)[1]["effect"], "refused");
    }
    // The name of the file lies behind the names of features.
    let with_name = [&features[..], &["extensions_beyond_sector"]].concat();
    broken(&lazy(",data_file=data.raw"), &with_name);
    let found = broken(&lazy(",refcount_bits=64"), &["header_length", "refcount_bits"]);
    assert_eq!(found[1]["effect"], "miscounts");
    for size in ["512", "2k"] {
        broken(&lazy(&format!(",cluster_size={size}")), &["header_length", "cluster_size"]);
    }
    broken(&lazy(",cluster_size=4k"), &["header_length"]);
    broken(&lazy(",cluster_size=2M"), &["header_length"]);
    broken(&of_qemu("compat=0.10,cluster_size=2M"), &["cluster_size", "not_lazy"]);
    broken(&of_qemu("compat=0.10,cluster_size=1M"), &["not_lazy"]);
    broken(&of_qemu("compat=0.10,cluster_size=4k"), &["not_lazy"]);

    let env = of_qemu("lazy_refcounts=on");
    for name in ["one", "two"] {
        env.qemu_img(&format!("snapshot -c {name} d.qcow2"));
    }
    dirty(&env);
    // What a snapshot shares with the disk has one reference in the active tables.
    let found = broken(&env, &["header_length", "snapshots"]);
    assert_eq!((&found[1]["effect"], &found[1]["count"]), (&"destroys".into(), &2.into()));

    let env = of_qemu("lazy_refcounts=on");
    env.qemu_img("convert -c -O qcow2 -o lazy_refcounts=on d.qcow2 packed.qcow2");
    fs::rename(env.path("packed.qcow2"), env.path("d.qcow2")).expect("the packed image");
    dirty(&env);
    let found = broken(&env, &["header_length", "compressed_clusters"]);
    assert_eq!((&found[1]["effect"], &found[1]["count"]), (&"refused".into(), &4.into()));
    assert_eq!(found[1]["guest_offset_bytes"], 0);

    let env = of_qemu("lazy_refcounts=on");
    env.qemu_io("qcow2", "d.qcow2", "write -z 1M 1M");
    env.qemu_io("qcow2", "d.qcow2", "write -z 0 64k");
    dirty(&env);
    let found = broken(&env, &["header_length", "zero_clusters"]);
    assert_eq!((&found[1]["effect"], &found[1]["count"]), (&"destroys".into(), &17.into()));
    assert_eq!(found[1]["guest_offset_bytes"], 0);
}

#[test]
fn each_rule_of_the_tables_is_named() {
    let first = |env: &Env, rule: &str, effect: &str| {
        let broken = broken(env, &[rule]);
        assert_eq!((&broken[0]["effect"], &broken[0]["count"]), (&effect.into(), &1.into()));
        assert_eq!(broken[0]["host_offset_bytes"], l2(env) + 8 * broken_at(rule));
        assert_eq!(broken[0]["guest_offset_bytes"], CLUSTER as u64 * broken_at(rule));
    };
    // Of two owners the second is told.
    fn broken_at(rule: &str) -> u64 {
        u64::from(rule == "shared_clusters")
    }
    first(&remapped(|entry, _| entry | 1), "zero_clusters", "destroys");
    first(&remapped(|_, _| 1), "zero_clusters", "destroys");
    first(&remapped(|_, next| next), "shared_clusters", "refused");
    first(&remapped(|_, _| 1 << 63 | 1 << 40), "beyond_file", "refused");

    // A table of a snapshot's is nobody else's; one that the disk has is.
    let env = preset();
    let l1 = word(&env, L1_OFFSET);
    env.patch("d.qcow2", l1, &(1u64 << 63 | 1 << 40).to_be_bytes());
    assert_eq!(broken(&env, &["beyond_file"])[0]["host_offset_bytes"], 1u64 << 40);
}

/// The counts of an image that hyperkit has used with discard are zeros.
#[test]
fn counts_that_are_all_zeros_are_mended() {
    let env = preset();
    uncount(&env);
    let report = checked(&env, "--for hyperkit", 2);
    assert_eq!((names(&report), &report["verdict"]), (vec![], &"corrupt".into()));
    let report = checked(&env, "--repair all", 0);
    assert_eq!((&report["verdict"], &report["dirty"]), (&"clean".into(), &true.into()));
    broken(&env, &[]);
    env.is_clean("d.qcow2");
}

#[test]
fn what_a_session_leaves_in_version_2_is_removed() {
    let env = discarded();
    let (before, disk) = (bytes(&env), env.disk("qcow2", "d.qcow2"));
    let rules = ["not_lazy", "v3_fields_in_v2"];
    assert_eq!(broken(&env, &rules)[1]["host_offset_bytes"], INCOMPATIBLE);
    let report = checked(&env, "--repair all --for hyperkit --dry-run", 2);
    assert_eq!(names(&report), rules, "a dry run leaves it");
    assert!(bytes(&env) == before);

    let report = checked(&env, "--repair all --for hyperkit", 2);
    assert_eq!((names(&report), &report["verdict"]), (vec!["not_lazy"], &"clean".into()));
    assert_eq!(bytes(&env)[INCOMPATIBLE as usize..512], [0; 440]);
    env.is_clean("d.qcow2");
    assert!(env.disk("qcow2", "d.qcow2") == disk, "nothing is lost");
    assert_eq!(checked(&env, "--repair all", 0)["repair"]["changed"], false);

    let saved = env.names().into_iter().find(|name| name.contains("repair")).expect("a file");
    assert_eq!(env.report(&format!("check --undo {saved}"))["changed"], true);
    assert!(bytes(&env) == before, "it is what it was, byte for byte");
}

/// Without wrong counts too; and no other bytes are taken for what a session leaves.
#[test]
fn nothing_else_in_version_2_is_removed() {
    let sound = of_qemu("compat=0.10");
    let leftovers = &bytes(&discarded())[INCOMPATIBLE as usize..256];
    sound.patch("d.qcow2", INCOMPATIBLE, leftovers);
    assert_eq!(checked(&sound, "--repair all", 0)["repair"]["changed"], true);
    assert_eq!(bytes(&sound)[INCOMPATIBLE as usize..512], [0; 440]);
    sound.is_clean("d.qcow2");

    let env = Env::new();
    env.qemu_img("create -q -f raw base.raw 64M");
    for format in ["raw", "qcow2"] {
        let base = format!("base.{format}");
        env.qemu_img(&format!("create -q -f {format} {base} 64M"));
        env.qemu_img(&format!(
            "create -q -f qcow2 -o compat=0.10,backing_file={base},backing_fmt={format} d.qcow2"
        ));
        let before = bytes(&env);
        broken(&env, &["backing_file", "not_lazy"]);
        assert_eq!(checked(&env, "--repair all", 0)["repair"]["changed"], false);
        assert!(bytes(&env) == before);
    }
    // Where there is a name, somebody else has written since.
    let name = [&256u64.to_be_bytes()[..], &4u32.to_be_bytes()].concat();
    let named = discarded();
    named.patch("d.qcow2", BACKING, &name);
    named.patch("d.qcow2", 256, b"none");
    let report = checked(&named, "--repair all --for hyperkit", 2);
    assert_eq!(names(&report), ["backing_file", "not_lazy", "v3_fields_in_v2"]);
    assert_eq!(report["verdict"], "clean", "its counts are mended");
    // One field that is not as it leaves them.
    for (at, byte) in [(79, 4), (87, 2), (95, 1), (99, 5), (103, 112)] {
        let env = discarded();
        env.patch("d.qcow2", at, &[byte]);
        let report = checked(&env, "--repair all --for hyperkit", 2);
        assert_eq!(names(&report), ["not_lazy"], "{at}");
        assert_eq!(bytes(&env)[at as usize], byte);
    }
}

/// A session with discard makes version 3 lazy, and does not say that its counts are not kept.
#[test]
fn an_image_that_is_never_counted_is_marked() {
    let env = patched(INCOMPATIBLE, &[0; 8]);
    let before = bytes(&env);
    let report = checked(&env, "--repair all", 0);
    assert_eq!((&report["dirty"], &report["repair"]["changed"]), (&false.into(), &false.into()));
    let report = checked(&env, "--repair leaks --for hyperkit", 2);
    assert_eq!((names(&report), &report["dirty"]), (vec!["lazy_not_dirty"], &false.into()));
    assert!(bytes(&env) == before);

    uncount(&env);
    let before = bytes(&env);
    let report = checked(&env, "--repair all --for hyperkit", 0);
    assert_eq!((&report["dirty"], &report["repair"]["changed"]), (&true.into(), &true.into()));
    broken(&env, &[]);
    env.is_clean("d.qcow2");
    let report = checked(&env, "--repair all --for hyperkit", 0);
    assert_eq!(report["repair"]["changed"], false);
    let saved = env.names().into_iter().find(|name| name.contains("repair")).expect("a file");
    env.report(&format!("check --undo {saved}"));
    assert!(bytes(&env) == before, "it is what it was, byte for byte");

    // What hyperkit does not open stays as QEMU keeps it.
    let env = of_qemu("lazy_refcounts=on");
    let report = checked(&env, "--repair all --for hyperkit", 2);
    assert_eq!(names(&report), ["header_length", "lazy_not_dirty"]);
    assert_eq!(report["repair"]["changed"], false);
}

#[test]
fn only_readers_that_are_known_are_asked_for() {
    let env = preset();
    for usage in ["check d.qcow2 --for nobody", "check --undo f --for hyperkit"] {
        env.vmdisk(usage).exits(64);
    }
    env.qemu_img("create -q -f raw d.raw 1M");
    env.fails("check d.raw --for hyperkit", 63, "unsupported_feature");
}
