//! `chain`: what a disk consists of, and what depends on it; and what `resize` makes of that.

use std::os::unix::fs::symlink;

use serde_json::Value;

use crate::support::{Env, message};

fn overlay(env: &Env, name: &str, base: &str, format: &str) {
    env.qemu_img(&format!("create -q -f qcow2 -b {base} -F {format} {name}"));
}

/// Three images over one another, one with its data elsewhere.
fn chain_of_three() -> Env {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 -o data_file=base.data base.qcow2 8M");
    env.qemu_io("qcow2", "base.qcow2", "write 0 1M");
    std::fs::create_dir(env.path("above")).expect("a folder");
    overlay(&env, "above/middle.qcow2", "../base.qcow2", "qcow2");
    env.qemu_io("qcow2", "above/middle.qcow2", "write -z 1M 2M");
    overlay(&env, "above/top.qcow2", "middle.qcow2", "qcow2");
    env.qemu_io("qcow2", "above/top.qcow2", "write 4M 64k");
    env
}

/// Each image of a chain is told with its sizes, what it has of its own, and what it names.
#[test]
fn a_chain_is_told_from_top_to_bottom() {
    let env = chain_of_three();
    let report = env.report("chain above/top.qcow2 --trust full");
    let images = report["images"].as_array().expect("a list");
    assert_eq!((images.len(), &report["complete"]), (3, &Value::from(true)));
    let own = |at: usize| (images[at]["data_bytes"].as_u64(), images[at]["zero_bytes"].as_u64());
    assert_eq!(own(0), (Some(64 << 10), Some(0)));
    assert_eq!(own(1), (Some(0), Some(2 << 20)));
    assert_eq!(own(2), (Some(1 << 20), Some(0)));
    for (at, image) in images.iter().enumerate() {
        assert_eq!(image["depth"], at);
        assert_eq!(image["virtual_size_bytes"], 8 << 20);
        let path = image["path"].as_str().expect("a path");
        let info = env.qemu_img(&format!("info -U --output=json {path}")).json();
        assert_eq!(image["allocated_bytes"], info["actual-size"]);
    }
    assert_eq!(images[1]["backing_file"]["stored"], "../base.qcow2");
    assert_eq!(images[1]["backing_file"]["path"], images[2]["path"]);
    assert_eq!(images[2]["data_file"]["stored"], "base.data");
    assert_eq!(images[2]["data_file"]["file_size_bytes"], 8 << 20);
    let text = env.vmdisk("chain above/top.qcow2 --trust full").exits(0).stdout;
    assert!(text.contains("└─ ") && text.contains("64 KiB of data"), "{text}");
}

/// What cannot be followed is told where it is named, and what is above it all the same.
#[test]
fn what_is_missing_refused_or_circular_is_told() {
    let env = chain_of_three();
    let problem = |line: &str, depth: usize| {
        let report = env.report(line);
        let images = report["images"].as_array().expect("a list");
        assert_eq!((images.len(), &report["complete"]), (depth + 1, &Value::from(false)), "{line}");
        let text = env.vmdisk(line).exits(0).stdout;
        let problem = &images[depth]["backing_file"]["problem"];
        assert!(text.contains(message(problem)), "{text}");
        problem["kind"].as_str().expect("a kind").to_owned()
    };
    assert_eq!(problem("chain above/top.qcow2", 1), "backing_refused");
    assert_eq!(problem("chain above/top.qcow2 --trust none", 0), "backing_refused");
    env.qemu_img("rebase -u -b top.qcow2 -F qcow2 above/middle.qcow2");
    assert_eq!(problem("chain above/top.qcow2", 1), "backing_cycle");
    std::fs::remove_file(env.path("above/middle.qcow2")).expect("an image");
    assert_eq!(problem("chain above/top.qcow2", 0), "backing_missing");
    std::fs::remove_file(env.path("base.data")).expect("a file");
    let report = env.report("chain base.qcow2");
    assert_eq!(report["images"][0]["data_file"]["problem"]["kind"], "backing_missing");
    assert_eq!(report["images"][0]["data_bytes"], Value::Null);
}

