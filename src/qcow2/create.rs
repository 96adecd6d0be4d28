//! Creating an image. The file is not published yet, so nothing needs an order: the whole layout
//! is computed first, then written in large sequential writes.

use std::ops::Range;

use super::entry::{ClusterRef, L1Entry, L2Entry, RefcountTableEntry, Subclusters};
use super::extension::Extension;
use super::feature::{Autoclear, Compatible, Incompatible, name_table};
use super::geometry::{ClusterCount, Geometry, HostCluster};
use super::header::{CompressionType, Encryption, Header, TableRef, Version};
use super::layout::Layout;
use super::options::{CreateOptions, HeaderForm, Preallocation};
use super::raw_header::{V2_HEADER_LEN, V3_HEADER_LEN, V3_MIN_HEADER_LEN};
use super::refblock::RefcountBlock;
use super::stream::{EntryRun, StreamWriter};
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Allocation, Storage, write_zeros};
use crate::task::Task;
use crate::units::exactly;

/// Writes a new image into an empty `storage`, with `initial` at guest offset 0; the cluster that
/// `initial` ends in reads as zeros behind it, also above a backing file. Does not sync. Memory:
/// the header's cluster and a few MiB, whatever the size.
///
/// # Errors
/// [`IncompatibleOptions`](ErrorKind::IncompatibleOptions) for what the format does not allow
/// together, [`BadSize`](ErrorKind::BadSize) for what it cannot map,
/// [`BadRequest`](ErrorKind::BadRequest) for a backing file name that does not fit; then nothing
/// was written. [`Cancelled`](ErrorKind::Cancelled), and what the storage says.
pub fn create(
    storage: &dyn Storage,
    options: &CreateOptions,
    initial: &[u8],
    task: Task<'_>,
) -> Result<()> {
    options.validate()?;
    let initial_len = u64::try_from(initial.len()).unwrap_or(u64::MAX);
    if initial_len > options.virtual_size.bytes() {
        let size = options.virtual_size;
        let initial = exactly(initial_len);
        let message = format!("size {size} is smaller than what the disk begins with: {initial}");
        return Err(Error::new(ErrorKind::BadSize, message));
    }
    let initial_clusters = options.geometry.clusters_for(initial_len);
    let layout = Layout::plan(options, initial_clusters)?;
    let header = header(options, &Tables::of(&layout))?;
    let first_cluster = header.encode().ok_or_else(|| options.header_too_long())?;

    storage.set_len(layout.file_len())?;
    let data_start = layout.geometry.host_offset(layout.data.start).get();
    let data_len = layout.file_len().saturating_sub(data_start);
    match options.preallocation {
        Preallocation::Falloc => storage.allocate(data_start, data_len, Allocation::Reserve)?,
        Preallocation::Full => write_zeros(storage, data_start, data_len, task)?,
        Preallocation::Off | Preallocation::Tables | Preallocation::Metadata => {}
    }
    write_metadata(storage, &layout, initial_clusters, &first_cluster, task)?;
    if !initial.is_empty() {
        storage.write_at(data_start, initial)?;
    }
    Ok(())
}

/// Where the tables of a new image are that its header names.
pub(super) struct Tables {
    pub(super) l1: HostCluster,
    pub(super) l1_entries: u64,
    pub(super) refcount_table: Range<HostCluster>,
}

impl Tables {
    fn of(layout: &Layout) -> Tables {
        let (l1, l1_entries) = (layout.l1.start, layout.l1_entries);
        Tables { l1, l1_entries, refcount_table: layout.refcount_table.clone() }
    }
}

