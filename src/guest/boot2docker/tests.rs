#[cfg(target_os = "linux")]
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::{Layout, MAGIC, Payload, Profile, PublicKeys};
use crate::error::{Error, ErrorKind};

/// The base64 of an ed25519 key (32 bytes that are no real key).
const ED25519: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
/// The start of RSA key data, which is as much as is looked at.
const RSA: &str = "AAAAB3NzaC1yc2EAAAADAQABAAABAQ==";

/// One key whose file has so many bytes, newline included.
fn keys_of(len: usize) -> PublicKeys {
    let mut line = format!("ssh-ed25519 {ED25519} ");
    line.push_str(&"c".repeat(len - 1 - line.len()));
    line.push('\n');
    let keys = PublicKeys::parse(&[("id.pub", line.as_bytes())]).unwrap();
    assert_eq!(keys.as_text(), line);
    keys
}

fn parse(contents: impl AsRef<[u8]>) -> Result<PublicKeys, Error> {
    PublicKeys::parse(&[("keys/id.pub", contents.as_ref())])
}

fn refusal(contents: impl AsRef<[u8]>) -> String {
    let error = parse(contents).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadRequest);
    let message = error.to_string();
    assert!(message.starts_with("keys/id.pub: "), "{message}");
    message
}

// ---- the archive

#[test]
fn classic_layout_is_docker_machines_byte_for_byte() {
    let keys = keys_of(404);
    let payload = Payload::with_keys(Profile::Boot2docker, &keys).unwrap();
    assert_eq!((payload.layout(), payload.key_count()), (Some(Layout::Classic), Some(1)));
    // A second writer, of nothing but the format's rules (POSIX pax, "ustar Interchange Format").
    let mut expected = Vec::new();
    for (name, kind, mode, data) in [
        ("boot2docker, please format-me", b'0', "0000000", MAGIC),
        (".ssh", b'5', "0000700", b"".as_slice()),
        (".ssh/authorized_keys", b'0', "0000644", keys.as_text().as_bytes()),
        (".ssh/authorized_keys2", b'0', "0000644", keys.as_text().as_bytes()),
    ] {
        let mut header = [0; 512];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, name.as_bytes());
        put(100, mode.as_bytes());
        put(108, b"0000000\x000000000\0");
        put(124, format!("{:011o}\0", data.len()).as_bytes());
        put(136, b"00000000000\0        ");
        put(156, &[kind]);
        put(257, b"ustar\x0000");
        put(329, b"0000000\x000000000\0");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        expected.extend(header);
        expected.extend(data);
        expected.resize(expected.len().next_multiple_of(512), 0);
    }
    assert_eq!(expected.len(), 3584);
    expected.resize(4608, 0);
    assert!(payload.bytes() == expected);
    assert!(payload.bytes().starts_with(MAGIC));
    assert_eq!(payload.footprint_bytes(Profile::Boot2docker), 4608);
    assert_eq!(payload.footprint_bytes(Profile::Rancheros), 8192);
}

#[test]
fn each_layout_holds_what_the_table_says_and_no_byte_more() {
    let table = [
        (Layout::Classic, 512, 2560),
        (Layout::EmptyMagic, 1024, 3072),
        (Layout::HardLink, 1536, 5632),
        (Layout::EmptyMagicHardLink, 2048, 6144),
    ];
    for (layout, small, large) in table {
        for (budget, limit) in [(4096, small), (8192, large)] {
            assert_eq!(layout.key_limit_bytes(budget), limit);
            assert!(layout.need_bytes(limit) <= budget);
            assert!(layout.need_bytes(limit + 1) > budget);
            for len in [limit, limit + 1] {
                let archive = layout.archive(&"k".repeat(usize::try_from(len).unwrap())).unwrap();
                assert_eq!(archive.len() as u64, layout.need_bytes(len) + 1024);
                assert!(archive[archive.len() - 1024..].iter().all(|&byte| byte == 0));
            }
        }
    }
}

