//! The command line: flags as typed become requests as meant, reports become text or JSON.

mod amend;
mod bitmap;
mod capabilities;
mod chain;
mod check;
mod clone;
mod colour;
mod commit;
mod compact;
mod compare;
mod convert;
mod create;
mod damage;
mod docs;
mod ensure;
mod exit;
mod flags;
mod flatten;
mod guest;
mod hash;
mod hint;
#[cfg(test)]
mod hint_tests;
mod info;
mod inspect;
mod logs;
mod map;
mod measure;
mod names;
mod output;
mod progress;
mod rebase;
mod resize;
mod rpc;
mod salvage;
mod snapshot;
mod usage;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::error::ErrorKind as ClapErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use self::colour::Colours;
pub use self::exit::Exit;
use self::flags::OutputFlags;
use self::logs::LogForm;
use self::output::Output;
use crate::error::{Error, ErrorKind, Result, guarded};
use crate::host::trip_on_signals;
use crate::ops::as_named;
use crate::task::Cancel;

/// Disks of local virtual machines: created, grown and inspected.
#[derive(Debug, Parser)]
#[command(
    name = "vmdisk",
    version,
    about,
    long_about = "Creates boot2docker-ready disks (qcow2 or raw), grows them and tells what they \
                  are: no QEMU, no root, no mounts, no daemon.",
    after_help = "Begin with: vmdisk create m.qcow2 --size 20G --ssh-key ~/.ssh/id_ed25519.pub

Sizes: 20G and 20GiB are 20 x 2^30 bytes, 20GB is 20 x 10^9.

Exit codes: 0 done, 1 failed, 2 not understood, 75 locked by another process (try again), 130/143 \
                  ended by a signal.

Environment: VMDISK_LOG, else RUST_LOG, says what is logged on standard error: a level \
                  (error, warn, info, debug, trace) or the level of a module (vmdisk::qcow2=debug). \
                  Colours are for terminals alone, and not for those with NO_COLOR or TERM=dumb.",
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    output: OutputFlags,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Create(create::Args),
    Ensure(ensure::Args),
    Resize(resize::Args),
    Rebase(rebase::Args),
    Amend(amend::Args),
    Info(info::Args),
    Guest(guest::Args),
    Map(map::Args),
    Measure(measure::Args),
    Chain(chain::Args),
    Inspect(inspect::Args),
    Check(check::Args),
    Salvage(salvage::Args),
    Commit(commit::Args),
    Flatten(flatten::Args),
    Compact(compact::Args),
    Clone(clone::Args),
    Snapshot(snapshot::Args),
    Convert(convert::Args),
    Compare(compare::Args),
    Hash(hash::Args),
    Bitmap(bitmap::Args),
    Capabilities(capabilities::Args),
    Rpc(rpc::RpcArgs),
    Schema(rpc::SchemaArgs),
    Completions(docs::CompletionsArgs),
    Man(docs::ManArgs),
    #[command(hide = true)]
    Damage(damage::Args),
}

/// The verbs whose findings have exit codes.
const FINDS: &[&str] = &["inspect", "check", "salvage", "compare"];

/// Runs the program with these arguments, the program's name first.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    let args = usage::with_help(args.into_iter().collect());
    let cli = match Cli::try_parse_from(&args).and_then(Cli::consistent) {
        Ok(cli) => cli,
        Err(error) => {
            let exit = usage(&error, &args);
            let verb = args.iter().skip(1).find(|arg| !arg.as_encoded_bytes().starts_with(b"-"));
            let finds = verb.is_some_and(|verb| FINDS.iter().any(|finds| verb == finds));
            return if finds { exit.beside_findings(ErrorKind::BadRequest) } else { exit };
        }
    };
    logs::start(&cli.output, cli.verb.log_form());
    let cancel = Cancel::new();
    let result = trip_on_signals(&cancel).and_then(|()| guarded(|| cli.dispatch(&cancel)));
    match result {
        Ok(exit) => exit,
        Err(error) => {
            let error = as_typed(error, &args);
            Output::new(&cli.output).error(&error, cli.verb.hint(&error));
            cli.verb.exit_of(&error, &cancel)
        }
    }
}

impl Cli {
    /// Refuses what the parser does not see where one flag stands before the verb and one behind it.
    fn consistent(self) -> Result<Self, clap::Error> {
        match self.output.quiet && self.output.verbose > 0 {
            true => {
                let message = "--quiet and --verbose cannot be used together";
                Err(Cli::command().error(ClapErrorKind::ArgumentConflict, message))
            }
            false => Ok(self),
        }
    }

