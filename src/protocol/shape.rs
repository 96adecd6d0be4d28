//! What the parameters of a method may be, as the published document says.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::document;

/// Where the document keeps the schemas of named types, and refers to them.
pub(super) const NAMED: &str = "#/components/schemas/";

/// The document, read once: what succeeds does not need it.
pub(super) fn published() -> &'static Value {
    static PUBLISHED: LazyLock<Value> = LazyLock::new(|| {
        // OK to default: the document is part of the program, and a test reads it.
        serde_json::from_str(document()).unwrap_or_default()
    });
    &PUBLISHED
}

/// The parameters of a method, with everything that is needed to look inside.
pub(super) struct Shape {
    /// The parameters, as an object schema has them.
    top: Value,
    named: &'static Value,
}

impl Shape {
    /// That of a method's parameters.
    pub(super) fn of(method: &str) -> Self {
        let document = published();
        let methods = document["methods"].as_array().into_iter().flatten();
        let params = methods.filter(|known| known["name"] == method);
        let params: Vec<_> = params.filter_map(|m| m["params"].as_array()).flatten().collect();
        let required = params.iter().filter(|param| param["required"] == true);
        let required: Vec<_> = required.map(|param| param["name"].clone()).collect();
        let property =
            |param: &&Value| Some((param["name"].as_str()?.to_owned(), param["schema"].clone()));
        let properties: Map<_, _> = params.iter().filter_map(property).collect();
        let top = json!({ "properties": properties, "required": required });
        Shape { top, named: &document["components"]["schemas"] }
    }

    /// Where a field of this name stands, with dots between levels.
    pub(super) fn place_of(&self, name: &str) -> Option<String> {
        let top = self.fields(&self.top)?;
        let inside = |(outer, schema): (&String, &Value)| {
            let found = self.fields(schema)?.contains_key(name);
            found.then(|| format!("{outer}.{name}"))
        };
        let here = top.contains_key(name).then(|| name.to_owned());
        here.or_else(|| top.iter().find_map(inside))
    }

    /// The schema of the value at this place.
    pub(super) fn at(&self, place: &[String]) -> Option<&Value> {
        place.iter().try_fold(&self.top, |schema, name| self.fields(schema)?.get(name))
    }

    /// The fields that an object of this schema must have.
    pub(super) fn required<'a>(&'a self, schema: &'a Value) -> impl Iterator<Item = &'a str> {
        let required = self.find(schema, &|schema| schema.get("required")?.as_array());
        required.into_iter().flatten().filter_map(Value::as_str)
    }

    /// The fields of an object of this schema.
    pub(super) fn fields<'a>(&'a self, schema: &'a Value) -> Option<&'a Map<String, Value>> {
        self.find(schema, &|schema| schema.get("properties")?.as_object())
    }

    /// Whether a value of this schema has this format.
    pub(super) fn has_format(&self, schema: &Value, format: &str) -> bool {
        let found = self.find(schema, &|schema| schema.get("format").filter(|f| *f == format));
        found.is_some()
    }

    /// The first that `look` finds in a schema, in what it refers to or in its alternatives.
    fn find<'a, T>(
        &'a self,
        schema: &'a Value,
        look: &impl Fn(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let named = || self.named.get(schema.get("$ref")?.as_str()?.strip_prefix(NAMED)?);
        let alternatives = ["allOf", "anyOf", "oneOf"].iter().filter_map(|way| schema.get(way));
        let mut alternatives = alternatives.filter_map(Value::as_array).flatten();
        look(schema)
            .or_else(|| self.find(named()?, look))
            .or_else(|| alternatives.find_map(|schema| self.find(schema, look)))
    }
}
