//! `info --output qemu-json`, field by field against `qemu-img info --output=json`.

use serde_json::Value;

use crate::draw::each;
use crate::fixtures::every_image;
use crate::support::Env;

/// What QEMU says, as JSON.
fn qemu(env: &Env, args: &[&str]) -> Value {
    let args = [&["info", "-U", "--output=json"], args].concat();
    env.run("qemu-img", args).exits(0).json()
}

fn ours(env: &Env, line: &str) -> Value {
    env.vmdisk(&format!("info {line} --output qemu-json")).exits(0).json()
}

/// Fails with the first field that differs.
#[track_caller]
fn same(ours: &Value, qemu: &Value, what: &str) {
    match (ours, qemu) {
        (Value::Object(a), Value::Object(b)) => {
            let names = |o: &serde_json::Map<String, Value>| -> Vec<String> {
                let mut names: Vec<_> = o.keys().cloned().collect();
                names.sort_unstable();
                names
            };
            assert_eq!(names(a), names(b), "{what}");
            a.iter().for_each(|(name, value)| same(value, &b[name], &format!("{what}.{name}")));
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{what}");
            a.iter().zip(b).for_each(|(a, b)| same(a, b, &format!("{what}[]")));
        }
        (a, b) => assert_eq!(a, b, "{what}"),
    }
}

/// Every image that the tests have, alone and with its chain, by names in and outside of the folder.
/// What must differ is nothing but this: bytes of names that are not UTF-8, and `extent-size-hint`
/// where XFS has one; none of these images has any.
#[test]
fn every_image_is_told_as_qemu_tells_it() {
    each(&every_image(), |(name, make)| {
        let env = Env::new();
        make(&env);
        let whole = env.path("d.qcow2").display().to_string();
        for path in ["d.qcow2", "./d.qcow2", &whole] {
            same(&ours(&env, path), &qemu(&env, &["-f", "qcow2", path]), name);
        }
        let chain = qemu(&env, &["--backing-chain", "-f", "qcow2", "d.qcow2"]);
        same(&ours(&env, "d.qcow2 --chain"), &chain, name);
    });
}

/// A raw disk of an odd length, one with a doubt, and an image below that is named in full.
#[test]
fn raw_disks_and_other_folders() {
    let env = Env::new();
    env.write("odd.raw", vec![1; 70_001]);
    same(&ours(&env, "odd.raw"), &qemu(&env, &["-f", "raw", "odd.raw"]), "raw");
    env.qemu_img("create -q -f qcow2 base.qcow2 1M");
    std::fs::create_dir(env.path("sub")).expect("a folder");
    env.qemu_img("create -q -f qcow2 -b ../base.qcow2 -F qcow2 sub/d.qcow2");
    let full = env.path("base.qcow2").display().to_string();
    env.qemu_img(&format!("create -q -f qcow2 -b {full} -F qcow2 full.qcow2"));
    for path in ["sub/d.qcow2", "full.qcow2"] {
        same(&ours(&env, path), &qemu(&env, &["-f", "qcow2", path]), path);
        let chain = qemu(&env, &["--backing-chain", "-f", "qcow2", path]);
        same(&ours(&env, &format!("{path} --chain --trust full")), &chain, path);
    }
    // Bitmaps in every state, ours and QEMU's, and the protocol says the same.
    env.qemu_img("bitmap --add base.qcow2 a");
    env.qemu_img("bitmap --add --disable -g 1M base.qcow2 b");
    env.report("bitmap add base.qcow2 c");
    let told = qemu(&env, &["-f", "qcow2", "base.qcow2"]);
    same(&ours(&env, "base.qcow2"), &told, "bitmaps");
    let request =
        r#"{"jsonrpc":"2.0","id":1,"method":"info","params":{"path":"base.qcow2","qemu":true}}"#;
    env.write("request", format!("{request}\n"));
    let script = "\"$0\" rpc < request";
    let reply = env.run("sh", ["-c", script, crate::support::VMDISK]).exits(0).json();
    same(&reply["result"]["qemu"], &told, "protocol");
    env.refuses("info base.qcow2 --output xml", "bad_request");
    env.vmdisk("info base.qcow2 --output qemu-json --json").exits(2);
}

/// What the header of an encrypted image says, with one key and with two; of one that cannot be
/// understood, the method is told alone.
#[test]
fn encryption_headers() {
    let env = Env::new();
    let secrets = ["--object", "secret,id=a,data=one", "--object", "secret,id=b,data=two"];
    let agree = |about: &str| {
        same(&ours(&env, "d.qcow2"), &qemu(&env, &["-f", "qcow2", "d.qcow2"]), about);
    };
    for how in [
        "",
        ",encrypt.cipher-alg=serpent-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv",
        ",encrypt.cipher-alg=aes-128,encrypt.cipher-mode=ctr,encrypt.ivgen-alg=plain,encrypt.hash-alg=sha512",
    ] {
        let options = format!("encrypt.format=luks,encrypt.key-secret=a,encrypt.iter-time=10{how}");
        let rest = ["-o", &options, "d.qcow2", "4M"];
        let create = ["create", "-q", "-f", "qcow2"].into_iter().chain(secrets).chain(rest);
        env.run("qemu-img", create).exits(0);
        agree(how);
    }
    let add = "encrypt.state=active,encrypt.new-secret=b,encrypt.iter-time=10";
    let disk = "driver=qcow2,file.filename=d.qcow2,encrypt.key-secret=a";
    let amend = ["amend"].into_iter().chain(secrets).chain(["-o", add, "--image-opts", disk]);
    env.run("qemu-img", amend).exits(0);
    agree("two keys");
    let mut bytes = std::fs::read(env.path("d.qcow2")).expect("the image");
    let magic = b"LUKS\xba\xbe";
    let at = bytes.windows(magic.len()).position(|window| window == magic).expect("a header");
    bytes[at] = 0;
    env.write("d.qcow2", bytes);
    let told = ours(&env, "d.qcow2");
    assert_eq!(told["format-specific"]["data"]["encrypt"], serde_json::json!({"format": "luks"}));
}
