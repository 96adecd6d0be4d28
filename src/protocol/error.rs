//! Errors as JSON-RPC error objects.

use serde::Serialize;

use crate::error::{Error, ErrorKind};
use crate::ops::{bytes_hex, lossy};

/// The positive application code of a kind: fixed, because kinds are only ever appended.
pub fn code(kind: ErrorKind) -> i64 {
    let place = ErrorKind::ALL.iter().position(|known| *known == kind);
    // OK: there are a few dozen kinds.
    place.map_or(0, |place| place as i64 + 1)
}

/// `error` of a JSON-RPC response.
#[derive(Debug, Clone, Serialize)]
pub struct ErrorObject {
    code: i64,
    message: String,
    data: ErrorData,
}

#[derive(Debug, Clone, Serialize)]
struct ErrorData {
    kind: &'static str,
    retriable: bool,
    changed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<HolderData>,
}

#[derive(Debug, Clone, Serialize)]
struct HolderData {
    pid: u32,
    command: String,
}

impl ErrorObject {
    /// The error, with what to do about it.
    pub fn new(error: &Error, hint: Option<&str>) -> Self {
        let holder = error.holder();
        ErrorObject {
            code: code(error.kind()),
            message: error.to_string(),
            data: ErrorData {
                kind: error.kind().name(),
                retriable: error.retriable(),
                changed: error.changed(),
                path: error.path().map(lossy),
                path_bytes_hex: error.path().and_then(bytes_hex),
                offset_bytes: error.offset(),
                errno: error.errno(),
                hint: hint.map(str::to_owned),
                holder: holder.map(|h| HolderData { pid: h.pid, command: h.command.clone() }),
            },
        }
    }
}
