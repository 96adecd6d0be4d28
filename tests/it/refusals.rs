//! What is refused, and that it is refused without a trace.

use std::os::unix::fs::symlink;

use crate::support::{Env, PUBLIC_KEY, Stranger, is_root, message, set_mode};

/// Sizes that are none, or that no disk of this format can have. The message names the limit.
#[test]
fn sizes() {
    let env = Env::new();
    env.report("create d.qcow2 --size 1M");
    let limits = [
        ("512", "137438953472"),
        ("4K", "8796093022208"),
        ("64K", "2251799813685248"),
        ("2M", "2305843009213693952"),
    ];
    let spoken = |line: &str, words: &[&str]| {
        let error = env.refuses(line, "bad_size");
        let told = words.iter().all(|word| message(&error).contains(word));
        assert!(told, "{line}: {words:?} in {error:#}");
    };
    let bare: &[&str] = &["20000B", "20000M", "20000MB", "2^20", "10^6"];
    let sizes: [(&str, &[&str]); 11] = [
        ("0", &[]),
        ("0G", &["0"]),
        ("0.0T", &["0"]),
        ("-1G", &["negative"]),
        ("20000", bare),
        ("20X", &["'X'", "KB"]),
        ("20 Gi", &[]),
        ("1e3G", &["'e3G'"]),
        ("1.5B", &["fraction"]),
        ("8E", &["9223372036854775296"]),
        ("99999999999999999999999999G", &["9223372036854775296"]),
    ];
    for (size, words) in sizes {
        for verb in ["create n.qcow2", "create n.raw", "ensure n.qcow2", "resize d.qcow2"] {
            let size = format!("--size={size}");
            let args: Vec<_> = verb.split(' ').chain([size.as_str()]).collect();
            let error = env.refuses_args(&args, "bad_size");
            assert!(words.iter().all(|word| message(&error).contains(word)), "{size}: {error:#}");
        }
    }
    spoken("resize d.qcow2 --size +20000", bare);
    spoken("resize d.qcow2 --size +-1G", &["negative"]);
    spoken("resize d.qcow2 --size +9E", &[]);
    spoken("resize d.qcow2 --size 3P", &["2251799813685248"]);
    for (cluster_size, limit) in limits {
        let line = format!("create n.qcow2 --preallocation off --cluster-size {cluster_size}");
        // One byte more than fits is refused, and as much as fits is not.
        let most: u64 = limit.parse().expect("a number");
        spoken(&format!("{line} --size {}B", most + 1), &[limit]);
        let fits = env.vmdisk(&format!("{line} --size {most}B --json")).exits(0).json();
        assert_eq!(fits["virtual_size_bytes"], most);
        std::fs::remove_file(env.path("n.qcow2")).expect("the disk");
    }
    let error = env.refuses("create --backing d.qcow2 n.qcow2 --size 512K", "bad_size");
    assert!(message(&error).contains("1048576"), "{error:#}");
    let error = env.refuses("resize d.qcow2 --size 512K", "would_shrink");
    assert!(error["data"]["hint"].as_str().is_some_and(|hint| hint.contains("--shrink")));
}

/// A raw disk larger than the file system's largest file: more room would not help.
#[test]
fn larger_than_any_file() {
    let env = Env::new();
    let run = env.vmdisk("create n.raw --size 7E --json");
    if run.code == Some(0) {
        println!("this file system takes files of 7 EiB: nothing to test");
        return;
    }
    let error = run.json()["error"].clone();
    let hint = error["data"]["hint"].as_str().unwrap_or_default();
    assert!(!hint.contains("free some room"), "{error:#}");
    assert!(!message(&error).contains(".vmdisk-"), "nobody knows that file: {error:#}");
    assert!(env.names().is_empty());
}

/// Options that the format does not have, or that exclude one another.
#[test]
fn options() {
    let env = Env::new();
    env.write("id.pub", PUBLIC_KEY);
    env.write("u.tar", "boot2docker, please format-me");
    env.qemu_img("create -f qcow2 base.qcow2 1M");
    for (flags, kind, words) in OPTIONS {
        for verb in ["create", "ensure"] {
            let name = if flags.contains("--format raw") { "n.raw" } else { "n.qcow2" };
            let error = env.refuses(&format!("{verb} {name} --size 1M {flags}"), kind);
            let told = words.iter().all(|word| message(&error).contains(word));
            assert!(told, "{flags}: {words:?} in {error:#}");
        }
    }
    for flag in ["--backing-format qcow2", "--backing-store absolute"] {
        env.refuses(&format!("create n.qcow2 --size 1M {flag}"), "bad_request");
    }
    let error = env.refuses("create n.qcow2", "bad_request");
    assert!(message(&error).contains("size"), "{error:#}");
    env.report("create d.raw --size 1M");
    for preallocation in ["tables", "metadata"] {
        let line = format!("resize d.raw --size 2M --preallocation {preallocation}");
        env.refuses(&line, "incompatible_options");
    }
}

