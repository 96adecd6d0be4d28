//! Sizes as people write them, parsed once into types that cannot be wrong.

use std::fmt;
use std::num::NonZeroU64;

use crate::error::{Error, ErrorKind, Result};

/// The granularity of a guest's disk, in bytes.
pub const SECTOR_SIZE: u64 = 512;

/// The largest size that any disk here may have: what a signed 64-bit file offset can address,
/// rounded down to a sector.
const LARGEST: u64 = i64::MAX.unsigned_abs() / SECTOR_SIZE * SECTOR_SIZE;

/// A number of bytes.
///
/// As text, `K M G T P E` and `KiB` … `EiB` are powers of 1024 (as in qemu-img), `KB` … `EB` are
/// powers of ten, `B` is bytes; case does not matter. A fraction needs a suffix above bytes and is
/// rounded up to a whole byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// So many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        ByteSize(bytes)
    }

    /// So many MiB, the unit of the docker-machine drivers' size flags.
    ///
    /// # Errors
    /// [`ErrorKind::BadSize`] when the number of bytes exceeds 64 bits.
    pub fn from_docker_machine_mb(mib: u64) -> Result<Self> {
        let bytes = mib.checked_mul(1 << 20).ok_or_else(|| too_large(&format!("{mib} MiB")))?;
        Ok(ByteSize(bytes))
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// As text for people who may want to reckon with it: `20 GiB (21474836480 bytes)`.
    pub const fn exactly(self) -> ExactSize {
        ExactSize(self)
    }

    /// Reads a size that must name its unit, because a bare number has meant 2^20, 10^6 and
    /// 107 374 bytes a unit in this family of tools.
    ///
    /// # Errors
    /// [`ErrorKind::BadSize`], with the three readings spelt out for a bare number.
    pub fn parse_with_unit(text: &str) -> Result<Self> {
        let (size, unit) = parse(text)?;
        if unit.is_none() {
            return Err(bad(format!(
                "size '{text}' has no unit: write {text}B for bytes, {text}M for MiB (2^20 bytes) \
                 or {text}MB for 10^6 bytes"
            )));
        }
        Ok(size)
    }

    /// Reads a size in which a bare number means bytes.
    ///
    /// # Errors
    /// [`ErrorKind::BadSize`] when the text is no size.
    pub fn parse_bytes(text: &str) -> Result<Self> {
        parse(text).map(|(size, _)| size)
    }
}

impl fmt::Display for ByteSize {
    /// The number in its largest exact-looking binary unit: `20 GiB`, `1.5 MiB`, `4097 B`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 6] =
            [("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let Some((unit, shift)) = UNITS.iter().find(|(_, shift)| self.0 >> shift != 0) else {
            return write!(f, "{} B", self.0);
        };
        let hundredths = (u128::from(self.0) * 100) >> shift;
        match (hundredths / 100, hundredths % 100) {
            (whole, 0) => write!(f, "{whole} {unit}"),
            (whole, part) if part % 10 == 0 => write!(f, "{whole}.{} {unit}", part / 10),
            (whole, part) => write!(f, "{whole}.{part:02} {unit}"),
        }
    }
}

/// A [`ByteSize`] whose text has the number of bytes too, where it is not the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExactSize(ByteSize);

impl fmt::Display for ExactSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.bytes() {
            bytes if bytes < 1024 => write!(f, "{bytes} bytes"),
            bytes => write!(f, "{} ({bytes} bytes)", self.0),
        }
    }
}

/// So many bytes, as [`ByteSize::exactly`] tells them.
pub(crate) fn exactly(bytes: u64) -> ExactSize {
    ByteSize(bytes).exactly()
}

/// A number of things, in words: `1 cluster`, `2 clusters`.
pub(crate) fn counted(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// The size of a guest's disk: a positive multiple of 512 bytes that a file offset can address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualSize(NonZeroU64);

impl VirtualSize {
    /// The largest that any disk here may have.
    pub const MAX: VirtualSize = match NonZeroU64::new(LARGEST) {
        Some(largest) => VirtualSize(largest),
        None => panic!("a file offset can address something"),
    };

    /// The smallest size that holds `size` bytes.
    ///
    /// # Errors
    /// [`ErrorKind::BadSize`] for zero and for more than a file can be.
    pub fn round_up(size: ByteSize) -> Result<Self> {
        let bytes = size.bytes();
        let rounded = bytes.checked_next_multiple_of(SECTOR_SIZE).filter(|&r| r <= LARGEST);
        let rounded = rounded.ok_or_else(|| too_large(&size.exactly().to_string()))?;
        let rounded = NonZeroU64::new(rounded)
            .ok_or_else(|| bad("size is 0: a disk has at least 512 bytes".to_owned()))?;
        Ok(VirtualSize(rounded))
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0.get()
    }

    /// The same as a [`ByteSize`].
    pub const fn byte_size(self) -> ByteSize {
        ByteSize(self.0.get())
    }
}

impl fmt::Display for VirtualSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.byte_size().exactly().fmt(f)
    }
}

fn bad(message: String) -> Error {
    Error::new(ErrorKind::BadSize, message)
}

fn too_large(what: &str) -> Error {
    bad(format!(
        "size {what} is too large: the largest possible is {}",
        ByteSize(LARGEST).exactly()
    ))
}

