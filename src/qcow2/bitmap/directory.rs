//! The directory: the name of each bitmap, what it means, and where its table is.
//!
//! Entry layout: `docs/interop/qcow2`, section "Bitmaps".

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::Result;
use crate::host::storage::{Storage, read_exact_at};
use crate::qcow2::error::{FormatError, Problem};
use crate::qcow2::extension::BitmapDirectory;
use crate::qcow2::feature::Autoclear;
use crate::qcow2::geometry::HostOffset;
use crate::qcow2::header::{Header, TableRef};
use crate::qcow2::lengths::{index, len_of};

/// The most bitmaps that an image has.
pub const MAX_BITMAPS: u32 = 65_535;
/// The longest name, in bytes.
pub const MAX_BITMAP_NAME: usize = 1023;
/// The largest directory that QEMU accepts, in bytes.
pub(in crate::qcow2) const MAX_DIRECTORY: u64 = 1024 * 65_535;
/// The longest table that QEMU accepts, in entries.
pub(in crate::qcow2) const MAX_TABLE_ENTRIES: u32 = 0x800_0000;
/// The most bits that QEMU lets a bitmap have.
const MAX_BITS: u64 = 1 << 32;
/// The directory has the size of its entries, no more and no less.
pub(in crate::qcow2) const BEHIND_THE_LAST: &str = "the directory goes on behind its last entry";
/// The type of every bitmap that is known.
const DIRTY_TRACKING: u8 = 1;
/// Whoever had it in use did not save it.
const IN_USE: u32 = 1;
/// It is kept up to date whenever the image is written.
const AUTO: u32 = 2;
/// One who does not know its extra data may use it all the same. QEMU takes this for a reserved flag.
const EXTRA_DATA_COMPATIBLE: u32 = 4;
/// Flags that the format does not have.
const RESERVED_FLAGS: u32 = !(IN_USE | AUTO | EXTRA_DATA_COMPATIBLE);

/// Bytes of the disk that a bit stands for: a power of two from 512 B to 2 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Granularity(u32);

impl Granularity {
    /// The base-2 logarithm, if it is one that the format allows.
    pub fn new(bits: u32) -> Option<Self> {
        (9..=31).contains(&bits).then_some(Granularity(bits))
    }

    /// From a number of bytes.
    pub fn from_bytes(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() { Self::new(bytes.trailing_zeros()) } else { None }
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        1u64 << self.0
    }

    /// As QEMU chooses it: a cluster, but from 4 KiB to 64 KiB.
    pub(super) fn default_for(cluster_size: u64) -> Self {
        Granularity(cluster_size.clamp(4 << 10, 64 << 10).trailing_zeros())
    }
}

/// How the bits of a bitmap lie in its chunks: clusters of its data, one an entry of its table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Coverage {
    pub(super) virtual_size: u64,
    pub(super) granularity: Granularity,
    cluster_size: u64,
}

impl Coverage {
    pub(super) fn of(header: &Header, granularity: Granularity) -> Coverage {
        let cluster_size = header.geometry.cluster_size();
        Coverage { virtual_size: header.virtual_size, granularity, cluster_size }
    }

    pub(super) fn bits(self) -> u64 {
        self.virtual_size.div_ceil(self.granularity.bytes())
    }

    /// Chunks, and so entries of the table: as QEMU does it, a bit each, in whole words, in whole
    /// clusters.
    pub(super) fn chunks(self) -> u64 {
        self.bits().div_ceil(u64::from(u64::BITS)).saturating_mul(8).div_ceil(self.cluster_size)
    }

    pub(super) const fn bits_per_chunk(self) -> u64 {
        self.cluster_size.saturating_mul(8)
    }

    /// The bits of a chunk that stand for something.
    pub(super) fn bits_in(self, chunk: u64) -> u64 {
        let before = chunk.saturating_mul(self.bits_per_chunk());
        self.bits().saturating_sub(before).min(self.bits_per_chunk())
    }

    /// Whether QEMU would have such a bitmap.
    pub(super) fn is_allowed(self) -> bool {
        self.bits() > 0 && self.bits() <= MAX_BITS && self.chunks() <= MAX_TABLE_ENTRIES.into()
    }
}

/// The fixed part of an entry as stored.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(in crate::qcow2) struct RawEntry {
    /// 0: host offset of the bitmap's table.
    table_offset: U64,
    /// 8: entries of that table.
    table_size: U32,
    /// 12: flags.
    flags: U32,
    /// 16: 1 for a bitmap of what is dirty.
    kind: u8,
    /// 17: logarithm of bytes a bit.
    granularity_bits: u8,
    /// 18: bytes of the name.
    name_size: U16,
    /// 20: bytes of extra data, which come before the name.
    extra_data_size: U32,
}

const RAW_LEN: usize = 24;
const _: () = assert!(size_of::<RawEntry>() == RAW_LEN);