#[test]
fn the_most_compatible_layout_that_fits_is_chosen() {
    use Layout::{Classic, EmptyMagicHardLink, HardLink};
    let chosen = |profile, len| Payload::with_keys(profile, &keys_of(len)).map(|p| p.layout());
    for (profile, cases) in [
        (Profile::Boot2docker, [(512, Classic), (513, HardLink), (1536, HardLink)]),
        (
            Profile::Minikube,
            [(404, Classic), (1537, EmptyMagicHardLink), (2048, EmptyMagicHardLink)],
        ),
        (Profile::Rancheros, [(2560, Classic), (2561, HardLink), (6144, EmptyMagicHardLink)]),
    ] {
        for (len, layout) in cases {
            assert_eq!(chosen(profile, len).unwrap(), Some(layout), "{profile} {len}");
        }
    }
    for (profile, len, parts) in [
        (
            Profile::Boot2docker,
            2049,
            ["2049 bytes", "need 4608", "reads only 4096", "hard_link 1536"],
        ),
        (Profile::Rancheros, 6145, ["6145 bytes", "need 8704", "reads only 8192", "classic 2560"]),
    ] {
        let error = chosen(profile, len).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PayloadTooLarge);
        let message = error.to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

/// The guest unpacks what it kept, without the end of the archive when that was cut off.
#[cfg(target_os = "linux")]
#[test]
fn gnu_tar_unpacks_what_the_guest_keeps() {
    for &layout in Layout::ALL {
        for budget in [4096, 8192] {
            let limit = layout.key_limit_bytes(budget);
            let keys = keys_of(usize::try_from(limit).unwrap());
            let mut kept = layout.archive(keys.as_text()).unwrap();
            kept.truncate(usize::try_from(budget).unwrap());
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("userdata.tar"), kept).unwrap();
            unpack(folder.path());
            assert_unpacked(folder.path(), layout, &keys);
        }
    }
}

#[cfg(target_os = "linux")]
fn unpack(folder: &Path) {
    let output = Command::new("tar")
        .args(["-x", "-v", "-p", "-f", "userdata.tar"])
        .current_dir(folder)
        .env("LC_ALL", "C")
        .output()
        .expect("these tests need GNU tar");
    let warnings = String::from_utf8(output.stderr).unwrap();
    // An archive without its end is no error, and at most "A lone zero block" is said about it.
    assert!(output.status.success(), "{warnings}");
    assert!(warnings.lines().all(|line| line.contains("lone zero block")), "{warnings}");
    let names = String::from_utf8(output.stdout).unwrap();
    let expected =
        "boot2docker, please format-me\n.ssh/\n.ssh/authorized_keys\n.ssh/authorized_keys2\n";
    assert_eq!(names.replace(".ssh\n", ".ssh/\n"), expected);
}

#[cfg(target_os = "linux")]
fn assert_unpacked(folder: &Path, layout: Layout, keys: &PublicKeys) {
    use std::os::unix::fs::MetadataExt;
    let about = |name: &str| std::fs::symlink_metadata(folder.join(name)).unwrap();
    let (first, second) = (about(".ssh/authorized_keys"), about(".ssh/authorized_keys2"));
    let magic = about("boot2docker, please format-me");
    assert_eq!(about(".ssh").mode() & 0o7777, 0o700);
    for file in [&first, &second] {
        assert_eq!((file.mode() & 0o7777, file.mtime()), (0o644, 0), "{layout}");
    }
    for name in ["authorized_keys", "authorized_keys2"] {
        let text = std::fs::read_to_string(folder.join(".ssh").join(name)).unwrap();
        assert_eq!(text, keys.as_text(), "{layout}");
    }
    let linked = matches!(layout, Layout::HardLink | Layout::EmptyMagicHardLink);
    assert_eq!(first.ino() == second.ino(), linked);
    let empty = matches!(layout, Layout::EmptyMagic | Layout::EmptyMagicHardLink);
    assert_eq!((magic.mode() & 0o7777, magic.len()), (0, if empty { 0 } else { 29 }));
}

// ---- payloads without keys of ours

#[test]
fn the_magic_alone_is_29_bytes() {
    let payload = Payload::magic_only();
    assert_eq!(payload.bytes(), b"boot2docker, please format-me");
    assert_eq!((payload.layout(), payload.key_count()), (None, Some(0)));
    assert_eq!(payload.footprint_bytes(Profile::Minikube), 4096);
}

