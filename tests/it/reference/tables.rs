//! The tables of the reference, made from the OpenRPC document. They stand between HTML comments:
//! `<!-- fields: create -->` … `<!-- end -->`.

use serde_json::{Map, Value};

/// Fields that several methods have, explained in one place.
const COMMON: &[&str] =
    &["trust", "allow", "lock_timeout_seconds", "no_lock", "protocol", "progress"];

const END: &str = "<!-- end -->";

/// What the program says of its protocol.
pub(super) struct Document(Value);

/// A field of a request or of a result.
struct Row {
    name: String,
    schema: Value,
    required: bool,
    about: String,
}

impl Row {
    /// What it means, and its default, which is said last.
    fn split_default(&self) -> (&str, &str) {
        match self.about.rsplit_once(" Default: ") {
            _ if self.required => (&self.about, "required"),
            Some((about, default)) => (about, default.trim_end_matches('.')),
            None => (&self.about, ""),
        }
    }
}

/// The lines between the comment that begins a table and the one that ends it.
pub(super) fn lines_of<'a>(page: &'a str, table: &str) -> impl Iterator<Item = &'a str> {
    let begin = format!("<!-- {table} -->\n");
    let rest = page.split_once(&begin).map_or("", |(_, rest)| rest);
    rest.lines().take_while(|line| *line != END)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn listed(names: impl IntoIterator<Item = String>, last: &str) -> String {
    let mut names: Vec<_> = names.into_iter().collect();
    match names.pop() {
        Some(only) if names.is_empty() => only,
        Some(end) => format!("{} {last} {end}", names.join(", ")),
        None => String::new(),
    }
}

impl Document {
    pub(super) fn new(document: Value) -> Document {
        Document(document)
    }

    /// The page with every table as it should be.
    pub(super) fn tables(&self, page: &str) -> String {
        let mut made = String::new();
        let mut inside = false;
        for line in page.lines() {
            inside &= line != END;
            if !inside {
                made += &format!("{line}\n");
            }
            let name = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
            if let Some(table) = name.and_then(|name| self.table(name, page)) {
                made += &table;
                inside = true;
            }
        }
        made
    }

    fn table(&self, name: &str, page: &str) -> Option<String> {
        Some(match name.split_once(": ") {
            Some(("fields", "common")) => self.common(),
            Some(("fields", method)) => self.request(method),
            Some(("result", "ensure")) => self.ensure_result(),
            Some(("result", "error")) => self.result(&self.0["x-error"].clone(), |_| true),
            Some(("result", "meta")) => {
                self.result(&self.result_of("create"), |name| name == "meta")
            }
            Some(("result", method)) => self.result(&self.result_of(method), |n| n != "meta"),
            None if name == "choices" => self.choices(),
            None if name == "kinds" => self.kinds(page),
            _ => return None,
        })
    }

    fn methods(&self) -> impl Iterator<Item = &Value> {
        items(&self.0["methods"])
    }

    fn method(&self, name: &str) -> &Value {
        let found = self.methods().find(|method| method["name"] == name);
        found.unwrap_or_else(|| panic!("there is no method {name}"))
    }

    fn result_of(&self, method: &str) -> Value {
        self.method(method)["result"]["schema"].clone()
    }

    /// The parameters of a method.
    fn params(&self, method: &str) -> Vec<Row> {
        let row = |param: &Value| Row {
            name: text(&param["name"]).to_owned(),
            schema: param["schema"].clone(),
            required: param["required"] == true,
            about: text(&param["description"]).to_owned(),
        };
        items(&self.method(method)["params"]).map(row).collect()
    }

    /// The fields of an object.
    fn properties(&self, schema: &Value) -> Vec<Row> {
        let schema = self.resolve(schema);
        let row = |(name, field): (&String, &Value)| Row {
            name: name.clone(),
            schema: field.clone(),
            required: items(&schema["required"]).any(|required| required == name),
            about: text(&field["description"]).to_owned(),
        };
        fields(&schema["properties"]).map(row).collect()
    }

