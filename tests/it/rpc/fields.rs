//! Parameters that are not understood: refused before any file is touched, with the name of the
//! field and of the one that was perhaps meant.

use serde_json::{Value, json};

use super::{Session, request};
use crate::support::{Env, message};

pub(super) const PARAMS: i64 = -32602;

/// A session in a folder where any request that is obeyed would show.
pub(super) struct Scene {
    pub(super) env: Env,
    pub(super) session: Session,
}

impl Scene {
    pub(super) fn new() -> Scene {
        let env = Env::new();
        env.report("create d.qcow2 --size 1M");
        let session = Session::new(&env);
        Scene { env, session }
    }

    /// A request that would do something, with `change` put into its parameters, is refused.
    /// Returns the error.
    #[track_caller]
    pub(super) fn refused(&mut self, method: &str, change: &Value, code: i64, kind: &str) -> Value {
        let before = self.env.contents();
        let line = request(1, method, with(method, change));
        let response = self.session.refused(&line, code, kind);
        assert_eq!(self.env.contents(), before, "{line}");
        response.error().clone()
    }

    /// The same is obeyed.
    #[track_caller]
    pub(super) fn obeyed(&mut self, method: &str, change: &Value) {
        let response = self.session.ask(method, with(method, change));
        assert!(response.outcome.is_ok(), "{method} {change}: {response:?}");
        let _ = std::fs::remove_file(self.env.path("n.qcow2"));
    }
}

/// Parameters that are in order, with the members of `change` over them.
pub(super) fn with(method: &str, change: &Value) -> Value {
    let mut params = match method {
        "create" | "ensure" => json!({ "path": "n.qcow2", "size": "1M" }),
        "resize" => json!({ "path": "d.qcow2", "size": "2M" }),
        "info" => json!({ "path": "d.qcow2" }),
        _ => json!({}),
    };
    let change = change.as_object().expect("an object").clone();
    params.as_object_mut().expect("an object").extend(change);
    params
}

/// A field that nobody knows, at the top and inside: named with its level, with the nearest known
/// field of that level; before any value is looked at.
#[test]
fn unknown_fields() {
    let mut scene = Scene::new();
    for (method, change, field, nearest) in [
        ("create", json!({ "siez": "1M" }), "siez", "size"),
        ("create", json!({ "preallocaton": "full" }), "preallocaton", ""),
        (
            "create",
            json!({ "layout": { "preallocaton": "full" } }),
            "layout.preallocaton",
            "preallocation",
        ),
        ("ensure", json!({ "guest": { "ssh_key": [] } }), "guest.ssh_key", "ssh_keys"),
        (
            "create",
            json!({ "backing": { "path": "d.qcow2", "fromat": "qcow2" } }),
            "backing.fromat",
            "format",
        ),
        ("create", json!({ "backing": { "fromat": "qcow2" } }), "backing.fromat", "format"),
        ("create", json!({ "size": "20000", "mdoe": 1 }), "mdoe", "mode"),
        ("create", json!({ "path": 1, "layout": { "compt": 1 } }), "layout.compt", "compat"),
        ("ensure", json!({ "if_exists": "replace" }), "if_exists", ""),
        ("resize", json!({ "layout": {} }), "layout", ""),
        ("resize", json!({ "shrnik": true }), "shrnik", "shrink"),
        ("info", json!({ "no_lock": true }), "no_lock", ""),
        ("info", json!({ "Path": "d.qcow2" }), "Path", "path"),
        ("capabilities", json!({ "floder": "." }), "floder", "folder"),
        ("rpc.discover", json!({ "path": "d.qcow2" }), "path", ""),
        ("rpc.discover", json!({ "protocl": "1" }), "protocl", "protocol"),
        ("info", json!({ "X-upper": 1 }), "X-upper", ""),
        ("info", json!({ "x": 1 }), "x", ""),
        ("info", json!({ "": 1 }), "", ""),
    ] {
        let error = scene.refused(method, &change, PARAMS, "bad_request");
        assert_eq!(error["data"]["detail"]["field"], field, "{error:#}");
        let told = format!("unknown field '{field}'");
        assert!(message(&error).starts_with(&told), "{error:#}");
        if nearest.is_empty() {
            continue;
        }
        assert_eq!(error["data"]["detail"]["nearest"], nearest, "{error:#}");
        assert!(message(&error).contains(&format!("'{nearest}'?")), "{error:#}");
    }
}