#[test]
fn ready_archives_must_be_seen_whole_by_the_guest() {
    let ready = |bytes: &[u8]| Payload::from_userdata(Profile::Boot2docker, bytes.to_vec());
    // GNU tar pads to 10240 bytes.
    let mut archive = Layout::Classic.archive(keys_of(512).as_text()).unwrap();
    let end = archive.len();
    archive.resize(10240, 0);
    let payload = ready(&archive).unwrap();
    assert_eq!(payload.bytes(), &archive[..end]);
    assert_eq!((payload.layout(), payload.key_count()), (None, None));
    assert_eq!(ready(MAGIC).unwrap().bytes(), MAGIC);

    let error = ready(&Layout::Classic.archive(keys_of(513).as_text()).unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PayloadTooLarge);
    assert!(error.to_string().contains("needs 4608 bytes"), "{error}");

    let mut signed = archive.clone();
    signed[510..512].copy_from_slice(&[0x55, 0xAA]);
    for (bytes, part) in [
        (&signed[..], "55 AA at byte 510"),
        (&[0x1F, 0x8B, b'\n'], "does not begin with 'boot2docker, please format-me'"),
        (&MAGIC[..28], "does not begin with"),
        (&[], "does not begin with"),
    ] {
        let error = ready(bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadRequest);
        assert!(error.to_string().contains(part), "{error}");
    }
}

// ---- keys

/// Where texts were joined, a byte order mark in the middle would hide the key from sshd.
#[test]
fn byte_order_marks_are_no_part_of_a_key() {
    let joined = format!(
        "# mine\r\n\u{feff}ssh-ed25519 {ED25519} me\n\u{feff} \u{feff}no-pty ssh-rsa {RSA}"
    );
    let keys = parse(&joined).unwrap();
    assert_eq!(keys.as_text(), format!("ssh-ed25519 {ED25519} me\nno-pty ssh-rsa {RSA}\n"));
    assert_eq!(parse(keys.as_text()).unwrap(), keys);
}

#[test]
fn keys_of_several_files_become_one_text() {
    let first = format!("\u{feff}# mine\r\n\r\n  ssh-ed25519 {ED25519} me@here\r\n");
    let second = format!("ssh-ed25519 {ED25519} me@elsewhere\nssh-rsa {RSA}");
    let files = [("a.pub", first.as_bytes()), ("b.pub", second.as_bytes())];
    let keys = PublicKeys::parse(&files).unwrap();
    assert_eq!(keys.as_text(), format!("ssh-ed25519 {ED25519} me@here\nssh-rsa {RSA}\n"));
    assert_eq!((keys.count(), keys.len_bytes()), (2, keys.as_text().len() as u64));

    assert_eq!(Payload::with_keys(Profile::Minikube, &keys).unwrap().key_count(), Some(2));
    let error = Payload::with_keys(Profile::Rancheros, &keys).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IncompatibleOptions);
    assert!(error.to_string().starts_with("2 public keys were given, but rancheros takes 1"));
    assert_eq!(PublicKeys::parse(&[]).unwrap_err().kind(), ErrorKind::BadRequest);
}

#[test]
fn options_and_every_key_type_are_understood() {
    let options = [
        "restrict ",
        r#"command="echo \"ssh-rsa x\"",no-pty "#,
        "from=\"10.0.0.0/8, 127.0.0.1\"\t",
    ];
    for options in options {
        assert_eq!(parse(format!("{options}ssh-ed25519 {ED25519} c d")).unwrap().count(), 1);
    }
    // `ssh-keygen` is the authority on what a key looks like.
    for kind in ["ed25519", "rsa", "ecdsa"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("id");
        let keygen = |args: &[&str]| {
            let output = Command::new("ssh-keygen").current_dir(folder.path()).args(args).output();
            assert!(output.expect("these tests need ssh-keygen").status.success());
        };
        keygen(&["-q", "-t", kind, "-N", "", "-f", "id"]);
        keygen(&["-q", "-s", "id", "-I", "me", "-n", "docker", "id.pub"]);
        for name in ["id.pub", "id-cert.pub"] {
            let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
            assert_eq!(parse(&text).unwrap().as_text(), text);
        }
        assert!(refusal(std::fs::read(&file).unwrap()).contains("holds a private key"));
    }
}

