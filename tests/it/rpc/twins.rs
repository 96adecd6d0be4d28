//! The command line and the protocol say the same of the same.

use serde_json::{Value, json};

use super::{Session, one_shot, request};
use crate::support::{Env, PUBLIC_KEY, VMDISK};

/// Every verb, asked in both ways in folders that are twins: the same object, member for member
/// and in the same order, and the same exit code.
#[test]
fn reports_are_the_same() {
    let calls = [
        (
            "create d.qcow2 --size 1M --ssh-key id.pub",
            "create",
            json!({ "path": "d.qcow2", "size": "1M", "guest": { "ssh_key_files": ["id.pub"] } }),
        ),
        (
            "create d.raw --docker-machine-mb 2 --mode 0640",
            "create",
            json!({ "path": "d.raw", "docker_machine_mb": 2, "mode": "0640" }),
        ),
        (
            "create over.qcow2 --backing d.qcow2 --cluster-size 4096 --extended-l2 off",
            "create",
            json!({ "path": "over.qcow2", "backing": { "path": "d.qcow2" },
                "layout": { "cluster_size": 4096, "extended_l2": false } }),
        ),
        (
            "create d.qcow2 --size 1M --if-exists keep",
            "create",
            json!({ "path": "d.qcow2", "size": 1 << 20, "if_exists": "keep" }),
        ),
        (
            "ensure e.qcow2 --size 1000001B",
            "ensure",
            json!({ "path": "e.qcow2", "size": 1_000_001 }),
        ),
        ("ensure e.qcow2 --size 2M", "ensure", json!({ "path": "e.qcow2", "size": "2M" })),
        ("ensure e.qcow2 --size 2M", "ensure", json!({ "path": "e.qcow2", "size": "2M" })),
        (
            "resize d.raw --size 4M --preallocation falloc",
            "resize",
            json!({ "path": "d.raw", "size": "4M", "preallocation": "falloc" }),
        ),
        (
            "resize e.qcow2 --size 1M --shrink",
            "resize",
            json!({ "path": "e.qcow2", "size": "1M", "shrink": true }),
        ),
        (
            "rebase over.qcow2 --backing e.qcow2 --backing-store as-given",
            "rebase",
            json!({ "path": "over.qcow2",
                "backing": { "path": "e.qcow2", "store": "as-given" } }),
        ),
        (
            "rebase over.qcow2 --unsafe --backing d.qcow2",
            "rebase",
            json!({ "path": "over.qcow2", "unsafe": true, "backing": { "path": "d.qcow2" } }),
        ),
        (
            "amend e.qcow2 --refcount-bits 32 --cluster-size 128K --dry-run",
            "amend",
            json!({ "path": "e.qcow2", "refcount_bits": 32, "cluster_size": "128K",
                "dry_run": true }),
        ),
        (
            "amend e.qcow2 --compat 1.1 --lazy-refcounts on",
            "amend",
            json!({ "path": "e.qcow2", "compat": "1.1", "lazy_refcounts": true }),
        ),
        (
            "amend e.qcow2 --compat 0.10 --lazy-refcounts on",
            "amend",
            json!({ "path": "e.qcow2", "compat": "0.10", "lazy_refcounts": true }),
        ),
        (
            "rebase over.qcow2 --backing over.qcow2",
            "rebase",
            json!({ "path": "over.qcow2", "backing": { "path": "over.qcow2" } }),
        ),
        ("info d.qcow2", "info", json!({ "path": "d.qcow2" })),
        ("info over.qcow2 --chain", "info", json!({ "path": "over.qcow2", "chain": true })),
        ("info d.raw --format raw", "info", json!({ "path": "d.raw", "format": "raw" })),
        (
            "chain over.qcow2 --dependents .",
            "chain",
            json!({ "path": "over.qcow2", "dependents": "." }),
        ),
        ("map over.qcow2", "map", json!({ "path": "over.qcow2" })),
        (
            "map d.qcow2 -s 512 -l 1M --svg d.svg",
            "map",
            json!({ "path": "d.qcow2", "start_offset": 512, "max_length": "1M", "svg": "d.svg" }),
        ),
        ("measure --size 1G", "measure", json!({ "size": "1G" })),
        (
            "measure over.qcow2 --format qcow2 --cluster-size 4096",
            "measure",
            json!({ "path": "over.qcow2", "format": "qcow2", "layout": { "cluster_size": 4096 } }),
        ),
        ("inspect d.qcow2", "inspect", json!({ "path": "d.qcow2" })),
        (
            "inspect d.qcow2 --untrusted --max-size 1M --format qcow2",
            "inspect",
            json!({ "path": "d.qcow2", "untrusted": true, "max_size": "1M", "format": "qcow2" }),
        ),
        ("salvage d.qcow2 o.raw", "salvage", json!({ "path": "d.qcow2", "out": "o.raw" })),
        (
            "salvage d.qcow2 o.raw --if-exists replace --format qcow2",
            "salvage",
            json!({ "path": "d.qcow2", "out": "o.raw", "if_exists": "replace", "format": "qcow2" }),
        ),
        ("flatten d.qcow2", "flatten", json!({ "path": "d.qcow2" })),
        ("compact d.qcow2", "compact", json!({ "path": "d.qcow2" })),
        (
            "clone d.qcow2 twin.qcow2 --method copy",
            "clone",
            json!({ "path": "d.qcow2", "out": "twin.qcow2", "method": "copy" }),
        ),
        (
            "commit over.qcow2 --into d.qcow2 --keep",
            "commit",
            json!({ "path": "over.qcow2", "into": "d.qcow2", "overlay": "keep" }),
        ),
        ("snapshot list d.qcow2", "snapshot_list", json!({ "path": "d.qcow2" })),
        (
            "snapshot apply d.qcow2 none --disk-only --force",
            "snapshot_apply",
            json!({ "path": "d.qcow2", "snapshot": "none", "disk_only": true, "force": true }),
        ),
        (
            "convert d.qcow2 c.qcow2 --compress zlib --level 9 --verify --cluster-size 4K",
            "convert",
            json!({ "path": "d.qcow2", "out": "c.qcow2", "compress": "zlib", "level": 9,
                "verify": true, "layout": { "cluster_size": "4K" } }),
        ),
        (
            "convert over.qcow2 c.raw --sparse-size 0 --mode 640",
            "convert",
            json!({ "path": "over.qcow2", "out": "c.raw", "sparse_size": 0, "mode": "640" }),
        ),
        (
            "create d.qcow2 --size 1M --if-exists replace",
            "create",
            json!({ "path": "d.qcow2", "size": "1M", "if_exists": "replace" }),
        ),
        (
            "convert e.qcow2 c.raw --if-exists replace --force",
            "convert",
            json!({ "path": "e.qcow2", "out": "c.raw", "if_exists": "replace", "force": true }),
        ),
        (
            "clone e.qcow2 c.raw --if-exists replace --force --method copy",
            "clone",
            json!({ "path": "e.qcow2", "out": "c.raw", "if_exists": "replace", "force": true,
                "method": "copy" }),
        ),
        (
            "convert over.qcow2 c.raw --if-exists replace",
            "convert",
            json!({ "path": "over.qcow2", "out": "c.raw", "if_exists": "replace" }),
        ),
        (
            "salvage d.qcow2 o.raw --if-exists replace --force",
            "salvage",
            json!({ "path": "d.qcow2", "out": "o.raw", "if_exists": "replace", "force": true }),
        ),
        ("hash c.qcow2", "hash", json!({ "path": "c.qcow2" })),
        (
            "compare c.qcow2 c.raw --format qcow2",
            "compare",
            json!({ "path": "c.qcow2", "other": "c.raw", "format": "qcow2" }),
        ),
        (
            "bitmap add d.qcow2 a --granularity 4K --disabled",
            "bitmap_add",
            json!({ "path": "d.qcow2", "name": "a", "granularity": "4K", "disabled": true }),
        ),
        ("bitmap enable d.qcow2 a", "bitmap_enable", json!({ "path": "d.qcow2", "name": "a" })),
        (
            "bitmap add over.qcow2 b --format qcow2",
            "bitmap_add",
            json!({ "path": "over.qcow2", "name": "b", "format": "qcow2" }),
        ),
        (
            "bitmap merge over.qcow2 b a --source d.qcow2",
            "bitmap_merge",
            json!({ "path": "over.qcow2", "name": "b", "from": ["a"], "source": "d.qcow2" }),
        ),
        ("bitmap clear over.qcow2 b", "bitmap_clear", json!({ "path": "over.qcow2", "name": "b" })),
        ("bitmap disable d.qcow2 a", "bitmap_disable", json!({ "path": "d.qcow2", "name": "a" })),
        ("bitmap list d.qcow2 --count", "bitmap_list", json!({ "path": "d.qcow2", "count": true })),
        ("bitmap remove d.qcow2 a", "bitmap_remove", json!({ "path": "d.qcow2", "name": "a" })),
        (
            "bitmap remove over.qcow2 --all",
            "bitmap_remove",
            json!({ "path": "over.qcow2", "all": true }),
        ),
        ("bitmap clear d.qcow2 a", "bitmap_clear", json!({ "path": "d.qcow2", "name": "a" })),
        ("capabilities .", "capabilities", json!({ "folder": "." })),
        ("capabilities", "capabilities", json!({})),
        // And of failures.
        ("create d.qcow2 --size 1M", "create", json!({ "path": "d.qcow2", "size": "1M" })),
        ("create n.qcow2 --size 0", "create", json!({ "path": "n.qcow2", "size": "0G" })),
        ("resize e.qcow2 --size 512B", "resize", json!({ "path": "e.qcow2", "size": 512 })),
        ("info missing.qcow2", "info", json!({ "path": "missing.qcow2" })),
        (
            "info over.qcow2 --chain --trust none",
            "info",
            json!({ "path": "over.qcow2", "chain": true, "trust": "none" }),
        ),
        ("capabilities missing", "capabilities", json!({ "folder": "missing" })),
    ];
    let (typed, sent) = (Env::new(), Env::new());
    for env in [&typed, &sent] {
        env.write("id.pub", PUBLIC_KEY);
    }
    for (line, method, params) in calls {
        let run = typed.vmdisk(&format!("{line} --json"));
        let (said, end) = one_shot(&sent, request(1, method, params));
        assert_eq!(run.code, end.code, "{line}: {run:?} {said:?}");
        let whole = run.json();
        if let Some(error) = whole.get("error") {
            assert_eq!(alike(&typed, error), alike(&sent, &said[0]["error"]), "{line}");
        } else {
            assert_eq!(alike(&typed, &whole), alike(&sent, &said[0]["result"]), "{line}");
        }
    }
    assert_eq!(typed.names(), sent.names());
}