    fn dispatch(&self, cancel: &Cancel) -> Result<Exit> {
        let output = Output::new(&self.output);
        match &self.verb {
            Verb::Create(args) => args.run(output, cancel),
            Verb::Ensure(args) => args.run(output, cancel),
            Verb::Resize(args) => args.run(output, cancel),
            Verb::Rebase(args) => args.run(output, cancel),
            Verb::Amend(args) => args.run(output, cancel),
            Verb::Info(args) => args.run(output, cancel),
            Verb::Guest(args) => args.run(output, cancel),
            Verb::Map(args) => args.run(output, cancel),
            Verb::Measure(args) => args.run(output, cancel),
            Verb::Chain(args) => args.run(output, cancel),
            Verb::Inspect(args) => return args.run(output, cancel),
            Verb::Check(args) => return args.run(output, cancel),
            Verb::Salvage(args) => return args.run(output, cancel),
            Verb::Commit(args) => args.run(output, cancel),
            Verb::Flatten(args) => args.run(output, cancel),
            Verb::Compact(args) => args.run(output, cancel),
            Verb::Clone(args) => args.run(output, cancel),
            Verb::Snapshot(args) => args.run(output, cancel),
            Verb::Convert(args) => args.run(output, cancel),
            Verb::Compare(args) => return args.run(output, cancel),
            Verb::Hash(args) => args.run(output, cancel),
            Verb::Damage(args) => args.run(output, cancel),
            Verb::Bitmap(args) => args.run(output, cancel),
            Verb::Capabilities(args) => args.run(output, cancel),
            Verb::Rpc(args) => return args.run(cancel),
            Verb::Schema(args) => args.run(),
            Verb::Completions(args) => args.run(output),
            Verb::Man(args) => args.run(output),
        }?;
        Ok(Exit::Done)
    }
}

impl Verb {
    fn log_form(&self) -> LogForm {
        match self {
            Verb::Rpc(args) => args.log_format,
            _ => LogForm::Text,
        }
    }

    /// The exit code of an error of this verb.
    fn exit_of(&self, error: &Error, cancel: &Cancel) -> Exit {
        let exit = Exit::of(error, cancel);
        match self {
            Verb::Inspect(_) | Verb::Check(_) | Verb::Salvage(_) => {
                exit.beside_findings(error.kind())
            }
            Verb::Compare(_) => exit.of_comparison(),
            _ => exit,
        }
    }

    /// What to do about an error of this verb.
    fn hint(&self, error: &Error) -> Option<&'static str> {
        let own = match self {
            _ if hint::is_special(error) => None,
            Verb::Create(args) => args.hint(error),
            Verb::Ensure(_) => ensure::hint(error),
            Verb::Resize(_) => resize::hint(error),
            Verb::Commit(_) => commit::hint(error),
            Verb::Flatten(_) => flatten::hint(error),
            Verb::Compact(_) => compact::hint(error),
            Verb::Clone(args) => args.hint(error),
            Verb::Rebase(_) => rebase::hint(error),
            Verb::Snapshot(args) => args.hint(error),
            Verb::Convert(_) => convert::hint(error),
            Verb::Amend(_) => amend::hint(error),
            Verb::Bitmap(_) => bitmap::hint(error),
            Verb::Check(_) => check::hint(error),
            Verb::Salvage(_) => salvage::hint(error),
            Verb::Hash(_) => hash::hint(error),
            Verb::Measure(_) => measure::hint(error),
            Verb::Info(_)
            | Verb::Guest(_)
            | Verb::Map(_)
            | Verb::Chain(_)
            | Verb::Inspect(_)
            | Verb::Compare(_)
            | Verb::Damage(_)
            | Verb::Capabilities(_)
            | Verb::Rpc(_)
            | Verb::Schema(_)
            | Verb::Completions(_)
            | Verb::Man(_) => None,
        };
        own.or_else(|| hint::hint(error))
    }
}

/// The error about the file as it was typed, also behind an equals sign.
fn as_typed(error: Error, args: &[OsString]) -> Error {
    let value = |arg: &OsString| match arg.as_bytes().iter().position(|&byte| byte == b'=') {
        Some(at) if arg.as_bytes().starts_with(b"--") => {
            OsString::from_vec(arg.as_bytes()[at + 1..].to_vec())
        }
        _ => arg.clone(),
    };
    as_named(error, args.iter().skip(1).map(value))
}

/// Help and version are what was asked for; everything else was not understood.
fn usage(error: &clap::Error, args: &[OsString]) -> Exit {
    match error.kind() {
        ClapErrorKind::DisplayHelp | ClapErrorKind::DisplayVersion => {
            // A closed pipe before anything happened is no failure.
            let _ = write_styled(&mut std::io::stdout(), error);
            Exit::Done
        }
        ClapErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // Nowhere to say that standard error is closed.
            let _ = write_styled(&mut std::io::stderr(), error);
            Exit::NotUnderstood
        }
        _ => {
            let output = Output::of_typed(args.iter().any(|arg| arg == "--json"));
            output.error(&usage::error(error), Some(&usage::hint(error, args)));
            Exit::NotUnderstood
        }
    }
}

/// By the same rule as everything else that has colours.
fn write_styled(stream: &mut (impl Write + IsTerminal), error: &clap::Error) -> io::Result<()> {
    let styled = error.render();
    let text = match Colours::of(stream).are_on() {
        true => styled.ansi().to_string(),
        false => styled.to_string(),
    };
    stream.write_all(text.as_bytes())
}
