//! What a person sees and does, and what of a snapshot only its entry says.

use serde_json::Value;

use crate::support::{Env, message};

const IMAGE: &str = "d.qcow2";

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Where the entry of the only snapshot is.
fn entry(env: &Env) -> u64 {
    word(&std::fs::read(env.path(IMAGE)).expect("the image"), 64)
}

/// An image whose snapshot has more than its disk: the last megabyte counts as a machine's state.
fn with_state(env: &Env) {
    env.qemu_img("create -q -f qcow2 -o cluster_size=4k d.qcow2 8M");
    env.qemu_io("qcow2", IMAGE, "write -P 5 0 8M");
    env.qemu_img("snapshot -c state d.qcow2");
    env.qemu_io("qcow2", IMAGE, "write -P 6 1M 7M");
    // A table of 4 KiB maps 2 MiB.
    env.patch(IMAGE, entry(env) + 40, &(2u64 << 20).to_be_bytes());
    env.patch(IMAGE, entry(env) + 48, &(6u64 << 20).to_be_bytes());
    env.patch(IMAGE, entry(env) + 24, &90_061_500_000_000u64.to_be_bytes());
    env.is_clean(IMAGE);
}

#[test]
fn a_person_reads_what_there_is() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 64M");
    env.qemu_io("qcow2", IMAGE, "write -P 5 0 1M");
    let said = |line: &str| env.vmdisk(line).exits(0).stdout;
    assert_eq!(said("snapshot list d.qcow2"), "d.qcow2 has no snapshots\n");
    let made = said("snapshot create d.qcow2 first");
    assert_eq!(made, "Kept snapshot 'first' (id 1) of d.qcow2\n");
    env.qemu_io("qcow2", IMAGE, "write -P 6 0 256k");
    said("snapshot create d.qcow2 second");
    let list = said("snapshot list d.qcow2");
    let rows: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..3], ["id", "name", "taken"]);
    assert_eq!((rows[1][0], rows[1][1], rows[2][0], rows[2][1]), ("1", "first", "2", "second"));
    // The same day and second as QEMU has it.
    let theirs = env.run("env", ["TZ=UTC", "qemu-img", "snapshot", "-l", IMAGE]).exits(0).stdout;
    for row in &rows[1..] {
        assert!(theirs.contains(&format!("{} {}", row[2], row[3])), "{theirs}{list}");
    }
    let shown = env.report("snapshot show d.qcow2 first");
    // Four clusters that were written since, and its L1 and L2 table.
    assert_eq!(shown["exclusive_bytes"], (4 + 2) << 16, "{shown:#}");
    assert!(said("snapshot show d.qcow2 1").contains("held by it alone  384 KiB"));
    let deleted = env.report("snapshot delete d.qcow2 first");
    assert_eq!(deleted["freed_bytes"], shown["exclusive_bytes"], "{deleted:#}");
    assert!(said("snapshot apply d.qcow2 second").starts_with("Applied snapshot 'second' (id 2)"));
    env.is_clean(IMAGE);
}

/// A name that QEMU would take for an id is nobody's id, and no id is given twice.
#[test]
fn ours_are_never_ambiguous() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 1M");
    let create = |name: &str| {
        env.report(&format!("snapshot create d.qcow2 {name}"))["snapshot"]["id"].clone()
    };
    assert_eq!([create("2"), create("x"), create("4")], ["1", "3", "5"].map(Value::from));
    env.report("snapshot delete d.qcow2 5");
    // QEMU counts on from what is there.
    env.qemu_img("snapshot -c theirs d.qcow2");
    assert_eq!(env.qemu_info(IMAGE)["snapshots"][2]["id"], "4");
    for name in ["2", "x", "3", "theirs"] {
        env.refuses(&format!("snapshot create d.qcow2 {name}"), "exists");
    }
}