impl RawEntry {
    pub(in crate::qcow2) fn read(storage: &dyn Storage, at: u64) -> Result<RawEntry> {
        let mut bytes = [0; RAW_LEN];
        read_exact_at(storage, at, &mut bytes)?;
        Ok(zerocopy::transmute!(bytes))
    }

    /// Bytes of the whole entry.
    pub(in crate::qcow2) fn len(&self) -> u64 {
        let lens =
            u64::from(self.extra_data_size.get()).saturating_add(self.name_size.get().into());
        lens.saturating_add(24).next_multiple_of(8)
    }

    /// Reads the name of the entry at this offset.
    pub(in crate::qcow2) fn read_name(&self, storage: &dyn Storage, at: u64) -> Result<Vec<u8>> {
        let mut name = vec![0; usize::from(self.name_size.get())];
        let before = u64::from(self.extra_data_size.get()).saturating_add(24);
        read_exact_at(storage, at.saturating_add(before), &mut name)?;
        Ok(name)
    }

    /// The bitmap's table.
    pub(in crate::qcow2) fn table(&self) -> TableRef {
        let offset = HostOffset::new(self.table_offset.get());
        TableRef { offset, count: self.table_size.get() }
    }

    /// Whether it is of a kind that is known, and has flags, a name and a granularity that are allowed.
    fn is_known(&self) -> bool {
        self.kind == DIRTY_TRACKING
            && Granularity::new(self.granularity_bits.into()).is_some()
            && (1..=MAX_BITMAP_NAME).contains(&self.name_size.get().into())
            && self.flags.get() & RESERVED_FLAGS == 0
    }

    /// Whether it is as the format has it. The format defines no extra data, and lets an entry have
    /// some; QEMU opens no image that has any.
    pub(in crate::qcow2) fn makes_sense(&self, header: &Header) -> bool {
        let flags = self.flags.get();
        let is_foreign = self.extra_data_size.get() > 0 && flags & EXTRA_DATA_COMPATIBLE == 0;
        // One that nobody closed is not read, and what extra data makes of another is not known.
        let covers = flags & IN_USE != 0
            || is_foreign
            || Granularity::new(self.granularity_bits.into()).is_some_and(|granularity| {
                u64::from(self.table_size.get()) == Coverage::of(header, granularity).chunks()
            });
        self.is_known() && covers
    }
}

/// One persistent bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    /// Its name. Not trusted to be UTF-8.
    pub name: Vec<u8>,
    /// Bytes of the disk that a bit stands for.
    pub granularity: Granularity,
    pub(super) flags: u32,
    pub(super) table: TableRef,
    pub(super) extra_data: Vec<u8>,
}

impl Bitmap {
    /// One that is new, and has no table yet.
    pub(super) fn new(name: &[u8], granularity: Granularity, enabled: bool) -> Bitmap {
        let table = TableRef { offset: HostOffset::ZERO, count: 0 };
        let bitmap =
            Bitmap { name: name.to_vec(), granularity, flags: 0, table, extra_data: Vec::new() };
        bitmap.with_enabled(enabled)
    }

    /// Whether whoever had it in use did not save it: what it says is worthless, and it can only be
    /// removed. So it is while a machine uses it.
    pub const fn is_in_use(&self) -> bool {
        self.flags & IN_USE != 0
    }

    /// Whether it has extra data that changes what it means, which nobody here knows: it is neither
    /// read nor changed, and stays as it is until it is removed.
    pub const fn is_foreign(&self) -> bool {
        !self.extra_data.is_empty() && !self.is_extra_data_compatible()
    }

    /// Whether it is kept up to date whenever a program that knows bitmaps writes to the image.
    pub const fn is_enabled(&self) -> bool {
        self.flags & AUTO != 0
    }

    /// Bytes of its entry in a directory, but for extra data.
    pub(in crate::qcow2) fn bare_len(&self) -> u64 {
        len_of(&self.name).saturating_add(24).next_multiple_of(8)
    }

    /// Bytes of extra data, which no program is known to write.
    pub fn extra_data_bytes(&self) -> u64 {
        len_of(&self.extra_data)
    }

    /// Whether one who does not know the extra data may use the bitmap all the same.
    pub const fn is_extra_data_compatible(&self) -> bool {
        self.flags & EXTRA_DATA_COMPATIBLE != 0
    }

    /// The same, enabled or not.
    #[must_use]
    pub(super) fn with_enabled(mut self, enabled: bool) -> Bitmap {
        self.flags = if enabled { self.flags | AUTO } else { self.flags & !AUTO };
        self
    }

