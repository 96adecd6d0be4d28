//! The keys that may log in: read from files once, and never a private one.

use std::collections::BTreeSet;

use super::layout::u64_from;
use crate::error::{Case, Error, ErrorKind, Result};

/// The key types of OpenSSH, without the suffixes of certificates and of vendors.
const KEY_TYPES: [&str; 8] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ssh-dss",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519",
    "sk-ecdsa-sha2-nistp256",
];

/// What is wrong with a file that nobody should have to show.
const PRIVATE: &str = "holds a private key: only public keys may leave the host";

/// One or more public keys as `authorized_keys` holds them: one a line, none twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKeys {
    text: String,
    count: usize,
}

impl PublicKeys {
    /// Reads the keys of files given as (label, contents), where the label is what messages call
    /// the file. A file may hold several keys, comments and blank lines; the order is kept, and a
    /// key that comes again (with another comment, too) is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::BadRequest`] when there is no file, and for a file that is not text, has no
    /// key, or holds anything else, a private key above all. No message quotes contents.
    pub fn parse(files: &[(&str, &[u8])]) -> Result<Self> {
        let mut keys = PublicKeys { text: String::new(), count: 0 };
        let mut seen = BTreeSet::new();
        for &(label, contents) in files {
            let found = keys_of(contents).map_err(|flaw| {
                let refused = bad(format!("{label}: {flaw}"));
                if flaw == PRIVATE { refused.in_case(Case::PrivateKey) } else { refused }
            })?;
            for key in found {
                if seen.insert(key.identity) {
                    keys.text.push_str(key.line);
                    keys.text.push('\n');
                    keys.count = seen.len();
                }
            }
        }
        if seen.is_empty() {
            return Err(bad("no public key file was given".to_owned()));
        }
        Ok(keys)
    }

    /// The text of `authorized_keys`: every line ends with a newline.
    pub fn as_text(&self) -> &str {
        &self.text
    }

    /// The number of keys: at least 1.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The length of [`as_text`](Self::as_text) in bytes.
    pub fn len_bytes(&self) -> u64 {
        u64_from(self.text.len())
    }
}

fn bad(message: String) -> Error {
    Error::new(ErrorKind::BadRequest, message)
}

/// A line of `authorized_keys`, and what of it tells keys apart (all but the comment).
struct Key<'a> {
    line: &'a str,
    identity: &'a str,
}

/// The keys of one file, or what is wrong with it, to be said after the file's name.
fn keys_of(contents: &[u8]) -> Result<Vec<Key<'_>>, String> {
    if is_private(contents) {
        return Err(PRIVATE.to_owned());
    }
    let text = std::str::from_utf8(contents)
        .map_err(|error| format!("is not UTF-8 text: invalid at byte {}", error.valid_up_to()))?;
    let mut keys = Vec::new();
    for (number, line) in (1u64..).zip(text.lines()) {
        // Windows editors begin a text with a byte order mark, which may come anywhere once texts
        // were joined.
        let line = line.trim_start_matches(|c: char| c == '\u{feff}' || c.is_whitespace());
        let line = line.trim_end();
        if let Some(control) = line.chars().find(|&c| c.is_control() && c != '\t') {
            let code = u32::from(control);
            return Err(format!("holds the control character U+{code:04X} in line {number}"));
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        keys.push(key(line).map_err(|flaw| format!("line {number} {flaw}"))?);
    }
    if keys.is_empty() {
        return Err("holds no public key".to_owned());
    }
    Ok(keys)
}

/// Reads `[options] type base64 [comment]` (sshd(8), "AUTHORIZED_KEYS FILE FORMAT").
fn key(line: &str) -> Result<Key<'_>, String> {
    let (first, _) = split_blank(line);
    let rest = if is_key_type(first) { line } else { skip_options(line) };
    let (kind, rest) = split_blank(rest);
    if !is_key_type(kind) {
        return Err("is not an OpenSSH public key: expected a key type such as ssh-ed25519 or \
                    ssh-rsa, then the key in base64"
            .to_owned());
    }
    let (data, comment) = split_blank(rest);
    let data = base64(data).ok_or_else(|| format!("has an {kind} key that is not valid base64"))?;
    if !names(&data, kind) {
        return Err(format!("has data that is not an {kind} key"));
    }
    let identity = line.strip_suffix(comment).unwrap_or(line).trim_end();
    Ok(Key { line, identity })
}

fn is_key_type(word: &str) -> bool {
    let word = word.strip_suffix("@openssh.com").unwrap_or(word);
    KEY_TYPES.contains(&word.strip_suffix("-cert-v01").unwrap_or(word))
}

fn is_blank(c: char) -> bool {
    c == ' ' || c == '\t'
}

/// The first word, and what follows the blanks behind it.
fn split_blank(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(is_blank).unwrap_or((text, ""));
    (word, rest.trim_start_matches(is_blank))
}

/// What follows the options: they end at the first blank outside of double quotes, in which `\"`
/// stands for a quote.
fn skip_options(line: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    let end = line.find(|c: char| {
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\';
        is_blank(c) && !quoted
    });
    end.and_then(|end| line.get(end..)).unwrap_or_default().trim_start_matches(is_blank)
}

/// Whether key data begins with this type: a length in four bytes, then the name (RFC 4253, 6.6).
fn names(data: &[u8], kind: &str) -> bool {
    u8::try_from(kind.len()).is_ok_and(|len| {
        data.strip_prefix(&[0, 0, 0, len]).is_some_and(|rest| rest.starts_with(kind.as_bytes()))
    })
}

/// Decodes base64 with its padding (RFC 4648, 4).
#[expect(clippy::big_endian_bytes, reason = "base64 puts the first byte into the highest bits")]
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let padding = text.len().saturating_sub(digits.len());
    if padding > 2 || !text.len().is_multiple_of(4) {
        return None;
    }
    let mut bytes = Vec::new();
    for group in digits.as_bytes().chunks(4) {
        let mut word = 0u32;
        for at in 0..4 {
            let digit = group.get(at).map_or(Some(0), |&digit| digit_value(digit))?;
            word = (word << 6) | digit;
        }
        let [_, three @ ..] = word.to_be_bytes();
        bytes.extend(three.iter().take(group.len().saturating_sub(1)));
    }
    Some(bytes)
}

fn digit_value(digit: u8) -> Option<u32> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    DIGITS.iter().position(|&d| d == digit).and_then(|value| u32::try_from(value).ok())
}

/// Whether any private key is in sight: PEM of every sort (PKCS#1, PKCS#8, OpenSSH, PGP, ssh.com),
/// PuTTY's own form, SSH 1's, and the body of an OpenSSH key without its frame, plain or in base64.
fn is_private(contents: &[u8]) -> bool {
    const MARKS: [&[u8]; 4] =
        [b"PuTTY-User-Key-File", b"SSH PRIVATE KEY", b"openssh-key-v1", b"b3BlbnNzaC1rZXktdjE"];
    let framed = |line: &[u8]| contains(line, b"BEGIN ") && contains(line, b"PRIVATE KEY");
    MARKS.iter().any(|mark| contains(contents, mark)) || contents.split(|&b| b == b'\n').any(framed)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
