//! References that are wrong: what they say is put right where that can be told, else they are
//! dropped and what was behind them is lost; two owners of one cluster get one each.

use std::collections::BTreeSet;
use std::ops::Range;

use super::draft::Draft;
use super::owners::Owners;
use super::plan::{Lost, Source, Transfer};
use super::remedy::Remedy;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Storage, read_padded_at};
use crate::qcow2::check::{Finding, Reference, Structure};
use crate::qcow2::compress::Codec;
use crate::qcow2::entry::{ClusterRef, L1Entry, L2Entry, Mapping, RefcountTableEntry};
use crate::qcow2::feature::Autoclear;
use crate::qcow2::geometry::{
    ClusterCount, ENTRY_SIZE, Geometry, GuestOffset, HostCluster, HostOffset,
};
use crate::qcow2::growth::require_room;
use crate::qcow2::header::{Header, TableRef};
use crate::qcow2::table::{L2Table, encode_words, read_refcount_table};
use crate::task::Task;

/// Mends references in a draft.
pub(super) struct Mender<'a> {
    draft: &'a Draft<'a>,
    /// The header as it is to be.
    pub(super) header: Header,
    /// The length of the file as it was found: what lies behind it was never written.
    file_len: u64,
    /// Where new clusters go, and where the first of them went.
    room: Range<HostCluster>,
    new_from: HostCluster,
    pub(super) transfers: Vec<Transfer>,
    /// L2 tables that were copied.
    pub(super) copied_tables: Vec<HostOffset>,
    pub(super) lost: Vec<Lost>,
    /// What a round of moving tables writes at its end, and the L1 entries that are among it.
    moves: Vec<(HostOffset, Vec<u8>)>,
    moved: BTreeSet<HostOffset>,
}

impl<'a> Mender<'a> {
    /// For the image below `draft`; what is new goes to `room`.
    pub(super) fn new(
        draft: &'a Draft<'a>,
        header: &Header,
        room: Range<HostCluster>,
    ) -> Result<Self> {
        let (file_len, header) = (draft.len()?, header.clone());
        Ok(Mender {
            draft,
            header,
            file_len,
            new_from: room.start,
            room,
            transfers: Vec::new(),
            copied_tables: Vec::new(),
            lost: Vec::new(),
            moves: Vec::new(),
            moved: BTreeSet::new(),
        })
    }

    /// Mends what one scan has found.
    pub(super) fn mend_all(&mut self, findings: &[Finding], task: Task<'_>) -> Result<()> {
        let owners = Owners::find(self.draft, &self.header, findings)?;
        for finding in findings {
            task.check()?;
            self.mend(finding, &owners)?;
        }
        // A table that moves may lie where another one's entry is: all are copied as they were found.
        self.moved.clear();
        let moves = std::mem::take(&mut self.moves);
        moves.into_iter().try_for_each(|(at, bytes)| self.draft.write_at(at.get(), &bytes))
    }

    /// Mends what a finding says, unless it was mended with another.
    fn mend(&mut self, finding: &Finding, owners: &Owners) -> Result<()> {
        let Some(to) = finding.reference() else { return Ok(()) };
        match (Remedy::of(finding), to.what, to.entry) {
            (Some(Remedy::Entry), Structure::L2Table, _) => owners
                .of(to)
                .into_iter()
                .try_for_each(|(at, guest)| self.mend_table_entry(at, guest)),
            (Some(Remedy::Entry), _, Some(at)) => self.mend_table(at, to.guest),
            (Some(Remedy::Complete), ..) => self.complete(to),
            (Some(Remedy::Block), _, Some(at)) => {
                self.put_word(at, RefcountTableEntry::EMPTY.word())
            }
            (Some(Remedy::Bitmaps), ..) => {
                self.header.autoclear = self.header.autoclear.without(Autoclear::BITMAPS);
                Ok(())
            }
            (Some(Remedy::OwnCluster), Structure::L2Table, _) => self.own_table(to, owners.of(to)),
            (Some(Remedy::OwnCluster), _, Some(at)) => {
                let with_metadata = matches!(finding, Finding::Overlap { .. });
                self.own_cluster(at, to, with_metadata)
            }
            (Some(Remedy::MoveTable), ..) => self.move_refcount_table(),
            _ => Ok(()),
        }
    }

    fn geometry(&self) -> Geometry {
        self.header.geometry
    }

    /// An L1 entry: reserved bits are cleared; what still leads nowhere leads to no table.
    fn mend_table_entry(&mut self, at: HostOffset, guest: Option<GuestOffset>) -> Result<()> {
        let entry = L1Entry::from_word(self.word(at)?);
        let bare = entry.without_reserved();
        let table = bare.decode(self.geometry()).ok().flatten();
        let cluster_size = self.geometry().cluster_size();
        if table.is_some_and(|table| self.is_inside(table.offset, cluster_size)) {
            return self.put_word(at, bare.word());
        }
        if entry != L1Entry::EMPTY {
            self.put_word(at, L1Entry::EMPTY.word())?;
        }
        // Flags alone never led anywhere.
        if !matches!(entry.decode(self.geometry()), Ok(None)) {
            let bytes = self.geometry().l2_entries().saturating_mul(cluster_size);
            self.lose(guest, at, bytes, false);
        }
        Ok(())
    }

