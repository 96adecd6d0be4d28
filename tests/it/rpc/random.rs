//! Requests drawn from the document itself, rightly and wrongly made, and lines that were damaged
//! on the way: whatever comes, the server keeps to the document.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::collection::vec;
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};
use proptest::sample::{select, subsequence};
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use serde_json::{Map, Value, json};

use super::schema::{DOCUMENT, allows, methods};
use super::{Response, Session, request, under};
use crate::support::{Env, PUBLIC_KEY};

/// What may be written: names of files in the test's own folder, and sizes that take no time.
const NAMES: &[&str] = &["a.qcow2", "b.raw", "c.qcow2", "junk", "folder", "missing", "", "\0", "é"];
const SIZES: &[&str] = &[
    "512",
    "4096",
    "65536",
    "65536",
    "65536",
    "100000",
    "1048576",
    "0",
    "-1",
    "1.5",
    "null",
    r#""64K""#,
    r#""64KiB""#,
    r#""1M""#,
    r#""0.5MiB""#,
    r#""2MB""#,
    r#""20000""#,
    r#""1P""#,
    "18446744073709551615",
];
const OWNERS: &[&str] = &["0", "0:0", "root", "nosuchuser"];

/// A value for the field `name` that its schema allows.
fn right(name: &str, schema: &'static Value) -> BoxedStrategy<Value> {
    let text = |texts: &'static [&'static str]| select(texts).prop_map(Value::from).boxed();
    if schema["format"] == "byte-size" {
        let parsed = |text| serde_json::from_str(text).expect("a value");
        return select(SIZES).prop_map(parsed).boxed();
    }
    if let Some(reference) = schema["$ref"].as_str() {
        let place = reference.trim_start_matches('#');
        return right(name, DOCUMENT.pointer(place).expect("a schema"));
    }
    for alternatives in ["anyOf", "oneOf", "allOf"] {
        if let Some(schemas) = schema[alternatives].as_array() {
            let index = 0..schemas.len();
            let name = name.to_owned();
            return index.prop_flat_map(move |index| right(&name, &schemas[index])).boxed();
        }
    }
    if let Some(value) = schema.get("const") {
        return Just(value.clone()).boxed();
    }
    match schema["type"].as_str().or_else(|| schema["type"][0].as_str()) {
        Some("object") => object(schema["properties"].as_object().expect("fields")),
        Some("array") => {
            let items = right(name, &schema["items"]);
            vec(items, 0..3).prop_map(Value::from).boxed()
        }
        Some("boolean") => any::<bool>().prop_map(Value::from).boxed(),
        Some("integer") => {
            select(&[0_u64, 1, 2, 16, 64, u64::MAX][..]).prop_map(Value::from).boxed()
        }
        Some("number") => select(&[0.0, 0.01, 0.0, 1e300][..]).prop_map(Value::from).boxed(),
        Some("string") => match name {
            "protocol" => text(&["1", "1", "1.0", "1", "1", "2"]),
            "mode" => text(&["0600", "644", "0", "8"]),
            "owner" => text(OWNERS),
            "ssh_keys" => text(&[PUBLIC_KEY, "no key", ""]),
            _ => text(NAMES),
        },
        _ => Just(Value::Null).boxed(),
    }
}

/// A value that its schema most likely does not allow. No text here names another folder.
fn wrong() -> impl Strategy<Value = Value> {
    const TEXTS: &[&str] = &["", "no", "1M", "qcow2", "\u{0}", "\u{202e}x"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(TEXTS).prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            vec((select(NAMES), inner), 0..3).prop_map(|members| {
                let members = members.into_iter().map(|(name, value)| (name.to_owned(), value));
                Value::Object(members.collect())
            }),
        ]
    })
}

/// An object with some of these fields: mostly right ones, some with wrong values, some misspelt.
fn object(fields: &'static Map<String, Value>) -> BoxedStrategy<Value> {
    let field = |(name, schema): (&'static String, &'static Value)| {
        let spelt = prop_oneof![
            60 => Just(name.clone()),
            1 => Just(format!("x-{name}")),
            1 => Just(name[1..].to_owned()),
        ];
        let value = prop_oneof![40 => right(name, schema), 1 => wrong()];
        (spelt, value).boxed()
    };
    let all = fields.len();
    subsequence(Vec::from_iter(fields), 0..=all.min(3))
        .prop_flat_map(move |some| some.into_iter().map(field).collect::<Vec<_>>())
        .prop_map(|members| Value::Object(members.into_iter().collect()))
        .boxed()
}

