//! `vmdisk completions` and `vmdisk man`: made from the parser, so they cannot drift from it.

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use serde::Serialize;

use super::Cli;
use super::output::Output;
use crate::error::{Error, ErrorKind, Result};

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  vmdisk completions bash > ~/.local/share/bash-completion/completions/vmdisk")]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// The parser without verbs that are hidden: nobody is led to what damages images.
pub(super) fn shown() -> Command {
    let all = Cli::command();
    let verbs = all.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned();
    let program = Command::new("vmdisk").version(env!("CARGO_PKG_VERSION"));
    program.disable_help_subcommand(true).args(all.get_arguments().cloned()).subcommands(verbs)
}

impl CompletionsArgs {
    pub(super) fn run(&self, output: Output) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut shown(), "vmdisk", &mut script);
        output.report(&Document::of(&script), Document::text)
    }
}

/// Print a manual page
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vmdisk man | man -l -
  vmdisk man create > vmdisk-create.1
  vmdisk man bitmap add | man -l -")]
pub(super) struct ManArgs {
    /// The verb it is about, and the action of a verb that has several [default: the program]
    #[arg(num_args = 0..=2)]
    verb: Vec<String>,
}

impl ManArgs {
    pub(super) fn run(&self, output: Output) -> Result<()> {
        let mut program = Cli::command();
        program.build();
        let mut command = program;
        for verb in &self.verb {
            command = command.find_subcommand(verb).cloned().ok_or_else(|| {
                Error::new(ErrorKind::BadRequest, format!("there is no verb '{verb}'"))
            })?;
        }
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(command).render(&mut page);
        rendered.map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot write the page").with_source(error)
        })?;
        output.report(&Document::of(&page), Document::text)
    }
}

#[derive(Serialize)]
struct Document {
    text: String,
}

impl Document {
    fn of(bytes: &[u8]) -> Self {
        Document { text: String::from_utf8_lossy(bytes).into_owned() }
    }

    fn text(&self) -> String {
        self.text.clone()
    }
}
