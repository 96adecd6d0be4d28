//! A map summed up in columns, to be drawn.

use std::ops::Range;

use super::MapEntry;
use crate::ops::wire::choice;

choice! {
    /// What a part of a disk is, to whoever looks at a picture.
    MapKind {
        /// Data of the disk itself.
        Data = "data",
        /// The same, compressed.
        Compressed = "compressed",
        /// Data of an image below it.
        Below = "data below",
        /// Room that was laid out, and never written.
        LaidOut = "laid out",
        /// Zeros that an image says are there.
        Zero = "zeros",
        /// Nothing.
        Nothing = "unallocated",
    }
}

impl MapKind {
    /// How many there are.
    const COUNT: usize = MapKind::ALL.len();

    /// That of an entry.
    pub fn of(entry: &MapEntry) -> MapKind {
        match (entry.present, entry.zero) {
            (false, _) => MapKind::Nothing,
            (true, true) if entry.data => MapKind::LaidOut,
            (true, true) => MapKind::Zero,
            (true, false) if entry.depth > 0 => MapKind::Below,
            (true, false) if entry.compressed => MapKind::Compressed,
            (true, false) => MapKind::Data,
        }
    }
}

/// Bytes by their kind, in the order of [`MapKind::ALL`].
type Sums = [u64; MapKind::COUNT];

/// How much of each kind there is in each of some columns, which share a range of the disk evenly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    range: Range<u64>,
    columns: Vec<Sums>,
}

impl Picture {
    /// Nothing yet, in one column at least.
    pub fn new(range: Range<u64>, columns: usize) -> Picture {
        Picture { range, columns: vec![[0; MapKind::COUNT]; columns.max(1)] }
    }

    /// Adds an entry of the map.
    pub fn add(&mut self, entry: &MapEntry) {
        let kind = MapKind::of(entry);
        let mut at = entry.start.max(self.range.start);
        let end = entry.start.saturating_add(entry.length).min(self.range.end);
        while at < end {
            let column = self.column_of(at);
            let next = self.begin_of(column + 1).clamp(at + 1, end);
            self.columns[column][kind as usize] += next - at;
            at = next;
        }
    }

    /// The part that each kind has of each column, from 0 to 1, in the order of [`MapKind::ALL`].
    pub fn shares(&self) -> impl Iterator<Item = [f64; MapKind::COUNT]> {
        self.columns.iter().map(|sums| {
            let all = sums.iter().sum::<u64>().max(1) as f64;
            sums.map(|sum| sum as f64 / all)
        })
    }

    /// What there is in all, in bytes of the disk, by kind.
    pub fn totals(&self) -> impl Iterator<Item = (MapKind, u64)> {
        let sum = |kind: MapKind| self.columns.iter().map(|sums| sums[kind as usize]).sum();
        MapKind::ALL.iter().map(move |&kind| (kind, sum(kind)))
    }

    /// The part of the disk that is drawn.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    fn column_of(&self, at: u64) -> usize {
        let (into, len) = (u128::from(at - self.range.start), u128::from(self.len()));
        let column = into * self.columns.len() as u128 / len.max(1);
        (column as usize).min(self.columns.len() - 1)
    }

    /// The first byte of a column.
    fn begin_of(&self, column: usize) -> u64 {
        let ahead = (column as u128 * u128::from(self.len())).div_ceil(self.columns.len() as u128);
        self.range.start + ahead as u64
    }

    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte is in one column, whatever the columns and the pieces that it is told in.
    #[test]
    fn nothing_is_drawn_twice_and_nothing_is_left_out() {
        for (len, columns) in [(1000, 7), (10, 80), (1 << 40, 80), (u64::MAX, 3), (1, 1)] {
            let mut picture = Picture::new(0..len, columns);
            let cuts = [0, len / 7, len / 3, len / 3 + len / 100, len];
            for (part, cut) in cuts.windows(2).enumerate() {
                let entry = MapEntry {
                    start: cut[0],
                    length: cut[1] - cut[0],
                    depth: 0,
                    present: part % 2 == 0,
                    zero: false,
                    data: true,
                    compressed: false,
                    offset: None,
                };
                picture.add(&entry);
            }
            assert_eq!(picture.totals().map(|(_, sum)| u128::from(sum)).sum::<u128>(), len.into());
            let sums = picture.columns.iter().map(|sums| sums.iter().sum::<u64>());
            let (least, most) = (len / columns as u64, len.div_ceil(columns as u64));
            assert!(sums.clone().all(|sum| (least..=most).contains(&sum)), "{len}, {columns}");
        }
        assert_eq!(Picture::new(5..5, 0).shares().count(), 1);
    }
}