/// The parameters of every method, by its name, as the fields of an object.
fn all_params() -> Vec<(&'static str, &'static Map<String, Value>)> {
    let fields = |method: &'static Value| {
        let params = method["params"].as_array().expect("parameters").iter();
        let field = |param: &Value| {
            (param["name"].as_str().expect("a name").to_owned(), param["schema"].clone())
        };
        let fields: Map<String, Value> = params.map(field).collect();
        // As long as the test: strategies refer to it.
        (method["name"].as_str().expect("a name"), &*Box::leak(Box::new(fields)))
    };
    methods().map(fields).collect()
}

/// A request, most often one that says where and how much.
fn requests() -> impl Strategy<Value = String> {
    let ids = prop_oneof![
        8 => any::<i64>().prop_map(Value::from),
        2 => select(NAMES).prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => wrong(),
    ];
    let where_and_how_much = (0..8_u8, select(&NAMES[..4]), select(&[512, 65536, 1 << 20][..]));
    // Those that are told where and how much come more often than what is beside them.
    const OFTEN: [&str; 4] = ["create", "ensure", "resize", "info"];
    let all = all_params();
    let often: Vec<_> = all.iter().copied().filter(|(name, _)| OFTEN.contains(name)).collect();
    let calls = [often.repeat(8), all].concat();
    let call = select(calls).prop_flat_map(|(method, fields)| (Just(method), object(fields)));
    (ids, call, where_and_how_much).prop_map(|(id, (method, mut params), (given, path, size))| {
        if given > 0 && OFTEN.contains(&method) {
            params["path"] = json!(path);
            if given > 1 && method != "info" && params.get("docker_machine_mb").is_none() {
                params["size"] = json!(size);
            }
        }
        request(id, method, params)
    })
}

/// A change of a line: where, and what happens there.
#[derive(Debug, Clone)]
enum Damage {
    Put(u8),
    Insert(u8),
    Cut(usize),
    Repeat(usize),
}

/// A line that was damaged. What is put in can make no name of another folder.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let byte = || any::<u8>().prop_filter("one line, one folder", |b| !b"\n/.".contains(b));
    let damage = prop_oneof![
        byte().prop_map(Damage::Put),
        byte().prop_map(Damage::Insert),
        (1..40_usize).prop_map(Damage::Cut),
        (1..40_usize).prop_map(Damage::Repeat),
    ];
    let places = vec((any::<proptest::sample::Index>(), damage), 1..4);
    (requests(), places).prop_map(|(line, damages)| {
        let mut line = line.into_bytes();
        for (place, damage) in damages {
            let at = place.index(line.len() + 1);
            let upto = |len: usize| (at + len).min(line.len());
            match damage {
                Damage::Put(byte) if at < line.len() => line[at] = byte,
                Damage::Put(byte) | Damage::Insert(byte) => line.insert(at, byte),
                Damage::Cut(len) => drop(line.drain(at..upto(len))),
                Damage::Repeat(len) => {
                    let again = line[at..upto(len)].to_vec();
                    line.splice(at..at, again);
                }
            }
        }
        line
    })
}

fn lines() -> impl Strategy<Value = Vec<u8>> {
    let bytes = vec(any::<u8>().prop_filter("one line", |b| *b != b'\n'), 0..60);
    prop_oneof![
        20 => requests().prop_map(String::into_bytes),
        4 => damaged(),
        1 => bytes,
        1 => wrong().prop_map(|value| value.to_string().into_bytes()),
    ]
}

/// A folder, and a session that lives as long as all goes well.
struct Scene {
    env: Env,
    session: Option<Session>,
    cases: usize,
    /// How often each kind, or method that succeeded, was met.
    met: BTreeMap<String, usize>,
}

impl Scene {
    fn new() -> Scene {
        let env = Env::new();
        std::fs::create_dir(env.path("folder")).expect("a folder");
        env.write("junk", vec![7; 4096]);
        env.report("create steady.qcow2 --size 1M");
        Scene { env, session: None, cases: 0, met: BTreeMap::new() }
    }

