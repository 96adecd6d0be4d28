//! Runs of bytes as keys, archives and disks: what the fuzzer finds its way with.

use std::io::Read;

use super::boot2docker::{Layout, MAGIC, Payload, Profile, PublicKeys};
use super::{Contents, ext4, identify, partitions};
use crate::block::{BlockDevice, MemoryDevice};
use crate::error::ErrorKind;
use crate::fuzz_tests::Input;
#[cfg(test)]
use crate::fuzz_tests::again;

/// What something is known by, and where.
const MARKS: &[(u64, &[u8])] = &[
    (0, MAGIC),
    (510, &[0x55, 0xAA]),
    (512, b"EFI PART"),
    (4096, b"EFI PART"),
    (0, b"LUKS\xBA\xBE"),
    (512, b"LABELONE"),
    (536, b"LVM2 001"),
    (4086, b"SWAPSPACE2"),
    (3, b"NTFS    "),
    (54, b"FAT16   "),
    (0, b"XFSB"),
    (0x8001, b"CD001"),
    (0x1_0040, b"_BHRfS_M"),
    (1024 + 0x38, &[0x53, 0xEF]),
];

/// Pieces that keys are made of.
const PIECES: &[&[u8]] = &[
    b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f",
    b"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ==",
    b" someone@somewhere\n",
    b"command=\"echo \\\"x\\\" y\",no-pty ",
    b"# a comment\r\n",
    b"-----BEGIN OPENSSH PRIVATE KEY-----\n",
    b"\xEF\xBB\xBF",
    b"\n\n",
    b"\t",
];

/// Keys, a ready archive or the beginning of a disk.
pub fn payload(bytes: &[u8]) {
    let mut input = Input(bytes);
    match input.byte() % 3 {
        0 => keys(&mut input),
        1 => userdata(&mut input),
        _ => disk(&mut input),
    }
}

/// Keys are read, or refused; read again, they are the same. The archive that holds them gives
/// them back, and is known as a payload.
fn keys(input: &mut Input<'_>) {
    let mut text = Vec::new();
    while !input.is_empty() {
        let byte = input.byte();
        match PIECES.get(usize::from(byte.wrapping_sub(0xF0))) {
            Some(piece) => text.extend_from_slice(piece),
            None => text.push(byte),
        }
    }
    let keys = match PublicKeys::parse(&[("a", &text), ("b", &text)]) {
        Ok(keys) => keys,
        Err(error) => return assert_eq!(error.kind(), ErrorKind::BadRequest),
    };
    assert_eq!(keys.as_text().lines().count(), keys.count());
    assert_eq!(PublicKeys::parse(&[("c", keys.as_text().as_bytes())]).unwrap(), keys);
    for &profile in Profile::ALL {
        match Payload::with_keys(profile, &keys) {
            Ok(payload) => holds(profile, &payload, keys.as_text()),
            Err(error) => {
                let kinds = [ErrorKind::PayloadTooLarge, ErrorKind::IncompatibleOptions];
                assert!(kinds.contains(&error.kind()), "{error}");
            }
        }
    }
}

