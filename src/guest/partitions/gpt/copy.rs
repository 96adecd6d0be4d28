//! One of the two copies of a GPT: a header and its entries (UEFI 2.10, 5.3.2 and 5.3.3).

use crc::{CRC_32_ISO_HDLC, Crc};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::block::BlockDevice;
use crate::error::Result;
use crate::guest::partitions::kind::RawGuid;
use crate::guest::partitions::{Guid, Kind, Partition, SECTOR_BYTES, SECTOR_LEN, read_sectors};

pub(super) const SIGNATURE: &[u8; 8] = b"EFI PART";

/// The sector of the primary header.
pub(super) const PRIMARY_LBA: u64 = 1;

/// How many entries are read at most. Tables have 128; `sgdisk` makes larger ones when it is asked.
const ENTRIES_MAX: u32 = 1024;

/// The limit of the size of an entry, in bytes; 128 are described.
const ENTRY_BYTES_MAX: u32 = 4096;

/// The checksum of the format: of headers with this very field as zero, and of entries.
const CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// UEFI 2.10, table 5-5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawHeader {
    signature: [u8; 8],
    revision: U32,
    header_bytes: U32,
    header_crc: U32,
    reserved: U32,
    my_lba: U64,
    alternate_lba: U64,
    first_usable_lba: U64,
    last_usable_lba: U64,
    disk_guid: [u8; 16],
    entries_lba: U64,
    entries: U32,
    entry_bytes: U32,
    entries_crc: U32,
}

/// UEFI 2.10, table 5-6.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawEntry {
    kind: RawGuid,
    guid: RawGuid,
    first_lba: U64,
    /// Inclusive.
    last_lba: U64,
    attributes: U64,
    /// UTF-16, ended by zero where it is shorter.
    name: [U16; 36],
}

/// Why a copy is not to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is no header.
    Absent,
    /// It is not what it should be.
    Damaged(&'static str),
}

impl Fault {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Fault::Absent => "there is no header",
            Fault::Damaged(text) => text,
        }
    }
}

/// A sector that begins with a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    raw: RawHeader,
    /// What is behind the fields that are described: zeros, or what a later version has there.
    rest: Vec<u8>,
}

/// Where a header and its entries lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) my_lba: u64,
    pub(super) alternate_lba: u64,
    pub(super) entries_lba: u64,
}

impl Header {
    fn parse(sector: &[u8]) -> Result<Header, Fault> {
        let (raw, rest) = RawHeader::read_from_prefix(sector).map_err(|_| Fault::Absent)?;
        if raw.signature != *SIGNATURE {
            return Err(Fault::Absent);
        }
        let header = Header { raw, rest: rest.to_vec() };
        let len = usize::try_from(raw.header_bytes.get()).unwrap_or(usize::MAX);
        if !(size_of::<RawHeader>()..=SECTOR_LEN).contains(&len) {
            return Err(Fault::Damaged("the length of its header"));
        }
        if header.crc() != raw.header_crc.get() {
            return Err(Fault::Damaged("the checksum of its header"));
        }
        if raw.revision.get() != 0x0001_0000 {
            return Err(Fault::Damaged("its revision, which is not 1.0"));
        }
        let entry = raw.entry_bytes.get();
        if !(128..=ENTRY_BYTES_MAX).contains(&entry) || !entry.is_power_of_two() {
            return Err(Fault::Damaged("the size of its entries"));
        }
        if !(1..=ENTRIES_MAX).contains(&raw.entries.get()) {
            return Err(Fault::Damaged("the number of its entries"));
        }
        Ok(header)
    }

    fn crc(&self) -> u32 {
        let len = usize::try_from(self.raw.header_bytes.get()).unwrap_or(usize::MAX);
        let raw = RawHeader { header_crc: U32::ZERO, ..self.raw };
        let mut digest = CRC32.digest();
        digest.update(raw.as_bytes());
        let rest = len.saturating_sub(size_of::<RawHeader>());
        digest.update(self.rest.get(..rest).unwrap_or(&self.rest));
        digest.finalize()
    }

    /// Whether it may stand in this sector, and all that it speaks of is in order on the disk.
    fn fault_at(&self, lba: u64) -> Option<Fault> {
        let place = self.place();
        let entries_end = place.entries_lba.saturating_add(self.entry_sectors());
        let (first, last) = (self.first_usable_lba(), self.last_usable_lba());
        let fits = match lba {
            PRIMARY_LBA => {
                place.entries_lba > lba && entries_end <= first && place.alternate_lba > last
            }
            _ => {
                place.alternate_lba == PRIMARY_LBA && place.entries_lba > last && entries_end <= lba
            }
        };
        let fits = fits && place.my_lba == lba && first <= last;
        (!fits).then_some(Fault::Damaged("its parts are not where they should be"))
    }

    pub(super) fn place(&self) -> Place {
        Place {
            my_lba: self.raw.my_lba.get(),
            alternate_lba: self.raw.alternate_lba.get(),
            entries_lba: self.raw.entries_lba.get(),
        }
    }

    pub(super) fn first_usable_lba(&self) -> u64 {
        self.raw.first_usable_lba.get()
    }

    pub(super) fn last_usable_lba(&self) -> u64 {
        self.raw.last_usable_lba.get()
    }

