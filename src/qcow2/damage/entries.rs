//! Entries of the L1, L2 and refcount tables that say what they must not.

use super::Wound;
use super::dice::Dice;
use super::places::{Places, flip_bit};
use crate::error::Result;
use crate::qcow2::entry::{L1Entry, L2Entry, Mapping};
use crate::qcow2::geometry::{ENTRY_SIZE, HostOffset};

/// Where an L1 or L2 entry is, and what it says.
#[derive(Clone, Copy)]
struct Word {
    at: HostOffset,
    value: u64,
    is_l1: bool,
}

/// An entry that leads to a cluster: one in four is of the L1 table.
fn leading(places: &Places<'_>, dice: &mut Dice) -> Result<Option<Word>> {
    let l1 = dice.pick(&places.l1).map(|(at, entry)| Word { at, value: entry.word(), is_l1: true });
    if dice.below(4) == 0 && l1.is_some() {
        return Ok(l1);
    }
    let found = places.entry(dice, |entry| leads_to_data(places, entry))?;
    let l2 = found.map(|(at, entry)| Word { at, value: entry.word, is_l1: false });
    Ok(l2.or(l1))
}

fn leads_to_data(places: &Places<'_>, entry: L2Entry) -> bool {
    !entry.is_empty()
        && places.header.mapping(entry).is_ok_and(|mapping| mapping.host_cluster().is_some())
}

fn rewritten(
    places: &Places<'_>,
    word: Option<Word>,
    change: impl FnOnce(Word) -> u64,
) -> Result<Vec<Wound>> {
    let wound = word.map(|word| Wound::word(places.storage, word.at.get(), change(word)));
    wound.into_iter().collect()
}

/// The same entry with other bits where the offset is.
fn leading_to(word: Word, host: HostOffset) -> u64 {
    word.value ^ L1Entry::from_word(word.value).offset_bits().get() ^ host.get()
}

pub(super) fn flip_copied(places: &Places<'_>, dice: &mut Dice) -> Result<Vec<Wound>> {
    let word = leading(places, dice)?;
    rewritten(places, word, |word| {
        let entry = L2Entry { word: word.value, bitmap: 0 };
        entry.with_copied(!entry.is_copied()).word
    })
}

/// An entry becomes what another one says.
pub(super) fn share(places: &Places<'_>, dice: &mut Dice) -> Result<Vec<Wound>> {
    let (first, second) = (leading(places, dice)?, leading(places, dice)?);
    match (first, second) {
        (Some(first), Some(second)) if first.is_l1 == second.is_l1 && first.at != second.at => {
            rewritten(places, Some(first), |_| second.value)
        }
        _ => Ok(Vec::new()),
    }
}

pub(super) fn overlap(places: &Places<'_>, dice: &mut Dice) -> Result<Vec<Wound>> {
    let (word, metadata) = (leading(places, dice)?, places.metadata(dice));
    rewritten(places, word.filter(|_| metadata.is_some()), |word| {
        leading_to(word, metadata.unwrap_or(HostOffset::ZERO))
    })
}

/// An L1 entry leads to the L1 table, a refcount table's to the refcount table, an L2 table's to
/// that table.
pub(super) fn refer_to_itself(places: &Places<'_>, dice: &mut Dice) -> Result<Vec<Wound>> {
    let geometry = places.geometry();
    if let (0, Some((at, _))) = (dice.below(3), dice.pick(&places.blocks)) {
        let table = places.header.refcount_table.offset;
        return Ok(vec![Wound::word(places.storage, at.get(), table.get())?]);
    }
    let word = leading(places, dice)?;
    rewritten(places, word, |word| {
        let table = geometry.host_offset(geometry.host_cluster(word.at));
        leading_to(word, if word.is_l1 { places.header.l1.offset } else { table })
    })
}

/// Where a cluster is larger than 512 bytes, an entry can lead into one.
pub(super) fn misalign(places: &Places<'_>, dice: &mut Dice) -> Result<Vec<Wound>> {
    const SECTOR: u64 = 512;
    let sectors = places.geometry().cluster_size() / SECTOR;
    let word = leading(places, dice)?;
    rewritten(places, word.filter(|_| sectors > 1), |word| {
        let within = dice.below(sectors.saturating_sub(1)).saturating_add(1);
        word.value | within.saturating_mul(SECTOR)
    })
}

pub(super) fn lead_beyond_file(places: &Places<'_>, dice: &mut Dice) -> Result<Vec<Wound>> {
    const FAR: u64 = 1 << 40;
    let geometry = places.geometry();
    let end = geometry.host_offset(geometry.host_cluster_after(places.file_len));
    let reach = if dice.below(2) == 0 { places.file_len } else { FAR };
    let far = end.plus_bytes(dice.below(reach));
    let far = geometry.host_offset(geometry.host_cluster(far)).plus_bytes(geometry.cluster_size());
    let word = leading(places, dice)?;
    rewritten(places, word, |word| leading_to(word, far))
}

/// A bit that is reserved in the entries of both kinds of tables.
pub(super) fn set_reserved_bit(places: &Places<'_>, dice: &mut Dice) -> Result<Vec<Wound>> {
    const LOWEST: [u32; 14] = [1, 2, 3, 4, 5, 6, 7, 8, 56, 57, 58, 59, 60, 61];
    let bit = 1u64.rotate_left(dice.pick(&LOWEST).unwrap_or(1));
    let word = leading(places, dice)?;
    rewritten(places, word, |word| word.value | bit)
}

/// A compressed cluster leads elsewhere, claims more sectors than it has, or has another content.
pub(super) fn break_compressed(places: &Places<'_>, dice: &mut Dice) -> Result<Vec<Wound>> {
    let packed = |entry: L2Entry| match places.header.mapping(entry) {
        Ok(Mapping::Compressed(range)) => Some(range),
        _ => None,
    };
    let Some((at, entry)) = places.entry(dice, |entry| packed(entry).is_some())? else {
        return Ok(Vec::new());
    };
    let Some(range) = packed(entry) else { return Ok(Vec::new()) };
    if dice.below(2) == 0 {
        let within = range.offset.plus_bytes(dice.below(range.len.min(64)));
        return Ok(flip_bit(places.storage, within.get(), dice)?.into_iter().collect());
    }
    // The bits of offset and length.
    let bit =
        1u64.rotate_left(dice.pick(&[0, 3, 9, 20, 40, 50, 53, 56, 60, 61]).unwrap_or_default());
    Ok(vec![Wound::word(places.storage, at.get(), entry.word ^ bit)?])
}

/// A subcluster that has data is zero as well, or one that is zero has data.
pub(super) fn contradict(places: &Places<'_>, dice: &mut Dice) -> Result<Vec<Wound>> {
    if !places.geometry().extended_l2() {
        return Ok(Vec::new());
    }
    let Some((at, entry)) = places.entry(dice, |entry| leads_to_data(places, entry))? else {
        return Ok(Vec::new());
    };
    let allocated = entry.bitmap & u64::from(u32::MAX);
    let lowest = allocated & allocated.wrapping_neg();
    let bitmap = entry.bitmap | lowest << u32::BITS;
    Ok(vec![Wound::word(places.storage, at.plus_bytes(ENTRY_SIZE).get(), bitmap)?])
}