#[test]
fn private_keys_are_refused_and_never_quoted() {
    let secret = "c2VjcmV0";
    let public = format!("ssh-ed25519 {ED25519} me\n");
    for frame in [
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----",
        "-----BEGIN EC PRIVATE KEY-----",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN PGP PRIVATE KEY BLOCK-----",
        "---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----",
        "PuTTY-User-Key-File-3: ssh-ed25519",
        "SSH PRIVATE KEY FILE FORMAT 1.1",
        "\u{feff}  -----BEGIN OPENSSH PRIVATE KEY-----\r",
        "openssh-key-v1\0",
        "b3BlbnNzaC1rZXktdjEAAAAA",
    ] {
        for text in [format!("{frame}\n{secret}\n"), format!("{public}{frame}\n{secret}\n")] {
            let message = refusal(&text);
            assert!(message.contains("holds a private key"), "{message}");
            assert!(!message.contains(secret) && !message.contains("BEGIN"), "{message}");
        }
    }
    // Without its frame a private key is no key at all, and is not quoted either.
    let message = refusal(format!("{public}{secret}\n"));
    assert!(message.contains("line 2 is not") && !message.contains(secret), "{message}");
    // In UTF-16 it is no text.
    let wide: Vec<u8> = "-----BEGIN RSA PRIVATE KEY-----\n".bytes().flat_map(|b| [b, 0]).collect();
    assert!(refusal(&wide).contains("control character U+0000 in line 1"));
    assert!(refusal([&[0xFF, 0xFE], &wide[..]].concat()).contains("invalid at byte 0"));
}

#[test]
fn what_is_no_public_key_is_refused() {
    let cut = &ED25519[..ED25519.len() - 1];
    for (text, part) in [
        (String::new(), "holds no public key"),
        ("# nothing\n\n".to_owned(), "holds no public key"),
        (format!("ssh-ed25519 {ED25519}\0"), "control character U+0000 in line 1"),
        (format!("ssh-ed25519 {ED25519} a\rb"), "control character U+000D in line 1"),
        (format!("\nssh-ed25519 {cut}"), "line 2 has an ssh-ed25519 key that is not valid base64"),
        (format!("ssh-ed25519 {cut}! me"), "not valid base64"),
        (format!("ssh-ed25519 {RSA}"), "has data that is not an ssh-ed25519 key"),
        ("ssh-rsa".to_owned(), "has data that is not an ssh-rsa key"),
        (format!("ssh-magic {ED25519}"), "is not an OpenSSH public key"),
        ("---- BEGIN SSH2 PUBLIC KEY ----".to_owned(), "is not an OpenSSH public key"),
        (format!("command=\"unclosed ssh-ed25519 {ED25519}"), "is not an OpenSSH public key"),
    ] {
        let message = refusal(&text);
        assert!(message.contains(part), "{message}");
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(bytes: Vec<u8>) {
        let _ = parse(bytes);
    }

    #[test]
    fn near_keys_never_panic_and_what_is_taken_is_stable(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "ssh-ed25519", "ssh-rsa", ED25519, RSA, " ", " ", "\n", "\t", "\"", "\\", "=", "é",
                "\r\n", "#", "A", "AA==", "\0", "@openssh.com", "-cert-v01",
            ]),
            0..12,
        ),
    ) {
        if let Ok(keys) = parse(parts.concat()) {
            prop_assert_eq!(keys.as_text().lines().count(), keys.count());
            prop_assert_eq!(parse(keys.as_text()).unwrap(), keys);
        }
    }

    #[test]
    fn ready_archives_never_panic(tail: Vec<u8>, zeros in 0usize..20_000) {
        let mut bytes = [MAGIC, &tail].concat();
        bytes.resize(bytes.len() + zeros, 0);
        let payload = Payload::from_userdata(Profile::Rancheros, bytes.clone()).unwrap();
        prop_assert!(bytes.starts_with(payload.bytes()));
        prop_assert!(bytes[payload.bytes().len()..].iter().all(|&byte| byte == 0));
    }
}
