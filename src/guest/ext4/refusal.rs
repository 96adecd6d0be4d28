//! Why a filesystem is left as it is.

use thiserror::Error as ThisError;

use crate::error::Error;
use crate::units::exactly;

macro_rules! refusals {
    ($($(#[doc = $meaning:literal])+ #[error($($text:tt)+)] $name:literal
        $variant:ident $({ $($(#[doc = $about:literal])+ $field:ident: $type:ty),+ $(,)? })?
        $(($of:ty))?;)+) => {
        /// Why a filesystem is not believed, or may not be grown.
        #[derive(Debug, Clone, PartialEq, Eq, ThisError)]
        #[non_exhaustive]
        pub enum Refusal {
            $($(#[doc = $meaning])+ #[error($($text)+)]
            $variant $({ $($(#[doc = $about])+ $field: $type),+ })? $(($of))?),+
        }

        impl Refusal {
            /// The name that programs see (`snake_case`, stable).
            pub const fn name(&self) -> &'static str {
                match self { $(Refusal::$variant { .. } => $name),+ }
            }
        }
    };
}

refusals! {
    /// It contradicts its format; the text says in what.
    #[error("the filesystem is damaged: {0}")] "damaged_filesystem"
    Damaged(&'static str);
    /// The checksum of the superblock is wrong.
    #[error("the checksum of the superblock is wrong")] "superblock_checksum"
    SuperblockChecksum;
    /// A group descriptor has a wrong checksum.
    #[error("the checksum of the descriptor of group {group} is wrong")] "descriptor_checksum"
    DescriptorChecksum {
        /// Which.
        group: u32,
    };
    /// A group descriptor says what cannot be.
    #[error("the descriptor of group {group} is damaged: {what}")] "damaged_descriptor"
    DescriptorDamaged {
        /// Which.
        group: u32,
        /// In what.
        what: &'static str,
    };
    /// A block bitmap has a wrong checksum.
    #[error("the checksum of the block bitmap of group {group} is wrong")] "bitmap_checksum"
    BitmapChecksum {
        /// The group.
        group: u32,
    };
    /// A block bitmap says what cannot be.
    #[error("the block bitmap of group {group} is damaged: {what}")] "damaged_bitmap"
    BitmapDamaged {
        /// The group.
        group: u32,
        /// In what.
        what: &'static str,
    };
    /// The inode that holds the blocks reserved for growth says what cannot be.
    #[error("the resize inode is damaged: {0}")] "damaged_resize_inode"
    ResizeInode(&'static str);
    /// Two pieces of metadata share a block.
    #[error("two pieces of metadata share block {block}")] "overlapping_metadata"
    Overlap {
        /// The block.
        block: u64,
    };
    /// The groups do not have as many free blocks as the superblock says.
    #[error("the groups have {groups} free blocks, the superblock says {superblock}")]
    "free_blocks_count"
    FreeBlocks {
        /// Of all groups.
        groups: u64,
        /// Of the superblock.
        superblock: u64,
    };
    /// The groups do not have as many free inodes as the superblock says.
    #[error("the groups have {groups} free inodes, the superblock says {superblock}")]
    "free_inodes_count"
    FreeInodes {
        /// Of all groups.
        groups: u64,
        /// Of the superblock.
        superblock: u64,
    };
    /// It is of a revision without features, of before 1997, or of one yet unknown.
    #[error("revision {revision} of the format: only revision 1 is supported")] "revision"
    Revision {
        /// `s_rev_level`.
        revision: u32,
    };
    /// It is the journal of another filesystem.
    #[error("this is a journal of another filesystem")] "journal_device"
    JournalDevice;
    /// The journal holds changes that are not in their places.
    #[error("the journal needs recovery: the filesystem is mounted, or was not unmounted")]
    "needs_recovery"
    NeedsRecovery;
    /// It is mounted, or was when the machine stopped.
    #[error("the filesystem was not unmounted cleanly")] "not_clean"
    NotClean;
    /// The guest found errors in it.
    #[error("the filesystem is marked as having errors: it needs e2fsck")] "has_errors"
    HasErrors;
    /// Files that were deleted while they were open are still to be cleaned up.
    #[error("deleted files are still to be cleaned up (orphans)")] "orphans"
    Orphans;
    /// Space is given out in clusters of several blocks.
    #[error("the feature bigalloc is not supported")] "bigalloc"
    Bigalloc;
    /// The group descriptors are spread over the filesystem.
    #[error("the feature meta_bg is not supported")] "meta_bg"
    MetaBg;
    /// Only two groups have backups.
    #[error("the feature sparse_super2 is not supported")] "sparse_super2"
    SparseSuper2;
    /// Several machines may use it in turn.
    #[error("the feature mmp (multiple mount protection) is not supported")] "mmp"
    MultipleMounts;
    /// It accounts for what its users have.
    #[error("the feature quota is not supported")] "quota"
    Quota;
    /// It says that it is never to be written.
    #[error("the filesystem is marked as read-only (feature read-only)")] "read_only"
    ReadOnly;
    /// Files share blocks, so it can only be read.
    #[error("the feature shared_blocks is not supported")] "shared_blocks"
    SharedBlocks;
    /// Every group has a backup of the superblock.
    #[error("a filesystem without the feature sparse_super is not supported")] "no_sparse_super"
    NoSparseSuper;
    /// It has features that nothing is known of here.
    #[error("unsupported features: {0}")] "unsupported_features"
    UnsupportedFeatures(String);
    /// Its blocks are larger than a page.
    #[error("blocks of {bytes} bytes: only those of 1, 2 and 4 KiB are supported")] "block_size"
    BlockSize {
        /// Their size.
        bytes: u64,
    };
    /// Its group descriptors are of a size that nobody makes.
    #[error("group descriptors of {bytes} bytes: only those of 32 and 64 are supported")]
    "descriptor_size"
    DescriptorSize {
        /// Their size.
        bytes: u16,
    };
    /// It is too large for this program.
    #[error("{groups} groups of blocks: at most {max} are supported")] "too_many_groups"
    TooManyGroups {
        /// Those that it has, or would have.
        groups: u64,
        /// The limit.
        max: u32,
    };
    /// It is larger than what holds it.
    #[error(
        "the filesystem has {}, its partition {}",
        exactly(*size_bytes), exactly(*device_bytes)
    )]
    "filesystem_beyond_partition"
    BeyondDevice {
        /// Its size.
        size_bytes: u64,
        /// The size of the partition.
        device_bytes: u64,
    };
    /// It would have to shrink.
    #[error(
        "the filesystem has {} already, more than {}",
        exactly(*size_bytes), exactly(*wanted_bytes)
    )]
    "smaller_filesystem"
    Smaller {
        /// Its size.
        size_bytes: u64,
        /// The size that it is to fit into.
        wanted_bytes: u64,
    };
    /// Its table of groups has to grow, and no blocks were reserved for that.
    #[error(
        "no room was reserved for more than {}: the filesystem has no feature resize_inode",
        exactly(*limit_bytes)
    )]
    "no_resize_inode"
    NoResizeInode {
        /// What it can grow to.
        limit_bytes: u64,
    };
    /// Its table of groups has to grow beyond the blocks that were reserved for that.
    #[error(
        "room was reserved for at most {} when the filesystem was made",
        exactly(*limit_bytes)
    )]
    "reservation_exhausted"
    ReservationExhausted {
        /// What it can grow to.
        limit_bytes: u64,
    };
    /// It would get more inodes than 32 bits can count.
    #[error(
        "a filesystem of {} would have more than 4294967295 inodes",
        exactly(*wanted_bytes)
    )]
    "too_many_inodes"
    TooManyInodes {
        /// The size that was asked for.
        wanted_bytes: u64,
    };
    /// It would get more blocks than its structures can name.
    #[error("the filesystem can have at most {}", exactly(*limit_bytes))] "size_limit"
    SizeLimit {
        /// The limit.
        limit_bytes: u64,
    };
    /// It has changed since its superblock was read.
    #[error("the filesystem has changed meanwhile")] "filesystem_changed"
    Changed;
}

impl Refusal {
    /// Whether `e2fsck` would help.
    pub const fn is_damage(&self) -> bool {
        matches!(
            self,
            Refusal::Damaged(_)
                | Refusal::SuperblockChecksum
                | Refusal::DescriptorChecksum { .. }
                | Refusal::DescriptorDamaged { .. }
                | Refusal::BitmapChecksum { .. }
                | Refusal::BitmapDamaged { .. }
                | Refusal::ResizeInode(_)
                | Refusal::Overlap { .. }
                | Refusal::FreeBlocks { .. }
                | Refusal::FreeInodes { .. }
                | Refusal::HasErrors
        )
    }
}

/// Why a plan was not made.
#[derive(Debug)]
pub(super) enum Stop {
    /// It may not be made.
    Refused(Refusal),
    /// The device could not be read.
    Failed(Error),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

impl Stop {
    /// An error as the result of a whole, a refusal as the result of what was asked.
    pub(super) fn apart<T>(result: Result<T, Stop>) -> Result<Result<T, Refusal>, Error> {
        match result {
            Ok(done) => Ok(Ok(done)),
            Err(Stop::Refused(refusal)) => Ok(Err(refusal)),
            Err(Stop::Failed(error)) => Err(error),
        }
    }
}
