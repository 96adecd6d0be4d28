//! The three feature bit sets of the header. What an unknown bit means differs: an incompatible
//! one forbids opening, a compatible one is kept, an autoclear one is cleared by a writer.

/// Bytes of a record of the feature name table: set, bit and a padded name.
pub(super) const RECORD_LEN: usize = 48;

/// Which of the three sets a feature bit belongs to, as the feature name table numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureKind {
    /// An image with an unknown bit must not be opened.
    Incompatible,
    /// An unknown bit may be ignored.
    Compatible,
    /// An unknown bit must be cleared by a program that writes to the image.
    Autoclear,
}

impl FeatureKind {
    const fn number(self) -> u8 {
        match self {
            FeatureKind::Incompatible => 0,
            FeatureKind::Compatible => 1,
            FeatureKind::Autoclear => 2,
        }
    }
}

/// The name of one feature bit, as the image spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureName {
    kind: u8,
    bit: u8,
    name: Vec<u8>,
}

impl FeatureName {
    fn new(kind: FeatureKind, bit: u8, name: &str) -> Self {
        FeatureName { kind: kind.number(), bit, name: name.as_bytes().to_vec() }
    }

    /// Whether it names this bit.
    pub(super) fn is_of(&self, kind: FeatureKind, bit: u8) -> bool {
        (self.kind, self.bit) == (kind.number(), bit)
    }

    /// The name, safe to print.
    pub(super) fn escaped(&self) -> String {
        self.name.escape_ascii().to_string()
    }

    pub(super) fn parse(record: &[u8]) -> Option<Self> {
        let (&kind, rest) = record.split_first()?;
        let (&bit, name) = rest.split_first()?;
        let name = name.split(|&byte| byte == 0).next()?.to_vec();
        Some(FeatureName { kind, bit, name })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut record = vec![self.kind, self.bit];
        record.extend_from_slice(&self.name);
        record.resize(RECORD_LEN, 0);
        record
    }
}

macro_rules! bits {
    ($(#[$doc:meta])* $name:ident: $kind:ident { $($(#[$bit_doc:meta])* $bit:ident = $shift:literal $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct $name(u64);

        impl $name {
            $($(#[$bit_doc])* pub const $bit: $name = $name(1 << $shift);)+

            /// The bits as the header stores them.
            pub const fn from_bits(bits: u64) -> Self {
                $name(bits)
            }

            /// The bits as the header stores them.
            pub const fn bits(self) -> u64 {
                self.0
            }

            /// Whether every bit of `other` is set here.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// These bits and those of `other`, if `wanted`.
            #[must_use]
            pub const fn with_if(self, wanted: bool, other: Self) -> Self {
                if wanted { $name(self.0 | other.0) } else { self }
            }

            /// These bits but those of `other`.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                $name(self.0 & !other.0)
            }

            /// Only the bits that this version knows.
            #[must_use]
            pub const fn known(self) -> Self {
                $name(self.0 & (0 $(| 1 << $shift)+))
            }

            /// The numbers of the bits that this version does not know.
            pub fn unknown(self) -> impl Iterator<Item = u8> {
                let unknown = self.without(self.known()).0;
                (0..64).filter(move |bit| unknown >> bit & 1 == 1)
            }

            /// The names of the set bits that this version knows.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                Self::NAMES.iter().filter(move |(bit, _)| self.0 >> bit & 1 == 1).map(|(_, n)| *n)
            }

            /// Every known bit's number with its name, as QEMU's feature name table spells it.
            const NAMES: &'static [(u8, &'static str)] = &[$(($shift, $text)),+];

            fn table() -> impl Iterator<Item = FeatureName> {
                Self::NAMES.iter().map(|&(bit, text)| FeatureName::new(FeatureKind::$kind, bit, text))
            }
        }
    };
}

bits! {
    /// Bits that forbid opening the image to a program that does not know them.
    Incompatible: Incompatible {
        /// The reference counts may be stale and must be rebuilt before use.
        DIRTY = 0 "dirty bit",
        /// A structure is damaged: no writing until it is repaired.
        CORRUPT = 1 "corrupt bit",
        /// Guest data lives in a file of its own.
        EXTERNAL_DATA = 2 "external data file",
        /// Compressed clusters are not deflate.
        COMPRESSION = 3 "compression type",
        /// L2 entries are 128 bits with a subcluster bitmap.
        EXTENDED_L2 = 4 "extended L2 entries",
    }
}

bits! {
    /// Bits that other programs may ignore.
    Compatible: Compatible {
        /// Reference counts may be updated late, under the dirty bit.
        LAZY_REFCOUNTS = 0 "lazy refcounts",
    }
}

bits! {
    /// Bits that a program which does not know them clears when it writes.
    Autoclear: Autoclear {
        /// The bitmaps extension is consistent with the image.
        BITMAPS = 0 "bitmaps",
        /// The external data file can be read as a raw image.
        RAW_EXTERNAL_DATA = 1 "raw external data",
    }
}

/// The feature name table that new images carry: every bit that QEMU 10 names.
pub(super) fn name_table() -> Vec<FeatureName> {
    Incompatible::table().chain(Compatible::table()).chain(Autoclear::table()).collect()
}
