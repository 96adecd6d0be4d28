//! What a partition is said to be for.

use std::fmt;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A GUID as it is written: its digits, read as one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guid(pub u128);

/// A GUID as it is stored (UEFI 2.10, appendix A): three numbers in the order of PCs, then bytes.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RawGuid {
    time_low: U32,
    time_mid: U16,
    time_high: U16,
    rest: [u8; 8],
}

impl From<RawGuid> for Guid {
    #[expect(clippy::big_endian_bytes, reason = "these bytes are written as they are stored")]
    fn from(raw: RawGuid) -> Guid {
        let high = u128::from(raw.time_low.get()) << 96
            | u128::from(raw.time_mid.get()) << 80
            | u128::from(raw.time_high.get()) << 64;
        Guid(high | u128::from(u64::from_be_bytes(raw.rest)))
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |shift: u32, digits: u32| {
            let mask = u128::MAX.checked_shl(digits.saturating_mul(4)).map_or(u128::MAX, |m| !m);
            self.0.checked_shr(shift).unwrap_or(0) & mask
        };
        let [a, b, c] = [part(96, 8), part(80, 4), part(64, 4)];
        write!(f, "{a:08X}-{b:04X}-{c:04X}-{:04X}-{:012X}", part(48, 4), part(0, 12))
    }
}

/// The type of a partition, as its table has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The byte of an MBR.
    Mbr(u8),
    /// The GUID of a GPT.
    Gpt(Guid),
}

/// A type of partition that has a name here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say everything")]
#[non_exhaustive]
pub enum Known {
    Linux,
    LinuxRootX86_64,
    LinuxRootArm64,
    LinuxHome,
    LinuxExtendedBoot,
    LinuxLvm,
    LinuxLuks,
    LinuxRaid,
    Swap,
    Efi,
    BiosBoot,
    /// Holds logical partitions.
    Extended,
    /// What an MBR says instead of the partitions of a GPT.
    Protective,
    MicrosoftData,
    MicrosoftReserved,
    Fat,
}

/// UEFI 2.10, table 5-7; the Discoverable Partitions Specification for what Linux uses.
const GUIDS: &[(u128, Known)] = &[
    (0x0FC63DAF_8483_4772_8E79_3D69D8477DE4, Known::Linux),
    (0x4F68BCE3_E8CD_4DB1_96E7_FBCAF984B709, Known::LinuxRootX86_64),
    (0xB921B045_1DF0_41C3_AF44_4C6F280D3FAE, Known::LinuxRootArm64),
    (0x933AC7E1_2EB4_4F13_B844_0E14E2AEF915, Known::LinuxHome),
    (0xBC13C2FF_59E6_4262_A352_B275FD6F7172, Known::LinuxExtendedBoot),
    (0xE6D6D379_F507_44C2_A23C_238F2A3DF928, Known::LinuxLvm),
    (0xCA7D7CCB_63ED_4C53_861C_1742536059CC, Known::LinuxLuks),
    (0xA19D880F_05FC_4D3B_A006_743F0F84911E, Known::LinuxRaid),
    (0x0657FD6D_A4AB_43C4_84E5_0933C84B4F4F, Known::Swap),
    (0xC12A7328_F81F_11D2_BA4B_00A0C93EC93B, Known::Efi),
    (0x21686148_6449_6E6F_744E_656564454649, Known::BiosBoot),
    (0xEBD0A0A2_B9E5_4433_87C0_68B6B72699C7, Known::MicrosoftData),
    (0xE3C9E316_0B5C_4DB8_817D_F92DF00215AE, Known::MicrosoftReserved),
];

impl Kind {
    /// What it is known as.
    pub fn known(self) -> Option<Known> {
        match self {
            Kind::Mbr(byte) => known_byte(byte),
            Kind::Gpt(guid) => {
                GUIDS.iter().find(|(digits, _)| *digits == guid.0).map(|(_, known)| *known)
            }
        }
    }
}

/// UEFI 2.10, 5.2.2, for EE and EF; the others as `fdisk` lists them.
const fn known_byte(byte: u8) -> Option<Known> {
    Some(match byte {
        0x05 | 0x0F | 0x85 => Known::Extended,
        0x01 | 0x04 | 0x06 | 0x0B | 0x0C | 0x0E => Known::Fat,
        0x07 => Known::MicrosoftData,
        0x82 => Known::Swap,
        0x83 => Known::Linux,
        0x8E => Known::LinuxLvm,
        0xE8 => Known::LinuxLuks,
        0xEE => Known::Protective,
        0xEF => Known::Efi,
        0xFD => Known::LinuxRaid,
        _ => return None,
    })
}

impl Known {
    /// The name that programs see (stable).
    pub const fn name(self) -> &'static str {
        match self {
            Known::Linux => "linux",
            Known::LinuxRootX86_64 => "linux-root-x86-64",
            Known::LinuxRootArm64 => "linux-root-arm64",
            Known::LinuxHome => "linux-home",
            Known::LinuxExtendedBoot => "linux-extended-boot",
            Known::LinuxLvm => "linux-lvm",
            Known::LinuxLuks => "linux-luks",
            Known::LinuxRaid => "linux-raid",
            Known::Swap => "swap",
            Known::Efi => "efi",
            Known::BiosBoot => "bios-boot",
            Known::Extended => "extended",
            Known::Protective => "protective",
            Known::MicrosoftData => "microsoft-data",
            Known::MicrosoftReserved => "microsoft-reserved",
            Known::Fat => "fat",
        }
    }
}

impl fmt::Display for Kind {
    /// Its name, else the byte or the GUID.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.known(), self) {
            (Some(known), _) => f.write_str(known.name()),
            (None, Kind::Mbr(byte)) => write!(f, "{byte:02X}"),
            (None, Kind::Gpt(guid)) => guid.fmt(f),
        }
    }
}