/// The client's own fields are ignored wherever they stand, whatever they hold.
#[test]
fn extensions() {
    let mut scene = Scene::new();
    let own = json!({ "x-": [{ "size": 1 }] });
    for method in ["create", "ensure", "resize", "info", "capabilities", "rpc.discover"] {
        scene.obeyed(method, &own);
    }
    let nested = json!({
        "layout": { "x-a": null, "preset": "qemu" }, "guest": { "x-b": {} },
        "backing": { "path": "d.qcow2", "x-c": 1, "x-d": 2 }, "x-e": "",
        "size": "2M",
    });
    scene.obeyed("create", &nested);
    let line = json!({ "jsonrpc": "2.0", "id": 1, "method": "info", "x-trace": [],
        "params": { "path": "d.qcow2" } });
    scene.session.send(line.to_string());
    assert!(scene.session.response().valid("info").outcome.is_ok());
}

/// A value of another type than its field has, in every kind of field.
#[test]
fn types() {
    let mut scene = Scene::new();
    let (text, list, object) = (json!("yes"), json!([]), json!({}));
    let wrong = |values: &[&Value]| values.iter().map(|v| (*v).clone()).collect::<Vec<_>>();
    let (number, truth) = (json!(1), json!(true));
    let no_text = wrong(&[&number, &truth, &list, &object]);
    let no_object = wrong(&[&text, &number, &truth, &list, &json!([null, null])]);
    let no_truth = wrong(&[&text, &number, &list, &object, &json!("true")]);
    let no_list = wrong(&[&text, &number, &truth, &object, &json!({ "0": "a" }), &json!([1])]);
    let no_choice =
        [no_text.clone(), wrong(&[&text, &json!({ "qcow2": null }), &json!(["raw"])])].concat();
    let whole = [no_truth.clone(), wrong(&[&json!(1.5), &json!(-1), &json!("1")])].concat();
    for (field, values) in [
        ("path", [no_text.clone(), vec![Value::Null]].concat()),
        ("owner", no_text.clone()),
        ("protocol", no_text.clone()),
        ("mode", no_text.clone()),
        ("format", no_choice.clone()),
        ("if_exists", no_choice.clone()),
        ("trust", no_choice.clone()),
        ("layout", no_object.clone()),
        ("guest", no_object.clone()),
        ("backing", [no_object, vec![json!(["d.qcow2", null, null])]].concat()),
        ("allow", no_list),
        ("no_lock", no_truth.clone()),
        ("progress", no_truth.clone()),
        ("lock_timeout_seconds", wrong(&[&text, &truth, &list, &object, &json!("1")])),
        ("docker_machine_mb", whole.into_iter().filter(|v| *v != 1).collect()),
    ] {
        for value in values {
            let kind = if field == "docker_machine_mb" { "bad_size" } else { "bad_request" };
            let error = scene.refused("create", &json!({ field: value }), PARAMS, kind);
            let named = error["data"]["detail"]["field"].as_str().unwrap_or_default();
            assert!(named.starts_with(field), "{field} {value}: {error:#}");
        }
    }
    for (object, field, value) in [
        ("layout", "extended_l2", json!("on")),
        ("layout", "refcount_bits", json!(16.0)),
        ("layout", "compat", json!(1.1)),
        ("layout", "preallocation", json!("some")),
        ("guest", "ssh_keys", json!("ssh-ed25519 AAAA")),
        ("guest", "ssh_keys", json!([["a"]])),
        ("guest", "profile", json!({ "none": null })),
        ("guest", "userdata_file", json!(1)),
        ("backing", "path", Value::Null),
        ("backing", "store", json!("somewhere")),
    ] {
        let mut change = json!({ object: { field: value } });
        if (object, field) == ("backing", "store") {
            change["backing"]["path"] = json!("d.qcow2");
        }
        let error = scene.refused("create", &change, PARAMS, "bad_request");
        let named = error["data"]["detail"]["field"].as_str().unwrap_or_default();
        assert!(named.starts_with(&format!("{object}.{field}")), "{error:#}");
    }
    let error = scene.refused("info", &json!({ "chain": 1 }), PARAMS, "bad_request");
    assert!(!message(&error).contains("struct"), "{error:#}");
    // What has to be there.
    for method in ["create", "ensure", "resize", "info"] {
        let response = scene.session.refused(request(1, method, json!({})), PARAMS, "bad_request");
        assert!(message(response.error()).contains("path"), "{response:?}");
    }
}

