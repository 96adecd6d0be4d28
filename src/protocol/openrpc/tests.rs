//! The document that is published: made from the declarations, valid, and never broken.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use jsonschema::{Draft, Registry};
use schemars::JsonSchema;
use serde_json::{Value, json};

use super::compat::breaks;
use super::document;
use super::schema::Schemas;
use crate::ops::{LockOptions, TrustOptions};
use crate::protocol::document as published_text;
use crate::protocol::params::{CallOptions, Options};
use crate::units::ByteSize;

const OPENRPC: &str = include_str!("../../../tests/data/openrpc/openrpc-1.3.json");
const DRAFT_07: &str = include_str!("../../../tests/data/openrpc/json-schema-draft-07.json");

fn published() -> Value {
    serde_json::from_str(published_text()).unwrap()
}

/// After an addition, run it with `VMDISK_BLESS=1`. What would break clients is refused in either
/// case: it belongs into a new version of the protocol.
#[test]
fn the_published_document_is_made_from_the_declarations() {
    let made = document();
    let breaks = breaks(&published(), &made);
    assert!(breaks.is_empty(), "clients would break:\n{}", breaks.join("\n"));
    let text = serde_json::to_string_pretty(&made).unwrap() + "\n";
    if std::env::var_os("VMDISK_BLESS").is_some() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/protocol");
        let mut packed = DeflateEncoder::new(Vec::new(), Compression::best());
        packed.write_all(text.as_bytes()).unwrap();
        std::fs::write(folder.join("openrpc.json.deflate"), packed.finish().unwrap()).unwrap();
        return std::fs::write(folder.join("openrpc.json"), text).unwrap();
    }
    assert!(text == published_text(), "openrpc.json is not what the declarations say now");
    assert!(text == include_str!("../openrpc.json"), "what is packed is not openrpc.json");
}

