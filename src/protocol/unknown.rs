//! Fields that nobody knows: found, named, and the nearest known one with them, because a
//! misspelt `preallocaton` must not make a different disk.

use serde_json::{Map, Value};

use super::error::{Code, Fault};
use super::shape::Shape;

/// Whether a field is the client's own: it is ignored wherever it stands.
pub(super) fn is_extension(name: &str) -> bool {
    name.starts_with("x-")
}

/// Removes the client's own fields, and those that are null, on every level: null is the same as
/// leaving a field out.
pub(super) fn drop_unsaid(object: &mut Map<String, Value>) {
    object.retain(|name, value| !is_extension(name) && !value.is_null());
    object.values_mut().for_each(drop_inside);
}

fn drop_inside(value: &mut Value) {
    match value {
        Value::Object(object) => drop_unsaid(object),
        Value::Array(values) => values.iter_mut().for_each(drop_inside),
        _ => {}
    }
}

/// A field that is not known.
pub(super) struct Unknown {
    /// Its name, with dots between levels.
    field: String,
    nearest: Option<String>,
}

impl Unknown {
    /// `name`, inside of `place`, where only `known` belong.
    pub(super) fn new<'a>(place: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        Unknown { field: format!("{place}{name}"), nearest: nearest(name, known) }
    }

    /// The first field of the parameters that is not known, if there is one.
    pub(super) fn find(shape: &Shape, params: &Map<String, Value>) -> Option<Unknown> {
        Self::find_in(shape, shape.fields(shape.at(&[])?)?, params, "")
    }

    fn find_in(
        shape: &Shape,
        known: &Map<String, Value>,
        object: &Map<String, Value>,
        place: &str,
    ) -> Option<Unknown> {
        object.iter().find_map(|(name, value)| {
            let Some(schema) = known.get(name) else {
                let unknown = Unknown::new(place, name, known.keys().map(String::as_str));
                // The right name in the wrong place is what was meant.
                let elsewhere = shape.place_of(name);
                return Some(Unknown { nearest: elsewhere.or(unknown.nearest), ..unknown });
            };
            let place = format!("{place}{name}.");
            Self::find_in(shape, shape.fields(schema)?, value.as_object()?, &place)
        })
    }

    /// The error that names it.
    pub(super) fn fault(self) -> Fault {
        let message = message("field", &self.field, self.nearest.as_deref());
        Fault::new(Code::InvalidParams, message).at_field(self.field, self.nearest)
    }
}

/// A text of the client's, short enough to be told and fit for a terminal.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_debug).collect()
}

/// Says that there is no such thing, and what was perhaps meant.
pub(super) fn message(what: &str, name: &str, nearest: Option<&str>) -> String {
    let shown = shortened(name);
    let nearest = nearest.map_or_else(String::new, |n| format!(": did you mean '{n}'?"));
    format!("unknown {what} '{shown}'{nearest}")
}

/// The known name that is nearest to a wrong one, if any is near.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    /// Names further apart than this have nothing to do with one another.
    const NEAR: f64 = 0.7;
    let scored = known.map(|known| (strsim::jaro_winkler(name, known), known));
    let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(score, _)| *score >= NEAR).map(|(_, known)| known.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_nearest_name_is_one_that_was_perhaps_meant() {
        let known = ["size", "path", "preallocation", "preset", "ssh_keys", "ssh_key_files"];
        for (name, meant) in [
            ("preallocaton", Some("preallocation")),
            ("siez", Some("size")),
            ("ssh_key", Some("ssh_keys")),
            ("ssh_key_file", Some("ssh_key_files")),
            ("size", Some("size")),
            ("colour", None),
            ("", None),
            ("\u{1f600}", None),
        ] {
            assert_eq!(nearest(name, known.into_iter()).as_deref(), meant, "{name}");
        }
        assert_eq!(nearest("size", std::iter::empty()), None);
    }

    #[test]
    fn the_clients_own_fields_go_from_every_level() {
        let mut value = json!({
            "x-a": 1, "a": { "x-b": {}, "b": [{ "x-c": [] }, ["x-d", { "x-": 0, "X-e": 1 }]] },
            "x": 1, "ax-": 2,
        });
        drop_unsaid(value.as_object_mut().unwrap());
        let left = json!({ "a": { "b": [{}, ["x-d", { "X-e": 1 }]] }, "x": 1, "ax-": 2 });
        assert_eq!(value, left);
    }

    #[test]
    fn names_are_shown_short_and_on_one_line() {
        assert_eq!(message("field", "a\nb", None), r"unknown field 'a\nb'");
        assert_eq!(
            message("field", "siez", Some("size")),
            "unknown field 'siez': did you mean 'size'?"
        );
        assert_eq!(message("field", &"\u{1f600}".repeat(5000), None).chars().count(), 16 + 100);
    }
}