    /// Every entry of the L2 table that has one at `at`, for this guest cluster: in a file that was
    /// cut, most are as wrong as the first.
    fn mend_table(&mut self, at: HostOffset, guest: Option<GuestOffset>) -> Result<()> {
        let geometry = self.geometry();
        let table = geometry.host_offset(geometry.host_cluster(at));
        let before = at.get().saturating_sub(table.get()).checked_div(geometry.l2_entry_size());
        let before = geometry.bytes_of(ClusterCount::new(before.unwrap_or_default()));
        let first = guest.map(|guest| GuestOffset::new(guest.get().saturating_sub(before)));
        let entries = L2Table::read_padded(self.draft, table, geometry)?;
        for (index, entry) in (0u64..).zip(entries.entries()).filter(|(_, e)| !e.is_empty()) {
            let at = table.plus_bytes(index.saturating_mul(geometry.l2_entry_size()));
            let bytes = geometry.bytes_of(ClusterCount::new(index));
            self.mend_entry(at, entry, first.map(|first| first.plus_bytes(bytes)))?;
        }
        Ok(())
    }

    /// An L2 table that the file ends in.
    fn complete(&mut self, to: Reference) -> Result<()> {
        let geometry = self.geometry();
        let end = to.host.plus_bytes(geometry.cluster_size());
        let there = self.draft.len()?.saturating_sub(to.host.get());
        let whole = there.checked_div(geometry.l2_entry_size()).unwrap_or_default();
        let missing = geometry.l2_entries().saturating_sub(whole);
        self.draft.set_len(end.get().max(self.draft.len()?))?;
        let at = to.host.plus_bytes(whole.saturating_mul(geometry.l2_entry_size()));
        // An entry that was cut through means nothing.
        self.put_entry(at, L2Entry { word: 0, bitmap: 0 })?;
        let guest =
            to.guest.map(|first| first.plus_bytes(geometry.bytes_of(ClusterCount::new(whole))));
        self.lose(guest, at, geometry.bytes_of(ClusterCount::new(missing)), false);
        Ok(())
    }

    /// An L2 entry: reserved bits are cleared; what still leads nowhere reads as zeros.
    fn mend_entry(
        &mut self,
        at: HostOffset,
        entry: L2Entry,
        guest: Option<GuestOffset>,
    ) -> Result<()> {
        let geometry = self.geometry();
        let bare = entry.without_reserved(self.header.version, geometry);
        let sound = match self.header.mapping(bare) {
            Ok(Mapping::Compressed(range)) => {
                !self.header.has_external_data() && self.is_inside(range.offset, range.len)
            }
            Ok(mapping) => mapping.host_cluster().is_none_or(|host| {
                self.header.has_external_data()
                    || self.is_inside(host.offset, geometry.cluster_size())
            }),
            Err(_) => false,
        };
        if !sound {
            return self.drop_entry(at, guest);
        }
        if bare == entry {
            return Ok(());
        }
        self.put_entry(at, bare)?;
        if entry.loses_subclusters_in(bare) {
            let bytes = geometry.cluster_size();
            self.lose(guest, at, bytes, false);
        }
        Ok(())
    }

    /// The guest cluster reads as zeros from now on; where version 2 cannot say so, as what is
    /// below.
    fn drop_entry(&mut self, at: HostOffset, guest: Option<GuestOffset>) -> Result<()> {
        let geometry = self.geometry();
        self.put_entry(at, L2Entry::lost(self.header.version, geometry))?;
        self.lose(guest, at, geometry.cluster_size(), false);
        Ok(())
    }

    /// A guest cluster gets a host cluster of its own, with what it reads now; where metadata lies
    /// in that place too, it is doubtful whose that is.
    fn own_cluster(&mut self, at: HostOffset, to: Reference, with_metadata: bool) -> Result<()> {
        let (geometry, entry) = (self.geometry(), self.entry(at)?);
        let from = match self.header.mapping(entry) {
            Ok(Mapping::Compressed(range)) if range.offset == to.host => {
                if !self.unpacks(range.offset, range.len)? {
                    return self.drop_entry(at, to.guest);
                }
                Source::Compressed { offset: range.offset, len: range.len }
            }
            Ok(mapping) => match mapping.host_cluster() {
                Some(host) if host.offset == to.host => Source::Cluster(host.offset),
                _ => return Ok(()),
            },
            Err(_) => return Ok(()),
        };
        let new = ClusterRef::sole(self.new_cluster()?);
        let own = match from {
            Source::Compressed { .. } => L2Entry::data(new, geometry),
            Source::Cluster(_) => entry.moved_to(new),
        };
        self.put_entry(at, own)?;
        if with_metadata {
            self.lose(to.guest, at, geometry.cluster_size(), true);
        }
        self.transfers.push(Transfer { from, to: new.offset });
        Ok(())
    }

