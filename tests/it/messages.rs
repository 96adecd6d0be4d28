//! What is said when something fails: about which file, and what to do.

use crate::support::{Env, message};

#[track_caller]
fn hint(env: &Env, line: &str, kind: &str) -> String {
    env.refuses(line, kind)["data"]["hint"].as_str().unwrap_or_default().to_owned()
}

/// An image whose L1 table lies beyond the file's end.
fn cut(env: &Env, name: &str) {
    env.qemu_img(&format!("create -q -f qcow2 {name} 1M"));
    env.patch(name, 40, &(1u64 << 40).to_be_bytes());
}

/// A file has the name that was typed, whichever verb speaks of it.
#[test]
fn a_file_is_called_as_it_was_typed() {
    let env = Env::new();
    std::fs::create_dir(env.path("sub")).expect("a folder");
    cut(&env, "sub/d.qcow2");
    let absolute = env.path("sub/d.qcow2").display().to_string();
    for name in ["sub/d.qcow2", "./sub/../sub/d.qcow2", &absolute] {
        for line in [
            "info DISK",
            "map DISK",
            "guest DISK",
            "check DISK",
            "resize DISK --size 2M",
            "convert DISK o.raw",
            "convert sub/new.raw o.qcow2 --backing=DISK",
            "compact DISK",
            "snapshot list DISK",
            "bitmap list DISK",
        ] {
            env.write("sub/new.raw", [0; 512]);
            let line = line.replace("DISK", name);
            let error = env.refuses(&line, "corrupt");
            assert!(message(&error).starts_with(&format!("{name}: ")), "{line}: {error:#}");
            assert_eq!(error["data"]["path"], name, "{line}: {error:#}");
        }
    }
    let report = env.vmdisk("info sub/new.raw --format qcow2");
    assert_eq!(report.code, Some(1), "{report:?}");
}

/// Who meets damage is told the way on: to look, to mend, to save what is left.
#[test]
fn damage_has_a_remedy() {
    let env = Env::new();
    cut(&env, "d.qcow2");
    for line in ["info d.qcow2", "resize d.qcow2 --size 2M", "compact d.qcow2"] {
        let hint = hint(&env, line, "corrupt");
        assert!(hint.contains("check --repair all") && hint.contains("salvage"), "{line}: {hint}");
    }
    assert!(hint(&env, "check d.qcow2", "corrupt").contains("vmdisk salvage"));
    env.qemu_img("create -q -f qcow2 h.qcow2 1M");
    env.patch("h.qcow2", 20, &[0, 0, 0, 99]);
    for line in ["info h.qcow2", "check h.qcow2", "salvage h.qcow2 o.raw"] {
        assert!(hint(&env, line, "corrupt").contains("from a copy"), "{line}");
    }

    env.report("create m.qcow2 --size 1M");
    env.patch("m.qcow2", 79, &[2]);
    assert!(hint(&env, "resize m.qcow2 --size 2M", "corrupt").contains("takes the mark away"));
    let told = env.vmdisk("check m.qcow2").exits(0).stdout;
    assert!(told.contains("sound, but marked corrupt"), "{told}");
    assert!(told.contains("vmdisk check m.qcow2 --repair all"), "{told}");
    env.vmdisk("check m.qcow2 --repair all").exits(0);
    env.report("resize m.qcow2 --size 2M");

    env.qemu_img("create -q -f qcow2 l.qcow2 1M");
    env.qemu_io("qcow2", "l.qcow2", "write -P 1 0 1M");
    // The last entry of the L2 table, but not the count.
    env.patch("l.qcow2", 0x40000 + 15 * 8, &[0; 8]);
    let told = env.vmdisk("check l.qcow2").exits(3).stdout;
    assert!(told.contains("wastes 1 cluster\n"), "{told}");
    assert!(told.contains("vmdisk check l.qcow2 --repair leaks"), "{told}");
}