const OPTIONS: &[(&str, &str, &[&str])] = &[
    ("--cluster-size 3000", "bad_request", &["3000", "512", "2 MiB"]),
    ("--cluster-size 256", "bad_request", &["256"]),
    ("--cluster-size 4M", "bad_request", &["4194304"]),
    ("--cluster-size 0", "bad_request", &["0"]),
    ("--refcount-bits 3", "bad_request", &["3", "64"]),
    ("--refcount-bits 0", "bad_request", &["0"]),
    ("--refcount-bits 128", "bad_request", &["128"]),
    ("--refcount-bits many", "bad_request", &["many"]),
    ("--lazy-refcounts yes", "bad_request", &["yes", "on", "off"]),
    ("--mode 888", "bad_request", &["888", "octal"]),
    ("--mode 10000", "bad_request", &["10000"]),
    ("--owner root:such:one", "bad_request", &["such:one"]),
    ("--owner nosuchuser", "bad_request", &["nosuchuser"]),
    ("--extended-l2 on --cluster-size 8K", "incompatible_options", &["16 KiB", "8192"]),
    ("--compat 0.10 --refcount-bits 8", "incompatible_options", &[]),
    ("--compat 0.10 --extended-l2 on", "incompatible_options", &[]),
    ("--compat 0.10 --lazy-refcounts on", "incompatible_options", &[]),
    ("--compat 0.10 --compression-type zstd", "incompatible_options", &[]),
    ("--preset compat-0.10 --compat 1.1", "incompatible_options", &["compat-0.10"]),
    ("--preset compat-0.10 --extended-l2 on", "incompatible_options", &[]),
    ("--preset hyperkit --backing base.qcow2", "incompatible_options", &["hyperkit", "backing"]),
    ("--preset hyperkit --compat 0.10", "incompatible_options", &["hyperkit"]),
    ("--preset hyperkit --lazy-refcounts off", "incompatible_options", &["hyperkit", "lazy"]),
    ("--preset hyperkit --extended-l2 on", "incompatible_options", &["extended L2"]),
    ("--preset hyperkit --compression-type zstd", "incompatible_options", &["zstd"]),
    ("--preset hyperkit --refcount-bits 8", "incompatible_options", &["16-bit"]),
    ("--preset hyperkit --cluster-size 2K", "incompatible_options", &["4 KiB"]),
    ("--guest none --ssh-key id.pub", "incompatible_options", &["none"]),
    ("--guest none --userdata u.tar", "incompatible_options", &["none"]),
    ("--ssh-key id.pub --userdata u.tar", "incompatible_options", &["exclude"]),
    ("--format raw --backing base.qcow2", "incompatible_options", &["raw", "backing"]),
    ("--format raw --preset qemu", "incompatible_options", &["preset"]),
    ("--format raw --compat 1.1", "incompatible_options", &["compat"]),
    ("--format raw --cluster-size 64K", "incompatible_options", &["cluster size"]),
    ("--format raw --refcount-bits 16", "incompatible_options", &["refcount bits"]),
    ("--format raw --extended-l2 off", "incompatible_options", &["extended L2"]),
    ("--format raw --compression-type zlib", "incompatible_options", &["compression type"]),
    ("--format raw --lazy-refcounts off", "incompatible_options", &["lazy refcounts"]),
    ("--format raw --preallocation metadata", "incompatible_options", &["metadata"]),
    ("--format raw --preallocation tables", "incompatible_options", &["tables"]),
];

