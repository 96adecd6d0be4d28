//! The OpenRPC document: every method with its parameters and results, made from the
//! declarations in `ops`. The program carries `openrpc.json`, which the tests hold against what is made here.

mod compat;
mod schema;
mod tests;

use serde_json::{Map, Value, json};

use self::schema::{Param, Schemas};
use super::VERSION;
use super::error::ErrorObject;
use super::lines::MAX_LINE;
use super::methods::{CANCEL, DISCOVER};
use super::params::CallOptions;
use super::reply::Reply;
use crate::error::ErrorKind;
use crate::ops::{Verb, Visitor, each_verb};

/// The version of OpenRPC that the document keeps to.
const OPENRPC: &str = "1.3.2";

/// Describes the whole protocol.
fn document() -> Value {
    let mut methods = Methods {
        requests: Schemas::of_requests(),
        replies: Schemas::of_replies(),
        methods: Vec::new(),
    };
    each_verb(&mut methods);
    methods.own();
    let Methods { mut requests, mut replies, methods } = methods;
    let error = replies.of::<ErrorObject>();
    let mut schemas = requests.named();
    schemas.extend(replies.named());
    schemas.sort_keys();
    json!({
        "openrpc": OPENRPC,
        "info": {
            "title": "vmdisk",
            "version": VERSION,
            "description": "JSON-RPC 2.0 over standard input and output of `vmdisk rpc`, one \
                            object a line. Beside these fields a request may have fields of the \
                            client's own, x-….",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "methods": methods,
        "components": { "schemas": schemas, "errors": errors() },
        "x-error": error,
        "x-max-request-bytes": MAX_LINE,
    })
}

/// The kinds of failure by name.
fn errors() -> Map<String, Value> {
    let error = |kind: &ErrorKind| {
        let name = kind.name();
        (name.to_owned(), json!({ "code": kind.code(), "message": kind.meaning() }))
    };
    ErrorKind::ALL.iter().map(error).collect()
}

struct Methods {
    requests: Schemas,
    replies: Schemas,
    methods: Vec<Value>,
}

impl Visitor for Methods {
    fn visit<V: Verb>(&mut self) {
        let params = self.requests.params::<V>();
        self.methods.push(json!({
            "name": V::NAME,
            "summary": V::SUMMARY,
            "paramStructure": "by-name",
            "params": descriptors(params),
            "result": { "name": "report", "schema": self.replies.of::<Reply<V::Report>>() },
        }));
    }
}

impl Methods {
    /// What the protocol itself offers.
    fn own(&mut self) {
        let options = self.requests.fields::<CallOptions>();
        self.methods.push(json!({
            "name": DISCOVER,
            "summary": "Answers with this document, and nothing beside it.",
            "paramStructure": "by-name",
            "params": descriptors(options),
            "result": { "name": "document", "schema": { "type": "object" } },
        }));
        let id = json!({
            "name": "id",
            "description": "The id of the request.",
            "required": true,
            "schema": { "type": ["string", "number"] },
        });
        self.methods.push(json!({
            "name": CANCEL,
            "summary": "A notification: the request that runs stops at its next safe point, one \
                        that waits is not begun; either is answered with the kind cancelled.",
            "paramStructure": "by-name",
            "params": [id],
        }));
        self.methods.push(json!({
            "name": "progress",
            "summary": "A notification to the client, for a request with progress true: at most \
                        ten a second, before the response.",
            "paramStructure": "by-name",
            "params": [
                id,
                number("done", "What is done of the phase."),
                number("total", "What there is to do in the phase."),
                text("phase", "What is being done: for people."),
                text("unit", "The unit of `done` and `total`: bytes."),
            ],
        }));
    }
}

fn number(name: &str, description: &str) -> Value {
    let schema = json!({ "type": "integer", "minimum": 0 });
    json!({ "name": name, "description": description, "required": true, "schema": schema })
}

fn text(name: &str, description: &str) -> Value {
    let schema = json!({ "type": "string" });
    json!({ "name": name, "description": description, "required": true, "schema": schema })
}

/// Parameters as OpenRPC has them: the description beside the schema.
fn descriptors(params: Vec<Param>) -> Vec<Value> {
    let descriptor = |param: Param| {
        let Param { name, mut schema, required } = param;
        let fields = schema.as_object_mut();
        let description = fields.and_then(|fields| fields.shift_remove("description"));
        // What is left of a reference that had a description beside it.
        if let Some([only]) = schema["allOf"].as_array().map(Vec::as_slice) {
            schema = only.clone();
        }
        let mut descriptor = Map::new();
        descriptor.insert("name".to_owned(), name.into());
        descriptor.extend(description.map(|text| ("description".to_owned(), text)));
        descriptor.insert("required".to_owned(), required.into());
        descriptor.insert("schema".to_owned(), schema);
        Value::Object(descriptor)
    };
    params.into_iter().map(descriptor).collect()
}
