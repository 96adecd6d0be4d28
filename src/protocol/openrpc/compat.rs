//! What of a change to the document would break a client that was written for the old one.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::protocol::shape::NAMED;

/// Everything that would break, in words; empty for what is an addition.
pub(super) fn breaks(old: &Value, new: &Value) -> Vec<String> {
    let mut compare = Compare { old, new, seen: HashSet::new(), breaks: Vec::new() };
    compare.methods();
    compare.errors();
    if new["x-max-request-bytes"].as_u64() < old["x-max-request-bytes"].as_u64() {
        compare.broken("x-max-request-bytes", "requests may be less long");
    }
    compare.schema("error", &old["x-error"], &new["x-error"], Way::Out);
    compare.breaks
}

/// Whether a value is sent by the client or to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Way {
    In,
    Out,
}

struct Compare<'a> {
    old: &'a Value,
    new: &'a Value,
    /// Named types that have been compared.
    seen: HashSet<(String, String, Way)>,
    breaks: Vec<String>,
}

impl<'a> Compare<'a> {
    fn broken(&mut self, place: &str, how: impl std::fmt::Display) {
        self.breaks.push(format!("{place}: {how}"));
    }

    fn methods(&mut self) {
        for old in items(&self.old["methods"]) {
            let name = old["name"].as_str().expect("a method has a name");
            let Some(new) = items(&self.new["methods"]).find(|new| new["name"] == name) else {
                self.broken(name, "the method is gone");
                continue;
            };
            // What it notifies the client of goes out.
            let way = if name == "progress" { Way::Out } else { Way::In };
            self.params(name, old, new, way);
            let result = format!("{name} result");
            self.schema(&result, &old["result"]["schema"], &new["result"]["schema"], Way::Out);
        }
    }

    fn params(&mut self, method: &str, old: &'a Value, new: &'a Value, way: Way) {
        for old in items(&old["params"]) {
            let place = format!("{method} {}", old["name"].as_str().expect("a name"));
            match items(&new["params"]).find(|new| new["name"] == old["name"]) {
                Some(new) => self.schema(&place, &old["schema"], &new["schema"], way),
                None => self.broken(&place, "the parameter is gone"),
            }
        }
        let required = |method: &'a Value| -> Vec<&Value> {
            items(&method["params"]).filter(|p| p["required"] == true).map(|p| &p["name"]).collect()
        };
        self.required(method, &required(old), &required(new), way);
    }

    fn errors(&mut self) {
        let (old, new) = (&self.old["components"]["errors"], &self.new["components"]["errors"]);
        for (kind, error) in fields(old) {
            if new[kind]["code"] != error["code"] {
                self.broken(kind, "the kind is gone or has another code");
            }
        }
    }

    fn schema(&mut self, place: &str, old: &'a Value, new: &'a Value, way: Way) {
        let (old_name, new_name) = (reference(old), reference(new));
        if let Some(name) = &old_name {
            let new_name = new_name.clone().unwrap_or_default();
            if !self.seen.insert((name.clone(), new_name, way)) {
                return;
            }
        }
        let old = resolve(self.old, old, old_name.as_deref());
        let new = resolve(self.new, new, new_name.as_deref());
        let keywords: HashSet<&String> =
            fields(old).chain(fields(new)).map(|(key, _)| key).collect();
        for keyword in keywords {
            let (old, new) = (&old[keyword], &new[keyword]);
            match keyword.as_str() {
                "description" | "title" => {}
                "properties" => self.properties(place, old, new, way),
                "items" => self.schema(&format!("{place}[]"), old, new, way),
                "required" => {
                    self.required(
                        place,
                        &Vec::from_iter(items(old)),
                        &Vec::from_iter(items(new)),
                        way,
                    );
                }
                "oneOf" | "anyOf" | "allOf" | "enum" => self.choices(place, old, new, way),
                "type" => self.types(place, old, new, way),
                _ if old != new => {
                    self.broken(place, format_args!("{keyword} was {old}, is {new}"))
                }
                _ => {}
            }
        }
    }

    fn properties(&mut self, place: &str, old: &'a Value, new: &'a Value, way: Way) {
        for (name, old) in fields(old) {
            let place = format!("{place}.{name}");
            match new.get(name) {
                Some(new) => self.schema(&place, old, new, way),
                None => self.broken(&place, "the field is gone"),
            }
        }
    }

    /// A client cannot send what it does not know of, and counts on what was always there.
    fn required(&mut self, place: &str, old: &[&Value], new: &[&Value], way: Way) {
        let (more, less, how) = match way {
            Way::In => (new, old, "is required now"),
            Way::Out => (old, new, "may be missing now"),
        };
        for name in more.iter().filter(|name| !less.contains(name)) {
            self.broken(place, format_args!("{name} {how}"));
        }
    }

    /// Each of the old alternatives is still there, in its place; new ones come behind.
    fn choices(&mut self, place: &str, old: &'a Value, new: &'a Value, way: Way) {
        if old.is_null() && way == Way::In {
            self.broken(place, format_args!("was not limited to {new}"));
        }
        let new: Vec<_> = items(new).collect();
        for (number, old) in items(old).enumerate() {
            match new.get(number) {
                Some(new) if old.is_object() => {
                    self.schema(&format!("{place}({number})"), old, new, way);
                }
                Some(new) if *new == old => {}
                _ => self.broken(place, format_args!("the alternative {old} is gone")),
            }
        }
    }

    fn types(&mut self, place: &str, old: &Value, new: &Value, way: Way) {
        let names = |types: &Value| match types {
            Value::Array(types) => types.clone(),
            one => vec![one.clone()],
        };
        let (wide, narrow) = match way {
            Way::In => (names(new), names(old)),
            Way::Out => (names(old), names(new)),
        };
        if !narrow.iter().all(|name| wide.contains(name)) {
            self.broken(place, format_args!("the type was {old}, is {new}"));
        }
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn reference(schema: &Value) -> Option<String> {
    Some(schema["$ref"].as_str()?.strip_prefix(NAMED)?.to_owned())
}

fn resolve<'a>(document: &'a Value, schema: &'a Value, name: Option<&str>) -> &'a Value {
    name.map_or(schema, |name| &document["components"]["schemas"][name])
}