/// Paths that cannot become a disk. None of them hangs, and none is replaced.
#[test]
fn targets() {
    let env = Env::new();
    env.write("file", "not empty");
    std::fs::create_dir(env.path("folder")).expect("a folder");
    env.run("mkfifo", ["pipe"]).exits(0);
    symlink("/dev/null", env.path("device")).expect("a link");
    let long = "x".repeat(300);
    let deep = "x/".repeat(2500) + "d";
    for (path, kind) in [
        ("missing/d.qcow2", "not_found"),
        ("file/d.qcow2", "not_found"),
        ("folder", "not_a_disk"),
        ("..", "not_a_disk"),
        ("/", "not_a_disk"),
        ("file", "exists"),
        ("pipe", "exists"),
        ("/dev/null", "exists"),
        ("device", "exists"),
        (&long, "bad_request"),
        (&deep, "not_found"),
    ] {
        let error = env.refuses(&format!("create {path} --size 1M"), kind);
        assert_ne!(error["data"]["changed"], true, "{path}");
    }
    env.refuses_args(&["create", "", "--size", "1M"], "bad_request");
    for path in ["pipe", "/dev/null", "device"] {
        env.refuses(&format!("create {path} --size 1M --if-exists replace"), "not_a_disk");
        env.refuses(&format!("ensure {path} --size 1M"), "not_a_disk");
    }
    env.refuses("ensure file --size 1M", "format_mismatch");
}

/// A name that ends with a slash means a folder, and there is none: no file gets that name.
#[test]
fn a_folder_is_meant() {
    let env = Env::new();
    env.refuses("create new/ --size 1M", "not_found");
    env.refuses("ensure new/ --size 1M", "not_found");
}

/// The name of the target is in the message, even where the message's own words contain it.
#[test]
fn messages_name_the_path() {
    let env = Env::new();
    for name in ["d", "a", "s al", "dir/e"] {
        std::fs::create_dir_all(env.path(name).parent().expect("a folder")).expect("a folder");
        env.write(name, "here");
        let error = env.refuses_args(&["create", name, "--size", "1M"], "exists");
        assert_eq!(message(&error), format!("{name}: exists already"));
    }
}

