//! What was typed and not understood, in this program's own voice: what the parser knows of it, and
//! what was probably meant.

use std::ffi::OsString;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind as ClapErrorKind};

use super::Cli;
use crate::error::{Error, ErrorKind};
use crate::units::ByteSize;

/// What qemu-img calls some flags, and what they are called here, where the verb has them.
const QEMU_NAMES: [(&str, &str, &str); 6] = [
    ("-O", "format", "FORMAT"),
    ("-F", "backing-format", "FORMAT"),
    ("-u", "unsafe", ""),
    ("-c", "compress", "HOW"),
    ("-S", "sparse-size", "BYTES"),
    ("-p", "progress", "HOW"),
];

/// The verbs that are given a size.
const SIZED: [&str; 3] = ["create", "ensure", "resize"];

/// `help` before a verb, or before an action of a verb, is what everybody types.
pub(super) fn with_help(mut args: Vec<OsString>) -> Vec<OsString> {
    let word = |at: usize| args.get(at).and_then(|arg| arg.to_str());
    let at = match (word(1), word(2)) {
        (Some("help"), _) => 1,
        (Some("snapshot" | "bitmap"), Some("help")) => 2,
        _ => return args,
    };
    args.remove(at);
    args.push("--help".into());
    args
}

/// What the parser says, as an error of this program.
pub(super) fn error(error: &clap::Error) -> Error {
    let cause = std::error::Error::source(error).and_then(|e| e.downcast_ref::<Error>());
    let kind = match error.kind() {
        ClapErrorKind::ArgumentConflict => ErrorKind::IncompatibleOptions,
        _ => cause.map_or(ErrorKind::BadRequest, Error::kind),
    };
    let text = error.render().to_string();
    let text = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = text.trim_start_matches("error: ").split_whitespace().collect();
    Error::new(kind, words.join(" "))
}

/// What was probably meant, or where the help is.
pub(super) fn hint(error: &clap::Error, args: &[OsString]) -> String {
    let words: Vec<_> = args.iter().skip(1).map(|arg| arg.to_string_lossy()).collect();
    let words: Vec<_> = words.iter().map(AsRef::as_ref).collect();
    let verb = verb_of(&words);
    let meant = match error.kind() {
        ClapErrorKind::UnknownArgument => context(error, ContextKind::InvalidArg)
            .and_then(|unknown| unknown_argument(&unknown, &words, &verb)),
        ClapErrorKind::MissingRequiredArgument => context(error, ContextKind::InvalidArg)
            .and_then(|missing| alternative(&missing, &verb).map(str::to_owned)),
        _ => None,
    };
    let nearest = || {
        let kinds = [
            ContextKind::SuggestedArg,
            ContextKind::SuggestedSubcommand,
            ContextKind::SuggestedValue,
        ];
        let nearest = kinds.into_iter().find_map(|kind| context(error, kind))?;
        Some(format!("did you mean '{nearest}'?"))
    };
    let help = || [&["vmdisk"], verb.as_slice(), &["--help"]].concat().join(" ");
    meant.or_else(nearest).unwrap_or_else(help)
}

/// The verb, and its action where it has several.
fn verb_of<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let mut command = Cli::command();
    let mut verb = Vec::new();
    for word in words.iter().filter(|word| !word.starts_with('-')).take(2) {
        let Some(found) = command.find_subcommand(word) else { break };
        command = found.clone();
        verb.push(*word);
    }
    verb
}

/// What the parser knows of this kind; the last of several, which is the nearest.
fn context(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => texts.last().cloned(),
        _ => None,
    }
}

