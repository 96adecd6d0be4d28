//! Values that are of the right type, and no sizes, modes or paths all the same.

use serde_json::json;

use super::fields::{PARAMS, Scene, with};
use crate::support::message;

/// Sizes that are none have a kind of their own, wherever a size belongs.
#[test]
fn sizes() {
    let mut scene = Scene::new();
    let wrong = [
        "1048576.0",
        "1e3",
        "-1",
        "-0",
        "1.5",
        "18446744073709551616",
        "1e400",
        "true",
        "[]",
        "{}",
        "[1048576]",
        r#""20000""#,
        r#""""#,
        r#"" ""#,
        r#""20XB""#,
        r#""1e3G""#,
        r#""-1G""#,
        r#""0x10M""#,
        r#""1,5G""#,
        r#""٣G""#,
        r#""99999999999999999999999999G""#,
        r#""1.5B""#,
    ];
    for size in wrong {
        for (method, params) in [
            ("create", r#""path":"n.qcow2","size":SIZE"#),
            ("ensure", r#""path":"n.qcow2","size":SIZE"#),
            ("resize", r#""path":"d.qcow2","size":SIZE"#),
            ("create", r#""path":"n.qcow2","size":"1M","layout":{"cluster_size":SIZE}"#),
        ] {
            let before = scene.env.contents();
            let params = params.replace("SIZE", size);
            let line =
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}}}}}"#);
            // The parser itself knows no such number.
            let (code, kind) = match size {
                "1e400" => (-32700, "bad_request"),
                _ => (PARAMS, "bad_size"),
            };
            let response = scene.session.refused(&line, code, kind);
            assert_eq!(scene.env.contents(), before, "{line}");
            if kind == "bad_size" {
                let field = &response.error()["data"]["detail"]["field"];
                assert!(field == "size" || field == "layout.cluster_size", "{line}: {response:?}");
            }
        }
    }
    // Sizes that are some, and that no disk has.
    for size in [json!(0), json!("0G"), json!(u64::MAX), json!("8E")] {
        scene.refused("create", &json!({ "size": size }), 3, "bad_size");
    }
    let bare = scene.refused("create", &json!({ "size": "20000" }), PARAMS, "bad_size");
    for reading in ["20000B", "20000M", "20000MB"] {
        assert!(message(&bare).contains(reading), "{bare:#}");
    }
    for size in [json!(1 << 20), json!("1048576B"), json!("1mib"), json!("0.5M"), json!("1MB")] {
        scene.obeyed("create", &json!({ "size": size }));
    }
}

/// The unit of another flag, which excludes the size, and is bounded like it.
#[test]
fn docker_machine_mb() {
    let mut scene = Scene::new();
    let both = json!({ "docker_machine_mb": 1 });
    for method in ["create", "ensure", "resize"] {
        scene.refused(method, &both, PARAMS, "incompatible_options");
        for mib in [1_u64 << 60, u64::MAX, 1 << 44] {
            let change = json!({ "size": null, "docker_machine_mb": mib });
            scene.refused(method, &change, PARAMS, "bad_size");
        }
    }
    scene.obeyed("create", &json!({ "size": null, "docker_machine_mb": 1 }));
}

/// Permission bits are octal digits in a string: a number would be read in another base.
#[test]
fn modes() {
    let mut scene = Scene::new();
    for mode in [
        json!("0o999"),
        json!("8"),
        json!("0x1ff"),
        json!("1000"),
        json!("-1"),
        json!("+644"),
        json!(""),
        json!("rw-------"),
        json!("06 00"),
        json!(600),
        json!(0o600),
        json!(384.0),
    ] {
        let error = scene.refused("create", &json!({ "mode": mode }), PARAMS, "bad_request");
        assert_eq!(error["data"]["detail"]["field"], "mode", "{error:#}");
    }
    for mode in ["600", "0600", "00000600", "0"] {
        scene.obeyed("create", &json!({ "mode": mode }));
    }
}

/// Paths that no file can have, wherever a path belongs.
#[test]
fn paths() {
    let mut scene = Scene::new();
    let long = "d".repeat(5000);
    let deep = "d/".repeat(2500);
    let paths = [
        ("a\0b", &["bad_request"] as &[&str]),
        ("\0", &["bad_request"]),
        (&long, &["bad_request"]),
        (&deep, &["bad_request", "not_found", "backing_missing"]),
        ("", &["bad_request", "not_found", "not_a_disk", "backing_missing"]),
    ];
    for (path, kinds) in paths {
        for (method, change) in [
            ("create", json!({ "path": path })),
            ("ensure", json!({ "path": path })),
            ("resize", json!({ "path": path })),
            ("info", json!({ "path": path })),
            ("create", json!({ "backing": { "path": path } })),
            ("create", json!({ "guest": { "ssh_key_files": [path] } })),
            ("ensure", json!({ "guest": { "userdata_file": path } })),
            ("capabilities", json!({ "folder": path })),
        ] {
            let before = scene.env.contents();
            let response = scene.session.ask(method, with(method, &change));
            assert!(kinds.contains(&response.kind()), "{path:.20} {change:.60}: {response:?}");
            assert_eq!(response.error()["data"]["changed"], false, "{response:?}");
            assert_eq!(scene.env.contents(), before, "{method} {path:.20}");
        }
    }
}
