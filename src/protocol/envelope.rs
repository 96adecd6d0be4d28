//! The JSON-RPC 2.0 envelope: from a line to a request, and from an outcome to a line.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::error::{Code, ErrorObject, Fault};
use super::json;
use super::unknown::{is_extension, message, nearest};

/// The value of `jsonrpc`.
pub(super) const JSONRPC: &str = "2.0";

/// What names a request: a string or a number, echoed in its response.
#[derive(Debug, Clone)]
pub struct Id {
    value: Value,
    /// A number as it was written, where reading it may have changed it.
    text: Option<Box<RawValue>>,
}

impl PartialEq for Id {
    fn eq(&self, other: &Id) -> bool {
        self.value == other.value
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.text {
            Some(text) => text.serialize(serializer),
            None => self.value.serialize(serializer),
        }
    }
}

/// The one member whose text may matter.
#[derive(Deserialize)]
struct IdText {
    id: Box<RawValue>,
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.value.fmt(f)
    }
}

impl Id {
    /// The value as an id, if it may be one.
    pub(super) fn new(value: Value) -> Option<Id> {
        let named = matches!(value, Value::String(_) | Value::Number(_));
        named.then_some(Id { value, text: None })
    }

    /// Keeps a number that is no integer of 64 bits as the line has it.
    fn as_written(self, line: &str) -> Id {
        if !self.value.is_f64() {
            return self;
        }
        let text = serde_json::from_str::<IdText>(line).ok().map(|line| line.id);
        Id { text, ..self }
    }
}

/// What a line says, if it says anything that can be understood.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    /// Somebody waits for an answer.
    Request(Request),
    /// Nobody does.
    Notification(Notification),
}

/// A request whose envelope is in order.
#[derive(Debug, PartialEq)]
pub(super) struct Request {
    pub(super) id: Id,
    pub(super) method: String,
    pub(super) params: Map<String, Value>,
}

/// A notification whose envelope is in order.
#[derive(Debug, PartialEq)]
pub(super) struct Notification {
    pub(super) method: String,
    pub(super) params: Map<String, Value>,
}

/// A line that is no request: what is wrong, and the id if one could be read.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) id: Option<Id>,
    pub(super) fault: Fault,
}

/// Reads one line.
///
/// # Errors
/// What is not JSON, not a request of JSON-RPC 2.0, or a batch.
pub(super) fn read(line: &[u8]) -> Result<Message, Refused> {
    let parse_error = |why: String| Refused { id: None, fault: Fault::new(Code::Parse, why) };
    let text = std::str::from_utf8(line).map_err(|error| {
        parse_error(format!("the line is not UTF-8 at byte {}", error.valid_up_to()))
    })?;
    let value = json::parse(text).map_err(|error| {
        let code = if error.is_data() { Code::InvalidRequest } else { Code::Parse };
        Refused { id: None, fault: Fault::new(code, format!("the line is no JSON: {error}")) }
    })?;
    let refused = |why: &str| Refused { id: None, fault: Fault::new(Code::InvalidRequest, why) };
    match value {
        Value::Object(members) => members_of(members, text),
        Value::Array(_) => Err(refused("a batch: write one request a line instead")),
        _ => Err(refused("a request is a JSON object")),
    }
}

fn members_of(mut members: Map<String, Value>, line: &str) -> Result<Message, Refused> {
    let id = match members.remove("id") {
        None => None,
        Some(id) => Some(Id::new(id).map(|id| id.as_written(line)).ok_or_else(|| Refused {
            id: None,
            fault: Fault::new(Code::InvalidRequest, "an id is a string or a number"),
        })?),
    };
    let refused = |code, why: String| Refused { id: id.clone(), fault: Fault::new(code, why) };
    let invalid = |why: String| refused(Code::InvalidRequest, why);
    match members.remove("jsonrpc") {
        Some(Value::String(version)) if version == JSONRPC => {}
        Some(_) => return Err(invalid(format!("jsonrpc must be \"{JSONRPC}\""))),
        None => return Err(invalid(format!("jsonrpc is missing: it must be \"{JSONRPC}\""))),
    }
    let method = match members.remove("method") {
        Some(Value::String(method)) => method,
        Some(_) => return Err(invalid("method must be a string".to_owned())),
        None => return Err(invalid("method is missing".to_owned())),
    };
    let params = match members.remove("params") {
        None => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => {
            let why = "params must be an object: parameters have names here".to_owned();
            return Err(refused(Code::InvalidParams, why));
        }
    };
    if let Some(unknown) = members.keys().find(|name| !is_extension(name)) {
        let nearest = nearest(unknown, ["jsonrpc", "id", "method", "params"].into_iter());
        return Err(invalid(message("member", unknown, nearest.as_deref())));
    }
    Ok(match id {
        Some(id) => Message::Request(Request { id, method, params }),
        None => Message::Notification(Notification { method, params }),
    })
}

/// One line of answer: a result or an error, never both.
#[derive(Serialize)]
pub(super) struct Response<'a> {
    jsonrpc: &'static str,
    id: Option<&'a Id>,
    #[serde(flatten)]
    outcome: Outcome<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome<'a> {
    Result(&'a RawValue),
    Error(&'a ErrorObject),
}

impl<'a> Response<'a> {
    /// The answer to the request `id`, or to what had none that could be read.
    pub(super) fn new(id: Option<&'a Id>, outcome: Result<&'a RawValue, &'a ErrorObject>) -> Self {
        let outcome = match outcome {
            Ok(result) => Outcome::Result(result),
            Err(error) => Outcome::Error(error),
        };
        Response { jsonrpc: JSONRPC, id, outcome }
    }
}
