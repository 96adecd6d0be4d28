//! `vmdisk rpc` and `vmdisk schema`.

use std::io::BufReader;
use std::panic::{PanicHookInfo, set_hook};

use super::exit::Exit;
use super::logs::LogForm;
use super::output::print;
use crate::error::{ErrorKind, Result};
use crate::host::Stdin;
use crate::host::Stdout;
use crate::protocol::{Ended, Session, document};
use crate::task::Cancel;

/// Answer JSON-RPC requests, one a line
///
/// Reads requests from standard input and writes one line for each to standard output. Ends at the
/// end of input, when everything that was asked has been answered. The exit code is that of the
/// request if there was one alone, as if it had been a verb; else 0. It is JSON with and without --json.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  echo '{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"info\",\"params\":{\"path\":\"m.qcow2\"}}' | vmdisk rpc
The methods: vmdisk schema")]
pub(super) struct RpcArgs {
    /// How warnings and logs look on standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub(super) log_format: LogForm,
}

impl RpcArgs {
    pub(super) fn run(&self, cancel: &Cancel) -> Result<Exit> {
        set_hook(Box::new(|panic: &PanicHookInfo<'_>| log::error!("{panic}")));
        let session = Session::new(cancel);
        let input = BufReader::new(Stdin::watched(cancel, session.stopper())?);
        // The reading thread watches on: another one would cost a short call a tenth of its time.
        let linger = |input: BufReader<Stdin<_>>| input.into_inner().linger();
        let ended = match session.serve(input, linger, Stdout::new(cancel), Stdout::has_room) {
            Ok(ended) => ended,
            // Standard output is the protocol's alone.
            Err(error) => {
                log::error!("{error}");
                return Ok(Exit::of(&error, cancel));
            }
        };
        let stopped = || cancel.signal().map_or(Exit::Done, Exit::Signal);
        Ok(match ended {
            Ended::Answered(None) => Exit::Done,
            Ended::Answered(Some(ErrorKind::Cancelled)) if cancel.signal().is_some() => stopped(),
            Ended::Answered(Some(kind)) => Exit::of_kind(kind),
            Ended::Stopped | Ended::Unheard => stopped(),
            Ended::Broken => Exit::Failed,
        })
    }
}

/// Print the protocol's methods as an OpenRPC document
///
/// It is JSON with and without --json.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  vmdisk schema > openrpc.json")]
pub(super) struct SchemaArgs {}

impl SchemaArgs {
    pub(super) fn run(&self) -> Result<()> {
        print(document())
    }
}