    /// What a reference, or an alternative to nothing, leads to.
    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let named = schema["$ref"].as_str().and_then(|name| name.rsplit('/').next());
        let only = ["allOf", "anyOf"].iter().find_map(|way| schema[way].get(0));
        match (named, only) {
            (Some(name), _) => self.resolve(&self.0["components"]["schemas"][name]),
            (None, Some(only)) => self.resolve(only),
            (None, None) => schema,
        }
    }

    /// The row, and those of what is inside of it, with dots between levels.
    fn flatten(&self, row: Row, above: &[Value], rows: &mut Vec<Row>) {
        let inner = self.resolve(&row.schema);
        let (inner, dots) = match &inner["items"] {
            Value::Null => (inner.clone(), "."),
            items => (self.resolve(items).clone(), "[]."),
        };
        let name = row.name.clone();
        let recurses = above.iter().any(|above| self.same_fields(above, &inner));
        rows.push(row);
        if recurses {
            return;
        }
        let above = [above, std::slice::from_ref(&inner)].concat();
        for field in self.properties(&inner) {
            let field = Row { name: format!("{name}{dots}{}", field.name), ..field };
            self.flatten(field, &above, rows);
        }
    }

    /// Whether an object may have all the fields of another: a result has `meta` beside them.
    fn same_fields(&self, above: &Value, inner: &Value) -> bool {
        let mut names = fields(&inner["properties"]).map(|(name, _)| name).peekable();
        names.peek().is_some() && names.all(|name| above["properties"].get(name).is_some())
    }

    /// A type in words.
    fn words(&self, schema: &Value) -> String {
        let inner = self.resolve(schema);
        let name = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
        let choice: Vec<_> = items(&inner["oneOf"]).filter_map(|v| v["const"].as_str()).collect();
        let simple = |value: &Value| match text(value) {
            "array" => format!("array of {}", self.words(&inner["items"])),
            name => name.to_owned(),
        };
        let words: Vec<_> = match name.and_then(|name| name.rsplit('/').next()) {
            Some("Size") => vec!["size".to_owned()],
            Some("Mode") => vec!["permission bits".to_owned()],
            _ if !choice.is_empty() => choice.iter().map(|name| format!("`{name}`")).collect(),
            _ if inner["type"].is_array() => items(&inner["type"]).map(simple).collect(),
            _ => vec![simple(&inner["type"])],
        };
        listed(words, "or")
    }

    fn request(&self, method: &str) -> String {
        let params = self.params(method);
        let is_common = |row: &Row| COMMON.contains(&row.name.as_str());
        let (common, own): (Vec<_>, Vec<_>) = params.into_iter().partition(is_common);
        let common = listed(common.iter().map(|row| format!("`{}`", row.name)), "and");
        let mut rows = Vec::new();
        own.into_iter().for_each(|row| self.flatten(row, &[], &mut rows));
        let mut table = String::new();
        if !rows.is_empty() {
            table += "| field | type | default | meaning |\n| --- | --- | --- | --- |\n";
        }
        for row in &rows {
            let (about, default) = row.split_default();
            let words = self.words(&row.schema);
            table += &format!("| `{}` | {words} | {default} | {about} |\n", row.name);
        }
        if !common.is_empty() {
            let begin = if rows.is_empty() { "Fields" } else { "\nAlso" };
            table += &format!("{begin}: {common}, [as everywhere](#common-fields).\n");
        }
        table
    }

    fn common(&self) -> String {
        let mut table =
            "| field | type | default | meaning | methods |\n| --- | --- | --- | --- | --- |\n"
                .to_owned();
        for name in COMMON {
            let names = self.methods().map(|method| text(&method["name"]));
            let having: Vec<_> = names
                .filter_map(|method| {
                    let row = self.params(method).into_iter().find(|row| row.name == *name)?;
                    Some((method, row))
                })
                .collect();
            let (_, row) = having.first().expect("a method that has it");
            let (about, default) = row.split_default();
            let words = self.words(&row.schema);
            let methods = listed(having.iter().map(|(method, _)| format!("`{method}`")), "and");
            table += &format!("| `{name}` | {words} | {default} | {about} | {methods} |\n");
        }
        table
    }

    fn result(&self, schema: &Value, shown: impl Fn(&str) -> bool) -> String {
        let mut rows = Vec::new();
        let above = [self.resolve(schema).clone()];
        for row in self.properties(schema).into_iter().filter(|row| shown(&row.name)) {
            self.flatten(row, &above, &mut rows);
        }
        let mut table = "| field | type | meaning |\n| --- | --- | --- |\n".to_owned();
        for row in rows {
            let if_any = if row.required { "" } else { ", if any" };
            let words = self.words(&row.schema);
            table += &format!("| `{}` | {words}{if_any} | {} |\n", row.name, row.about);
        }
        table
    }

    /// The report of `ensure` is one of others.
    fn ensure_result(&self) -> String {
        let mut table = "| field | value | meaning |\n| --- | --- | --- |\n".to_owned();
        let schema = self.result_of("ensure");
        for way in items(&self.resolve(&schema)["oneOf"]) {
            let action = text(&way["properties"]["action"]["const"]);
            let report = text(&way["allOf"][0]["$ref"]).rsplit('/').next().unwrap_or_default();
            let verb = report.trim_end_matches("Report").to_lowercase();
            let about = text(&way["description"]);
            table += &format!(
                "| `action` | `{action}` | {about} The other fields are those of [`{verb}`](#{verb}). |\n"
            );
        }
        table
    }

    /// Every value that can be chosen, with the fields where it can.
    fn choices(&self) -> String {
        let mut rows = Vec::new();
        for method in self.methods().map(|method| text(&method["name"])) {
            self.params(method).into_iter().for_each(|row| self.flatten(row, &[], &mut rows));
        }
        let report = self.result_of("capabilities");
        let report = self.properties(&report).into_iter().filter(|row| row.name == "host");
        report.for_each(|row| self.flatten(row, &[], &mut rows));
        let mut choices: Vec<(Vec<String>, &Value)> = Vec::new();
        for row in &rows {
            let values = &self.resolve(&row.schema)["oneOf"];
            let name = format!("`{}`", row.name);
            match choices.iter_mut().find(|(_, known)| *known == values) {
                _ if values[0]["const"].is_null() => {}
                Some((names, _)) if names.contains(&name) => {}
                Some((names, _)) => names.push(name),
                None => choices.push((vec![name], values)),
            }
        }
        let mut table = "| field | value | meaning |\n| --- | --- | --- |\n".to_owned();
        for (names, values) in choices {
            for value in items(values) {
                let (value, about) = (text(&value["const"]), text(&value["description"]));
                table += &format!("| {} | `{value}` | {about} |\n", names.join(", "));
            }
        }
        table
    }

    /// The kinds of errors; what is to be done is taken over from the page.
    fn kinds(&self, page: &str) -> String {
        let mut table =
            "| code | kind | meaning | what to do |\n| --- | --- | --- | --- |\n".to_owned();
        for (kind, error) in fields(&self.0["components"]["errors"]) {
            let (code, about) = (&error["code"], text(&error["message"]));
            let begin = format!("| {code} | `{kind}` |");
            let known = lines_of(page, "kinds").find(|line| line.contains(&format!("`{kind}`")));
            let remedy = known.and_then(|line| line.trim_end_matches(" |").rsplit(" | ").next());
            table += &format!("{begin} {about} | {} |\n", remedy.unwrap_or_default());
        }
        table
    }

    /// The names of everything: methods, fields, values, kinds.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fields(&self.0["components"]["errors"]).map(|(kind, _)| kind.clone()).collect();
        let named = self.methods().chain(self.methods().flat_map(|m| items(&m["params"])));
        names.extend(named.map(|named| text(&named["name"]).to_owned()));
        let mut schemas: Vec<&Value> = vec![&self.0["components"]["schemas"]];
        while let Some(schema) = schemas.pop() {
            names.extend(fields(&schema["properties"]).map(|(name, _)| name.clone()));
            names.extend(schema["const"].as_str().map(str::to_owned));
            schemas.extend(fields(schema).map(|(_, inner)| inner));
            schemas.extend(items(schema));
        }
        names
    }
}
