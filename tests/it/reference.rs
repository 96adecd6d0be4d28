//! The reference of the protocol, held against the program: every example is run, every table is
//! made from the document that `vmdisk schema` prints.

mod tables;

use std::fs::{self, File};
use std::path::PathBuf;

use serde_json::Value;

use self::tables::Document;
use crate::lived_in::Layout;
use crate::support::{Env, PUBLIC_KEY, Run, VMDISK};

/// What stands for values that depend on the machine, and as a member for what is left out.
const ANYTHING: &str = "…";

fn page() -> (PathBuf, String) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/protocol/README.md");
    let text = fs::read_to_string(&path).expect("the reference");
    (path, text)
}

fn document() -> Document {
    Document::new(Env::new().vmdisk("schema").exits(0).json())
}

/// A fenced block.
#[derive(Debug, Default)]
struct Block {
    /// The heading that it is under.
    section: String,
    language: String,
    /// Whether it shows what the block before it prints.
    output: bool,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut section, mut last) = ("", "");
    let mut inside = false;
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(_) if inside => inside = false,
            Some(language) => {
                inside = true;
                let (section, language) = (section.to_owned(), language.to_owned());
                let output = last == "<!-- output -->";
                blocks.push(Block { section, language, output, text: String::new() });
            }
            None if inside => {
                let block = blocks.last_mut().expect("the block that this is inside of");
                block.text += &format!("{line}\n");
            }
            None if line.starts_with('#') => section = line,
            None => {}
        }
        last = line;
    }
    blocks
}

/// Each example does what it shows. Those of one section run in turn in a folder that has what
/// the examples speak of. Nothing here is rewritten: examples are written by hand.
#[test]
fn examples_do_what_they_show() {
    let blocks = blocks(&page().1);
    assert!(blocks.len() > 15, "the examples were found");
    for section in blocks.chunk_by(|a, b| a.section == b.section) {
        let env = Env::new();
        env.write("id.pub", PUBLIC_KEY);
        env.qemu_img("create -q -f qcow2 boot2docker.qcow2 64M");
        env.qemu_img("create -q -f qcow2 busy.qcow2 64M");
        env.qemu_img("create -q -f qcow2 damaged.qcow2 64M");
        env.qemu_io("qcow2", "damaged.qcow2", "write -P 7 0 256k");
        env.vmdisk("damage damaged.qcow2 --kind beyond-file --seed 1").exits(0);
        Layout::MINIKUBE.make(&env, "machine.raw", 64 << 20);
        let busy = File::open(env.path("busy.qcow2")).expect("the disk in use");
        busy.lock().expect("a lock on the disk in use");
        let mut printed = None;
        for block in section {
            match block.language.as_str() {
                _ if block.output => block.is(&printed.take().expect("something was run")),
                "text" if block.text.starts_with("--> ") => block.replay(&env),
                "sh" => printed = Some(block.execute(&env, &["sh", "-e", "-c"])),
                "python" => printed = Some(block.execute(&env, &["python3", "-c"])),
                _ => panic!("nothing can be done with {block:#?}"),
            }
        }
    }
}

impl Block {
    /// Runs it as printed, with the program in the path.
    fn execute(&self, env: &Env, shell: &[&str]) -> Run {
        let folder = PathBuf::from(VMDISK).parent().expect("its folder").display().to_string();
        let path = format!("PATH={folder}:{}", std::env::var("PATH").unwrap_or_default());
        env.run("env", [&[path.as_str()], shell, &[&self.text]].concat()).exits(0)
    }

    /// What was printed is what this block shows.
    fn is(&self, printed: &Run) {
        match self.language.as_str() {
            "json" => {
                let shown = parse(&self.text);
                assert!(alike(&shown, &printed.json()), "{}: {printed:#?}", self.section);
            }
            _ => assert_eq!(self.text, printed.stdout, "{}: {}", self.section, printed.stderr),
        }
    }

    /// Sends the requests to one session; the replies are those shown.
    fn replay(&self, env: &Env) {
        let (mut requests, mut shown) = (String::new(), Vec::new());
        for line in self.text.lines() {
            match line.split_at_checked(4) {
                Some(("--> ", request)) => requests += &format!("{request}\n"),
                Some(("<-- ", reply)) => shown.push(reply.to_owned()),
                _ => *shown.last_mut().expect("a reply that goes on") += line,
            }
        }
        env.write("requests", requests);
        let args = ["-c", "exec \"$0\" rpc <requests", VMDISK];
        let run = env.run("sh", args);
        let is_notification = |reply: &Value| reply.get("method").is_some();
        let (notified, replies): (Vec<_>, Vec<_>) =
            run.stdout.lines().map(parse).partition(is_notification);
        let (progress, shown): (Vec<_>, Vec<_>) =
            shown.iter().map(|reply| parse(reply)).partition(is_notification);
        for shown in progress {
            let found = notified.iter().any(|line| alike(&shown, line));
            assert!(found, "{}: {shown} is not among {notified:#?}", self.section);
        }
        for (shown, reply) in shown.iter().zip(&replies) {
            assert!(alike(shown, reply), "{}: shown {shown:#}\nis {reply:#}", self.section);
        }
        assert_eq!(shown.len(), replies.len(), "{}: {run:#?}", self.section);
    }
}

#[track_caller]
fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Whether a value is what is shown, up to what depends on the machine and what is left out.
fn alike(shown: &Value, value: &Value) -> bool {
    match (shown, value) {
        (Value::String(text), _) if text == ANYTHING => true,
        (Value::Array(shown), Value::Array(values)) => {
            shown.len() == values.len() && shown.iter().zip(values).all(|(s, v)| alike(s, v))
        }
        (Value::Object(shown), Value::Object(members)) => {
            let named = shown.iter().filter(|(name, _)| *name != ANYTHING);
            let partly = shown.contains_key(ANYTHING);
            let found = |(name, shown)| members.get(name).is_some_and(|value| alike(shown, value));
            named.clone().all(found) && (partly || named.count() == members.len())
        }
        _ => shown == value,
    }
}

/// The tables are what the program says of itself. After a deliberate change, run the test with
/// `VMDISK_BLESS=1`; what to do about a new kind of error has to be written by hand.
#[test]
fn tables_are_made_from_the_document() {
    let (path, page) = page();
    let made = document().tables(&page);
    if std::env::var_os("VMDISK_BLESS").is_some() {
        return fs::write(&path, &made).expect("the reference");
    }
    for (made, there) in made.lines().zip(page.lines()) {
        assert_eq!(there, made, "the reference is not what the program says now");
    }
    assert_eq!(made, page);
    for line in tables::lines_of(&made, "kinds").skip(2) {
        let remedy = line.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        assert!(!remedy.trim().is_empty(), "what is to be done about it? {line}");
    }
}

/// Whatever the program says of itself occurs in the reference, wherever that may be.
#[test]
fn nothing_is_left_out() {
    let (_, page) = page();
    let names = document().names();
    assert!(names.len() > 100, "{names:?}");
    for name in names {
        let ways = [format!("`{name}`"), format!(".{name}`"), format!("### {name}\n")];
        assert!(ways.iter().any(|way| page.contains(way)), "{name} does not occur");
    }
    for code in [-32700, -32600, -32601, -32602] {
        assert!(page.contains(&format!("| {code} |")), "{code} does not occur");
    }
}
