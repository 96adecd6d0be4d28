//! A qcow2 header taken apart by hand: an opinion of its own about every field.

use std::path::Path;

/// Every field of the header, the extensions in their order, and the backing file name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawHeader {
    /// Name and value, in the order of the file.
    pub(crate) fields: Vec<(&'static str, u64)>,
    /// Type and data of each, the end marker included.
    pub(crate) extensions: Vec<(u32, Vec<u8>)>,
    pub(crate) backing: Vec<u8>,
}

const V2_FIELDS: &[(&str, usize, usize)] = &[
    ("magic", 0, 4),
    ("version", 4, 4),
    ("backing_file_offset", 8, 8),
    ("backing_file_size", 16, 4),
    ("cluster_bits", 20, 4),
    ("size", 24, 8),
    ("crypt_method", 32, 4),
    ("l1_size", 36, 4),
    ("l1_table_offset", 40, 8),
    ("refcount_table_offset", 48, 8),
    ("refcount_table_clusters", 56, 4),
    ("nb_snapshots", 60, 4),
    ("snapshots_offset", 64, 8),
];
const V3_FIELDS: &[(&str, usize, usize)] = &[
    ("incompatible_features", 72, 8),
    ("compatible_features", 80, 8),
    ("autoclear_features", 88, 8),
    ("refcount_order", 96, 4),
    ("header_length", 100, 4),
];

/// A big-endian number.
pub(crate) fn be(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("an offset in memory")
}

impl RawHeader {
    pub(crate) fn read(path: &Path) -> RawHeader {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::open(path).expect("an image");
        let mut bytes = vec![0; 4096];
        let found = file.read_at(&mut bytes, 0).expect("a header");
        bytes.truncate(found.min(1 << be(&bytes, 20, 4)));
        RawHeader::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> RawHeader {
        let number = |&(name, at, len): &(&'static str, usize, usize)| (name, be(bytes, at, len));
        let mut fields: Vec<_> = V2_FIELDS.iter().map(number).collect();
        let mut at = 72;
        if be(bytes, 4, 4) == 3 {
            fields.extend(V3_FIELDS.iter().map(number));
            at = index(be(bytes, 100, 4));
            if at > 104 {
                fields.push(("compression_type", be(bytes, 104, 1)));
                fields.push(("padding", be(bytes, 105, 7)));
            }
        }
        let mut extensions = Vec::new();
        loop {
            let (id, len) = (be(bytes, at, 4), index(be(bytes, at + 4, 4)));
            let data = bytes[at + 8..at + 8 + len].to_vec();
            extensions.push((u32::try_from(id).expect("32 bits"), data));
            at += 8 + len.next_multiple_of(8);
            if id == 0 {
                break;
            }
        }
        let (name_at, name_len) = (index(be(bytes, 8, 8)), index(be(bytes, 16, 4)));
        RawHeader { fields, extensions, backing: bytes[name_at..name_at + name_len].to_vec() }
    }

    pub(crate) fn get(&self, name: &str) -> u64 {
        let field = self.fields.iter().find(|(field, _)| *field == name);
        field.unwrap_or_else(|| panic!("no field {name}")).1
    }

    /// The active L1 table.
    pub(crate) fn l1(&self, path: &Path) -> Vec<u64> {
        table(path, self.get("l1_table_offset"), self.get("l1_size"))
    }
}

/// So many 8-byte entries at an offset of a file.
pub(crate) fn table(path: &Path, offset: u64, count: u64) -> Vec<u64> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(path).expect("an image");
    let mut bytes = vec![0; index(count) * 8];
    file.read_exact_at(&mut bytes, offset).expect("a table inside the file");
    bytes.chunks_exact(8).map(|entry| be(entry, 0, 8)).collect()
}