/// The size, and its unit if the text named one.
fn parse(text: &str) -> Result<(ByteSize, Option<u64>)> {
    let not_a_size = || {
        bad(format!(
            "'{text}' is not a size: write a number and a unit, such as 20G, 1.5TiB or 500MB"
        ))
    };
    if text.starts_with('-') {
        return Err(bad(format!(
            "size '{text}' is negative: write the size that the disk shall have"
        )));
    }
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let unit = match suffix {
        "" => None,
        suffix => Some(unit_bytes(suffix).ok_or_else(|| {
            bad(format!("size '{text}' has the unknown unit '{suffix}': use B, K, M, G, T, P or E (powers of 1024; KiB … EiB mean the same), or KB … EB (powers of ten)"))
        })?),
    };
    let (whole, fraction) = match number.split_once('.') {
        None => (number, ""),
        Some((_, "")) => return Err(not_a_size()),
        Some(_) if unit.unwrap_or(1) == 1 => {
            return Err(bad(format!("size '{text}' is a fraction of a byte")));
        }
        Some(parts) => parts,
    };
    if whole.is_empty() || fraction.contains('.') {
        return Err(not_a_size());
    }
    // Digits far beyond what fits mean "too large", digits far behind the point mean nothing.
    let whole: u64 = whole.parse().map_err(|_| too_large(&format!("'{text}'")))?;
    let fraction = &fraction[..fraction.len().min(18)];
    let numerator: u128 = if fraction.is_empty() { 0 } else { fraction.parse().unwrap_or(0) };
    let denominator = 10u128.pow(fraction.len().try_into().unwrap_or(18));
    let unit_value = u128::from(unit.unwrap_or(1));
    let bytes = u128::from(whole) * unit_value + (numerator * unit_value).div_ceil(denominator);
    let bytes = u64::try_from(bytes).map_err(|_| too_large(&format!("'{text}'")))?;
    Ok((ByteSize(bytes), unit))
}

fn unit_bytes(suffix: &str) -> Option<u64> {
    let suffix = suffix.to_ascii_lowercase();
    if suffix == "b" {
        return Some(1);
    }
    let power = "kmgtpe".find(suffix.chars().next()?)?;
    let power = u32::try_from(power).ok()? + 1;
    match &suffix[1..] {
        "" | "ib" => Some(1u64 << (10 * power)),
        "b" => Some(1000u64.pow(power)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(text: &str) -> u64 {
        ByteSize::parse_with_unit(text).unwrap().bytes()
    }

    #[test]
    fn suffixes_are_binary_unless_they_say_otherwise() {
        assert_eq!(bytes("20G"), 20 << 30);
        assert_eq!(bytes("20GiB"), 20 << 30);
        assert_eq!(bytes("20gib"), 20 << 30);
        assert_eq!(bytes("20GB"), 20_000_000_000);
        assert_eq!(bytes("1.5k"), 1536);
        assert_eq!(bytes("0.1K"), 103);
        assert_eq!(bytes("7E"), 7 << 60);
        assert_eq!(bytes("100B"), 100);
        assert_eq!(ByteSize::parse_bytes("65536").unwrap().bytes(), 65536);
    }

    #[test]
    fn what_is_no_size_is_refused() {
        let texts =
            ["20000", "", "G", "-1G", "1.5", "1.5B", "1..5G", ".5G", "1.G", "1e3", "20 G", "20X"];
        for text in texts.iter().chain(&["16E", "99999999999999999999G", "1GBB", "0x10K", "1é"]) {
            let error = ByteSize::parse_with_unit(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadSize, "{text}");
        }
        let bare = ByteSize::parse_with_unit("20000").unwrap_err().to_string();
        for reading in ["20000B", "20000M", "20000MB"] {
            assert!(bare.contains(reading), "{bare}");
        }
    }

    #[test]
    fn virtual_sizes_are_whole_sectors() {
        let round = |n| VirtualSize::round_up(ByteSize::from_bytes(n)).map(VirtualSize::bytes);
        assert_eq!(round(1).unwrap(), 512);
        assert_eq!(round(512).unwrap(), 512);
        assert_eq!(round(513).unwrap(), 1024);
        assert_eq!(round(0).unwrap_err().kind(), ErrorKind::BadSize);
        assert_eq!(round(1 << 63).unwrap_err().kind(), ErrorKind::BadSize);
        assert_eq!(round(LARGEST).unwrap(), LARGEST);
    }

    #[test]
    fn display_is_short_and_true() {
        let show = |n| ByteSize::from_bytes(n).to_string();
        assert_eq!(show(20 << 30), "20 GiB");
        assert_eq!(show(3 << 19), "1.5 MiB");
        assert_eq!(show(196_928), "192.31 KiB");
        assert_eq!(show(512), "512 B");
        assert_eq!(show(u64::MAX), "15.99 EiB");
        let exactly = |n| ByteSize::from_bytes(n).exactly().to_string();
        assert_eq!(exactly(20 << 30), "20 GiB (21474836480 bytes)");
        assert_eq!(exactly(512), "512 bytes");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "[ -~é]{0,24}") {
            let _ = ByteSize::parse_with_unit(&text);
        }

        #[test]
        fn whole_numbers_of_bytes_come_back(n: u64) {
            prop_assert_eq!(bytes(&format!("{n}B")), n);
        }
    }
}