/// Everything under a folder that depends on a disk is found, by way of one another too, and nothing
/// else; what could not be looked at is told.
#[test]
fn dependents_are_found_under_a_folder() {
    let env = chain_of_three();
    overlay(&env, "beside.qcow2", "./above/../base.qcow2", "qcow2");
    env.qemu_img("create -q -f qcow2 stranger.qcow2 8M");
    let odd =
        "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"base.qcow2\"}}";
    for (name, below) in [("odd.qcow2", odd), ("far.qcow2", "nbd://localhost/base.qcow2")] {
        let args = ["create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", below, name, "8M"];
        env.run("qemu-img", args).exits(0);
    }
    env.run("mkfifo", ["pipe"]).exits(0);
    // Around in a circle, if it were followed.
    symlink("..", env.path("above/up")).expect("a link");
    let report = env.report("chain base.qcow2 --dependents .");
    let search = &report["dependents"];
    let found = search["found"].as_array().expect("a list").iter().map(|found| {
        let name = |field: &str| {
            let path = found[field].as_str().expect("a path");
            path.rsplit('/').next().expect("a name").to_owned()
        };
        (found["depth"].as_u64().expect("a number"), name("path"), name("below"))
    });
    let expected = [
        (1, "middle.qcow2", "base.qcow2"),
        (1, "beside.qcow2", "base.qcow2"),
        (1, "odd.qcow2", "base.qcow2"),
        (2, "top.qcow2", "middle.qcow2"),
    ];
    let expected = expected.map(|(depth, path, below)| (depth, path.to_owned(), below.to_owned()));
    assert_eq!(found.collect::<Vec<_>>(), expected);
    assert!(search["not_followed"][0].as_str().expect("a path").ends_with("far.qcow2"));
    assert_eq!((&search["complete"], &search["unread"]), (&Value::from(false), &Value::from(0)));
    let text = env.vmdisk("chain base.qcow2 --dependents .").exits(0).stdout;
    assert!(text.contains("4 images depend on it under ") && text.contains("   └─ "), "{text}");

    let data = env.report("chain base.data --format raw --dependents .");
    assert_eq!(data["dependents"]["found"][0]["named_for"], "data_file");
    assert_eq!(data["dependents"]["found"].as_array().expect("a list").len(), 5);
    env.refuses("chain base.qcow2 --dependents nowhere", "not_found");
    // A header that makes no sense may be anybody's.
    env.write("broken.qcow2", b"QFI\xfb and nothing that makes sense");
    let report = env.report("chain base.qcow2 --dependents .");
    assert_eq!(report["dependents"]["unread"], 1);
}

/// A base that others show keeps its size unless that is forced.
#[test]
fn a_base_keeps_its_size_below_others() {
    for format in ["qcow2", "raw"] {
        let env = Env::new();
        let base = format!("base.{format}");
        env.qemu_img(&format!("create -q -f {format} {base} 8M"));
        env.qemu_io(format, &base, "write -P 7 6M 1M");
        overlay(&env, "above.qcow2", &base, format);
        let shown = env.disk("qcow2", "above.qcow2");
        let before = env.contents();
        let error = env.fails(&format!("resize {base} --size 16M"), 1, "has_dependents");
        assert!(message(&error).contains("above.qcow2"), "{error:#}");
        assert!(error["data"]["hint"].as_str().expect("a hint").contains("--force"), "{error:#}");
        assert_eq!(env.contents(), before, "{format}");
        env.report(&format!("resize {base} --size 16M --force"));
        assert!(env.disk("qcow2", "above.qcow2") == shown, "{format}: growing shows nowhere");
        let before = env.contents();
        let error = env.fails(&format!("resize {base} --size 4M --shrink"), 1, "has_dependents");
        assert!(message(&error).contains("above.qcow2"), "{error:#}");
        assert_eq!(error["data"]["changed"], false);
        assert_eq!(env.contents(), before, "{format}");
        env.report(&format!("resize {base} --size 4M --shrink --force"));
        assert!(env.disk("qcow2", "above.qcow2")[4 << 20..].iter().all(|&byte| byte == 0));
        // Nothing lies above this one.
        env.report("resize above.qcow2 --size 4M --shrink");
    }
}