    /// What was behind an entry is lost, as far as the disk reaches.
    fn lose(&mut self, guest: Option<GuestOffset>, entry: HostOffset, bytes: u64, kept: bool) {
        if self.header.has_external_data() && !kept {
            // The data file alone reads otherwise than the disk.
            self.header.autoclear = self.header.autoclear.without(Autoclear::RAW_EXTERNAL_DATA);
        }
        let left = guest.map_or(u64::MAX, |at| self.header.virtual_size.saturating_sub(at.get()));
        if left > 0 {
            Lost { guest, entry, bytes: bytes.min(left), kept }.add_to(&mut self.lost);
        }
    }

    /// Whether a packed cluster can be moved: as it is in the file, from where it will be copied.
    fn unpacks(&self, offset: HostOffset, len: u64) -> Result<bool> {
        let codec = Codec::new(self.header.compression, self.geometry().cluster_len());
        let mut unpacker = codec.unpacker();
        unpacker.packed = vec![0; usize::try_from(len).unwrap_or_default()];
        read_padded_at(self.draft.below(), offset.get(), &mut unpacker.packed)?;
        Ok(unpacker.unpack(&mut vec![0; self.geometry().cluster_len()]).is_ok())
    }

    /// An L2 table gets a cluster of its own, for these L1 entries.
    fn own_table(
        &mut self,
        to: Reference,
        mut entries: Vec<(HostOffset, Option<GuestOffset>)>,
    ) -> Result<()> {
        entries.retain(|(at, _)| self.moved.insert(*at));
        if entries.is_empty() {
            return Ok(());
        }
        let mut table = vec![0; self.geometry().cluster_len()];
        read_padded_at(self.draft, to.host.get(), &mut table)?;
        self.copied_tables.push(to.host);
        let new = self.new_cluster()?;
        self.moves.push((new, table));
        let entry = L1Entry::encode(ClusterRef::sole(new)).word().to_be_bytes();
        self.moves.extend(entries.into_iter().map(|(at, _)| (at, entry.to_vec())));
        Ok(())
    }

    /// The refcount table goes where nothing else is, without entries that make no sense.
    fn move_refcount_table(&mut self) -> Result<()> {
        let geometry = self.geometry();
        let table = read_refcount_table(self.draft, &self.header)?;
        let words = table.into_iter().map(|entry| match entry.decode(geometry) {
            Ok(_) => entry.word(),
            Err(_) => RefcountTableEntry::EMPTY.word(),
        });
        let words = encode_words(words);
        let count = self.header.refcount_table.count;
        let offset = self.new_cluster()?;
        for _ in 1..count {
            self.new_cluster()?;
        }
        self.draft.write_at(offset.get(), &words)?;
        self.header.refcount_table = TableRef { offset, count };
        Ok(())
    }

    /// A cluster at the end of the file, where nothing was.
    fn new_cluster(&mut self) -> Result<HostOffset> {
        if self.room.is_empty() {
            let message = "so many clusters have two owners that the file would be twice as long";
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let offset = self.geometry().host_offset(self.room.start);
        self.room.start = self.room.start + ClusterCount::new(1);
        require_room(self.draft, self.geometry(), self.room.start)?;
        let end = self.geometry().host_offset(self.room.start).get();
        self.draft.set_len(end.max(self.draft.len()?))?;
        Ok(offset)
    }

    /// Whether a range lies inside the file as it was found, the last cluster of which may be cut
    /// short, or in what is new.
    fn is_inside(&self, offset: HostOffset, len: u64) -> bool {
        let (geometry, end) = (self.geometry(), offset.plus_bytes(len));
        let new = offset >= geometry.host_offset(self.new_from)
            && end <= geometry.host_offset(self.room.start);
        new || end.get().saturating_sub(self.file_len) < geometry.cluster_size()
    }

    fn word(&self, at: HostOffset) -> Result<u64> {
        let mut word = [0; 8];
        read_padded_at(self.draft, at.get(), &mut word)?;
        Ok(u64::from_be_bytes(word))
    }

    fn put_word(&self, at: HostOffset, word: u64) -> Result<()> {
        self.draft.write_at(at.get(), &word.to_be_bytes())
    }

    fn entry(&self, at: HostOffset) -> Result<L2Entry> {
        let bitmap =
            if self.geometry().extended_l2() { self.word(at.plus_bytes(ENTRY_SIZE))? } else { 0 };
        Ok(L2Entry { word: self.word(at)?, bitmap })
    }

    fn put_entry(&self, at: HostOffset, entry: L2Entry) -> Result<()> {
        self.put_word(at, entry.word)?;
        match self.geometry().extended_l2() {
            true => self.put_word(at.plus_bytes(ENTRY_SIZE), entry.bitmap),
            false => Ok(()),
        }
    }
}
