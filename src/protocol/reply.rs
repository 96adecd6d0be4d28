//! Results: a verb's report, and who made it.

use schemars::JsonSchema;
use serde::Serialize;

use super::VERSION;

/// The version of the protocol and of the program.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct Meta {
    /// The major version of the protocol.
    protocol: &'static str,
    /// The program.
    tool: Tool,
}

/// A program.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct Tool {
    /// Its name.
    name: &'static str,
    /// Its version.
    version: &'static str,
}

/// A report, and who made it: `result` of a response, and what `--json` prints.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "{R}Result")]
pub(crate) struct Reply<R> {
    #[serde(flatten)]
    report: R,
    /// The version of the protocol and of the program.
    meta: Meta,
}

impl<R> Reply<R> {
    /// The report of a verb of this program.
    pub(crate) fn new(report: R) -> Self {
        let tool = Tool { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION") };
        Reply { report, meta: Meta { protocol: VERSION, tool } }
    }
}
