//! The schema of requests and reports, made from their declarations in `ops`.

use schemars::generate::{Contract, SchemaSettings};
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value};

use crate::ops::{LockOptions, TrustOptions, Verb};
use crate::protocol::params::CallOptions;
use crate::protocol::shape::NAMED;

/// Makes schemas, and keeps those of named types.
pub(super) struct Schemas(SchemaGenerator);

/// A parameter of a method.
pub(super) struct Param {
    pub(super) name: String,
    pub(super) schema: Value,
    pub(super) required: bool,
}

impl Schemas {
    /// Schemas of what comes in.
    pub(super) fn of_requests() -> Self {
        Schemas(settings().into_generator())
    }

    /// Schemas of what goes out.
    pub(super) fn of_replies() -> Self {
        let settings = settings().with(|settings| settings.contract = Contract::Serialize);
        Schemas(settings.into_generator())
    }

    /// The parameters of a verb: its request, and what the call as a whole can be told.
    pub(super) fn params<V: Verb>(&mut self) -> Vec<Param> {
        let mut params = self.fields::<V::Request>();
        if V::OPENS {
            params.extend(self.fields::<TrustOptions>());
        }
        if V::LOCKS {
            params.extend(self.fields::<LockOptions>());
        }
        params.extend(self.fields::<CallOptions>());
        params
    }

    /// The fields of a structure.
    pub(super) fn fields<T: JsonSchema>(&mut self) -> Vec<Param> {
        let mut schema = T::json_schema(&mut self.0);
        self.0.transforms_mut().for_each(|transform| transform.transform(&mut schema));
        let schema = Value::from(schema);
        let required: Vec<_> = schema["required"].as_array().into_iter().flatten().collect();
        let properties = schema["properties"].as_object().into_iter().flatten();
        let param = |(name, schema): (&String, &Value)| Param {
            name: name.clone(),
            schema: schema.clone(),
            required: required.iter().any(|required| *required == name),
        };
        properties.map(param).collect()
    }

    /// The schema of a type as part of a document that has [`Schemas::named`] at
    /// `components.schemas`.
    pub(super) fn of<T: JsonSchema>(&mut self) -> Value {
        self.0.subschema_for::<T>().into()
    }

    /// The schemas of all named types so far.
    pub(super) fn named(&mut self) -> Map<String, Value> {
        self.0.take_definitions(true)
    }
}

/// OpenRPC 1 is built upon draft 7.
fn settings() -> SchemaSettings {
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.definitions_path = NAMED.trim_start_matches('#').trim_end_matches('/').into();
    });
    let settings = settings.with_transform(RecursiveTransform(unwrap_lines));
    let settings = settings.with_transform(RecursiveTransform(without_default));
    settings.with_transform(RecursiveTransform(without_null))
}

/// Descriptions are paragraphs, not the lines of a source file.
fn unwrap_lines(schema: &mut Schema) {
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.replace("\n\n", "\0").replace('\n', " ").replace('\0', "\n\n");
    }
}

/// What is not said is decided where it is used: descriptions tell how.
fn without_default(schema: &mut Schema) {
    schema.remove("default");
}

/// Takes `null` out of the alternatives: in a request it is the same as leaving a field out, in a
/// reply what is not there is left out.
fn without_null(schema: &mut Schema) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    let Some(Value::Array(alternatives)) = schema.get_mut("anyOf") else { return };
    alternatives.retain(|alternative| alternative["type"] != "null");
    if let [Value::Object(only)] = alternatives.as_slice() {
        let only = only.clone();
        schema.remove("anyOf");
        match schema.get("description") {
            // In draft 7 nothing beside `$ref` counts.
            Some(_) => drop(schema.insert("allOf".to_owned(), Value::Array(vec![only.into()]))),
            None => only.into_iter().for_each(|(key, value)| drop(schema.insert(key, value))),
        }
    }
}