#[test]
fn the_document_is_valid_openrpc() {
    let read = |text| serde_json::from_str::<Value>(text).unwrap();
    let mut draft = read(DRAFT_07);
    // It names itself as its own meta-schema, which no validator knows.
    draft["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    let mut openrpc = read(OPENRPC);
    openrpc["$schema"] = draft["$schema"].clone();
    let mut registry = Registry::new();
    for address in ["https://meta.json-schema.tools", "https://meta.json-schema.tools/"] {
        registry = registry.add(address, draft.clone()).unwrap();
    }
    let registry = registry.prepare().unwrap();
    let options = jsonschema::options().with_draft(Draft::Draft7).with_registry(&registry);
    let validator = options.build(&openrpc).unwrap();
    let errors = |document: &Value| -> Vec<String> {
        let errors = validator.iter_errors(document);
        errors.map(|error| format!("{}: {error}", error.instance_path())).collect()
    };
    assert_eq!(errors(&published()), Vec::<String>::new());
    // The validator does look, also where it has to follow the reference.
    for (place, wrong) in [
        ("/methods/0/name", json!(1)),
        ("/methods/0/params/0/schema/type", json!("text")),
        ("/info", json!({})),
    ] {
        let mut document = published();
        *document.pointer_mut(place).unwrap() = wrong;
        assert!(!errors(&document).is_empty(), "{place}");
    }
}

#[test]
fn what_breaks_clients_is_seen() {
    let old = published();
    assert_eq!(breaks(&old, &old), Vec::<String>::new());
    let schemas = "/components/schemas";
    // Each: where, what is put there (or taken away), what is said of it.
    let changes = [
        ("/methods/0/name", Some(json!("make")), "create: the method is gone"),
        ("/methods/0/params/1/name", Some(json!("bytes")), "create size: the parameter is gone"),
        ("/methods/0/params/1/required", Some(json!(true)), "\"size\" is required now"),
        ("/methods/0/params/0/schema/type", Some(json!("integer")), "the type was"),
        ("/components/errors/locked", None, "locked: the kind is gone"),
        ("/components/errors/locked/code", Some(json!(99)), "locked: the kind is gone"),
        (&format!("{schemas}/LayoutOptions/properties/nocow"), None, "nocow: the field is gone"),
        (&format!("{schemas}/LayoutOptions/required"), Some(json!(["nocow"])), "is required now"),
        (&format!("{schemas}/Format/oneOf/0/const"), Some(json!("qcow")), "const was"),
        (&format!("{schemas}/Format/oneOf/1"), None, "is gone"),
        (&format!("{schemas}/SnapshotReport/properties/id"), None, "id: the field is gone"),
        (&format!("{schemas}/SnapshotReport/required"), None, "may be missing now"),
        (&format!("{schemas}/ErrorData/properties/holder"), None, "holder: the field is gone"),
        (&format!("{schemas}/Size/oneOf/0/minimum"), Some(json!(1)), "minimum was"),
        (
            &format!("{schemas}/LayoutOptions/properties/refcount_bits/enum"),
            Some(json!([16])),
            "was not limited to",
        ),
        ("/x-max-request-bytes", Some(json!(10)), "requests may be less long"),
    ];
    for (place, change, said) in changes {
        let mut new = old.clone();
        match change {
            Some(value) => put(&mut new, place, value),
            None => take_away(&mut new, place),
        }
        let breaks = breaks(&old, &new);
        assert!(breaks.iter().any(|text| text.contains(said)), "{place}: {breaks:?}");
    }
}

#[test]
fn additions_break_nobody() {
    let old = published();
    let mut new = old.clone();
    let field = json!({ "type": "boolean" });
    let param = json!({ "name": "new", "required": false, "schema": field });
    new["methods"][0]["params"].as_array_mut().unwrap().push(param);
    let method = json!({ "name": "new", "params": [] });
    new["methods"].as_array_mut().unwrap().push(method);
    let named = &mut new["components"]["schemas"];
    named["LayoutOptions"]["properties"]["new"] = field.clone();
    named["SnapshotReport"]["properties"]["new"] = field;
    named["SnapshotReport"]["required"].as_array_mut().unwrap().push(json!("new"));
    named["Format"]["oneOf"].as_array_mut().unwrap().push(json!({ "const": "new" }));
    new["components"]["errors"]["new"] = json!({ "code": 99, "message": "new" });
    assert_eq!(breaks(&old, &new), Vec::<String>::new());
}

/// What the published pattern lets pass is what the parser takes.
#[test]
fn the_pattern_of_sizes_is_the_parsers() {
    let document = published();
    let size = jsonschema::draft7::new(&document["components"]["schemas"]["Size"]).unwrap();
    for text in ["20G", "20GiB", "20gb", "1.5T", "0.1K", "7E", "512B", "20000b", "1.5KB"] {
        assert!(size.is_valid(&json!(text)), "{text}");
        ByteSize::parse_with_unit(text).unwrap();
    }
    for text in ["20000", "", "G", "-1G", "1.5", "1.5B", "1..5G", ".5G", "1.G", "1e3", "20 G", "2X"]
    {
        assert!(!size.is_valid(&json!(text)), "{text}");
        ByteSize::parse_with_unit(text).unwrap_err();
    }
    for (value, valid) in [(json!(0), true), (json!(u64::MAX), true), (json!(-1), false)] {
        assert_eq!(size.is_valid(&value), valid, "{value}");
    }
}

#[test]
fn options_name_all_of_their_fields() {
    fn check<T: Options + JsonSchema>() {
        let fields = Schemas::of_requests().fields::<T>();
        let names: Vec<_> = fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, T::FIELDS);
    }
    check::<CallOptions>();
    check::<TrustOptions>();
    check::<LockOptions>();
}

fn put(document: &mut Value, place: &str, value: Value) {
    let (parent, key) = place.rsplit_once('/').unwrap();
    match document.pointer_mut(parent).unwrap() {
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
        object => object[key] = value,
    }
}

fn take_away(document: &mut Value, place: &str) {
    let (parent, key) = place.rsplit_once('/').unwrap();
    match document.pointer_mut(parent).unwrap() {
        Value::Array(items) => drop(items.remove(key.parse().unwrap())),
        object => drop(object.as_object_mut().unwrap().shift_remove(key).unwrap()),
    }
}