/// The archive has the keys twice, within what the guest keeps.
fn holds(profile: Profile, payload: &Payload, keys: &str) {
    let budget = profile.budget_bytes() as usize;
    let mut kept = payload.bytes().to_vec();
    assert!(kept.iter().skip(budget).all(|byte| *byte == 0), "all fits");
    kept.resize(budget, 0);
    let mut files = Vec::new();
    for entry in tar::Archive::new(&kept[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        if let Some(target) = entry.link_name().unwrap() {
            assert_eq!(target.to_str(), Some(".ssh/authorized_keys"));
            text = keys.to_owned();
        }
        files.push((name, text));
    }
    let names: Vec<_> = files.iter().map(|(name, _)| name.trim_end_matches('/')).collect();
    let magic = std::str::from_utf8(MAGIC).unwrap();
    assert_eq!(names, [magic, ".ssh", ".ssh/authorized_keys", ".ssh/authorized_keys2"]);
    assert!(files[2].1 == keys && files[3].1 == keys, "{files:?}");
    assert!(Layout::ALL.contains(&payload.layout().unwrap()));
    assert_eq!(identify(&MemoryDevice::new(kept)).unwrap(), Contents::Payload);
    let again = Payload::from_userdata(profile, payload.bytes().to_vec()).unwrap();
    assert!(again.bytes() == payload.bytes(), "it is an archive as good as any");
}

/// What is taken is what was given, but for zeros at the end, and is taken again as it is.
fn userdata(input: &mut Input<'_>) {
    let (profile, begins) = (input.pick(Profile::ALL), input.byte());
    let mut bytes = if begins % 4 == 0 { Vec::new() } else { MAGIC.to_vec() };
    let zeros = usize::from(begins >> 2) * 256;
    bytes.extend_from_slice(input.0);
    bytes.resize(bytes.len() + zeros, 0);
    match Payload::from_userdata(profile, bytes.clone()) {
        Ok(payload) => {
            let (taken, budget) = (payload.bytes(), profile.budget_bytes() as usize);
            assert!(bytes.starts_with(taken));
            assert!(bytes[taken.len()..].iter().chain(taken.iter().skip(budget)).all(|b| *b == 0));
            assert_eq!(Payload::from_userdata(profile, taken.to_vec()).unwrap(), payload);
            let mut disk = taken.to_vec();
            disk.resize(1 << 20, 0);
            // A ready archive may hold anything, a partition table too.
            assert_ne!(identify(&MemoryDevice::new(disk)).unwrap(), Contents::Empty);
        }
        Err(error) => {
            let kinds = [ErrorKind::PayloadTooLarge, ErrorKind::BadRequest];
            assert!(kinds.contains(&error.kind()), "{error}");
        }
    }
}

/// A disk is told what it is, whatever its size; with nothing on it alone is it empty.
fn disk(input: &mut Input<'_>) {
    let size = match input.byte() {
        0 => input.short(),
        n => u64::from(n) << 12,
    };
    let device = MemoryDevice::new(vec![0; size as usize]);
    let put = |at: u64, bytes: &[u8]| {
        let room = size.saturating_sub(at).min(bytes.len() as u64);
        device.write_at(at.min(size), &bytes[..room as usize]).unwrap();
    };
    while !input.is_empty() {
        match input.byte() {
            n @ 0..110 => {
                let (at, mark) = MARKS[usize::from(n) % MARKS.len()];
                put(at, mark);
            }
            n @ 110..112 => ext4::fuzz_tests::lay_out(&device, n == 111),
            112..118 => partitions::fuzz_tests::lay_out_mbr(&device),
            118..128 => partitions::fuzz_tests::lay_out_gpt(&device),
            n => {
                let at = input.short() << (n >> 5 & 3);
                put(at, input.bytes(usize::from(n & 31) + 1));
            }
        }
    }
    let found = identify(&device).unwrap();
    assert_eq!(found, identify(&device).unwrap());
    let mut start = vec![0; size.min(64 << 10) as usize];
    device.read_at(0, &mut start).unwrap();
    let zeros = start.iter().all(|byte| *byte == 0);
    assert!(zeros || found != Contents::Empty, "{found:?}");
    assert!(found != Contents::Payload || start.starts_with(MAGIC), "{found:?}");
    assert!(!found.name().is_empty());
    for (sealed, more) in [(false, 512), (true, 0), (true, 3 << 20)] {
        partitions::fuzz_tests::grows(&device, sealed, more);
        ext4::fuzz_tests::grows(&device, sealed, more);
    }
}

#[test]
fn payloads_keep_their_promises() {
    again(include_str!("../../tests/data/fuzz/payload.txt"), payload);
}