/// A machine's state is never put back, and never lost while its snapshot is there.
#[test]
fn the_state_of_a_machine_stays_with_its_snapshot() {
    let env = Env::new();
    with_state(&env);
    let shown = env.report("snapshot show d.qcow2 state");
    assert_eq!(shown["snapshot"]["vm_state_bytes"], 2 << 20);
    assert_eq!(shown["snapshot"]["vm_clock_nanoseconds"], 90_061_500_000_000u64);
    assert_eq!(env.qemu_info(IMAGE)["snapshots"][0]["vm-state-size"], 2 << 20);
    let text = env.vmdisk("snapshot show d.qcow2 state").exits(0).stdout;
    assert!(text.contains("machine state     2 MiB") && text.contains("90061.500 s"), "{text}");

    let error = env.refuses("snapshot apply d.qcow2 state", "unsupported_feature");
    assert!(message(&error).contains("2097152 bytes of a running machine's state"), "{error:#}");
    assert!(error["data"]["hint"].as_str().is_some_and(|hint| hint.contains("--disk-only")));

    let applied = env.report("snapshot apply d.qcow2 state --disk-only");
    assert_eq!(applied["virtual_size_bytes"], 6 << 20);
    env.is_clean(IMAGE);
    assert!(env.disk("qcow2", IMAGE) == vec![5; 6 << 20]);
    // What is written now, and other snapshots, do not touch it.
    env.report("snapshot create d.qcow2 other");
    env.qemu_io("qcow2", IMAGE, "write -P 7 0 6M");
    env.report("snapshot delete d.qcow2 other");
    env.is_clean(IMAGE);
    let shown = env.report("snapshot show d.qcow2 state");
    assert_eq!(shown["exclusive_bytes"], (8 << 20) + (4 + 1) * 4096, "{shown:#}");
    // QEMU, which knows no better, finds all of it.
    env.patch(IMAGE, entry(&env) + 48, &(8u64 << 20).to_be_bytes());
    env.qemu_img("snapshot -a state d.qcow2");
    assert!(env.disk("qcow2", IMAGE) == vec![5; 8 << 20]);
}

/// The disk gets the size that it had.
#[test]
fn a_disk_of_another_size_is_applied_whole() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 -o cluster_size=4k d.qcow2 8M");
    env.qemu_io("qcow2", IMAGE, "write -P 5 0 8M");
    env.report("snapshot create d.qcow2 large");
    env.report("resize d.qcow2 --size 1M --shrink");
    env.report("snapshot create d.qcow2 small");
    for (name, size) in [("large", 8), ("small", 1), ("large", 8)] {
        let applied = env.report(&format!("snapshot apply d.qcow2 {name}"));
        assert_eq!(applied["virtual_size_bytes"], size << 20);
        assert!(env.disk("qcow2", IMAGE) == vec![5; size << 20], "{name}");
        env.is_clean(IMAGE);
    }
}

/// What an entry says that nobody here knows is kept, byte for byte, whatever is added and deleted.
#[test]
fn unknown_extra_data_is_kept() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 -o cluster_size=4k d.qcow2 1M");
    env.qemu_img("snapshot -c strange d.qcow2");
    let at = entry(&env);
    let mut bytes =
        std::fs::read(env.path(IMAGE)).expect("the image")[at as usize..][..64].to_vec();
    bytes[36..40].copy_from_slice(&77u32.to_be_bytes());
    bytes.extend((0..53).map(|n| 200 + n));
    bytes.extend(b"1strange");
    env.patch(IMAGE, at, &bytes);
    env.is_clean(IMAGE);
    env.report("snapshot create d.qcow2 after");
    env.report("snapshot create d.qcow2 last");
    env.report("snapshot delete d.qcow2 after");
    let table = std::fs::read(env.path(IMAGE)).expect("the image");
    assert!(table[word(&table, 64) as usize..].starts_with(&bytes));
    let info = env.qemu_info(IMAGE);
    let names: Vec<_> = info["snapshots"].as_array().expect("snapshots").iter().collect();
    assert_eq!(
        (names.len(), &names[0]["name"], &names[1]["name"]),
        (2, &"strange".into(), &"last".into())
    );
    env.is_clean(IMAGE);
}

/// Bitmaps stay true, for the disk is the same.
#[test]
fn bitmaps_stay_true() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 4M");
    env.qemu_img("bitmap --add d.qcow2 a");
    env.qemu_io("qcow2", IMAGE, "write -P 5 1M 64k");
    let flags =
        |env: &Env| env.qemu_info(IMAGE)["format-specific"]["data"]["bitmaps"][0]["flags"].clone();
    env.report("snapshot create d.qcow2 one");
    env.is_clean(IMAGE);
    assert_eq!(flags(&env), serde_json::json!(["auto"]));
    let error = env.refuses("snapshot apply d.qcow2 one", "unsupported_feature");
    assert!(message(&error).contains("bitmaps"), "{error:#}");
    env.report("snapshot delete d.qcow2 one");
    assert_eq!(flags(&env), serde_json::json!(["auto"]));
    env.is_clean(IMAGE);
}
