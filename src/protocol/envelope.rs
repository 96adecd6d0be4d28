//! The JSON-RPC 2.0 envelope: from a line to a request, and from an outcome to a line.
//!
//! A line is read as far as its members go. Parameters stay text until it is their turn: what
//! waits takes no more memory than its line.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::error::{Code, ErrorObject, Fault};
use super::json;
use super::unknown::{is_extension, message, nearest};

/// The value of `jsonrpc`.
pub(super) const JSONRPC: &str = "2.0";

/// What names a request: a string or a number, echoed in its response as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Id {
    Text(String),
    /// The digits: a number that is read may come back as another.
    Number(String),
}

impl Id {
    /// The value as an id, if it may be one.
    pub(super) fn read(value: &RawValue) -> Option<Id> {
        let text = value.get();
        match text.bytes().next()? {
            b'"' => serde_json::from_str(text).ok().map(Id::Text),
            b'-' | b'0'..=b'9' => Some(Id::Number(text.to_owned())),
            _ => None,
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Id::Text(text) => f.write_str(text),
            Id::Number(digits) => f.write_str(digits),
        }
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error;
        match self {
            Id::Text(text) => text.serialize(serializer),
            Id::Number(digits) => {
                let raw: &RawValue = serde_json::from_str(digits).map_err(S::Error::custom)?;
                raw.serialize(serializer)
            }
        }
    }
}

/// What a line says.
#[derive(Debug)]
pub(super) enum Message {
    /// Somebody waits for an answer.
    Request(Request),
    /// Nobody does.
    Notification(Notification),
    /// Nobody does, and it could not be understood, for this reason.
    Ignored(String),
}

/// A request whose envelope is in order.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: Id,
    pub(super) method: String,
    pub(super) params: Params,
}

/// A notification whose envelope is in order.
#[derive(Debug)]
pub(super) struct Notification {
    pub(super) method: String,
    pub(super) params: Params,
}

/// Parameters that were not read yet.
#[derive(Debug, Default)]
pub(super) struct Params(Option<Box<RawValue>>);

impl Params {
    /// Reads them, strictly.
    ///
    /// # Errors
    /// What is not an object; keys that come twice; nesting that is too deep.
    pub(super) fn read(&self) -> Result<Map<String, Value>, Fault> {
        let Some(text) = &self.0 else { return Ok(Map::new()) };
        match json::parse(text.get()).map_err(|error| broken("the parameters", &error))? {
            Value::Object(params) => Ok(params),
            _ => Err(Fault::new(Code::InvalidParams, NO_OBJECT)),
        }
    }
}

impl Params {
    /// The id that they name, of which nothing else is expected.
    ///
    /// # Errors
    /// As [`read`](Self::read), and for any other field.
    pub(super) fn named_id(&self) -> Result<Option<Id>, Fault> {
        let known = |name: &&String| *name != "id" && !is_extension(name);
        if let Some(unknown) = self.read()?.keys().find(known) {
            return Err(Fault::new(Code::InvalidParams, message("field", unknown, None)));
        }
        let id = self.0.as_deref().and_then(|text| serde_json::from_str::<Named>(text.get()).ok());
        Ok(id.and_then(|named| Id::read(&named.id)))
    }
}

/// The one field of `cancel`.
#[derive(serde::Deserialize)]
struct Named {
    id: Box<RawValue>,
}

const NO_OBJECT: &str = "params must be an object: parameters have names here";

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
    let refused = |fault| Refused { id: None, fault };
    let text = std::str::from_utf8(line).map_err(|error| {
        let why = format!("the line is not UTF-8 at byte {}", error.valid_up_to());
        refused(Fault::new(Code::Parse, why))
    })?;
    let line = serde_json::from_str(text).map_err(|error| refused(broken("the line", &error)))?;
    let invalid = |why| Err(refused(Fault::new(Code::InvalidRequest, why)));
    match line {
        Line::Object(members) => members.read(),
        Line::Array => invalid("a batch: write one request a line instead"),
        Line::Other => invalid("a request is a JSON object"),
    }
}

/// What is wrong with the text of `what`.
fn broken(what: &str, error: &serde_json::Error) -> Fault {
    match error.is_data() {
        true => Fault::new(Code::InvalidRequest, format!("in {what}: {error}")),
        false => Fault::new(Code::Parse, format!("{what}: not JSON: {error}")),
    }
}