/// A disk that others lie above, or keep their data in, is not replaced by another one unless that is
/// forced, by whichever verb; nor is force an idle word.
#[test]
fn a_base_is_not_replaced_below_others() {
    for (base, format) in [("base.qcow2", "qcow2"), ("base.raw", "raw"), ("base.data", "raw")] {
        let env = Env::new();
        if base == "base.data" {
            env.qemu_img("create -q -f qcow2 -o data_file=base.data above.qcow2 8M");
        } else {
            env.qemu_img(&format!("create -q -f {format} {base} 8M"));
            overlay(&env, "above.qcow2", base, format);
        }
        env.qemu_io(format, base, "write -P 7 1M 1M");
        env.qemu_img("create -q -f qcow2 other.qcow2 8M");
        // By another name of it, too.
        symlink(base, env.path("link")).expect("a link");
        let before = env.contents();
        let lines = [base, "link"].map(|out| {
            [
                format!("create {out} --size 8M --format {format} --guest none"),
                format!("convert other.qcow2 {out} --format {format}"),
                format!("clone other.qcow2 {out} --method copy"),
                format!("clone other.qcow2 {out} --method overlay"),
                format!("salvage other.qcow2 {out}"),
            ]
        });
        for line in lines.iter().flatten() {
            let not_understood = if line.starts_with("salvage") { 64 } else { 2 };
            env.fails(&format!("{line} --force"), not_understood, "incompatible_options");
            let line = format!("{line} --if-exists replace");
            let error = env.fails(&line, 1, "has_dependents");
            let told = message(&error);
            assert!(told.contains("replaced") && told.contains("above.qcow2"), "{error:#}");
            assert_eq!(error["data"]["changed"], false, "{error:#}");
            let hint = error["data"]["hint"].as_str().unwrap_or_default();
            assert!(hint.contains("--force") && hint.contains("flatten"), "{error:#}");
            assert_eq!(env.contents(), before, "{line}");
        }
        for line in &lines[0] {
            env.report(&format!("{line} --if-exists replace --force"));
        }
        // Nothing lies above these.
        env.report("clone other.qcow2 above.qcow2 --method copy --if-exists replace");
        env.report("create other.qcow2 --size 1M --if-exists replace");
    }
}

/// What is below an image that others lie above keeps its name while it is there, unless another one is
/// the same file, or that is forced; and an ordinary rebase hurts nobody.
#[test]
fn others_go_on_to_show_the_same() {
    let env = Env::new();
    for (name, pattern) in [("base.qcow2", 1), ("other.qcow2", 2)] {
        env.qemu_img(&format!("create -q -f qcow2 {name} 1M"));
        env.qemu_io("qcow2", name, &format!("write -P {pattern} 0 1M"));
    }
    overlay(&env, "mid.qcow2", "base.qcow2", "qcow2");
    overlay(&env, "top.qcow2", "mid.qcow2", "qcow2");
    overlay(&env, "alone.qcow2", "base.qcow2", "qcow2");
    std::fs::hard_link(env.path("base.qcow2"), env.path("same.qcow2")).expect("a link");
    let shown = env.disk("qcow2", "top.qcow2");
    for line in [
        "rebase mid.qcow2 --unsafe --backing other.qcow2",
        "rebase mid.qcow2 --unsafe --backing base.qcow2 --backing-format raw",
        "rebase mid.qcow2 --unsafe --no-backing",
        "rebase base.qcow2 --unsafe --backing other.qcow2",
        "amend mid.qcow2 --backing other.qcow2",
        "amend mid.qcow2 --no-backing --cluster-size 4K --dry-run",
    ] {
        let error = env.refuses(line, "has_dependents");
        assert!(message(&error).contains(".qcow2"), "{error:#}");
        let hint = error["data"]["hint"].as_str().unwrap_or_default();
        assert!(hint.contains("--force"), "{error:#}");
    }
    env.refuses("rebase mid.qcow2 --backing other.qcow2 --force", "bad_request");
    env.refuses("amend mid.qcow2 --compat 1.1 --force", "incompatible_options");
    // The same file, the same name, a file that is gone, an image that nobody lies above.
    env.report("rebase mid.qcow2 --unsafe --backing same.qcow2");
    assert_eq!(env.report("rebase mid.qcow2 --unsafe --backing same.qcow2")["changed"], false);
    env.report("rebase alone.qcow2 --unsafe --backing other.qcow2");
    std::fs::remove_file(env.path("same.qcow2")).expect("a link");
    env.report("amend mid.qcow2 --backing base.qcow2");
    assert!(env.disk("qcow2", "top.qcow2") == shown);
    env.report("rebase mid.qcow2 --backing other.qcow2");
    assert!(env.disk("qcow2", "top.qcow2") == shown);
    env.report("rebase mid.qcow2 --unsafe --no-backing --force");
    env.is_clean("mid.qcow2");
}