/// `null` is as good as nothing where nothing has a meaning of its own.
#[test]
fn nothing_at_all() {
    let mut scene = Scene::new();
    let nothing = json!({
        "docker_machine_mb": null, "format": null, "backing": null, "mode": null, "owner": null,
        "trust": null, "protocol": null, "layout": { "preset": null, "cluster_size": null },
        "guest": { "profile": null, "userdata_file": null, "ssh_keys": null },
        "if_exists": null, "progress": null, "allow": null, "no_lock": null,
        "lock_timeout_seconds": null,
    });
    scene.obeyed("create", &nothing);
    scene.obeyed("create", &json!({ "size": null, "docker_machine_mb": 1 }));
    scene.obeyed("create", &json!({ "layout": null, "guest": null }));
    scene.obeyed(
        "create",
        &json!({ "size": null, "backing": { "path": "d.qcow2", "format": null } }),
    );
    scene.obeyed("capabilities", &json!({ "folder": null }));
}

/// A client of another version is told so before anything else is said of its request.
#[test]
fn versions() {
    let mut scene = Scene::new();
    for version in ["2", "0", "2.1", "", "1x", " 1", "01", "one"] {
        for change in [
            json!({ "protocol": version }),
            json!({ "protocol": version, "new_field": 1 }),
            json!({ "protocol": version, "progress": "often", "path": null }),
        ] {
            for method in ["create", "info", "capabilities", "rpc.discover"] {
                let error = scene.refused(method, &change, 2, "protocol_unsupported");
                assert_eq!(error["data"]["supported"], json!(["1"]), "{error:#}");
            }
        }
    }
    scene.refused("info", &json!({ "protocol": 1 }), PARAMS, "bad_request");
    for version in ["1", "1.0", "1.7"] {
        scene.obeyed("create", &json!({ "protocol": version }));
    }
}

/// Options of the call as a whole.
#[test]
fn trust_and_locks() {
    let mut scene = Scene::new();
    scene.refused("info", &json!({ "trust": "all" }), PARAMS, "bad_request");
    for trust in ["folder", "full"] {
        let change = json!({ "trust": trust, "allow": ["."] });
        scene.refused("info", &change, PARAMS, "incompatible_options");
    }
    for timeout in [json!(-1), json!(-0.001), json!(1e300), json!(1.9e19)] {
        for method in ["create", "ensure", "resize"] {
            let change = json!({ "lock_timeout_seconds": timeout });
            scene.refused(method, &change, PARAMS, "bad_request");
        }
    }
    for timeout in ["NaN", "\"NaN\"", "Infinity", "1e999"] {
        let line = request(1, "resize", with("resize", &json!({ "lock_timeout_seconds": 0 })));
        let line = line.replace("_seconds\":0", &format!("_seconds\":{timeout}"));
        let before = scene.env.contents();
        let known = timeout == "\"NaN\"";
        scene.session.refused(&line, if known { PARAMS } else { -32700 }, "bad_request");
        assert_eq!(scene.env.contents(), before, "{line}");
    }
    for timeout in [json!(1e18), json!(-0.0), json!(0), json!(1e-300)] {
        scene.obeyed("create", &json!({ "lock_timeout_seconds": timeout, "no_lock": true }));
    }
    for trust in ["none", "folder", "named", "full"] {
        scene.obeyed("info", &json!({ "trust": trust, "chain": true }));
    }
}
