//! Parameters: from a map to everything that a call says, strictly.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use super::SUPPORTED;
use super::error::{Code, Fault};
use super::shape::Shape;
use super::unknown::{Unknown, drop_unsaid, shortened};
use crate::error::{Error, ErrorKind};
use crate::ops::{LockOptions, SIZE_FORMAT, TrustOptions, Verb};

/// What every call can be told, whatever its method.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CallOptions {
    /// The version of the protocol that the client speaks. Default: whatever the program speaks.
    // Looked at before all else: another version may have other fields.
    protocol: Option<String>,
    /// Whether to send progress notifications. Default: `false`.
    pub(super) progress: bool,
}

/// Parameters that are no part of a verb's request.
pub(super) trait Options: DeserializeOwned + JsonSchema {
    /// Their names.
    const FIELDS: &'static [&'static str];
}

impl Options for CallOptions {
    const FIELDS: &'static [&'static str] = &["protocol", "progress"];
}

impl Options for TrustOptions {
    const FIELDS: &'static [&'static str] = &["trust", "allow"];
}

impl Options for LockOptions {
    const FIELDS: &'static [&'static str] = &["lock_timeout_seconds", "no_lock"];
}

/// Everything that a call of a verb says.
pub(super) struct Call<V: Verb> {
    pub(super) request: V::Request,
    pub(super) trust: TrustOptions,
    pub(super) locks: LockOptions,
    pub(super) options: CallOptions,
}

impl<V: Verb> Call<V> {
    /// Understands the parameters, all of them.
    ///
    /// # Errors
    /// [`ErrorKind::ProtocolUnsupported`] before anything else; then the field that is not known,
    /// and its nearest, or the field whose value is wrong.
    pub(super) fn read(mut params: Map<String, Value>) -> Result<Self, Fault> {
        let options = CallOptions::take_from(&mut params)?;
        Self::read_rest(params.clone(), options).map_err(|wrong| wrong.explain::<V>(&params))
    }

    fn read_rest(mut params: Map<String, Value>, options: CallOptions) -> Result<Self, Wrong> {
        let trust = if V::OPENS { take(&mut params)? } else { TrustOptions::default() };
        let locks = if V::LOCKS { take(&mut params)? } else { LockOptions::default() };
        Ok(Call { request: strictly(params)?, trust, locks, options })
    }
}

impl CallOptions {
    /// Those of a method that has no parameters of its own.
    ///
    /// # Errors
    /// As [`Call::read`].
    pub(super) fn read_all(mut params: Map<String, Value>) -> Result<Self, Fault> {
        let options = CallOptions::take_from(&mut params)?;
        match params.keys().next() {
            Some(name) => Err(Unknown::new("", name, CallOptions::FIELDS.iter().copied()).fault()),
            None => Ok(options),
        }
    }

    /// Takes them out of the map, and what is nobody's.
    fn take_from(params: &mut Map<String, Value>) -> Result<Self, Fault> {
        drop_unsaid(params);
        check_protocol(params)?;
        Ok(take(params)?)
    }
}

/// Whether the client's version is spoken here; before anything else is looked at.
///
/// # Errors
/// [`ErrorKind::ProtocolUnsupported`].
pub(super) fn check_protocol(params: &Map<String, Value>) -> Result<(), Fault> {
    let Some(asked) = params.get("protocol").and_then(Value::as_str) else { return Ok(()) };
    let major = asked.split('.').next().unwrap_or_default();
    if SUPPORTED.contains(&major) {
        return Ok(());
    }
    let asked = shortened(asked);
    let message = format!("protocol '{asked}' is not spoken here: {} is", SUPPORTED.join(", "));
    Err(Error::new(ErrorKind::ProtocolUnsupported, message).into())
}

/// A value that does not fit the place where it stands.
struct Wrong {
    field: String,
    place: Vec<String>,
    message: String,
}

impl Wrong {
    /// Says what is wrong: a field that is not known anywhere goes before a value that does not
    /// fit.
    fn explain<V: Verb>(self, params: &Map<String, Value>) -> Fault {
        let shape = Shape::of(V::NAME);
        if let Some(unknown) = Unknown::find(&shape, params) {
            return unknown.fault();
        }
        let schema = shape.at(&self.place).unwrap_or(&Value::Null);
        if let Some(name) = self.missing(&shape, schema, &Value::Object(params.clone())) {
            let message = format!("field '{name}' is missing");
            return Fault::new(Code::InvalidParams, message).at_field(name, None);
        }
        let size = shape.has_format(schema, SIZE_FORMAT);
        self.fault(if size { ErrorKind::BadSize } else { ErrorKind::BadRequest })
    }

    /// The field that the object at this place lacks, if it is an object and lacks one.
    fn missing(&self, shape: &Shape, schema: &Value, params: &Value) -> Option<String> {
        let value = self.place.iter().try_fold(params, |value, name| value.get(name));
        let object = value?.as_object()?;
        let name = shape.required(schema).find(|name| !object.contains_key(*name))?;
        Some(if self.place.is_empty() { name.to_owned() } else { format!("{}.{name}", self.field) })
    }

    fn fault(self, kind: ErrorKind) -> Fault {
        if self.place.is_empty() {
            return Fault::of_kind(kind, Code::InvalidParams, self.message);
        }
        let message = format!("field '{}': {}", self.field, self.message);
        Fault::of_kind(kind, Code::InvalidParams, message).at_field(self.field, None)
    }
}

impl From<Wrong> for Fault {
    fn from(wrong: Wrong) -> Self {
        wrong.fault(ErrorKind::BadRequest)
    }
}

/// Takes the parameters of these options out of the map.
fn take<T: Options>(params: &mut Map<String, Value>) -> Result<T, Wrong> {
    let taken = T::FIELDS.iter().filter_map(|name| params.remove_entry(*name));
    strictly(taken.collect())
}

fn strictly<T: DeserializeOwned>(params: Map<String, Value>) -> Result<T, Wrong> {
    serde_path_to_error::deserialize(Value::Object(params)).map_err(|error| {
        let name = |segment: &Segment| match segment {
            Segment::Map { key } => Some(key.clone()),
            _ => None,
        };
        Wrong {
            field: shortened(&error.path().to_string()),
            place: error.path().iter().filter_map(name).collect(),
            message: in_json_terms(&error.inner().to_string()),
        }
    })
}

/// What a value should have been, in the words of JSON instead of Rust's, and not at any length.
fn in_json_terms(message: &str) -> String {
    const WORDS: [(&str, &str); 6] = [
        ("floating point", "number"),
        ("expected u64", "expected a whole number from 0 to 2^64 - 1"),
        ("expected f64", "expected a number"),
        ("a sequence", "an array"),
        ("sequence", "array"),
        ("map", "object"),
    ];
    let shown: String = message.chars().take(300).collect();
    WORDS.iter().fold(shown, |text, (rust, json)| text.replace(rust, json))
}
