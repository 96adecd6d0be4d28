//! The checksums of metadata (kernel `Documentation/filesystems/ext4/checksums.rst`).

use crc::{Algorithm, CRC_16_MODBUS, Crc, Table};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

/// CRC-32C as the kernel has it: nothing is inverted at the end.
const CASTAGNOLI: Algorithm<u32> = Algorithm {
    width: 32,
    poly: 0x1EDC_6F41,
    init: u32::MAX,
    refin: true,
    refout: true,
    xorout: 0,
    check: 0x1CF9_6D7C,
    residue: 0,
};

static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CASTAGNOLI);

/// The kernel's `crc16`, begun with all ones.
static CRC16: Crc<u16> = Crc::<u16>::new(&CRC_16_MODBUS);

/// CRC-32C that goes on from `seed`.
fn crc32c(seed: u32, parts: &[&[u8]]) -> u32 {
    let mut digest = CRC32C.digest_with_initial(seed.reverse_bits());
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize()
}

/// What has a checksum in a filesystem, and how it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksums {
    /// Nothing has one.
    None,
    /// Group descriptors have (`gdt_csum`, which `mke2fs` calls `uninit_bg`).
    Descriptors {
        /// The filesystem's.
        uuid: [u8; 16],
    },
    /// All metadata has (`metadata_csum`).
    Metadata {
        /// What they begin with: `s_checksum_seed`, or the checksum of the UUID.
        seed: u32,
    },
}

impl Checksums {
    /// The seed that follows from a UUID.
    pub(super) fn seed_of(uuid: &[u8; 16]) -> u32 {
        crc32c(u32::MAX, &[uuid])
    }

    /// Whether groups may say that their bitmaps and inodes were never written.
    pub(super) fn cover_descriptors(self) -> bool {
        self != Checksums::None
    }

    /// `bg_checksum` of a descriptor of 32 or 64 bytes in which that field is zero.
    pub(super) fn of_descriptor(self, group: u32, descriptor: &[u8]) -> Option<u16> {
        let number = U32::new(group);
        match self {
            Checksums::None => None,
            Checksums::Descriptors { uuid } => {
                // `ext4_group_desc_csum`: the field itself is left out, not hashed as zeros.
                let (before, rest) = descriptor.split_at_checked(0x1E).unwrap_or((descriptor, &[]));
                let mut digest = CRC16.digest();
                for part in [&uuid, number.as_bytes(), before, rest.get(2..).unwrap_or_default()] {
                    digest.update(part);
                }
                Some(digest.finalize())
            }
            Checksums::Metadata { seed } => {
                Some(low(crc32c(seed, &[number.as_bytes(), descriptor])))
            }
        }
    }

    /// `bg_block_bitmap_csum`, of as many bytes as the group has bits.
    pub(super) fn of_bitmap(self, bits: &[u8]) -> Option<u32> {
        match self {
            Checksums::Metadata { seed } => Some(crc32c(seed, &[bits])),
            _ => None,
        }
    }

    /// The checksum of an inode in which both of its fields for it are zero.
    pub(super) fn of_inode(self, number: u32, generation: u32, inode: &[u8]) -> Option<u32> {
        let words = [U32::new(number), U32::new(generation)];
        match self {
            Checksums::Metadata { seed } => Some(crc32c(seed, &[words.as_bytes(), inode])),
            _ => None,
        }
    }
}

/// `s_checksum`, of all that comes before it.
pub(super) fn of_superblock(before: &[u8]) -> u32 {
    crc32c(u32::MAX, &[before])
}

/// The lower half of a checksum of which only that is stored.
pub(super) fn low(checksum: u32) -> u16 {
    halves(checksum).0
}

/// The lower and the upper half.
pub(super) fn halves(word: u32) -> (u16, u16) {
    let half = |word: u32| u16::try_from(word & 0xFFFF).unwrap_or(0);
    (half(word), half(word >> 16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_the_kernels() {
        assert_eq!(CRC32C.checksum(b"123456789"), CASTAGNOLI.check);
        // In one go, or in two.
        assert_eq!(crc32c(crc32c(u32::MAX, &[b"1234"]), &[b"56789"]), CASTAGNOLI.check);
        assert_eq!(crc32c(u32::MAX, &[b"1234", b"56789"]), CASTAGNOLI.check);
        assert_eq!(halves(0x1234_5678), (0x5678, 0x1234));
    }
}