enum Line {
    Object(Members),
    Array,
    Other,
}

#[derive(Default)]
struct Members {
    jsonrpc: Option<Box<RawValue>>,
    id: Option<Box<RawValue>>,
    method: Option<Box<RawValue>>,
    params: Option<Box<RawValue>>,
    /// The first that does not belong there.
    unknown: Option<String>,
}

impl Members {
    const NAMES: [&str; 4] = ["jsonrpc", "id", "method", "params"];

    fn read(self) -> Result<Message, Refused> {
        let id = self.id.as_deref().map(Id::read);
        let (id, asks) = (id.clone().flatten(), id);
        let refused =
            |code, why: String| Err(Refused { id: id.clone(), fault: Fault::new(code, why) });
        let invalid = |why: String| refused(Code::InvalidRequest, why);
        if matches!(asks, Some(None)) {
            return invalid("an id is a string or a number".to_owned());
        }
        match self.jsonrpc.as_deref().map(text_of) {
            Some(Ok(Some(version))) if version == JSONRPC => {}
            Some(_) => return invalid(format!("jsonrpc must be \"{JSONRPC}\"")),
            None => return invalid(format!("jsonrpc is missing: it must be \"{JSONRPC}\"")),
        }
        let method = match self.method.as_deref().map(text_of) {
            Some(Ok(Some(method))) => method,
            Some(Ok(None)) => return invalid("method must be a string".to_owned()),
            Some(Err(error)) => {
                return Err(Refused { id: None, fault: broken("the method", &error) });
            }
            None => return invalid("method is missing".to_owned()),
        };
        let wrong = if let Some(unknown) = &self.unknown {
            let nearest = nearest(unknown, Self::NAMES.into_iter());
            Some((Code::InvalidRequest, message("member", unknown, nearest.as_deref())))
        } else if self.params.as_deref().is_some_and(|params| !params.get().starts_with('{')) {
            Some((Code::InvalidParams, NO_OBJECT.to_owned()))
        } else {
            None
        };
        let params = Params(self.params);
        match (id.clone(), wrong) {
            (Some(_), Some((code, why))) => refused(code, why),
            (Some(id), None) => Ok(Message::Request(Request { id, method, params })),
            (None, Some((_, why))) => Ok(Message::Ignored(why)),
            (None, None) => Ok(Message::Notification(Notification { method, params })),
        }
    }
}

/// A member as text; `None` if it is something else.
fn text_of(value: &RawValue) -> serde_json::Result<Option<String>> {
    let text = value.get();
    if text.starts_with('"') { serde_json::from_str(text).map(Some) } else { Ok(None) }
}

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Line, D::Error> {
        deserializer.deserialize_any(LineVisitor)
    }
}

struct LineVisitor;

impl<'de> Visitor<'de> for LineVisitor {
    type Value = Line;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Line, A::Error> {
        let mut members = Members::default();
        while let Some(name) = entries.next_key::<String>()? {
            let place = match name.as_str() {
                "jsonrpc" => &mut members.jsonrpc,
                "id" => &mut members.id,
                "method" => &mut members.method,
                "params" => &mut members.params,
                _ => {
                    entries.next_value::<IgnoredAny>()?;
                    if !is_extension(&name) {
                        members.unknown.get_or_insert(name);
                    }
                    continue;
                }
            };
            if place.replace(entries.next_value()?).is_some() {
                return Err(A::Error::custom(format!("duplicate key '{name}'")));
            }
        }
        Ok(Line::Object(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Line, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Line::Array)
    }

    fn visit_unit<E>(self) -> Result<Line, E> {
        Ok(Line::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Line, E> {
        Ok(Line::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Line, E> {
        Ok(Line::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Line, E> {
        Ok(Line::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Line, E> {
        Ok(Line::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Line, E> {
        Ok(Line::Other)
    }
}

/// One line of answer: a result or an error, never both.
#[derive(Serialize)]
pub(super) struct Response<'a> {
    jsonrpc: &'static str,
    id: Option<&'a Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a ErrorObject>,
}

impl<'a> Response<'a> {
    /// The answer to the request `id`, or to what had none that could be read.
    pub(super) fn new(id: Option<&'a Id>, outcome: Result<&'a RawValue, &'a ErrorObject>) -> Self {
        Response { jsonrpc: JSONRPC, id, result: outcome.ok(), error: outcome.err() }
    }
}
