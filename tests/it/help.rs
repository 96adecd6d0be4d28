//! What the program says of itself: its help word for word, its manual pages, its completions.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Env, VMDISK};

pub(crate) const VERBS: &[&str] = &[
    "create",
    "ensure",
    "resize",
    "rebase",
    "amend",
    "info",
    "guest",
    "map",
    "measure",
    "chain",
    "inspect",
    "check",
    "salvage",
    "commit",
    "flatten",
    "compact",
    "clone",
    "snapshot",
    "convert",
    "compare",
    "hash",
    "bitmap",
    "capabilities",
    "rpc",
    "schema",
    "completions",
    "man",
];

/// What verbs that have several actions can do.
pub(crate) const ACTIONS: &[&str] = &[
    "snapshot list",
    "snapshot show",
    "snapshot create",
    "snapshot apply",
    "snapshot delete",
    "bitmap list",
    "bitmap add",
    "bitmap remove",
    "bitmap clear",
    "bitmap enable",
    "bitmap disable",
    "bitmap merge",
];

/// The help of every verb is what was agreed on. After a deliberate change, run the test with
/// `VMDISK_BLESS=1` and read the difference that this makes in `tests/data/help`.
#[test]
fn help_is_as_agreed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/help");
    let bless = std::env::var_os("VMDISK_BLESS").is_some();
    let mut known = Vec::new();
    for verb in [""].iter().chain(VERBS).chain(ACTIONS) {
        let name = match *verb {
            "" => "vmdisk.txt".to_owned(),
            verb => format!("{}.txt", verb.replace(' ', "-")),
        };
        let mut command = Command::new(VMDISK);
        command.args(verb.split_whitespace()).arg("--help").env("COLUMNS", "100");
        let output = command.stdin(Stdio::null()).output().expect("the program");
        let help = String::from_utf8(output.stdout).expect("UTF-8");
        if bless {
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join(&name), &help).expect("a file");
        }
        let agreed = fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert!(help == agreed, "{name} is not what --help says now:\n{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{name} has long lines");
        known.push(name);
    }
    for entry in fs::read_dir(&folder).expect("the folder") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        assert!(known.contains(&name), "{name} belongs to no verb");
    }
}

/// `help` before a verb is what everybody types.
#[test]
fn help_may_come_first() {
    let env = Env::new();
    for verb in [""].iter().chain(VERBS).chain(ACTIONS) {
        let asked = env.vmdisk(&format!("help {verb}")).exits(0).stdout;
        assert_eq!(asked, env.vmdisk(&format!("{verb} --help")).exits(0).stdout, "{verb}");
    }
    env.refuses("help nothing", "bad_request");
}

/// Each verb that the help lists is one that the tests know.
#[test]
fn every_verb_is_listed() {
    let help = Env::new().vmdisk("--help").exits(0).stdout;
    let list = help.split_once("Commands:\n").expect("a list of verbs").1;
    let list = list.split("\n\n").next().expect("a list of verbs");
    let verbs: Vec<_> = list.lines().filter_map(|l| l.split_whitespace().next()).collect();
    assert_eq!(verbs, VERBS);
}

/// A manual page for the program and for every verb that names all of its flags and that man(1),
/// where there is one, renders without a complaint.
#[test]
fn manual_pages_render() {
    let env = Env::new();
    let has_man = Command::new("man").arg("--version").output().is_ok();
    for verb in [""].iter().chain(VERBS).chain(ACTIONS) {
        let page = env.vmdisk(&format!("man {verb}")).exits(0).stdout;
        let title = page.lines().find(|line| line.starts_with(".TH ")).unwrap_or_default();
        let named = if verb.is_empty() { "vmdisk".to_owned() } else { verb.replace(' ', "-") };
        assert!(title.to_lowercase().contains(&named), "{verb}: {title}");
        let help = env.vmdisk(&format!("{verb} --help")).stdout;
        let flags = help.split_whitespace().filter(|word| word.starts_with("--"));
        for flag in flags.map(|flag| flag.trim_end_matches(|c: char| !c.is_alphanumeric())) {
            let roff = flag.replace('-', "\\-");
            assert!(page.contains(&roff), "{verb}: the page does not speak of {flag}");
        }
        env.write("page.1", &page);
        if has_man {
            let render = "MAN_KEEP_FORMATTING= man --warnings -l page.1 2>&1 >/dev/null";
            assert_eq!(env.run("sh", ["-c", render]).exits(0).stdout, "", "{verb}");
        }
    }
}

/// What `make install` and packages take along: a page for the program, each verb and each action, and
/// the completions.
#[test]
fn every_page_is_installed() {
    let env = Env::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/packaging/pages.sh");
    let script = script.to_str().expect("a path in UTF-8");
    env.run("sh", [script, VMDISK, "share"]).exits(0);
    let pages = env.path("share/man/man1").read_dir().expect("a folder of pages");
    let pages = pages.map(|page| page.expect("a page").file_name().into_string().expect("UTF-8"));
    let mut pages: Vec<_> = pages.collect();
    let mut expected = vec!["vmdisk.1".to_owned()];
    let named = |verb: &&str| format!("vmdisk-{}.1", verb.replace(' ', "-"));
    expected.extend(VERBS.iter().chain(ACTIONS).map(named));
    pages.sort();
    expected.sort();
    assert_eq!(pages, expected);
    for file in [
        "bash-completion/completions/vmdisk",
        "zsh/site-functions/_vmdisk",
        "fish/vendor_completions.d/vmdisk.fish",
    ] {
        let script = fs::read_to_string(env.path("share").join(file)).expect(file);
        assert!(script.contains("snapshot"), "{file}");
    }
}

/// The scripts for each shell that is there are at least syntactically sound, and know the verbs.
#[test]
fn completions_are_scripts() {
    let env = Env::new();
    for (shell, check) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        let script = env.vmdisk(&format!("completions {shell}")).exits(0).stdout;
        for word in VERBS.iter().chain(&["preallocation", "if-exists", "lock-timeout"]) {
            assert!(script.contains(word), "{shell} does not complete {word}");
        }
        let led = script.split(|c: char| !c.is_alphanumeric()).any(|word| word == "damage");
        assert!(!led, "{shell} leads to what damages images");
        env.write("script", &script);
        if Command::new(shell).arg("--version").output().is_err() {
            println!("{shell} is not installed: its script was not read by it");
            continue;
        }
        assert_eq!(env.run(shell, [check, "script"]).exits(0).stderr, "", "{shell}");
    }
}
