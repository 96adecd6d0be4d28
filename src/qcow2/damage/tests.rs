//! Every kind of damage is what it says: done to an image that has a place for it, it is found by
//! name, and undone by its own record.

use super::*;
use crate::host::storage::MemoryStorage;
use crate::qcow2::Version;
use crate::qcow2::check::{Finding, scan};
use crate::qcow2::shape_tests::{PLAIN, Shape};
use crate::qcow2::wounds_tests::image;
use crate::task::{Cancel, Silent, Task};

/// What a scan of the damaged image says, in short; nothing where the header does not open.
fn found(storage: &MemoryStorage) -> Option<Vec<Finding>> {
    let cancel = Cancel::new();
    let header = Header::read(storage).ok()?;
    Some(scan(storage, &header, Task::new(&Silent, &cancel)).ok()?.findings)
}

#[test]
fn damage_is_what_it_says_and_repeats() {
    let plain = Shape { cluster_bits: 12, ..PLAIN };
    let extended = Shape { extended: true, cluster_bits: 14, size: 300 << 10, ..PLAIN };
    let images =
        [plain, extended, Shape { version: Version::V2, ..plain }].map(|shape| image(shape).0);
    for &damage in Damage::ALL {
        let (mut hurt, mut noticed) = (0, 0);
        for bytes in &images {
            for seed in 0..30 {
                let storage = MemoryStorage::new(bytes.clone());
                let header = Header::read(&storage).unwrap();
                let wounds = damage.plan(&storage, &header, seed).unwrap();
                assert_eq!(wounds, damage.plan(&storage, &header, seed).unwrap());
                assert!(storage.contents() == *bytes, "planning writes nothing");
                wounds.iter().try_for_each(|wound| wound.inflict(&storage)).unwrap();
                if wounds.is_empty() {
                    continue;
                }
                hurt += 1;
                let findings = found(&storage);
                let named = |finding: &Finding| match damage {
                    Damage::Leak => matches!(finding, Finding::Leak { .. }),
                    Damage::Undercount | Damage::NoCounts | Damage::LostBlock => {
                        matches!(finding, Finding::Undercount { .. })
                    }
                    Damage::CopiedFlag => matches!(finding, Finding::CopiedFlag { .. }),
                    Damage::BeyondFile => matches!(finding, Finding::BeyondFile { .. }),
                    Damage::Misaligned | Damage::Subclusters | Damage::ReservedBit => {
                        matches!(finding, Finding::Malformed { .. })
                    }
                    Damage::Overlap | Damage::Loop => matches!(finding, Finding::Overlap { .. }),
                    _ => true,
                };
                noticed += u32::from(findings.is_none_or(|found| found.iter().any(named)));
            }
        }
        let has_place = damage != Damage::Directory;
        assert_eq!(hurt > 0, has_place, "{} found no place", damage.name());
        // Chance may choose what nobody reads, such as the rest of a table.
        let enough = match damage {
            Damage::Leak | Damage::NoCounts | Damage::LostBlock | Damage::BeyondFile => hurt,
            Damage::CopiedFlag | Damage::Misaligned | Damage::Subclusters => hurt,
            _ => hurt / 4,
        };
        assert!(noticed >= enough, "{}: {noticed} of {hurt} were noticed", damage.name());
    }
}