/// What is advised helps in this case, and not only in others of its kind.
#[test]
fn hints_fit_the_case() {
    let env = Env::new();
    env.report("create d.qcow2 --size 1M --guest none");
    env.report("create large.qcow2 --size 2M --guest none");
    env.report("create over.qcow2 --backing large.qcow2");
    env.report("create gone.qcow2 --backing d.qcow2 --backing-store as-given");
    env.qemu_img("rebase -u -b nowhere.raw -F raw gone.qcow2");
    env.report("create net.qcow2 --backing d.qcow2");
    env.qemu_img("rebase -u -b nbd://host/x -F raw net.qcow2");
    env.write("v.vmdk", b"KDMV");
    env.report("create ring.qcow2 --backing d.qcow2");
    env.report("create round.qcow2 --backing ring.qcow2");
    env.qemu_img("rebase -u -b round.qcow2 -F qcow2 ring.qcow2");
    for (line, kind, words) in [
        ("ensure d.qcow2 --size 1M --format raw", "format_mismatch", "the format that it has"),
        ("resize large.qcow2 --size 1M --shrink", "has_dependents", "flatten"),
        ("map gone.qcow2", "backing_missing", "rebase DISK --unsafe --backing FILE"),
        ("rebase gone.qcow2 --backing d.qcow2", "backing_missing", "changes the name alone"),
        ("flatten gone.qcow2", "backing_missing", "changes the name alone"),
        ("rebase d.qcow2 --backing d.qcow2", "backing_cycle", "another backing file"),
        ("rebase large.qcow2 --backing over.qcow2", "backing_cycle", "another backing file"),
        ("flatten ring.qcow2", "backing_cycle", "--unsafe --force --backing FILE"),
        ("create n.qcow2 --backing nowhere.raw", "backing_missing", "check the path"),
        ("map net.qcow2", "backing_refused", "above a file"),
        ("create n.qcow2", "bad_request", "--size 20G"),
        ("resize nothing.qcow2 --size 1M", "not_found", "vmdisk create"),
        ("hash d.qcow2 --snapshot one", "not_found", "vmdisk snapshot list"),
        ("salvage d.qcow2 over.qcow2", "exists", "pass --if-exists replace"),
        ("clone d.qcow2 over.qcow2", "exists", "pass --if-exists replace"),
        ("map d.qcow2 --svg over.qcow2", "exists", "choose another path"),
        ("info v.vmdk --format qcow2", "format_mismatch", "--format raw"),
        ("compact v.vmdk", "format_mismatch", "qemu-img convert"),
    ] {
        let hint = hint(&env, line, kind);
        assert!(hint.contains(words), "{line}: {hint}");
        assert!(!hint.contains("vmdisk create --if-exists"), "{line}: {hint}");
    }
    // It does break the circle.
    env.report("rebase ring.qcow2 --unsafe --force --backing d.qcow2");
    env.report("flatten round.qcow2");
    let error = env.refuses("resize large.qcow2 --size 1M --shrink", "has_dependents");
    assert!(message(&error).contains("cannot become smaller: it is the backing file"), "{error:#}");
    let error = env.refuses("resize nothing.qcow2 --size 1M", "not_found");
    assert_eq!(message(&error), "nothing.qcow2: does not exist");
}

/// A bitmap that is missing in the other image is missing there, whatever else differs.
#[test]
fn a_merge_names_its_source() {
    let env = Env::new();
    env.report("create d.qcow2 --size 2M --guest none");
    env.report("create e.qcow2 --size 1M --guest none");
    env.report("bitmap add d.qcow2 one");
    env.report("bitmap add e.qcow2 two");
    let error = env.refuses("bitmap merge d.qcow2 one --source e.qcow2 none", "not_found");
    assert_eq!(message(&error), "e.qcow2: there is no bitmap 'none'");
    let error = env.refuses("bitmap merge d.qcow2 one --source e.qcow2 two", "bad_size");
    assert!(message(&error).starts_with("e.qcow2: the bitmap 'two' "), "{error:#}");
    assert!(message(&error).contains("1 MiB (1048576 bytes)"), "{error:#}");
}

/// A name that promises what is not made here needs the format to be said.
#[test]
fn foreign_names_are_refused() {
    let env = Env::new();
    env.report("create d.qcow2 --size 1M");
    for name in ["n.vmdk", "n.VDI", "n.vhd", "n.vhdx"] {
        for line in ["create NEW --size 1M", "ensure NEW --size 1M", "convert d.qcow2 NEW"] {
            let line = line.replace("NEW", name);
            let error = env.refuses(&line, "bad_request");
            assert!(
                message(&error).starts_with(&format!("{name}: the name promises")),
                "{error:#}"
            );
            env.report(&format!("{line} --format qcow2"));
            std::fs::remove_file(env.path(name)).expect("the disk");
        }
    }
}

/// After a failure in the midst of work, people are told how the disk is.
#[test]
fn the_aftermath_is_told() {
    let env = Env::new();
    let run = env.vmdisk("create n.raw --size 7E");
    if run.code == Some(0) {
        println!("this file system takes files of 7 EiB: nothing to test");
        return;
    }
    assert!(run.stderr.ends_with("note: nothing was changed\n"), "{run:?}");
}
