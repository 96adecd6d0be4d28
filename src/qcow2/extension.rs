//! Header extensions: typed records between the header and the backing file name. What is not
//! known is kept as it is.

use super::error::{FormatError, Problem};
use super::feature::{FeatureKind, FeatureName, RECORD_LEN};
use super::lengths::{index, len_of};

const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xE279_2ACA;
const EXTERNAL_DATA: u32 = 0x4441_5441;
const FEATURE_NAMES: u32 = 0x6803_F857;
const BITMAPS: u32 = 0x2385_2875;
const ENCRYPTION: u32 = 0x0537_BE77;
/// Skips what it has as data: stands for a moment only, while a header changes.
pub(super) const PADDING: u32 = 0x7644_5041;

/// Bytes of an extension before its data: type and length.
pub(super) const PREFIX: usize = 8;
/// The longest backing format name that QEMU accepts, in bytes.
const MAX_FORMAT_NAME: usize = 15;

/// Where the bitmap directory lies (the bitmaps extension).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitmapDirectory {
    /// How many bitmaps there are.
    pub count: u32,
    /// The directory's size, in bytes.
    pub size_bytes: u64,
    /// The directory's host offset.
    pub offset: u64,
}

/// One header extension as stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored<'a> {
    /// Its type.
    pub(super) id: u32,
    /// Where its data begins in the area of extensions, in bytes.
    pub(super) at: u64,
    /// Its data.
    pub(super) data: &'a [u8],
}

impl Stored<'_> {
    /// What it means.
    pub(super) fn parse(self) -> Result<Extension, FormatError> {
        Extension::parse(self.id, self.data)
    }

    /// What it is, if that is known.
    pub(super) fn name(self) -> Option<&'static str> {
        match self.id {
            BACKING_FORMAT => Some("backing format"),
            EXTERNAL_DATA => Some("external data file"),
            FEATURE_NAMES => Some("feature names"),
            BITMAPS => Some("bitmaps"),
            ENCRYPTION => Some("encryption header"),
            PADDING => Some("padding"),
            _ => None,
        }
    }
}

/// One header extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extension {
    /// The format of the backing file, such as `qcow2` or `raw`.
    BackingFormat(Vec<u8>),
    /// The name of the external data file.
    ExternalData(Vec<u8>),
    /// Names of feature bits.
    FeatureNames(Vec<FeatureName>),
    /// Where the bitmaps are.
    Bitmaps(BitmapDirectory),
    /// Where the full disk encryption header is: host offset and length in bytes.
    Encryption {
        /// Host offset.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Anything else, kept as it is.
    Unknown {
        /// The extension's type.
        id: u32,
        /// Its data.
        data: Vec<u8>,
    },
}

