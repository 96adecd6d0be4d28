//! The invariants of `src/README.md`, held against the source itself.

use std::fs;
use std::path::{Path, PathBuf};

/// What each room may import of the crate.
const ROOMS: &[(&str, &[&str])] = &[
    ("main.rs", &["cli"]),
    (
        "cli",
        &[
            "ops",
            "protocol",
            "units",
            "error",
            "task",
            "host::Stdin",
            "host::Stdout",
            "host::terminal_columns",
            "host::trip_on_signals",
            "host::LockPolicy",
            "image::gate",
        ],
    ),
    ("protocol", &["ops", "units", "error", "task"]),
    ("ops", &["image", "guest", "host", "units", "error", "task", "block", "qcow2", "raw"]),
    ("guest", &["block", "units", "error"]),
    ("task.rs", &["error"]),
    ("block", &["units", "error"]),
    ("image", &["qcow2", "raw", "host", "block", "error", "task", "units"]),
    ("qcow2", &["host::storage", "block", "units", "error", "task"]),
    ("raw.rs", &["host::storage", "block", "units", "error", "task"]),
    ("host", &["units", "error", "task"]),
    ("units.rs", &["error"]),
    ("error.rs", &[]),
    ("error", &[]),
];

/// Crates that only these rooms name.
const CRATES: &[(&str, &[&str])] = &[
    ("nix", &["host"]),
    ("tempfile", &["host"]),
    ("signal_hook", &["host"]),
    ("std::fs", &["host"]),
    ("clap", &["cli"]),
    ("env_filter", &["cli"]),
    ("log::", &["cli", "protocol", "image", "qcow2", "host"]),
    ("set_boxed_logger", &["cli"]),
    ("indicatif", &["cli"]),
    ("serde_json", &["cli", "protocol", "ops"]),
    ("serde", &["ops", "protocol", "cli"]),
    ("schemars", &["ops", "protocol"]),
    ("println", &["cli"]),
    ("eprintln", &["cli"]),
    ("stderr", &["cli"]),
    ("unsafe {", &["host"]),
];

struct Source {
    /// Relative to `src`.
    path: PathBuf,
    /// Without comments and unit tests.
    code: Vec<String>,
    all: String,
}

impl Source {
    fn room(&self) -> String {
        self.path.components().next().unwrap().as_os_str().to_string_lossy().into_owned()
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if !name.ends_with(".rs") || name.ends_with("tests.rs") {
                continue;
            }
            let all = fs::read_to_string(&path).unwrap();
            let tested = all.find("#[cfg(test)]\nmod tests {").unwrap_or(all.len());
            let code = all[..tested].lines().filter(|line| !line.trim_start().starts_with("//"));
            let code = code.map(str::to_owned).collect();
            sources.push(Source { path: path.strip_prefix(&root).unwrap().to_owned(), code, all });
        }
    }
    assert!(sources.len() > 30, "the source was found");
    sources
}

/// Every `crate::` path in the code, with the braces of `use` taken apart one level deep.
fn crate_paths(code: &[String]) -> Vec<String> {
    let text = code.join("\n");
    let mut paths = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let list = &list[..list.find('}').unwrap()];
            paths.extend(list.split(',').map(|item| item.trim().to_owned()));
        } else {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
            paths.push(rest[..end.unwrap_or(rest.len())].trim_end_matches(':').to_owned());
        }
    }
    paths.retain(|path| !path.is_empty());
    paths
}

#[test]
fn imports_point_downwards() {
    for source in sources() {
        let room = source.room();
        if room == "lib.rs" {
            continue;
        }
        let rule = ROOMS.iter().find(|(name, _)| *name == room);
        let (_, allowed) = rule.unwrap_or_else(|| panic!("{room} is a room without a rule"));
        for path in crate_paths(&source.code) {
            let own = path.split("::").next() == room.strip_suffix(".rs").or(Some(&room));
            let allowed = allowed.iter().any(|a| {
                path == *a
                    || path.starts_with(&format!("{a}::"))
                    || matches!(path.as_str(), "Error" | "ErrorKind" | "Result")
            });
            assert!(own || allowed, "{}: {path} is above it", source.path.display());
        }
    }
}

#[test]
fn outside_crates_stay_in_their_rooms() {
    for source in sources() {
        for (name, rooms) in CRATES {
            let room = source.room();
            if rooms.contains(&room.as_str()) {
                continue;
            }
            let named = |line: &&String| {
                line.match_indices(name).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    let after = line[at + name.len()..].chars().next();
                    let word = |c: char| c.is_alphanumeric() || c == '_';
                    let ends = !name.ends_with(word) || !after.is_some_and(word);
                    !before.is_some_and(word) && ends
                })
            };
            let line = source.code.iter().find(named);
            assert!(line.is_none(), "{} names {name}: {}", source.path.display(), line.unwrap());
        }
    }
}

#[test]
fn guest_never_hears_of_qcow2_and_qcow2_of_no_path() {
    for source in sources() {
        let banned: &[&str] = match source.room().as_str() {
            "guest" => &["qcow2", "Qcow2"],
            "qcow2" => &["std::path", "PathBuf", "&Path"],
            _ => &[],
        };
        for word in banned {
            let line = source.code.iter().find(|line| line.contains(word));
            assert!(line.is_none(), "{}: {}", source.path.display(), line.unwrap());
        }
    }
}

#[test]
fn nothing_is_unfinished_and_nothing_is_async() {
    for source in sources() {
        for word in ["todo!", "unimplemented!", "dbg!", "FIXME", "XXX", "#[ignore", "async fn"] {
            assert!(!source.all.contains(word), "{} has {word}", source.path.display());
        }
        let starred = source.code.iter().any(|line| line.trim() == "use super::*;");
        assert!(!starred, "{} imports everything", source.path.display());
    }
}

#[test]
fn files_and_functions_are_of_a_size_to_be_read() {
    for source in sources() {
        assert!(source.code.len() <= 500, "{} is long", source.path.display());
        let mut start: Option<(usize, usize)> = None;
        for (number, line) in source.code.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let words = line.trim_start();
            let modifiers = words.split_once("fn ").map(|(before, _)| before);
            let known = |word: &str| word == "const" || word.starts_with("pub");
            if modifiers.is_some_and(|before| before.split_whitespace().all(known)) {
                start = Some((number, indent));
            }
            let ends = |(_, depth): &(usize, usize)| words == "}" && indent == *depth;
            if let Some((first, _)) = start.filter(ends) {
                let len = number - first + 1;
                assert!(len <= 70, "{}:{first} has {len} lines", source.path.display());
                start = None;
            }
        }
    }
}
