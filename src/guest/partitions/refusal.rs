//! Why a partition table is left as it is, and what else there is to say of one.

use std::fmt;

use thiserror::Error as ThisError;

use crate::units::exactly;

/// Why a partition table is not believed, or may not be changed.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum Refusal {
    /// It contradicts its format; the text says in what.
    #[error("the partition table is damaged: {0}")]
    Damaged(&'static str),
    /// The GPT at the start of the disk is damaged; its backup is good.
    #[error("the GPT at the start of the disk is damaged ({0}), its backup is good")]
    PrimaryDamaged(&'static str),
    /// The MBR says that there is a GPT, and there is none.
    #[error("the protective MBR stands for a GPT, and there is none")]
    ProtectiveWithoutGpt,
    /// There is a GPT, and an MBR that does not stand for it.
    #[error("there is a GPT beside an MBR that does not stand for it")]
    UnannouncedGpt,
    /// The MBR has partitions of its own beside the GPT.
    #[error("a hybrid MBR: it has partitions of its own beside those of the GPT")]
    HybridMbr,
    /// The disk has sectors of another size than 512 bytes.
    #[error("sectors of {bytes} bytes: only those of 512 are supported")]
    SectorSize {
        /// Their size.
        bytes: u32,
    },
    /// Two partitions share sectors.
    #[error("partitions {first} and {second} overlap")]
    Overlap {
        /// The number of the one that begins first.
        first: u32,
        /// The number of the other.
        second: u32,
    },
    /// A partition ends behind the disk.
    #[error(
        "partition {number} ends at {}, behind the disk's end at {}",
        exactly(*end_bytes), exactly(*disk_bytes)
    )]
    BeyondDisk {
        /// The partition's number.
        number: u32,
        /// Where it ends.
        end_bytes: u64,
        /// The size of the disk.
        disk_bytes: u64,
    },
    /// The table was made for a larger disk.
    #[error(
        "the partition table is for a disk of {}, this one has {}",
        exactly(*table_bytes), exactly(*disk_bytes)
    )]
    DiskCut {
        /// The least size that it was made for.
        table_bytes: u64,
        /// The size of the disk.
        disk_bytes: u64,
    },
    /// There are logical partitions.
    #[error("partition {number} is an extended one: logical partitions are not supported")]
    Extended {
        /// The extended partition's number.
        number: u32,
    },
    /// The table has no partition.
    #[error("the partition table has no partition")]
    NoPartition,
    /// The table does not have the partition that was named.
    #[error("there is no partition {number}")]
    NoSuchPartition {
        /// The number that was named.
        number: u32,
    },
    /// Another partition lies behind the one that was named.
    #[error("partition {number} is not the last on the disk: partition {last} lies behind it")]
    NotLast {
        /// The number that was named.
        number: u32,
        /// The number of the last one.
        last: u32,
    },
    /// The partition belongs to LVM.
    #[error("partition {number} is a physical volume of LVM")]
    Lvm {
        /// Its number.
        number: u32,
    },
    /// The partition is encrypted.
    #[error("partition {number} is encrypted (LUKS)")]
    Luks {
        /// Its number.
        number: u32,
    },
    /// The partition is a part of a RAID, which may be described at its end.
    #[error("partition {number} is a part of a RAID")]
    Raid {
        /// Its number.
        number: u32,
    },
    /// An MBR counts sectors in 32 bits.
    #[error("an MBR reaches 2 TiB, the disk is to have {}", exactly(*disk_bytes))]
    MbrLimit {
        /// The size that the disk is to have.
        disk_bytes: u64,
    },
    /// The disk would shrink.
    #[error(
        "the disk has {} already, more than {}",
        exactly(*disk_bytes), exactly(*wanted_bytes)
    )]
    SmallerDisk {
        /// The size that it has.
        disk_bytes: u64,
        /// The size that it is to have.
        wanted_bytes: u64,
    },
}

impl Refusal {
    /// The name that programs see (`snake_case`, stable).
    pub const fn name(&self) -> &'static str {
        match self {
            Refusal::Damaged(_) => "damaged_table",
            Refusal::PrimaryDamaged(_) => "damaged_primary_gpt",
            Refusal::ProtectiveWithoutGpt => "protective_mbr_without_gpt",
            Refusal::UnannouncedGpt => "unannounced_gpt",
            Refusal::HybridMbr => "hybrid_mbr",
            Refusal::SectorSize { .. } => "sector_size",
            Refusal::Overlap { .. } => "overlapping_partitions",
            Refusal::BeyondDisk { .. } => "partition_beyond_disk",
            Refusal::DiskCut { .. } => "table_beyond_disk",
            Refusal::Extended { .. } => "extended_partition",
            Refusal::NoPartition => "no_partition",
            Refusal::NoSuchPartition { .. } => "no_such_partition",
            Refusal::NotLast { .. } => "partition_not_last",
            Refusal::Lvm { .. } => "lvm",
            Refusal::Luks { .. } => "luks",
            Refusal::Raid { .. } => "raid",
            Refusal::MbrLimit { .. } => "mbr_limit",
            Refusal::SmallerDisk { .. } => "smaller_disk",
        }
    }
}

/// What is unusual about a table, and does not keep it from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Note {
    /// The GPT at the start of the disk is damaged; everything is from its backup.
    PrimaryDamaged,
    /// The backup of the GPT is damaged or missing.
    BackupDamaged,
    /// The backup of the GPT is sound and says something else than the GPT that counts.
    BackupDiffers,
}

impl Note {
    /// The name that programs see (`snake_case`, stable).
    pub const fn name(self) -> &'static str {
        match self {
            Note::PrimaryDamaged => "primary_gpt_damaged",
            Note::BackupDamaged => "backup_gpt_damaged",
            Note::BackupDiffers => "backup_gpt_differs",
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Note::PrimaryDamaged => {
                "the GPT at the start of the disk is damaged, its backup is good"
            }
            Note::BackupDamaged => "the backup of the GPT is damaged or missing",
            Note::BackupDiffers => "the backup of the GPT differs from the GPT that counts",
        })
    }
}