fn unknown_argument(unknown: &str, words: &[&str], verb: &[&str]) -> Option<String> {
    let name = *verb.first()?;
    let before = words.iter().position(|word| *word == unknown).unwrap_or_default();
    if let [.., flag, number] = words.get(..before).unwrap_or_default()
        && ["--size", "-s"].contains(flag)
        && ByteSize::parse_with_unit(&format!("{number}{unknown}")).is_ok()
    {
        return Some(format!("write {number}{unknown} in one word"));
    }
    let size = unknown.strip_prefix('+').unwrap_or(unknown);
    if SIZED.contains(&name) && ByteSize::parse_bytes(size).is_ok() {
        return Some(format!("the size is said with --size {unknown}"));
    }
    match (name, unknown) {
        ("snapshot", "-l") => return Some("vmdisk snapshot list DISK".to_owned()),
        ("snapshot", "-c") => return Some("vmdisk snapshot create DISK NAME".to_owned()),
        ("snapshot", "-a") => return Some("vmdisk snapshot apply DISK NAME".to_owned()),
        ("snapshot", "-d") => return Some("vmdisk snapshot delete DISK NAME".to_owned()),
        (_, "-o") => {
            return Some(format!(
                "options of the format are flags of their own, such as --cluster-size: vmdisk \
                 {name} --help"
            ));
        }
        _ => {}
    }
    let (_, long, value) = QEMU_NAMES.iter().find(|(theirs, ..)| *theirs == unknown)?;
    let command = Cli::command();
    let has = |long| command.find_subcommand(name)?.get_arguments().find(|a| a.get_long() == long);
    has(Some(*long))?;
    Some(format!("here it is --{long} {value}").trim_end().to_owned())
}

/// What may be said instead of a flag or word that is missing.
fn alternative(missing: &str, verb: &[&str]) -> Option<&'static str> {
    match verb {
        ["rebase"] if missing.starts_with("--backing") => {
            Some("--no-backing puts the disk above nothing")
        }
        ["bitmap", "remove"] => Some("--all removes every bitmap"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn told(line: &str) -> (String, String) {
        let args: Vec<OsString> = line.split(' ').map(Into::into).collect();
        let refused = Cli::try_parse_from(&args).expect_err(line);
        (error(&refused).to_string(), hint(&refused, &args))
    }

    #[test]
    fn what_was_meant_is_told() {
        for (line, meant) in [
            ("vmdisk create m.qcow2 20G", "the size is said with --size 20G"),
            ("vmdisk resize m.qcow2 +5G", "the size is said with --size +5G"),
            ("vmdisk create m.qcow2 --size 20 G", "write 20G in one word"),
            ("vmdisk convert -O raw a b", "here it is --format FORMAT"),
            ("vmdisk create m.qcow2 -F raw", "here it is --backing-format FORMAT"),
            ("vmdisk rebase m.qcow2 -u", "here it is --unsafe"),
            ("vmdisk snapshot -l m.qcow2", "vmdisk snapshot list DISK"),
            ("vmdisk creat x", "did you mean 'create'?"),
            ("vmdisk create x --siez 1G", "did you mean '--size'?"),
            ("vmdisk rebase o.qcow2", "--no-backing puts the disk above nothing"),
            ("vmdisk bitmap remove s.qcow2", "--all removes every bitmap"),
            ("vmdisk info", "vmdisk info --help"),
            ("vmdisk snapshot show", "vmdisk snapshot show --help"),
        ] {
            assert_eq!(told(line).1, meant, "{line}");
        }
        assert!(told("vmdisk create -o cluster_size=4K x").1.contains("--cluster-size"));
    }

    #[test]
    fn the_parser_speaks_as_the_program_does() {
        for line in ["vmdisk create a b", "vmdisk create -O x", "vmdisk creat", "vmdisk resize"] {
            let (message, _) = told(line);
            for foreign in ["error:", "tip:", "Usage", "\n", "For more"] {
                assert!(!message.contains(foreign), "{line}: {message}");
            }
        }
    }

    #[test]
    fn help_may_come_first() {
        let with = |line: &str| {
            let args = line.split(' ').map(Into::into).collect();
            let args = with_help(args);
            args.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(with("vmdisk help"), "vmdisk --help");
        assert_eq!(with("vmdisk help snapshot show"), "vmdisk snapshot show --help");
        assert_eq!(with("vmdisk bitmap help add"), "vmdisk bitmap add --help");
        assert_eq!(with("vmdisk info help"), "vmdisk info help");
    }
}
