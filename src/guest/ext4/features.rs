//! The three words of features (`ext2_fs.h`, `EXT*_FEATURE_*`), and which of them keep a filesystem
//! from being grown here.

use super::Refusal;
use crate::guest::FilesystemKind;

/// Compatible: whoever does not know these may still write.
pub(super) mod compat {
    pub(in crate::guest::ext4) const HAS_JOURNAL: u32 = 0x4;
    pub(in crate::guest::ext4) const RESIZE_INODE: u32 = 0x10;
    pub(in crate::guest::ext4) const SPARSE_SUPER2: u32 = 0x200;
}

/// Incompatible: whoever does not know one of these cannot even read.
pub(super) mod incompat {
    pub(in crate::guest::ext4) const FILETYPE: u32 = 0x2;
    pub(in crate::guest::ext4) const RECOVER: u32 = 0x4;
    pub(in crate::guest::ext4) const JOURNAL_DEV: u32 = 0x8;
    pub(in crate::guest::ext4) const META_BG: u32 = 0x10;
    pub(in crate::guest::ext4) const WIDE: u32 = 0x80;
    pub(in crate::guest::ext4) const MMP: u32 = 0x100;
    pub(in crate::guest::ext4) const FLEX_BG: u32 = 0x200;
    pub(in crate::guest::ext4) const CSUM_SEED: u32 = 0x2000;
    /// `filetype`, `extents`, `64bit`, `flex_bg`, `ea_inode`, `csum_seed`, `largedir`,
    /// `inline_data`, `encrypt`, `casefold`: none of them changes what a growth changes.
    pub(in crate::guest::ext4) const UNDERSTOOD: u32 = FILETYPE
        | 0x40
        | WIDE
        | FLEX_BG
        | 0x400
        | CSUM_SEED
        | 0x4000
        | 0x8000
        | 0x1_0000
        | 0x2_0000;
}

/// Compatible for reading: whoever does not know one of these must not write.
pub(super) mod ro_compat {
    pub(in crate::guest::ext4) const SPARSE_SUPER: u32 = 0x1;
    pub(in crate::guest::ext4) const LARGE_FILE: u32 = 0x2;
    pub(in crate::guest::ext4) const BTREE_DIR: u32 = 0x4;
    pub(in crate::guest::ext4) const GDT_CSUM: u32 = 0x10;
    pub(in crate::guest::ext4) const QUOTA: u32 = 0x100;
    pub(in crate::guest::ext4) const BIGALLOC: u32 = 0x200;
    pub(in crate::guest::ext4) const METADATA_CSUM: u32 = 0x400;
    pub(in crate::guest::ext4) const READONLY: u32 = 0x1000;
    pub(in crate::guest::ext4) const SHARED_BLOCKS: u32 = 0x4000;
    pub(in crate::guest::ext4) const ORPHAN_PRESENT: u32 = 0x1_0000;
    /// `sparse_super`, `large_file`, `btree_dir`, `huge_file`, `gdt_csum`, `dir_nlink`,
    /// `extra_isize`, `metadata_csum`, `project`, `verity`.
    pub(in crate::guest::ext4) const UNDERSTOOD: u32 = SPARSE_SUPER
        | LARGE_FILE
        | BTREE_DIR
        | 0x8
        | GDT_CSUM
        | 0x20
        | 0x40
        | METADATA_CSUM
        | 0x2000
        | 0x8000;
}

/// The names of those that are neither understood nor refused by themselves.
const NAMES: &[(Word, u32, &str)] = &[
    (Word::Incompat, 0x1, "compression"),
    (Word::Incompat, 0x1000, "dirdata"),
    (Word::RoCompat, 0x80, "has_snapshot"),
    (Word::RoCompat, 0x800, "replica"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Incompat,
    RoCompat,
}

/// The features of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Features {
    pub(super) compat: u32,
    pub(super) incompat: u32,
    pub(super) ro_compat: u32,
}

impl Features {
    pub(super) fn compatible(self, feature: u32) -> bool {
        self.compat & feature != 0
    }

    pub(super) fn incompatible(self, feature: u32) -> bool {
        self.incompat & feature != 0
    }

    pub(super) fn read_compatible(self, feature: u32) -> bool {
        self.ro_compat & feature != 0
    }

    /// The first that keeps the filesystem from being grown.
    pub(super) fn refusal(self) -> Option<Refusal> {
        use ro_compat::{BIGALLOC, ORPHAN_PRESENT, QUOTA, READONLY, SHARED_BLOCKS, SPARSE_SUPER};
        match () {
            () if self.incompatible(incompat::RECOVER) => Some(Refusal::NeedsRecovery),
            () if self.read_compatible(ORPHAN_PRESENT) => Some(Refusal::Orphans),
            () if self.read_compatible(BIGALLOC) => Some(Refusal::Bigalloc),
            () if self.incompatible(incompat::META_BG) => Some(Refusal::MetaBg),
            () if self.compatible(compat::SPARSE_SUPER2) => Some(Refusal::SparseSuper2),
            () if self.incompatible(incompat::MMP) => Some(Refusal::MultipleMounts),
            () if self.read_compatible(QUOTA) => Some(Refusal::Quota),
            () if self.read_compatible(READONLY) => Some(Refusal::ReadOnly),
            () if self.read_compatible(SHARED_BLOCKS) => Some(Refusal::SharedBlocks),
            () => self.unknown().map(Refusal::UnsupportedFeatures),
        }
        .or_else(|| (!self.read_compatible(SPARSE_SUPER)).then_some(Refusal::NoSparseSuper))
    }

    /// The names, or the bits, of all that are not known here.
    fn unknown(self) -> Option<String> {
        let refused = ro_compat::BIGALLOC
            | ro_compat::QUOTA
            | ro_compat::READONLY
            | ro_compat::SHARED_BLOCKS
            | ro_compat::ORPHAN_PRESENT;
        let words = [
            (Word::Incompat, "incompat", self.incompat & !incompat::UNDERSTOOD),
            (Word::RoCompat, "ro_compat", self.ro_compat & !(ro_compat::UNDERSTOOD | refused)),
        ];
        let mut names = Vec::new();
        for (word, prefix, bits) in words {
            for (index, bit) in (0..u32::BITS).map(|index| (index, 1_u32.rotate_left(index))) {
                let known = NAMES.iter().find(|(of, value, _)| *of == word && *value == bit);
                if bits & bit != 0 {
                    let bit = || format!("{prefix} bit {index}");
                    names.push(known.map_or_else(bit, |(_, _, name)| (*name).to_owned()));
                }
            }
        }
        (!names.is_empty()).then(|| names.join(", "))
    }
}

/// The generation that first had all of these features (Linux `fs/ext4/ext4.h`,
/// `EXT2_FEATURE_*_SUPP` and `EXT3_FEATURE_*_SUPP`).
pub(in crate::guest) fn generation(compat: u32, incompat: u32, ro_compat: u32) -> FilesystemKind {
    const EXT3_INCOMPAT: u32 = incompat::FILETYPE | incompat::RECOVER | incompat::META_BG;
    const EXT3_RO_COMPAT: u32 =
        ro_compat::SPARSE_SUPER | ro_compat::LARGE_FILE | ro_compat::BTREE_DIR;
    let newer = incompat & !EXT3_INCOMPAT != 0 || ro_compat & !EXT3_RO_COMPAT != 0;
    match (newer, compat & compat::HAS_JOURNAL != 0) {
        (true, _) => FilesystemKind::Ext4,
        (false, true) => FilesystemKind::Ext3,
        (false, false) => FilesystemKind::Ext2,
    }
}