impl Extension {
    /// Reads every extension in `area`, which begins behind the header and ends where the backing
    /// file name or the cluster does. Padding says nothing.
    pub(super) fn parse_all(area: &[u8]) -> Result<Vec<Extension>, FormatError> {
        let says = |found: &Result<Stored<'_>, _>| {
            found.as_ref().map_or(true, |found| found.id != PADDING)
        };
        Self::walk(area).filter(says).map(|found| found.and_then(|found| found.parse())).collect()
    }

    /// Every extension in that area as stored, up to the first that reaches beyond it.
    pub(super) fn walk(area: &[u8]) -> impl Iterator<Item = Result<Stored<'_>, FormatError>> {
        let mut rest = area;
        std::iter::from_fn(move || {
            let at = len_of(area).saturating_sub(len_of(rest));
            if rest.is_empty() {
                return None;
            }
            // QEMU refuses an area that ends in the middle of an extension's prefix, and an end
            // marker with a length that does not fit.
            let Some((prefix, behind)) = std::mem::take(&mut rest).split_first_chunk::<PREFIX>()
            else {
                return Some(Err(Problem::ExtensionTooLong { id: END, len: 0 }.into()));
            };
            let (id, len) = split_prefix(*prefix);
            let len = index(len);
            let Some((data, behind)) = behind.split_at_checked(len) else {
                let len = prefix_len(*prefix);
                return Some(Err(Problem::ExtensionTooLong { id, len }.into()));
            };
            if id == END {
                return None;
            }
            let padding = len.next_multiple_of(PREFIX).saturating_sub(len);
            rest = behind.get(padding..).unwrap_or_default();
            Some(Ok(Stored { id, at: at.saturating_add(len_of(prefix)), data }))
        })
    }

    /// Where the end marker ends of the extensions that begin at `start`; behind the last byte that
    /// is needed to go on where `bytes` end before.
    pub(super) fn end_of_all(bytes: &[u8], start: usize) -> usize {
        let mut at = start;
        loop {
            let behind = at.saturating_add(PREFIX);
            let prefix = bytes.get(at..).and_then(|rest| rest.first_chunk());
            let (id, len) = prefix.map_or((END, 0), |prefix| split_prefix(*prefix));
            if id == END {
                return behind;
            }
            let len = len.checked_next_multiple_of(8).and_then(|len| usize::try_from(len).ok());
            at = behind.saturating_add(len.unwrap_or(usize::MAX));
        }
    }

    /// The length of the table of feature names that `bytes` begin with, if that is one: its prefix
    /// and whole records.
    pub(super) fn len_of_names(bytes: &[u8]) -> Option<usize> {
        let (id, len) = split_prefix(*bytes.first_chunk()?);
        let len = index(len);
        let whole = id == FEATURE_NAMES && len.is_multiple_of(RECORD_LEN);
        PREFIX.checked_add(len).filter(|end| whole && *end <= bytes.len())
    }

    fn parse(id: u32, data: &[u8]) -> Result<Extension, FormatError> {
        let malformed = || FormatError::from(Problem::MalformedExtension { id });
        Ok(match id {
            BACKING_FORMAT if data.len() <= MAX_FORMAT_NAME => {
                Extension::BackingFormat(data.to_vec())
            }
            BACKING_FORMAT => return Err(malformed()),
            EXTERNAL_DATA => Extension::ExternalData(data.to_vec()),
            FEATURE_NAMES => Extension::FeatureNames(
                data.chunks_exact(RECORD_LEN).filter_map(FeatureName::parse).collect(),
            ),
            BITMAPS if data.len() == 24 => Extension::Bitmaps(BitmapDirectory {
                count: be32(data, 0).ok_or_else(malformed)?,
                size_bytes: be64(data, 8).ok_or_else(malformed)?,
                offset: be64(data, 16).ok_or_else(malformed)?,
            }),
            ENCRYPTION if data.len() == 16 => Extension::Encryption {
                offset: be64(data, 0).ok_or_else(malformed)?,
                len: be64(data, 8).ok_or_else(malformed)?,
            },
            BITMAPS | ENCRYPTION => return Err(malformed()),
            id => Extension::Unknown { id, data: data.to_vec() },
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let (id, data) = match self {
            Extension::BackingFormat(name) => (BACKING_FORMAT, name.clone()),
            Extension::ExternalData(name) => (EXTERNAL_DATA, name.clone()),
            Extension::FeatureNames(names) => {
                (FEATURE_NAMES, names.iter().flat_map(FeatureName::encode).collect())
            }
            Extension::Bitmaps(directory) => {
                let mut data = u64::from(directory.count).rotate_left(32).to_be_bytes().to_vec();
                data.extend(directory.size_bytes.to_be_bytes());
                data.extend(directory.offset.to_be_bytes());
                (BITMAPS, data)
            }
            Extension::Encryption { offset, len } => {
                (ENCRYPTION, [offset.to_be_bytes(), len.to_be_bytes()].concat())
            }
            Extension::Unknown { id, data } => (*id, data.clone()),
        };
        out.extend(id.to_be_bytes());
        // OK to default: nothing longer than a cluster was parsed or built.
        out.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend(&data);
        out.resize(out.len().next_multiple_of(PREFIX), 0);
    }

    /// The beginning of an extension that skips the `len` bytes behind it.
    pub(super) fn padding(len: usize) -> [u8; PREFIX] {
        // OK to default: nobody skips more than a cluster.
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        (u64::from(PADDING) << 32 | u64::from(len)).to_be_bytes()
    }

    /// The bytes of all extensions, with the end marker.
    pub(super) fn encode_all(extensions: &[Extension]) -> Vec<u8> {
        let mut out = Vec::new();
        for extension in extensions {
            extension.encode(&mut out);
        }
        out.extend([0; PREFIX]);
        out
    }

    /// The image's own name for a feature bit, escaped, if its table has one.
    pub(super) fn feature_name(all: &[Extension], kind: FeatureKind, bit: u8) -> Option<String> {
        let names = all.iter().filter_map(|extension| match extension {
            Extension::FeatureNames(names) => Some(names),
            _ => None,
        });
        let name = names.flatten().find(|name| name.is_of(kind, bit))?;
        Some(name.escaped())
    }
}

fn split_prefix(prefix: [u8; PREFIX]) -> (u32, u32) {
    let id = u64::from_be_bytes(prefix) >> 32;
    // OK to default: a 64-bit number shifted by 32 fits.
    (u32::try_from(id).unwrap_or(u32::MAX), prefix_len(prefix))
}

fn prefix_len(prefix: [u8; PREFIX]) -> u32 {
    let [_, _, _, _, a, b, c, d] = prefix;
    u32::from_be_bytes([a, b, c, d])
}

fn be32(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn be64(data: &[u8], at: usize) -> Option<u64> {
    data.get(at..)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}