    fn of(raw: &RawEntry, extra_data: Vec<u8>, name: Vec<u8>) -> Option<Bitmap> {
        let granularity = Granularity::new(raw.granularity_bits.into())?;
        let flags = raw.flags.get();
        (raw.is_known() && is_plausible(&name)).then(|| Bitmap {
            name,
            granularity,
            flags,
            table: raw.table(),
            extra_data,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let raw = RawEntry {
            table_offset: U64::new(self.table.offset.get()),
            table_size: U32::new(self.table.count),
            flags: U32::new(self.flags),
            kind: DIRTY_TRACKING,
            // OK to default: a granularity has at most 31 bits.
            granularity_bits: u8::try_from(self.granularity.0).unwrap_or_default(),
            name_size: U16::new(u16::try_from(self.name.len()).unwrap_or(u16::MAX)),
            extra_data_size: U32::new(u32::try_from(self.extra_data.len()).unwrap_or(u32::MAX)),
        };
        out.extend(raw.as_bytes());
        out.extend(&self.extra_data);
        out.extend(&self.name);
        out.resize(out.len().next_multiple_of(8), 0);
    }
}

/// Whether it can be a name. One that has a 0 lies elsewhere: lengths were damaged.
pub(in crate::qcow2) fn is_plausible(name: &[u8]) -> bool {
    !name.contains(&0)
}

/// The directory of these bitmaps, as stored.
pub(super) fn encode_directory(bitmaps: &[Bitmap]) -> Vec<u8> {
    let mut out = Vec::new();
    bitmaps.iter().for_each(|bitmap| bitmap.encode(&mut out));
    out
}

impl Header {
    /// Where the bitmaps are that the image vouches for. Where it does not, a program that does not
    /// keep them has written to it since: they are not true any more, and their clusters may be in
    /// use for something else.
    pub(in crate::qcow2) fn vouched_bitmaps(&self) -> Option<BitmapDirectory> {
        self.bitmaps().filter(|_| self.autoclear.contains(Autoclear::BITMAPS))
    }

    /// How many bitmaps the image had that it does not vouch for any more.
    pub fn lost_bitmaps(&self) -> u64 {
        let lost = self.bitmaps().filter(|_| self.vouched_bitmaps().is_none());
        lost.map_or(0, |directory| directory.count.into())
    }
}

/// The table of each bitmap that the image vouches for, with the place of the word that leads to it:
/// the first of the entry.
///
/// # Errors
/// As [`read_bitmaps`].
pub(in crate::qcow2) fn table_places(
    storage: &dyn Storage,
    header: &Header,
) -> Result<Vec<(HostOffset, TableRef)>> {
    let Some(directory) = header.vouched_bitmaps() else { return Ok(Vec::new()) };
    let mut at = HostOffset::new(directory.offset);
    let bitmaps = read_bitmaps(storage, header)?.into_iter();
    let places = bitmaps.map(|bitmap| {
        let place = at;
        let len = len_of(&bitmap.name).saturating_add(bitmap.extra_data_bytes());
        at = at.plus_bytes(len.saturating_add(24).next_multiple_of(8));
        (place, bitmap.table)
    });
    Ok(places.collect())
}

/// Reads the bitmaps that the image vouches for, entry by entry: no claim beyond what the file holds
/// decides how much is allocated.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) for a directory that is not as the format has it.
pub fn read_bitmaps(storage: &dyn Storage, header: &Header) -> Result<Vec<Bitmap>> {
    let Some(directory) = header.vouched_bitmaps() else { return Ok(Vec::new()) };
    let malformed = |why| Err(Problem::Bitmaps(why).into_error().at_offset(directory.offset));
    let fits = (1..=MAX_BITMAPS).contains(&directory.count)
        && (1..=MAX_DIRECTORY).contains(&directory.size_bytes)
        && header.geometry.is_aligned(HostOffset::new(directory.offset));
    if !fits {
        return malformed("directory beyond the format's limits");
    }
    if directory.offset.saturating_add(directory.size_bytes) > storage.len()? {
        return malformed("directory beyond the file");
    }
    let (mut at, mut left) = (directory.offset, directory.size_bytes);
    let mut bitmaps = Vec::new();
    for _ in 0..directory.count {
        let raw = RawEntry::read(storage, at)?;
        let Some(rest) = left.checked_sub(raw.len()) else {
            return malformed("entry beyond the directory's end");
        };
        let mut extra_data = vec![0; index(raw.extra_data_size.get())];
        read_exact_at(storage, at.saturating_add(24), &mut extra_data)?;
        let bitmap = Bitmap::of(&raw, extra_data, raw.read_name(storage, at)?);
        let bitmap = bitmap.ok_or(Problem::Bitmaps("an entry of the directory makes no sense"));
        bitmaps.push(bitmap.map_err(|problem| FormatError::from(problem).into_error())?);
        (at, left) = (at.saturating_add(raw.len()), rest);
    }
    match left {
        0 => Ok(bitmaps),
        _ => malformed(BEHIND_THE_LAST),
    }
}