/// A block device is nobody's to replace or to resize.
#[test]
fn block_devices() {
    let env = Env::new();
    env.write("backing", vec![0; 4 << 20]);
    let mut losetup = std::process::Command::new("losetup");
    let attached = losetup.args(["--find", "--show"]).arg(env.path("backing")).output();
    let device = attached.ok().filter(|output| output.status.success());
    let Some(device) = device.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    else {
        println!("no loop device can be had: block devices were not tested");
        return;
    };
    let device = device.trim();
    let result = std::panic::catch_unwind(|| {
        env.refuses(&format!("create {device} --size 1M"), "exists");
        env.refuses(&format!("create {device} --size 1M --if-exists replace"), "exists");
        env.refuses(&format!("resize {device} --size 8M"), "unsupported_feature");
        env.refuses(&format!("resize {device} --size 1M --shrink"), "unsupported_feature");
        env.refuses(&format!("ensure {device} --size 8M --format raw"), "unsupported_feature");
        let report = env.report(&format!("info {device}"));
        assert_eq!(report["virtual_size_bytes"], 4 << 20, "{report:#}");
    });
    env.run("losetup", ["--detach", device]).exits(0);
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Who may not write into a folder makes no disk there, gives none away, and leaves nothing.
#[test]
fn without_privileges() {
    if !is_root() {
        println!("not root: that another user may not do it is not tested");
    }
    let env = Env::new().open_to_all();
    let stranger = Stranger::new();
    std::fs::create_dir(env.path("theirs")).expect("a folder");
    set_mode(&env.path("theirs"), 0o777);
    std::fs::create_dir(env.path("locked")).expect("a folder");
    set_mode(&env.path("locked"), 0o555);
    let refuses = |args: &[&str]| env.refuses_by(&stranger.prefix(), args, "permission");
    let locked = refuses(&["create", "locked/n.qcow2", "--size", "1M"]);
    refuses(&["ensure", "locked/n.qcow2", "--size", "1M"]);
    refuses(&["create", "theirs/n.qcow2", "--size", "1M", "--owner", "root"]);
    assert_eq!(std::fs::read_dir(env.path("theirs")).expect("a folder").count(), 0);
    // It says why, and speaks of no file that nobody has heard of.
    assert_eq!(locked["data"]["errno"], 13, "{locked:#}");
    assert!(!message(&locked).contains(".vmdisk-"), "{locked:#}");
}

/// Backing files that are missing, of an unknown format, in circles, or badly named.
#[test]
fn backing_files() {
    let env = Env::new();
    env.qemu_img("create -f qcow2 base.qcow2 1M");
    env.qemu_img("create -f qcow2 -b base.qcow2 -F qcow2 a.qcow2");
    env.qemu_img("create -f qcow2 -b a.qcow2 -F qcow2 b.qcow2");
    env.qemu_img("rebase -u -b b.qcow2 -F qcow2 a.qcow2");
    env.qemu_img("create -f qcow2 -b base.qcow2 -F qcow2 over.qcow2");
    env.qemu_img("create -f qcow2 -b base.qcow2 -F qcow2 orphan.qcow2");
    env.qemu_img("rebase -u -b gone.qcow2 -F qcow2 orphan.qcow2");
    env.write("plain.raw", vec![0; 4096]);
    env.run("mkfifo", ["pipe"]).exits(0);
    for (line, kind) in [
        ("create n.qcow2 --backing missing.qcow2", "backing_missing"),
        ("create n.qcow2 --backing orphan.qcow2", "backing_missing"),
        ("create n.qcow2 --backing plain.raw", "format_mismatch"),
        ("create n.qcow2 --backing plain.raw --backing-format qcow2", "format_mismatch"),
        ("create n.qcow2 --backing pipe", "not_a_disk"),
        ("create n.qcow2 --backing .", "not_a_disk"),
        ("create n.qcow2 --backing a.qcow2", "backing_cycle"),
        ("ensure n.qcow2 --backing b.qcow2", "backing_cycle"),
        ("info a.qcow2 --chain", "backing_cycle"),
        ("info orphan.qcow2 --chain", "backing_missing"),
    ] {
        env.refuses(line, kind);
    }
    // 1023 bytes can be stored, and not one more.
    let name =
        |len: usize| "./".repeat((len - 10) / 2) + if len.is_multiple_of(2) { "" } else { "/" };
    let line = |len: usize| {
        let path = name(len) + "base.qcow2";
        assert_eq!(path.len(), len);
        format!("create n.qcow2 --backing-store as-given --backing {path}")
    };
    let error = env.refuses(&line(1024), "bad_request");
    assert!(message(&error).contains("1024") && message(&error).contains("1023"), "{error:#}");
    env.report(&line(1023));
    env.is_clean("n.qcow2");
    env.qemu_img("convert -O raw n.qcow2 n.raw");
}

/// A disk that would lie below itself: no process is in the way, so waiting would never help.
#[test]
fn nobody_locks_himself_out() {
    let env = Env::new();
    env.qemu_img("create -f qcow2 base.qcow2 1M");
    env.qemu_img("create -f qcow2 -b base.qcow2 -F qcow2 over.qcow2");
    env.qemu_img("create -f qcow2 -b base.qcow2 -F qcow2 a.qcow2");
    env.qemu_img("create -f qcow2 -b a.qcow2 -F qcow2 b.qcow2");
    env.qemu_img("rebase -u -b b.qcow2 -F qcow2 a.qcow2");
    let lines = [
        "create base.qcow2 --backing over.qcow2 --if-exists replace --force",
        "create base.qcow2 --backing base.qcow2 --if-exists replace --force",
        "resize a.qcow2 --size 2M",
        "ensure a.qcow2 --size 2M --backing b.qcow2",
    ];
    let ends = lines.map(|line| {
        let error = env.vmdisk(&format!("{line} --json")).json()["error"].clone();
        (line, error["data"]["kind"].clone())
    });
    assert!(ends.iter().all(|(_, kind)| kind == "backing_cycle"), "{ends:#?}");
    env.refuses(lines[0], "backing_cycle");
}

/// Nothing is trusted but one folder: that does not let in the image's own.
#[test]
fn allowing_one_folder_trusts_no_other() {
    let env = Env::new();
    std::fs::create_dir(env.path("other")).expect("a folder");
    env.qemu_img("create -f qcow2 base.qcow2 1M");
    env.qemu_img("create -f qcow2 -b base.qcow2 -F qcow2 over.qcow2");
    env.refuses("info over.qcow2 --chain --trust none", "backing_refused");
    env.refuses("info over.qcow2 --chain --trust none --allow other", "backing_refused");
    env.report("info over.qcow2 --chain --trust none --allow .");
}

/// Private keys of every form are refused, and not a byte of them is repeated.
#[test]
fn private_keys_stay_private() {
    const SECRET: &str = "MHcCAQEEIBnotForAnybodysEyes";
    let env = Env::new();
    let framed = |kind: &str| format!("-----BEGIN {kind}-----\n{SECRET}\n-----END {kind}-----\n");
    let mut keys: Vec<String> = [
        "OPENSSH PRIVATE KEY",
        "RSA PRIVATE KEY",
        "EC PRIVATE KEY",
        "DSA PRIVATE KEY",
        "PRIVATE KEY",
        "ENCRYPTED PRIVATE KEY",
        "PGP PRIVATE KEY BLOCK",
    ]
    .map(framed)
    .to_vec();
    keys.extend([
        format!("---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\n{SECRET}\n"),
        format!("PuTTY-User-Key-File-3: ssh-ed25519\nPrivate-Lines: 1\n{SECRET}\n"),
        format!("SSH PRIVATE KEY FILE FORMAT 1.1\n\0{SECRET}"),
        format!("b3BlbnNzaC1rZXktdjEAAAAABG5vbmU{SECRET}\n"),
        format!("{PUBLIC_KEY}{}", framed("OPENSSH PRIVATE KEY")),
        framed("OPENSSH PRIVATE KEY").replace('\n', "\r\n"),
        format!("ssh-ed25519 {SECRET}!\n"),
        format!("{SECRET}\n"),
        format!("\u{1}{SECRET}\n"),
    ]);
    for key in keys {
        env.write("key", &key);
        let error = env.refuses("create n.qcow2 --size 1M --ssh-key key", "bad_request");
        assert!(!error.to_string().contains("Eyes"), "{error:#}");
        assert!(!error.to_string().contains("MHcCAQEE"), "{error:#}");
    }
}

/// Handed over as an archive by mistake, a secret is not repeated either.
#[test]
fn userdata_is_not_repeated() {
    let env = Env::new();
    env.write("secret", "hunter2:MHcCAQEEIBnotForAnybodysEyes");
    let error = env.refuses("create n.qcow2 --size 1M --userdata secret", "bad_request");
    assert!(!error.to_string().contains("hunter2"), "{error:#}");
    assert!(message(&error).contains("boot2docker, please format-me"), "{error:#}");
}

/// Keys and archives that the guest could not read whole, or would not recognise.
#[test]
fn payloads() {
    let env = Env::new();
    let key = |len: usize| {
        let line = PUBLIC_KEY.trim_end();
        format!("{line}{}\n", "x".repeat(len - line.len() - 1))
    };
    let magic = |len: usize| format!("boot2docker, please format-me{}", "x".repeat(len - 29));
    for (guest, most) in [("boot2docker", 2048), ("minikube", 2048), ("rancheros", 6144)] {
        let line = format!("create n.qcow2 --size 1M --guest {guest}");
        env.write("id.pub", key(most + 1));
        let error = env.refuses(&format!("{line} --ssh-key id.pub"), "payload_too_large");
        let budget = most + 2048;
        let words = [(most + 1).to_string(), budget.to_string(), (budget + 512).to_string()];
        assert!(words.iter().all(|word| message(&error).contains(word)), "{words:?}: {error:#}");
        env.write("id.pub", key(most));
        env.report(&format!("{line} --ssh-key id.pub"));
        std::fs::remove_file(env.path("n.qcow2")).expect("the disk");
        env.write("u.tar", magic(budget + 1));
        let error = env.refuses(&format!("{line} --userdata u.tar"), "payload_too_large");
        assert!(message(&error).contains(&(budget + 512).to_string()), "{error:#}");
    }
    env.run("mkfifo", ["pipe"]).exits(0);
    env.write("empty", "");
    env.write("text", "no key at all");
    env.write("binary", [0xff, 0xfe, 0, 0]);
    env.write("huge", vec![b'#'; 70_000]);
    env.write("id.pub", key(200));
    for (flags, kind) in [
        ("--ssh-key missing", "not_found"),
        ("--ssh-key empty", "bad_request"),
        ("--ssh-key text", "bad_request"),
        ("--ssh-key binary", "bad_request"),
        ("--ssh-key huge", "bad_request"),
        ("--ssh-key pipe", "bad_request"),
        ("--ssh-key /dev/zero", "bad_request"),
        ("--ssh-key .", "bad_request"),
        ("--userdata missing", "not_found"),
        ("--userdata text", "bad_request"),
        ("--userdata empty", "bad_request"),
        ("--userdata /dev/zero", "bad_request"),
        ("--ssh-key id.pub --size 512B", "bad_size"),
        ("--ssh-key id.pub --size 512B --format raw", "bad_size"),
    ] {
        let size = if flags.contains("--size") { "" } else { "--size 1M" };
        env.refuses(&format!("create n.img.qcow2 {size} {flags}"), kind);
    }
}

/// A file system without room: a new disk leaves nothing behind, a grown one stays what it was.
#[test]
#[cfg(target_os = "linux")]
fn full_file_system() {
    let env = Env::new();
    let may = env.run("unshare", ["-rm", "true"]);
    if may.code != Some(0) {
        println!("no mount namespace can be had here: a full file system is not tested");
        return;
    }
    for (disk, allocation) in
        [("d.qcow2", "full"), ("d.qcow2", "falloc"), ("d.raw", "full"), ("d.raw", "falloc")]
    {
        std::fs::create_dir_all(env.path("mnt")).expect("a folder");
        let script = FULL.replace("DISK", disk).replace("HOW", allocation);
        let run = env.run("unshare", ["-rm", "sh", "-ec", &script, crate::support::VMDISK]);
        let told = run.exits(0);
        let error = |text: &str| {
            let whole: serde_json::Value = serde_json::from_str(text).expect("one JSON object");
            assert_eq!(whole["error"]["data"]["kind"], "no_space", "{disk}: {whole:#}");
            whole["error"].clone()
        };
        let parts: Vec<_> = told.stdout.split("=====\n").collect();
        let created = error(parts[0]);
        assert_eq!(created["data"]["changed"], false, "{created:#}");
        assert_eq!(parts[1], "", "{disk} {allocation}: left behind");
        let grown = error(parts[2]);
        assert_eq!(parts[3], format!("{disk}\n"), "{disk} {allocation}");
        let same = parts[4].lines().collect::<Vec<_>>();
        assert_eq!(same[0], same[1], "{disk} {allocation}: the guest's bytes");
        if grown["data"]["changed"] == false {
            assert_eq!(same[2], same[3], "{disk} {allocation}: unchanged, it says");
        }
        // The disk can still be used: it grows once there is room.
        assert_eq!(parts[5], "8388608\n", "{disk} {allocation}");
    }
}

/// Prints what creating says, what is left, what growing says, what is left, and sums.
#[cfg(target_os = "linux")]
const FULL: &str = r#"
mount -t tmpfs -o size=12m none mnt
fails() { if "$0" "$@" --json; then exit 99; fi; echo =====; }
fails create mnt/DISK --size 64M --preallocation HOW
ls -A mnt; echo =====
"$0" create mnt/DISK --size 2M --guest none >/dev/null
qemu-io -f $(echo DISK | cut -d. -f2) -c 'write -P 7 64k 300k' mnt/DISK >/dev/null
guest() { qemu-img convert -O raw mnt/DISK out.raw; sum <out.raw; }
file1=$(sum <mnt/DISK); guest1=$(guest)
fails resize mnt/DISK --size 64M --preallocation HOW
ls -A mnt; echo =====
echo "$guest1"; guest; echo "$file1"; sum <mnt/DISK; echo =====
case DISK in *.qcow2) qemu-img check -q mnt/DISK || test $? = 3;; esac
"$0" resize mnt/DISK --size 8M --preallocation off >/dev/null
case DISK in *.qcow2) qemu-img check -q mnt/DISK || test $? = 3;; esac
qemu-img info --output=json -f $(echo DISK | cut -d. -f2) mnt/DISK |
    sed -n 's/^    "virtual-size": \([0-9]*\),$/\1/p'
"#;

/// A hint never advises a flag that the verb does not have, nor what was just done.
#[test]
fn hints_fit_the_verb() {
    let env = Env::new();
    env.report("create d.qcow2 --size 2M");
    let calls = [
        ("ensure d.qcow2 --size 1M", "would_shrink"),
        ("ensure d.qcow2 --size 2M --cluster-size 4K", "exists"),
        ("create d.qcow2 --size 1M --if-exists keep", "exists"),
        ("resize d.qcow2 --size 1M", "would_shrink"),
        ("create d.qcow2 --size 1M", "exists"),
    ];
    for (line, kind) in calls {
        let error = env.refuses(line, kind);
        let hint = error["data"]["hint"].as_str().unwrap_or_default();
        let verb = line.split(' ').next().expect("a verb");
        let help = env.vmdisk(&format!("{verb} --help")).stdout;
        let flags = hint.split([' ', ':', ',']).filter(|word| word.starts_with("--"));
        for flag in flags {
            assert!(help.contains(flag), "{verb} has no {flag}: {hint}");
        }
        let again = line.contains("--if-exists keep") && hint.contains("keep");
        assert!(!again, "{line}: {hint}");
    }
}
