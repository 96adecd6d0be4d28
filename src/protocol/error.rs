//! Errors as JSON-RPC error objects.

use schemars::JsonSchema;
use serde::Serialize;

use super::SUPPORTED;
use crate::error::{Error, ErrorKind};
use crate::ops::{bytes_hex, lossy};

/// JSON-RPC's own codes, for what is wrong with a request before any verb sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    /// The line is no JSON.
    Parse = -32700,
    /// The line is no request.
    InvalidRequest = -32600,
    /// No such method.
    MethodNotFound = -32601,
    /// The parameters are not understood.
    InvalidParams = -32602,
}

/// What a request failed with: an error of a verb, or a fault of the request itself.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) error: Error,
    code: Option<Code>,
    detail: Option<Box<Detail>>,
}

impl Fault {
    /// The request is not understood.
    pub(super) fn new(code: Code, why: impl Into<String>) -> Self {
        Self::of_kind(ErrorKind::BadRequest, code, why)
    }

    /// The request is not understood, for a reason that has a kind of its own.
    pub(super) fn of_kind(kind: ErrorKind, code: Code, why: impl Into<String>) -> Self {
        Fault { error: Error::new(kind, why), code: Some(code), detail: None }
    }

    /// Names the field that is to blame.
    pub(super) fn at_field(mut self, field: String, nearest: Option<String>) -> Self {
        self.detail = Some(Box::new(Detail { field, nearest }));
        self
    }
}

impl From<Error> for Fault {
    /// The error of a verb; one that blames a field is about the parameters, unless they were
    /// understood and what they name is not as it would have to be.
    fn from(error: Error) -> Self {
        let Some(field) = error.field() else { return Fault { error, code: None, detail: None } };
        let code = match error.kind() {
            ErrorKind::BadRequest | ErrorKind::BadSize | ErrorKind::IncompatibleOptions => {
                Some(Code::InvalidParams)
            }
            _ => None,
        };
        let fault = Fault { error, code, detail: None };
        fault.at_field(field.to_owned(), None)
    }
}

/// `error` of a JSON-RPC response.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct ErrorObject {
    /// JSON-RPC's own code for a request that is not understood, else the positive code of the
    /// kind.
    code: i64,
    /// What went wrong, for people: may change, and must not be parsed.
    message: String,
    /// What went wrong, for programs.
    data: ErrorData,
}

/// What went wrong, for programs.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct ErrorData {
    /// The kind of failure. A client treats one that it does not know as `internal`.
    kind: String,
    /// Whether the same request may succeed later without anything being mended.
    retriable: bool,
    /// Whether a file that the request names may differ from before. `false` is a promise.
    changed: bool,
    /// The file that the failure is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes_hex: Option<String>,
    /// The offset in that file, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset_bytes: Option<u64>,
    /// The system's error number.
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<i32>,
    /// Which field of the request is to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Detail>,
    /// What to do about it, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    /// The process that holds the lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<HolderData>,
    /// The versions of the protocol that are spoken here, for `protocol_unsupported`.
    #[serde(skip_serializing_if = "Option::is_none")]
    supported: Option<Vec<String>>,
}

/// A field of a request that is to blame.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct Detail {
    /// Its name, with dots between levels.
    field: String,
    /// The known field that it was perhaps meant to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    nearest: Option<String>,
}

/// The process that holds a lock.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct HolderData {
    /// Its id.
    pid: u32,
    /// The name of its command.
    command: String,
}

impl ErrorObject {
    /// The error of a verb, with what to do about it.
    pub(crate) fn new(error: &Error, hint: Option<&str>) -> Self {
        let holder = error.holder();
        let versions = || SUPPORTED.iter().map(|version| (*version).to_owned()).collect();
        let unsupported = error.kind() == ErrorKind::ProtocolUnsupported;
        ErrorObject {
            code: error.kind().code(),
            message: error.to_string(),
            data: ErrorData {
                kind: error.kind().name().to_owned(),
                retriable: error.retriable(),
                changed: error.changed(),
                path: error.path().map(lossy),
                path_bytes_hex: error.path().and_then(bytes_hex),
                offset_bytes: error.offset(),
                errno: error.errno(),
                detail: None,
                hint: hint.map(str::to_owned),
                holder: holder.map(|h| HolderData { pid: h.pid, command: h.command.clone() }),
                supported: unsupported.then(versions),
            },
        }
    }

    /// What a request failed with.
    pub(super) fn of(fault: &Fault, hint: Option<&str>) -> Self {
        let mut object = ErrorObject::new(&fault.error, hint);
        if let Some(code) = fault.code {
            // OK: the codes are declared above.
            object.code = code as i64;
        }
        object.data.detail = fault.detail.as_deref().cloned();
        object
    }
}
