//! Reading the beginning of the file as far as the header needs it: the first cluster may have
//! 2 MiB, of which almost every image uses a few hundred bytes.

use super::error::FormatError;
use super::extension::Extension;
use super::geometry::ClusterBits;
use super::lengths::index;
use super::raw_header::{RawHeader, V2_HEADER_LEN};
use crate::error::Result;
use crate::host::storage::Storage;

/// What is read of every file.
const FIRST_LEN: usize = 4096;

/// Header, extensions and backing file name, with whatever follows; no more than a cluster unless
/// that is smaller than what is read of every file.
pub(super) fn read_first_cluster(storage: &dyn Storage) -> Result<Vec<u8>> {
    let mut bytes = read_up_to(storage, FIRST_LEN)?;
    while let Ok((needed, cluster)) = needed(&bytes) {
        if needed <= bytes.len() {
            break;
        }
        // Twice as much each time, so that no chain of small extensions is read piece by piece.
        let wanted = needed.max(bytes.len().saturating_mul(2)).min(cluster);
        bytes = read_up_to(storage, wanted)?;
        if bytes.len() < wanted {
            break;
        }
    }
    Ok(bytes)
}

fn read_up_to(storage: &dyn Storage, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let found = storage.read_at(0, &mut bytes)?;
    bytes.truncate(found);
    Ok(bytes)
}

/// How many bytes of the first cluster mean something, as far as those tell that are there, and
/// how many the cluster has. Where a header makes no sense, no more are needed to say so.
fn needed(bytes: &[u8]) -> std::result::Result<(usize, usize), FormatError> {
    let raw = RawHeader::read(bytes)?;
    let cluster_bits = ClusterBits::new(raw.cluster_bits.get());
    let cluster = index(cluster_bits.map_or(0, ClusterBits::cluster_size));
    let header_length = match raw.version.get() {
        2 => V2_HEADER_LEN,
        _ => raw.header_length.get(),
    };
    let header_end = index(header_length);
    let name = index(raw.backing_file_offset.get());
    let end = match name {
        0 => Extension::end_of_all(bytes, header_end),
        _ => name.saturating_add(index(raw.backing_file_size.get())),
    };
    Ok((header_end.max(end).min(cluster), cluster))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::recording::{Failure, Fault, RecordingStorage};
    use crate::host::storage::MemoryStorage;
    use crate::qcow2::header::UncheckedHeader;
    use crate::qcow2::shape_tests::{PLAIN, Shape};

    /// A new image with large clusters and no extensions.
    fn image(bits: u32) -> Vec<u8> {
        let storage = MemoryStorage::default();
        Shape { cluster_bits: bits, size: 4 << 20, ..PLAIN }.create_in(&storage);
        let mut bytes = storage.contents();
        bytes.resize(bytes.len().max(FIRST_LEN), 0);
        bytes[112..FIRST_LEN].fill(0);
        bytes
    }

    fn parsed(bytes: &[u8]) -> String {
        format!("{:?}", UncheckedHeader::parse(bytes).map_err(|error| error.to_string()))
    }

    #[test]
    fn a_large_cluster_is_not_read_for_a_small_header() {
        for bits in [9, 16, 21] {
            let storage = RecordingStorage::new(image(bits));
            storage.fail(Fault { nth: 1, failure: Failure::Read, lasts: true });
            assert_eq!(read_first_cluster(&storage).unwrap().len(), FIRST_LEN);
        }
    }

    #[test]
    fn many_small_extensions_are_read_in_a_few_steps() {
        let mut bytes = image(21);
        for prefix in bytes[112..(2 << 20) - 112].chunks_exact_mut(8) {
            prefix.copy_from_slice(&[1, 2, 3, 4, 0, 0, 0, 0]);
        }
        let storage = RecordingStorage::new(bytes.clone());
        let found = read_first_cluster(&storage).unwrap();
        assert!(storage.operations().1 <= 10);
        assert_eq!(parsed(&found), parsed(&bytes[..2 << 20]));
    }

    proptest! {
        /// However the extensions lie, and the name behind them.
        #[test]
        fn a_header_is_what_it_is_in_its_whole_cluster(
            bits in prop::sample::select(vec![9u32, 12, 13, 16]),
            lens in prop::collection::vec(prop_oneof![0u32..64, 3800u32..4200, 0u32..70_000], 0..5),
            name in prop_oneof![
                Just((0u64, 0u32)),
                (0u64..70_000, 0u32..1100),
                (4000u64..4200, 0u32..200),
                (any::<u64>(), any::<u32>()),
            ],
            header_length in prop_oneof![Just(112u32), Just(104), 0u32..70_000],
            old in any::<bool>(),
        ) {
            let mut bytes = image(bits);
            bytes.resize(bytes.len().max(80_000), 0);
            let mut at = if old { 72 } else { header_length as usize };
            for len in lens {
                let Some(prefix) = bytes.get_mut(at..at + 8) else { break };
                prefix[..4].copy_from_slice(&0x1234_5678u32.to_be_bytes());
                prefix[4..].copy_from_slice(&len.to_be_bytes());
                at += 8 + len.next_multiple_of(8) as usize;
            }
            bytes[7] = if old { 2 } else { 3 };
            bytes[8..16].copy_from_slice(&name.0.to_be_bytes());
            bytes[16..20].copy_from_slice(&name.1.to_be_bytes());
            if !old {
                bytes[100..104].copy_from_slice(&header_length.to_be_bytes());
            }
            let found = read_first_cluster(&MemoryStorage::new(bytes.clone())).unwrap();
            let cluster = (1usize << bits).max(FIRST_LEN);
            prop_assert!(found.len() <= cluster);
            prop_assert_eq!(parsed(&found), parsed(&bytes[..cluster]));
        }
    }
}
