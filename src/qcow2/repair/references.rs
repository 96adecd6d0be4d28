//! References that are wrong: what they say is put right where that can be told, else they are
//! dropped and what was behind them is lost; two owners of one cluster get one each.

use std::collections::BTreeSet;
use std::ops::Range;

use super::draft::Draft;
use super::plan::{Lost, Source, Transfer};
use super::remedy::Remedy;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Storage, read_padded_at};
use crate::qcow2::check::{Finding, Reference, Structure};
use crate::qcow2::compress::Codec;
use crate::qcow2::entry::{ClusterRef, L1Entry, L2Entry, Mapping, RefcountTableEntry};
use crate::qcow2::feature::Autoclear;
use crate::qcow2::geometry::{
    ClusterCount, ENTRY_SIZE, Geometry, GuestOffset, HostCluster, HostOffset, MAX_L1_BYTES,
};
use crate::qcow2::growth::require_room;
use crate::qcow2::header::{Header, TableRef};
use crate::qcow2::snapshot::read_snapshots;
use crate::qcow2::table::{encode_words, read_refcount_table, read_words};

/// Mends references in a draft.
pub(super) struct Mender<'a> {
    draft: &'a Draft<'a>,
    /// The header as it is to be.
    pub(super) header: Header,
    /// The length of the file as it was found: what lies behind it was never written.
    file_len: u64,
    /// Where new clusters go.
    room: Range<HostCluster>,
    pub(super) transfers: Vec<Transfer>,
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
        let (transfers, lost, moves) = (Vec::new(), Vec::new(), Vec::new());
        let moved = BTreeSet::new();
        Ok(Mender { draft, header, file_len, room, transfers, lost, moves, moved })
    }

    /// Mends what one scan has found.
    pub(super) fn mend_all(&mut self, findings: &[Finding]) -> Result<()> {
        findings.iter().try_for_each(|finding| self.mend(finding))?;
        // A table that moves may lie where another one's entry is: all are copied as they were found.
        self.moved.clear();
        let moves = std::mem::take(&mut self.moves);
        moves.into_iter().try_for_each(|(at, bytes)| self.draft.write_at(at.get(), &bytes))
    }

    /// Mends what a finding says, unless it was mended with another.
    fn mend(&mut self, finding: &Finding) -> Result<()> {
        let Some(to) = finding.reference() else { return Ok(()) };
        match (Remedy::of(finding), to.what, to.entry) {
            (Some(Remedy::Entry), Structure::L2Table, _) => {
                let entries = self.entries_of_table(to)?;
                entries.into_iter().try_for_each(|(at, guest)| self.mend_table_entry(at, guest))
            }
            (Some(Remedy::Entry), _, Some(at)) => self.mend_entry(at, to),
            (Some(Remedy::Block), _, Some(at)) => {
                self.put_word(at, RefcountTableEntry::EMPTY.word())
            }
            (Some(Remedy::Bitmaps), ..) => {
                self.header.autoclear = self.header.autoclear.without(Autoclear::BITMAPS);
                Ok(())
            }
            (Some(Remedy::OwnCluster), Structure::L2Table, _) => self.own_table(to),
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

    /// An L2 entry: reserved bits are cleared; what still leads nowhere reads as zeros.
    fn mend_entry(&mut self, at: HostOffset, to: Reference) -> Result<()> {
        let (geometry, entry) = (self.geometry(), self.entry(at)?);
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
            return self.drop_entry(at, to);
        }
        if bare == entry {
            return Ok(());
        }
        self.put_entry(at, bare)?;
        if entry.loses_subclusters_in(bare) {
            let bytes = geometry.cluster_size();
            self.lose(to.guest, at, bytes, false);
        }
        Ok(())
    }

    /// The guest cluster reads as zeros from now on; where version 2 cannot say so, as what is
    /// below.
    fn drop_entry(&mut self, at: HostOffset, to: Reference) -> Result<()> {
        let geometry = self.geometry();
        self.put_entry(at, L2Entry::lost(self.header.version, geometry))?;
        self.lose(to.guest, at, geometry.cluster_size(), false);
        Ok(())
    }

    /// A guest cluster gets a host cluster of its own, with what it reads now; where metadata lies
    /// in that place too, it is doubtful whose that is.
    fn own_cluster(&mut self, at: HostOffset, to: Reference, with_metadata: bool) -> Result<()> {
        let (geometry, entry) = (self.geometry(), self.entry(at)?);
        let from = match self.header.mapping(entry) {
            Ok(Mapping::Compressed(range)) if range.offset == to.host => {
                if !self.unpacks(range.offset, range.len)? {
                    return self.drop_entry(at, to);
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
        let left = guest.map_or(u64::MAX, |at| self.header.virtual_size.saturating_sub(at.get()));
        if left > 0 {
            self.lost.push(Lost { guest, entry, bytes: bytes.min(left), kept });
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

    /// An L2 table gets a cluster of its own: for one L1 entry, or for all that refer to it.
    fn own_table(&mut self, to: Reference) -> Result<()> {
        let mut entries = self.entries_of_table(to)?;
        entries.retain(|(at, _)| self.moved.insert(*at));
        if entries.is_empty() {
            return Ok(());
        }
        let mut table = vec![0; self.geometry().cluster_len()];
        read_padded_at(self.draft, to.host.get(), &mut table)?;
        let new = self.new_cluster()?;
        self.moves.push((new, table));
        let entry = L1Entry::encode(ClusterRef::sole(new)).word().to_be_bytes();
        self.moves.extend(entries.into_iter().map(|(at, _)| (at, entry.to_vec())));
        Ok(())
    }

    /// The L1 entry that refers to this table, or all of them, snapshots' included; and the guest
    /// byte that each leads to.
    fn entries_of_table(&self, to: Reference) -> Result<Vec<(HostOffset, Option<GuestOffset>)>> {
        if let Some(at) = to.entry {
            return Ok(vec![(at, to.guest)]);
        }
        let snapshots = read_snapshots(self.draft, &self.header)?;
        let snapshots = snapshots.into_iter().map(|snapshot| (snapshot.l1, false));
        let mut found = Vec::new();
        // A table that no scan walks is not believed here either.
        let bounded = |l1: &TableRef| u64::from(l1.count) <= MAX_L1_BYTES / ENTRY_SIZE;
        let tables = snapshots.chain([(self.header.l1, true)]).filter(|(l1, _)| bounded(l1));
        for (l1, is_active) in tables {
            let words = read_words(self.draft, l1.offset, u64::from(l1.count))?;
            for (index, word) in (0u64..).zip(words) {
                if L1Entry::from_word(word).offset_bits() == to.host {
                    let at = l1.offset.plus_bytes(index.saturating_mul(ENTRY_SIZE));
                    let first = self.geometry().first_cluster_of_table(index);
                    let guest = is_active.then(|| self.geometry().guest_offset(first));
                    found.push((at, guest));
                }
            }
        }
        Ok(found)
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

    /// Whether a range lies inside the file as it was found; its last cluster may be cut short.
    fn is_inside(&self, offset: HostOffset, len: u64) -> bool {
        let missing = offset.plus_bytes(len).get().saturating_sub(self.file_len);
        missing < self.geometry().cluster_size()
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
