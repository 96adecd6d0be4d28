//! The published document as a judge of answers.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jsonschema::{Draft, Validator};
use serde_json::{Map, Value, json};

/// The document.
pub(super) static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../src/protocol/openrpc.json")).expect("the document")
});

static ERROR: LazyLock<Validator> = LazyLock::new(|| validator(&DOCUMENT["x-error"]));

/// Those of every method's result.
static RESULTS: LazyLock<Validators> = LazyLock::new(|| {
    let answered = methods().filter(|method| method.get("result").is_some());
    answered.map(|method| (name(method), validator(&method["result"]["schema"]))).collect()
});

/// Those of the parameters of every method and notification.
static PARAMS: LazyLock<Validators> = LazyLock::new(|| {
    methods().map(|method| (name(method), validator(&params_of(method)))).collect()
});

type Validators = BTreeMap<&'static str, Validator>;

fn name(method: &'static Value) -> &'static str {
    method["name"].as_str().expect("a name")
}

/// Every method, and the notifications `cancel` and `progress`.
pub(super) fn methods() -> impl Iterator<Item = &'static Value> {
    DOCUMENT["methods"].as_array().expect("methods").iter()
}

/// The schema of all parameters together.
fn params_of(method: &Value) -> Value {
    let params = || method["params"].as_array().expect("parameters").iter();
    let schema = |param: &Value| {
        (param["name"].as_str().expect("a name").to_owned(), param["schema"].clone())
    };
    let properties: Map<_, _> = params().map(schema).collect();
    let required = params().filter(|param| param["required"] == true);
    let required: Vec<_> = required.map(|param| param["name"].clone()).collect();
    json!({ "properties": properties, "required": required, "additionalProperties": false })
}

fn validator(schema: &Value) -> Validator {
    let mut whole = schema.clone();
    // In draft 7, nothing beside a reference counts.
    if whole.get("$ref").is_some() {
        whole = json!({ "allOf": [whole] });
    }
    whole["components"] = json!({ "schemas": DOCUMENT["components"]["schemas"] });
    jsonschema::options().with_draft(Draft::Draft7).build(&whole).expect("a schema")
}

#[track_caller]
fn fits(validator: &Validator, value: &Value) {
    let errors: Vec<_> = validator.iter_errors(value).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{}: {value:#}", errors.join("\n"));
}

/// Fails unless the outcome of a method is what the document says of it.
#[track_caller]
pub(super) fn checked(method: &str, outcome: &Result<Value, Value>) {
    match outcome {
        Ok(result) => {
            let validator = RESULTS.get(method);
            fits(validator.unwrap_or_else(|| panic!("{method} is in no document")), result);
            if method != "rpc.discover" {
                let tool = json!({ "name": "vmdisk", "version": env!("CARGO_PKG_VERSION") });
                assert_eq!(result["meta"], json!({ "protocol": "1", "tool": tool }), "{method}");
            }
        }
        Err(error) => error_fits(error),
    }
}

/// Fails unless the error is one that the document knows, its code that of its kind or one of
/// JSON-RPC's own.
#[track_caller]
pub(super) fn error_fits(error: &Value) {
    fits(&ERROR, error);
    let kind = error["data"]["kind"].as_str().expect("a kind");
    let known = &DOCUMENT["components"]["errors"][kind];
    assert!(known.is_object(), "a kind that is in no document: {error:#}");
    let own = [-32700, -32600, -32601, -32602].iter().any(|code| error["code"] == *code);
    assert!(own || error["code"] == known["code"], "{error:#}");
    assert_eq!(error["data"]["retriable"], kind == "locked", "{error:#}");
}

/// Fails unless these are the parameters of this notification.
#[track_caller]
pub(super) fn params_fit(method: &str, params: &Value) {
    fits(&PARAMS[method], params);
}

/// Whether the document allows these parameters. The client's own fields are none.
pub(super) fn allows(method: &str, params: &Value) -> bool {
    let mut params = params.clone();
    drop_extensions(&mut params);
    PARAMS[method].is_valid(&params)
}

fn drop_extensions(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, _| !name.starts_with("x-"));
            members.values_mut().for_each(drop_extensions);
        }
        Value::Array(values) => values.iter_mut().for_each(drop_extensions),
        _ => {}
    }
}

/// The validator does look: what is missing, of another type, or of an unknown kind is seen.
#[test]
fn the_judge_is_awake() {
    let refused = |judge: fn()| assert!(std::panic::catch_unwind(judge).is_err());
    refused(|| checked("info", &Ok(json!({ "path": "d.qcow2" }))));
    refused(|| checked("nothing", &Ok(json!({}))));
    refused(|| {
        let data = json!({ "kind": "bad_size", "retriable": false, "changed": 0 });
        error_fits(&json!({ "code": 3, "message": "", "data": data }));
    });
    refused(|| {
        let data = json!({ "kind": "unheard_of", "retriable": false, "changed": false });
        error_fits(&json!({ "code": 3, "message": "", "data": data }));
    });
    refused(|| params_fit("progress", &json!({ "id": 1, "done": -1, "total": 1 })));
    assert!(allows("create", &json!({ "path": "n", "layout": { "x-a": 1 }, "x-b": [] })));
    for wrong in [json!({ "a": 1 }), json!([]), json!({ "cluster_size": "64" }), json!(null)] {
        assert!(!allows("create", &json!({ "path": "n", "layout": wrong })), "{wrong}");
    }
}
