//! A new image has no name before all of it is on the medium. What is left of one without a name
//! is nobody's; only, looking at it does no harm.

use super::check::scan;
use super::crash_states_tests::{after, each_state};
use super::header::Header;
use super::options::Preallocation;
use super::shape_tests::{PLAIN, Shape, contents, in_memory};
use crate::block::is_zero;
use crate::error::Result;
use crate::host::recording::RecordingStorage;
use crate::host::storage::Storage;
use crate::task::{Cancel, Silent, Task};

/// Whether nothing is wrong with an image, and what its disk shows.
fn looked_at(shape: &Shape, bytes: &[u8]) -> Result<(bool, Vec<u8>)> {
    let files = in_memory(&[bytes.to_vec()]);
    let header = Header::read(&*files[0])?;
    let report = scan(&*files[0], &header, Task::new(&Silent, &Cancel::new()))?;
    Ok((report.is_clean(), contents(&shape.open_as(&files, header, false)?)?))
}

#[test]
fn an_image_that_was_never_finished() {
    let (mut states, mut readable) = (0, 0);
    let shapes = [
        PLAIN,
        Shape { order: 6, ..PLAIN },
        Shape { cluster_bits: 12, size: 9 << 20, ..PLAIN },
        Shape { cluster_bits: 14, extended: true, size: 2 << 20, ..PLAIN },
    ];
    let preallocations = [Preallocation::Off, Preallocation::Tables, Preallocation::Metadata];
    for (base, preallocation) in shapes.into_iter().flat_map(|s| preallocations.map(|p| (s, p))) {
        let shape = Shape { preallocation, ..base };
        let storage = RecordingStorage::default();
        shape.create_in(&storage);
        storage.sync().unwrap();
        each_state(&[Vec::new()], &storage.records(), &mut 1, |state| {
            states += 1;
            // Nothing is written but tables: what shows a disk shows an empty one.
            if let Ok((_, disk)) = looked_at(&shape, &state.files[0]) {
                assert!(is_zero(&disk), "{shape:?}");
                readable += 1;
            }
        });
        let whole = after(&[Vec::new()], &storage.records());
        assert!(whole == [storage.contents()], "the record is complete");
        let (clean, disk) = looked_at(&shape, &whole[0]).unwrap();
        assert!(clean && disk.len() as u64 == shape.size);
    }
    println!("create: {states} crash states, {readable} of them readable");
    assert!(states >= 100 && readable > 0);
}