    fn start(&self) -> Session {
        // Should a size become a large one by chance, it is refused: files may have 4 MiB.
        Session::of(under(&self.env, "ulimit -f 8192; exec \"$0\" rpc"))
    }

    /// Every file, without the time of its last change: what was tried and taken back leaves that.
    fn files(&self) -> BTreeMap<PathBuf, String> {
        let timeless = |about: String| {
            let words: Vec<_> = about.split(", ").collect();
            [&words[..3], &words[4..]].concat().join(", ")
        };
        self.env.contents().into_iter().map(|(path, about)| (path, timeless(about))).collect()
    }

    fn judge(&mut self, line: &[u8]) {
        self.cases += 1;
        if self.cases.is_multiple_of(20) {
            for name in &NAMES[..3] {
                let _ = std::fs::remove_file(self.env.path(name));
            }
        }
        let before = self.files();
        let mut session = self.session.take().unwrap_or_else(|| self.start());
        session.send(line);
        session.send(request("steady", "info", json!({ "path": "steady.qcow2" })));
        let answer = session.answer();
        let steady = if answer.id == "steady" { None } else { Some(session.answer()) };
        let read: Value = serde_json::from_slice(line).unwrap_or_default();
        match steady {
            None => {
                let unasked = read.is_object() && read.get("id").is_none();
                assert!(unasked || line.trim_ascii().is_empty(), "no answer");
                assert!(answer.outcome.is_ok(), "{answer:?}");
            }
            Some(steady) => {
                assert!(steady.id == "steady" && steady.outcome.is_ok(), "{steady:?}");
                self.judge_answer(&read, answer, &before);
            }
        }
        self.session = Some(session);
    }

    fn judge_answer(&mut self, read: &Value, answer: Response, before: &BTreeMap<PathBuf, String>) {
        assert!(answer.id == read["id"] || answer.id.is_null(), "{answer:?}");
        let method = read["method"].as_str().unwrap_or_default();
        let answer = answer.valid(method);
        let (changed, met) = match &answer.outcome {
            // Those that have nothing to say about changes make none.
            Ok(result) => {
                let mut params = read.get("params").cloned().unwrap_or(json!({}));
                drop_null(&mut params);
                assert!(allows(method, &params), "the document has no such request: {params}");
                (result.get("changed").is_some_and(|changed| *changed == true), method)
            }
            Err(error) => (error["data"]["changed"] == true, answer.kind()),
        };
        assert_ne!(met, "internal", "{answer:?}");
        assert!(changed || self.files() == *before, "it did change something: {answer:?}");
        *self.met.entry(met.to_owned()).or_default() += 1;
    }
}

/// `null` is the same as nothing, and the document speaks of what is there.
fn drop_null(value: &mut Value) {
    if let Value::Object(members) = value {
        members.retain(|_, value| !value.is_null());
        members.values_mut().for_each(drop_null);
    }
}

/// Each line that is no notification gets one answer, and the document has its form; nothing is
/// obeyed that the document does not have; what says that nothing was changed has changed
/// nothing; and the session lives on, without a word of a panic.
#[test]
fn whatever_comes_is_answered() {
    let scene = RefCell::new(Scene::new());
    let config = Config { cases: 700, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let judged = TestRunner::new_with_rng(config, rng).run(&lines(), |line| {
        scene.borrow_mut().judge(&line);
        Ok(())
    });
    match judged {
        Ok(()) => {}
        Err(TestError::Fail(why, line)) => panic!("{why}\n{}", String::from_utf8_lossy(&line)),
        Err(error) => panic!("{error}"),
    }
    let mut scene = scene.into_inner();
    let (said, run) = scene.session.take().expect("a session").close();
    assert!(said.is_empty() && run.code == Some(0), "{said:?} {run:?}");
    assert!(!run.stderr.contains("panicked"), "{run:?}");
    // The draws reach behind the parameters, or all this shows little.
    println!("{:?}", scene.met);
    for met in ["create", "ensure", "resize", "info", "exists", "bad_size", "incompatible_options"]
    {
        assert!(scene.met.get(met).is_some_and(|times| *times >= 2), "{met}: {:?}", scene.met);
    }
}
