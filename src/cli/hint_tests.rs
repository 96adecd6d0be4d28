//! What hints promise: flags that are there, and no harm.

use std::collections::BTreeSet;

use clap::{CommandFactory, Parser};

use super::Cli;
use crate::error::{Case, Error, ErrorKind};

/// A call of each verb that has errors of its own.
const CALLS: &[&str] = &[
    "create d",
    "create d --if-exists keep",
    "ensure d",
    "resize d --size 1G",
    "rebase d --no-backing",
    "amend d",
    "info d",
    "guest d",
    "map d",
    "measure d",
    "chain d",
    "inspect d",
    "check d",
    "salvage d o",
    "commit d",
    "flatten d",
    "compact d",
    "clone d o",
    "clone d o --method copy",
    "snapshot list d",
    "snapshot show d s",
    "snapshot create d s",
    "snapshot apply d s",
    "snapshot delete d s",
    "convert d o",
    "compare d e",
    "hash d",
    "bitmap list d",
    "bitmap add d b",
    "bitmap remove d b",
    "bitmap merge d b --source e c",
    "capabilities",
];

/// The command that these words name, and how many of them do.
fn command_of<'a>(words: impl Iterator<Item = &'a str>) -> (clap::Command, usize) {
    let mut command = Cli::command();
    let mut count = 0;
    for word in words {
        let Some(found) = command.find_subcommand(word).cloned() else { break };
        (command, count) = (found, count + 1);
    }
    (command, count)
}

fn has(command: &clap::Command, flag: &str) -> bool {
    command.get_arguments().any(|arg| arg.get_long() == flag.strip_prefix("--"))
}

/// What only a verb with this flag meets.
fn flag_of(kind: ErrorKind, command: &clap::Command) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::Locked | ErrorKind::LockUnavailable => "--lock-timeout",
        ErrorKind::BackingRefused => "--allow",
        ErrorKind::FormatMismatch if !has(command, "--source-format") => "--format",
        _ => return None,
    })
}

/// Every error that hints tell apart, for this verb.
fn errors(command: &clap::Command) -> Vec<Error> {
    let cases = Case::ALL.iter().copied().map(Some).chain([None]);
    let mut errors = Vec::new();
    for case in cases {
        for kind in ErrorKind::ALL.iter().copied() {
            if flag_of(kind, command).is_some_and(|flag| !has(command, flag)) {
                continue;
            }
            let disk_only = (command.get_name() == "apply").then_some("disk_only");
            for field in [None, Some("snapshot"), disk_only] {
                let mut error = Error::new(kind, "refused");
                error = case.into_iter().fold(error, Error::in_case);
                errors.push(field.into_iter().fold(error, Error::in_field));
            }
        }
    }
    errors
}

/// Which verbs meet a case that speaks of their own flags.
fn can_meet(command: &clap::Command, error: &Error) -> bool {
    match error.case() {
        Some(Case::NoSize) => has(command, "--size") && has(command, "--backing"),
        // Of the actions on snapshots, one alone asks who depends on the disk.
        _ if error.kind() == ErrorKind::HasDependents => {
            let others = ["list", "show", "create", "delete"];
            has(command, "--force") || !others.contains(&command.get_name())
        }
        _ => true,
    }
}

/// Every hint that this verb can give, once.
fn hints_of(call: &str) -> BTreeSet<&'static str> {
    let cli = Cli::try_parse_from(format!("vmdisk {call}").split(' ')).expect(call);
    let (own, _) = command_of(call.split(' '));
    let errors = errors(&own).into_iter().filter(|error| can_meet(&own, error));
    errors.filter_map(|error| cli.verb.hint(&error)).collect()
}

/// A hint names flags of the verb that failed, or of the verb that it names before them.
#[test]
fn hints_name_flags_that_are_there() {
    let all = Cli::command();
    let mut flags = 0;
    for call in CALLS {
        let (own, _) = command_of(call.split(' '));
        for hint in hints_of(call) {
            let words: Vec<_> = hint
                .split_whitespace()
                .map(|word| word.trim_matches([',', ';', ':', '.', '(', ')']))
                .collect();
            let mut command = own.clone();
            for (at, word) in words.iter().enumerate() {
                let next = words.get(at + 1).copied().unwrap_or_default();
                if *word == "vmdisk" {
                    let (named, count) = command_of(words[at + 1..].iter().copied());
                    assert!(count > 0, "{call}: {hint}");
                    command = named;
                } else if word.starts_with("--") {
                    flags += 1;
                    let name = command.get_name();
                    assert!(has(&command, word), "{call}: {name} has no {word}: {hint}");
                } else if next.starts_with("--") && all.find_subcommand(word).is_some() {
                    // `vmdisk check tells what is wrong, check --repair all ..`
                    (command, _) = command_of([*word].into_iter());
                }
            }
        }
    }
    assert!(flags > 100, "{flags} flags were looked for");
}

/// An image of a format that is not handled would be destroyed as a raw disk: no hint offers that.
#[test]
fn a_foreign_image_is_never_called_raw() {
    for call in CALLS {
        let cli = Cli::try_parse_from(format!("vmdisk {call}").split(' ')).expect(call);
        let error = Error::new(ErrorKind::FormatMismatch, "VMDK").in_case(Case::ForeignFormat);
        let hint = cli.verb.hint(&error).unwrap_or_default();
        assert!(hint.contains("convert") && !hint.contains("raw"), "{call}: {hint}");
    }
}

/// Where `--format` is that of the new disk, it is not what a doubt is settled with.
#[test]
fn a_doubt_is_about_the_source() {
    for call in CALLS {
        let (own, _) = command_of(call.split(' '));
        let cli = Cli::try_parse_from(format!("vmdisk {call}").split(' ')).expect(call);
        let hint = cli.verb.hint(&Error::new(ErrorKind::FormatMismatch, "refused"));
        if has(&own, "--source-format") {
            assert!(hint.is_some_and(|hint| hint.contains("--source-format")), "{call}: {hint:?}");
        }
    }
}

/// Hints have one voice, and no name of the code.
#[test]
fn hints_are_fragments() {
    for hint in CALLS.iter().flat_map(|call| hints_of(call)) {
        assert!(!hint.ends_with('.') && !hint.contains("  "), "{hint}");
        assert!(!hint.starts_with(|first: char| first.is_uppercase()), "{hint}");
        assert!(!hint.contains("::") && !hint.contains('_'), "{hint}");
    }
}