/// The header of a new image.
///
/// # Errors
/// [`BadSize`](ErrorKind::BadSize) for tables that it cannot name.
pub(super) fn header(options: &CreateOptions, tables: &Tables) -> Result<Header> {
    let geometry = options.geometry;
    let v3 = options.version == Version::V3;
    let mut extensions = Vec::new();
    if let Some(format) = options.backing.as_ref().and_then(|backing| backing.format.clone()) {
        extensions.push(Extension::BackingFormat(format));
    }
    // As QEMU does: no name table where it would take much of a small first cluster.
    if v3 && options.header_form == HeaderForm::Qemu && geometry.cluster_size() > 4096 {
        extensions.push(Extension::FeatureNames(name_table()));
    }
    let zstd = options.compression == CompressionType::Zstd;
    let table = |start: HostCluster, count: u64| {
        let too_large = || Error::new(ErrorKind::BadSize, "a table has more than 2^32 entries");
        let count = u32::try_from(count).map_err(|_| too_large())?;
        Ok(TableRef { offset: geometry.host_offset(start), count })
    };
    let refcount_table = &tables.refcount_table;
    Ok(Header {
        version: options.version,
        geometry,
        virtual_size: options.virtual_size.bytes(),
        backing: options.backing.clone(),
        encryption: Encryption::None,
        l1: table(tables.l1, tables.l1_entries)?,
        refcount_table: table(
            refcount_table.start,
            (refcount_table.end - refcount_table.start).get(),
        )?,
        snapshots: table(HostCluster::ZERO, 0)?,
        incompatible: Incompatible::default()
            .with_if(options.dirty, Incompatible::DIRTY)
            .with_if(zstd, Incompatible::COMPRESSION)
            .with_if(geometry.extended_l2(), Incompatible::EXTENDED_L2),
        compatible: Compatible::default()
            .with_if(options.lazy_refcounts, Compatible::LAZY_REFCOUNTS),
        autoclear: Autoclear::default(),
        compression: options.compression,
        header_length: match (options.version, options.header_form) {
            (Version::V2, _) => V2_HEADER_LEN,
            (Version::V3, HeaderForm::Short) => V3_MIN_HEADER_LEN,
            (Version::V3, HeaderForm::Qemu) => V3_HEADER_LEN,
        },
        unknown_tail: Vec::new(),
        extensions,
    })
}

fn write_metadata(
    storage: &dyn Storage,
    layout: &Layout,
    initial: ClusterCount,
    first_cluster: &[u8],
    task: Task<'_>,
) -> Result<()> {
    let geometry = layout.geometry;
    let at = |cluster| geometry.host_offset(cluster).get();
    let mut out = StreamWriter::new(storage, 0);
    out.put(first_cluster)?;
    out.seek(at(layout.refcount_table.start))?;
    for block in 0..(layout.refcount_blocks.end - layout.refcount_blocks.start).get() {
        let block = layout.refcount_blocks.start + ClusterCount::new(block);
        let entry = RefcountTableEntry::encode(geometry.host_offset(block));
        out.put(&entry.word().to_be_bytes())?;
    }
    out.seek(at(layout.refcount_blocks.start))?;
    write_refcount_blocks(&mut out, geometry, layout.used())?;
    out.seek(at(layout.l1.start))?;
    for table in 0..(layout.l2.end - layout.l2.start).get() {
        let table = geometry.host_offset(layout.l2.start + ClusterCount::new(table));
        out.put(&L1Entry::encode(ClusterRef::sole(table)).word().to_be_bytes())?;
    }
    out.seek(at(layout.l2.start))?;
    write_l2_entries(&mut out, layout, initial, task)?;
    out.finish()
}

/// Blocks that count every cluster before `used` once.
fn write_refcount_blocks(
    out: &mut StreamWriter<'_>,
    geometry: Geometry,
    used: HostCluster,
) -> Result<()> {
    let entries = geometry.refblock_entries();
    let mut full = RefcountBlock::zeroed(geometry);
    full.fill_ones(0, entries);
    let mut left = used.get();
    while left >= entries {
        out.put(full.bytes())?;
        left = left.saturating_sub(entries);
    }
    let mut last = RefcountBlock::zeroed(geometry);
    last.fill_ones(0, left);
    if left > 0 { out.put(last.bytes()) } else { Ok(()) }
}

/// Entries for the guest clusters that have a host cluster, in order; the rest of the tables is
/// left a hole.
fn write_l2_entries(
    out: &mut StreamWriter<'_>,
    layout: &Layout,
    initial: ClusterCount,
    task: Task<'_>,
) -> Result<()> {
    let geometry = layout.geometry;
    let count = layout.data.end - layout.data.start;
    let total = geometry.bytes_of(count);
    let mut done = ClusterCount::ZERO;
    while done < count {
        task.step("metadata", geometry.bytes_of(done), total)?;
        // With subclusters, what is below shows through until the guest writes.
        let (subclusters, end) = match done < initial {
            true => (Subclusters::ALLOCATED, initial),
            false => (Subclusters::UNALLOCATED, count),
        };
        let host = ClusterRef::sole(geometry.host_offset(layout.data.start + done));
        let run = EntryRun {
            first: L2Entry::reserved(host, subclusters, geometry),
            step: geometry.cluster_size(),
            count: (end - done).min(EntryRun::MAX),
        };
        out.put_entries(run, geometry)?;
        done = done + run.count;
    }
    task.step("metadata", total, total)
}
