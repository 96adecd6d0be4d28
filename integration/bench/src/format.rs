//! What of a qcow2 image must be written, computed from the format alone: version 3, 16-bit
//! reference counts, plain L2 entries, clusters of 64 KiB.

/// Bytes a cluster.
const CLUSTER: u64 = 64 << 10;
/// Bytes of an entry of the L1, L2 and refcount tables.
const ENTRY: u64 = 8;
/// Entries of an L2 table.
const L2_ENTRIES: u64 = CLUSTER / ENTRY;
/// Counts of a refcount block.
const COUNTS: u64 = CLUSTER / 2;
/// Bytes of the header with its extensions.
const HEADER: u64 = 512;
/// Bytes of the header that a resize changes.
const SWITCH: u64 = 80;
/// Bytes of the payload that asks boot2docker to format the disk.
const PAYLOAD: u64 = 29;

/// Bytes to be written to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Writes {
    /// The file's length.
    pub(crate) file_len: u64,
    /// Where bytes go, and how many.
    pub(crate) ranges: Vec<(u64, u64)>,
}

/// An image with all metadata laid out, its parts in clusters and in the order in which they lie
/// behind the header.
struct Layout {
    table: u64,
    blocks: u64,
    l1: u64,
    l2: u64,
    data: u64,
}

impl Layout {
    fn of(disk: u64) -> Layout {
        let data = disk.div_ceil(CLUSTER);
        let l2 = data.div_ceil(L2_ENTRIES);
        let l1 = (l2 * ENTRY).div_ceil(CLUSTER);
        let (table, blocks) = counted(1 + l1 + l2 + data);
        Layout { table, blocks, l1, l2, data }
    }

    fn clusters(&self) -> u64 {
        1 + self.table + self.blocks + self.l1 + self.l2 + self.data
    }
}

/// Clusters of refcount table and blocks that count `others` and themselves.
fn counted(others: u64) -> (u64, u64) {
    let (mut table, mut blocks) = (1, 1);
    loop {
        let needed = (others + table + blocks).div_ceil(COUNTS);
        if needed == blocks {
            return (table, blocks);
        }
        (table, blocks) = ((needed * ENTRY).div_ceil(CLUSTER), needed);
    }
}

/// A new disk of `disk` bytes with all metadata and a small payload.
pub(crate) fn create(disk: u64) -> Writes {
    let layout = Layout::of(disk);
    let table = CLUSTER;
    let blocks = table + layout.table * CLUSTER;
    let l1 = blocks + layout.blocks * CLUSTER;
    let l2 = l1 + layout.l1 * CLUSTER;
    let data = l2 + layout.l2 * CLUSTER;
    Writes {
        file_len: layout.clusters() * CLUSTER,
        ranges: vec![
            (0, HEADER),
            (table, layout.blocks * ENTRY),
            // The blocks are full but for the last; L1 and L2 follow directly.
            (blocks, (layout.blocks - 1) * CLUSTER + layout.clusters() % COUNTS * 2),
            (l1, layout.l2 * ENTRY),
            (l2, layout.data * ENTRY),
            (data, PAYLOAD),
        ],
    }
}

/// A disk with all metadata that grows from `old` to `new` bytes, both a multiple of what an L2
/// table maps: everything new goes behind the end, the rest are single entries.
pub(crate) fn grow(old: u64, new: u64) -> Writes {
    let (before, after) = (Layout::of(old), Layout::of(new));
    let end = before.clusters() * CLUSTER;
    let (tables, data) = (after.l2 - before.l2, after.data - before.data);
    // A new refcount table comes with new blocks, so that one write makes both true.
    let mut blocks = 0;
    let added = loop {
        let added = blocks + 1 + tables + data;
        let needed = (before.clusters() + added).div_ceil(COUNTS) - before.blocks;
        if needed == blocks {
            break added;
        }
        blocks = needed;
    };
    let last_block = CLUSTER * (1 + before.table + before.blocks - 1);
    let l1 = CLUSTER * (1 + before.table + before.blocks);
    Writes {
        file_len: end + added * CLUSTER,
        ranges: vec![
            (end, (blocks + 1 + tables) * CLUSTER),
            (last_block, CLUSTER),
            (l1 + before.l2 * ENTRY, tables * ENTRY),
            (0, SWITCH),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn lengths_are_those_of_real_images() {
        assert_eq!(create(20 * GIB).file_len, 21_478_375_424);
        assert_eq!(create(1024 * GIB).file_len, 1_099_679_662_080);
        assert_eq!(grow(20 * GIB, 40 * GIB).file_len, 42_956_554_240);
    }

    #[test]
    fn a_grown_disk_gets_tables_and_counts() {
        let grown = grow(20 * GIB, 40 * GIB);
        assert_eq!(grown.ranges[0], (21_478_375_424, (10 + 1 + 40) * CLUSTER));
        assert_eq!(grown.ranges[2].1, 320);
    }
}