/// As text, without what is another folder's, the host's affair, or in words of its own.
fn alike(env: &Env, value: &Value) -> String {
    let mut value = value.clone();
    forget(&mut value);
    let folder = env.path("").display().to_string();
    value.to_string().replace(folder.trim_end_matches('/'), "FOLDER")
}

fn forget(value: &mut Value) {
    match value {
        Value::Object(members) => {
            // Hints speak of flags here and of fields there; a size without a value is not known
            // to the command line before the verb is called.
            const OWN: &[&str] = &["allocated_bytes", "hint", "detail", "code", "message"];
            members.retain(|name, _| !OWN.contains(&name.as_str()));
            members.values_mut().for_each(forget);
        }
        Value::Array(values) => values.iter_mut().for_each(forget),
        _ => {}
    }
}

/// The document is the same whoever asks for it.
#[test]
fn the_document_is_the_same() {
    let env = Env::new();
    let printed = env.run(VMDISK, ["schema"]).exits(0);
    let mut session = Session::new(&env);
    let discovered = session.ask("rpc.discover", json!({ "protocol": "1", "x-why": "" }));
    assert_eq!(discovered.result(), &printed.json());
    assert_eq!(discovered.result().to_string(), printed.json().to_string(), "in another order");
    assert_eq!(discovered.result(), &*super::schema::DOCUMENT);
}
