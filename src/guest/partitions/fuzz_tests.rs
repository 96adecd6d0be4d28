//! Any bytes as a partition table: what the fuzzer puts there, with checksums that are right.

use crc::{CRC_32_ISO_HDLC, Crc};

use super::{GrowthRequest, Reading, Table};
use crate::block::{BlockDevice, MemoryDevice};
use crate::guest::edit::Content;

const CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// Bytes of a disk, if it has so many.
fn bytes(device: &MemoryDevice, offset: u64, len: u64) -> Option<Vec<u8>> {
    let inside = offset.checked_add(len).is_some_and(|end| end <= device.size());
    let mut bytes = vec![0; if inside { len as usize } else { 0 }];
    device.read_at(if inside { offset } else { 0 }, &mut bytes).unwrap();
    inside.then_some(bytes)
}

/// Overwrites bytes of a disk, if it has so many.
fn put(device: &MemoryDevice, offset: u64, new: &[u8]) {
    if offset.checked_add(new.len() as u64).is_some_and(|end| end <= device.size()) {
        device.write_at(offset, new).unwrap();
    }
}

/// An MBR of two partitions.
pub(in crate::guest) fn lay_out_mbr(device: &MemoryDevice) {
    put(device, 446, &[0x80, 0, 0, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0]);
    put(device, 462, &[0, 0, 0, 0, 0x82, 0, 1, 0, 4, 0, 0, 0, 2, 0, 0, 0]);
    put(device, 510, &[0x55, 0xAA]);
}

/// A GPT of four entries and two partitions.
pub(in crate::guest) fn lay_out_gpt(device: &MemoryDevice) {
    let last = (device.size() / 512).saturating_sub(1);
    put(device, 446, &[0, 0, 0, 0, 0xEE, 0, 0, 0, 1, 0, 0, 0, last as u8, (last >> 8) as u8, 0, 0]);
    put(device, 510, &[0x55, 0xAA]);
    for (mine, other, entries) in [(1, last, 2), (last, 1, last.saturating_sub(1))] {
        let mut header = b"EFI PART\0\0\x01\0\x5C\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        for word in [mine, other, 3, last.saturating_sub(2), 7, 7, entries, 128 << 32 | 4] {
            header.extend(u64::to_le_bytes(word));
        }
        put(device, mine * 512, &header);
        for (index, first) in [(0, 5), (2, 3)] {
            let mut entry = vec![index as u8 + 1; 32];
            entry.extend([first, first + 1, 1].iter().flat_map(|word| u64::to_le_bytes(*word)));
            put(device, entries * 512 + index * 128, &entry);
        }
    }
}

/// Gives a header, and the entries that it speaks of, the checksums that they should have.
fn seal(device: &MemoryDevice, offset: u64) {
    let Some(mut header) = bytes(device, offset, 512) else { return };
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
    let entries = u64::from(word(80)) * u64::from(word(84));
    let entries_crc = bytes(device, u64::from(word(72)) * 512, entries);
    let len = (word(12) as usize).min(512);
    if let Some(entries) = entries_crc {
        header[88..92].copy_from_slice(&CRC32.checksum(&entries).to_le_bytes());
    }
    header[16..20].fill(0);
    let crc = CRC32.checksum(&header[..len]);
    header[16..20].copy_from_slice(&crc.to_le_bytes());
    put(device, offset, &header);
}

/// The table of a disk is read, or refused; a partition grows, or may not, and then nothing else
/// has changed and it does not grow again.
pub(in crate::guest) fn grows(device: &MemoryDevice, sealed: bool, more: u64) {
    let headers = [512, (device.size() / 512).saturating_sub(1) * 512];
    for offset in headers.into_iter().filter(|_| sealed) {
        seal(device, offset);
    }
    let Reading::Table(before) = Table::read(device).unwrap() else { return };
    let Some(last) = before.last() else { return };
    let disk_bytes = device.size() + more;
    let request = GrowthRequest { partition: last.number, disk_bytes, restore: true };
    let Ok(growth) = before.growth(&request) else { return };
    let mut disk = bytes(device, 0, device.size()).unwrap();
    disk.resize(disk_bytes as usize, 0);
    let grown = MemoryDevice::new(disk);
    for edit in &growth.edits {
        let Content::Bytes(new) = &edit.content else { panic!("{edit:?}") };
        grown.write_at(edit.offset, new).unwrap();
    }
    let Reading::Table(after) = Table::read(&grown).unwrap() else { panic!("{growth:?}") };
    let mut expected = before.partitions().to_vec();
    for partition in expected.iter_mut().filter(|one| one.number == growth.partition) {
        partition.len_bytes = growth.new_len_bytes;
    }
    assert_eq!(after.partitions(), expected);
    assert_eq!((after.refusal(), after.note()), (None, None));
    assert!(after.growth(&request).unwrap().edits.is_empty());
}

#[test]
fn what_the_fuzzer_begins_with_grows() {
    for lay_out in [lay_out_mbr, lay_out_gpt] {
        let device = MemoryDevice::new(vec![0; 128 << 10]);
        lay_out(&device);
        grows(&device, true, 5 << 20);
        let Reading::Table(table) = Table::read(&device).unwrap() else { panic!("no table") };
        assert_eq!((table.partitions().len(), table.refusal(), table.note()), (2, None, None));
    }
}
