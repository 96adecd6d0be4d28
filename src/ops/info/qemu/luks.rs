//! How guest data is encrypted, in QEMU's words.

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::Result;
use crate::host::storage::Storage;
use crate::qcow2::{Encryption, Header, Luks, LuksSlot, read_luks};

/// How guest data is encrypted. What is said beside the method is said of LUKS, where its header can
/// be understood.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct QemuEncryption {
    /// The method: `aes` or `luks`.
    pub format: String,
    /// The cipher and the bits of its key, such as `aes-256`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cipher_alg: Option<String>,
    /// How the cipher is used, such as `xts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cipher_mode: Option<String>,
    /// Where initial vectors are from, such as `plain64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ivgen_alg: Option<String>,
    /// The hash that those need, such as `sha256` for `essiv`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ivgen_hash_alg: Option<String>,
    /// The hash of key derivation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_alg: Option<String>,
    /// Whether the encryption header is in another file: never, in an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detached_header: Option<bool>,
    /// Where guest data would begin behind the encryption header, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_offset: Option<u64>,
    /// How often the master key's digest was hashed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master_key_iters: Option<u32>,
    /// The UUID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The places for keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<QemuKeySlot>,
}

/// A place for a key.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct QemuKeySlot {
    /// Whether there is a key.
    pub active: bool,
    /// How often its passphrase was hashed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iters: Option<u32>,
    /// Into how many stripes it is split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stripes: Option<u32>,
    /// Where it is in the encryption header, in bytes.
    pub key_offset: u64,
}

impl QemuEncryption {
    /// That of an image, if it is encrypted.
    pub(super) fn read(storage: &dyn Storage, header: &Header) -> Result<Option<QemuEncryption>> {
        let only = |format: &str| QemuEncryption { format: format.to_owned(), ..Self::default() };
        Ok(match header.encryption {
            Encryption::None => None,
            Encryption::Aes => Some(only("aes")),
            Encryption::Luks => {
                let details = read_luks(storage, header)?;
                Some(details.map_or_else(|| only("luks"), |luks| QemuEncryption::of(&luks)))
            }
        })
    }

    fn of(luks: &Luks) -> QemuEncryption {
        // Mode, generator of initial vectors, and its hash: "cbc-essiv:sha256".
        let (mode, vectors) = match luks.cipher_mode.split_once('-') {
            Some((mode, vectors)) => (mode, Some(vectors)),
            None => (luks.cipher_mode.as_str(), None),
        };
        let (vectors, hash) = match vectors.and_then(|vectors| vectors.split_once(':')) {
            Some((vectors, hash)) => (Some(vectors), Some(hash)),
            None => (vectors, None),
        };
        // XTS has two keys in one.
        let keys = if mode == "xts" { 2 } else { 1 };
        let bits = u64::from(luks.key_bytes) * 8 / keys;
        QemuEncryption {
            format: "luks".to_owned(),
            cipher_alg: Some(format!("{}-{bits}", luks.cipher)),
            cipher_mode: Some(mode.to_owned()),
            ivgen_alg: vectors.map(str::to_owned),
            ivgen_hash_alg: hash.map(str::to_owned),
            hash_alg: Some(luks.hash.clone()),
            detached_header: Some(false),
            payload_offset: Some(luks.payload_offset),
            master_key_iters: Some(luks.master_key_iterations),
            uuid: Some(luks.uuid.clone()),
            slots: luks.slots.iter().map(QemuKeySlot::of).collect(),
        }
    }
}

impl QemuKeySlot {
    fn of(slot: &LuksSlot) -> QemuKeySlot {
        QemuKeySlot {
            active: slot.key.is_some(),
            iters: slot.key.map(|key| key.iterations),
            stripes: slot.key.map(|key| key.stripes),
            key_offset: slot.offset,
        }
    }
}
