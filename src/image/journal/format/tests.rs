//! Every journal that is written is read as it was meant, and nothing else is.

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::{HASH_LEN, Journal, Span, Unusable};
use crate::raw::RawAllocation;

fn encoded(journal: &Journal<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut put = |piece: &[u8]| {
        bytes.extend_from_slice(piece);
        Ok(())
    };
    journal.encode(&mut put).unwrap();
    assert_eq!(bytes.len() as u64, journal.encoded_len());
    bytes
}

/// With a checksum that is right.
fn sealed(mut signed: Vec<u8>) -> Vec<u8> {
    let hash = Sha256::digest(&signed);
    signed.extend_from_slice(&hash);
    signed
}

fn span<'a>(offset: u64, len: u64, old: Option<&'a [u8]>, new: Option<&'a [u8]>) -> Span<'a> {
    Span { offset, len, old, new }
}

fn small() -> Journal<'static> {
    Journal {
        old_len: 1000,
        new_len: 1536,
        allocation: RawAllocation::Reserve,
        stages: vec![
            vec![span(1000, 100, None, None), span(1100, 4, None, Some(b"tail"))],
            vec![],
            vec![span(3, 3, Some(b"old"), Some(b"new")), span(997, 3, Some(b"end"), None)],
        ],
    }
}

#[test]
fn whatever_is_not_whole_is_refused() {
    let bytes = encoded(&small());
    assert_eq!(Journal::decode(&bytes), Ok(small()));
    for len in 0..bytes.len() {
        assert!(Journal::decode(&bytes[..len]).is_err(), "{len} bytes");
    }
    for at in 0..bytes.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] ^= flip;
            assert!(Journal::decode(&bytes).is_err(), "byte {at}");
        }
    }
    let longer = [&bytes[..], b"x"].concat();
    assert_eq!(Journal::decode(&longer), Err(Unusable::NotWhole));
}

/// With a checksum that is right, it is what is said that counts.
#[test]
fn what_contradicts_itself_is_refused() {
    let bytes = encoded(&small());
    let signed = &bytes[..bytes.len() - HASH_LEN];
    let with = |at: usize, new: &[u8]| {
        let mut signed = signed.to_vec();
        signed[at..at + new.len()].copy_from_slice(new);
        sealed(signed)
    };
    let decode = |bytes: &[u8]| Journal::decode(bytes).expect_err("a journal of nonsense");
    assert_eq!(decode(&with(8, &2u32.to_be_bytes())), Unusable::Version(2));
    assert_eq!(decode(&with(12, &[2])), Unusable::Format(2));
    let huge = u32::MAX.to_be_bytes();
    let nonsense = [
        with(13, &[3]),
        // More stages, and more spans, than there are.
        with(30, &huge),
        with(34, &huge),
        // Contents that nobody knows, and no content where some is said to be.
        with(54, &[4]),
        with(54, &[1]),
        sealed([signed, b"x"].concat()),
    ];
    for bytes in nonsense {
        assert_eq!(decode(&bytes), Unusable::Contradiction);
    }
    let stages = [
        vec![span(10, 3, None, None), span(12, 3, None, None)],
        vec![span(0, 0, None, None)],
        vec![span(1500, 37, None, None)],
        vec![span(u64::MAX, 2, None, None)],
        vec![span(999, 2, Some(b"xy"), None)],
    ];
    for stage in stages {
        let journal = Journal { stages: vec![stage], ..small() };
        assert_eq!(decode(&encoded(&journal)), Unusable::Contradiction, "{journal:?}");
    }
    let shrinks = Journal { new_len: 999, stages: Vec::new(), ..small() };
    assert_eq!(decode(&encoded(&shrinks)), Unusable::Contradiction);
}

/// Gaps and lengths of spans, and whether they hold something before and afterwards.
fn spans() -> impl Strategy<Value = Vec<Vec<(u64, usize, bool, bool)>>> {
    let span = (0u64..1000, 1usize..3000, any::<bool>(), any::<bool>());
    prop::collection::vec(prop::collection::vec(span, 0..6), 0..5)
}

proptest! {
    #[test]
    fn journals_are_read_as_they_were_meant(
        found in spans(),
        allocation in prop::sample::select(&[RawAllocation::Sparse, RawAllocation::Reserve, RawAllocation::Zeros][..]),
        more in 0u64..10_000,
    ) {
        let bytes: Vec<u8> = (0..3000).map(|n| n as u8).collect();
        let (mut at, mut stages) = (0, Vec::new());
        for stage in found {
            let mut spans = Vec::new();
            for (gap, len, old, new) in stage {
                let content = |is_there: bool| is_there.then_some(&bytes[..len]);
                spans.push(span(at + gap, len as u64, content(old), content(new)));
                at += gap + len as u64;
            }
            stages.push(spans);
        }
        let journal = Journal { old_len: at, new_len: at + more, allocation, stages };
        let encoded = encoded(&journal);
        prop_assert_eq!(Journal::decode(&encoded), Ok(journal));
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let signed = [&b"VMDJRNL\n\0\0\0\x01\x01"[..], &bytes].concat();
        let _ = Journal::decode(&sealed(signed));
        prop_assert!(Journal::decode(&bytes).is_err());
    }
}