    fn entries_len(&self) -> u64 {
        u64::from(self.raw.entries.get()).saturating_mul(u64::from(self.raw.entry_bytes.get()))
    }

    /// How many sectors the entries take.
    pub(super) fn entry_sectors(&self) -> u64 {
        self.entries_len().div_ceil(SECTOR_BYTES)
    }

    /// Whether both are of one table.
    fn agrees_with(&self, other: &Header) -> bool {
        let anywhere = |header: &Header| RawHeader {
            header_crc: U32::ZERO,
            my_lba: U64::ZERO,
            alternate_lba: U64::ZERO,
            entries_lba: U64::ZERO,
            ..header.raw
        };
        anywhere(self) == anywhere(other)
    }

    /// The bytes of its sector.
    pub(super) fn bytes(&self) -> Vec<u8> {
        [self.raw.as_bytes(), &self.rest].concat()
    }
}

/// A header and its entries, both with good checksums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) header: Header,
    /// Whole sectors.
    pub(super) entries: Vec<u8>,
}

impl Copy {
    /// Reads the copy whose header is in this sector.
    pub(super) fn read(device: &dyn BlockDevice, lba: u64) -> Result<Result<Copy, Fault>> {
        let Some(sector) = read_sectors(device, lba, 1)? else { return Ok(Err(Fault::Absent)) };
        let header = match Header::parse(&sector) {
            Ok(header) => header,
            Err(fault) => return Ok(Err(fault)),
        };
        if let Some(fault) = header.fault_at(lba) {
            return Ok(Err(fault));
        }
        let sectors = header.entry_sectors();
        let Some(entries) = read_sectors(device, header.place().entries_lba, sectors)? else {
            return Ok(Err(Fault::Damaged("its entries, which are behind the end of the disk")));
        };
        let copy = Copy { header, entries };
        let sound = copy.entries_crc() == copy.header.raw.entries_crc.get();
        Ok(if sound { Ok(copy) } else { Err(Fault::Damaged("the checksum of its entries")) })
    }

    fn entries_crc(&self) -> u32 {
        let len = usize::try_from(self.header.entries_len()).unwrap_or(usize::MAX);
        CRC32.checksum(self.entries.get(..len).unwrap_or(&self.entries))
    }

    /// Whether both say the same.
    pub(super) fn agrees_with(&self, other: &Copy) -> bool {
        self.header.agrees_with(&other.header)
    }

    fn entry_len(&self) -> usize {
        usize::try_from(self.header.raw.entry_bytes.get()).unwrap_or(usize::MAX)
    }

    /// Its partitions; `None` if one ends before it begins.
    pub(super) fn partitions(&self) -> Option<Vec<Partition>> {
        let count = usize::try_from(self.header.raw.entries.get()).ok()?;
        let entries = self.entries.chunks_exact(self.entry_len()).take(count);
        let entries = (1..).zip(entries).filter_map(|(number, entry)| {
            let (entry, _) = RawEntry::read_from_prefix(entry).ok()?;
            (Guid::from(entry.kind) != Guid(0)).then(|| entry.partition(number))
        });
        entries.collect()
    }

    /// The same table, with the partition of this number ending with the sector `last_lba`, and room
    /// for partitions up to `last_usable_lba`.
    pub(super) fn grown(&self, number: u32, last_lba: u64, last_usable_lba: u64) -> Copy {
        let mut copy = self.clone();
        let index = usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX);
        let at = index.saturating_mul(self.entry_len());
        let entry = copy.entries.get_mut(at..);
        if let Some((entry, _)) = entry.and_then(|rest| RawEntry::mut_from_prefix(rest).ok()) {
            entry.last_lba = U64::new(last_lba);
        }
        copy.header.raw.last_usable_lba = U64::new(last_usable_lba);
        copy.header.raw.entries_crc = U32::new(copy.entries_crc());
        copy
    }

    /// Its header as it is there.
    pub(super) fn header_at(&self, place: Place) -> Header {
        let mut header = self.header.clone();
        header.raw.my_lba = U64::new(place.my_lba);
        header.raw.alternate_lba = U64::new(place.alternate_lba);
        header.raw.entries_lba = U64::new(place.entries_lba);
        header.raw.header_crc = U32::new(header.crc());
        header
    }
}

impl RawEntry {
    /// `None` if it ends before it begins.
    fn partition(&self, number: u32) -> Option<Partition> {
        let (first, last) = (self.first_lba.get(), self.last_lba.get());
        let sectors = last.checked_sub(first)?.saturating_add(1);
        let name = self.name.iter().map(|unit| unit.get()).take_while(|unit| *unit != 0);
        let name = char::decode_utf16(name).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER));
        Some(Partition {
            number,
            start_bytes: first.saturating_mul(SECTOR_BYTES),
            len_bytes: sectors.saturating_mul(SECTOR_BYTES),
            kind: Kind::Gpt(self.kind.into()),
            name: Some(name.collect::<String>()).filter(|name| !name.is_empty()),
            guid: Some(self.guid.into()),
            attributes: self.attributes.get(),
        })
    }
}

const _: () = assert!(size_of::<RawHeader>() == 92 && size_of::<RawEntry>() == 128);
