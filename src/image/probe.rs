//! What format a disk has. It is believed only when name and content agree, because a guest can
//! write another format's header into its raw disk: a tool that then resizes or follows it as
//! that format is a known hole (CVE-2013-1922, CVE-2026-24708).

use std::fmt;
use std::path::Path;

use crate::error::{Case, Error, ErrorKind, Result};
use crate::host::storage::Storage;
use crate::qcow2;

/// The format of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// qcow2, version 2 or 3.
    Qcow2,
    /// The guest's bytes and nothing else.
    Raw,
}

impl Format {
    /// The name that users and images write.
    pub fn name(self) -> &'static str {
        match self {
            Format::Qcow2 => "qcow2",
            Format::Raw => "raw",
        }
    }

    /// What the name of a file promises: `.qcow2` or `.raw`, `.img`, `.rawdisk`, in any case.
    pub fn promised_by(path: &Path) -> Option<Format> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "qcow2" => Some(Format::Qcow2),
            "raw" | "img" | "rawdisk" => Some(Format::Raw),
            _ => None,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A format that the content claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Magic {
    /// A qcow2 header of any version.
    Qcow2,
    /// A format that is not handled here, by name.
    Foreign(&'static str),
}

impl Magic {
    /// The name of the format claimed.
    pub fn name(self) -> &'static str {
        match self {
            Magic::Qcow2 => "qcow2",
            Magic::Foreign(name) => name,
        }
    }

    /// Looks at the beginning and the last sector of a disk.
    ///
    /// # Errors
    /// What the storage says.
    pub fn read(storage: &dyn Storage) -> Result<Option<Magic>> {
        match Self::at_head(storage)?.first() {
            Some(magic) => Ok(Some(*magic)),
            None => Self::at_end(storage),
        }
    }

    /// Everything that the content claims to be: for an honest disk, one format at most.
    ///
    /// # Errors
    /// What the storage says.
    pub fn read_all(storage: &dyn Storage) -> Result<Vec<Magic>> {
        let mut all = Self::at_head(storage)?;
        all.extend(Self::at_end(storage)?);
        // What ends with the copy of its beginning is one thing.
        all.dedup();
        Ok(all)
    }

    /// A fixed VHD has its magic in its last sector only.
    fn at_end(storage: &dyn Storage) -> Result<Option<Magic>> {
        let mut footer = [0; 8];
        if let Some(at) = storage.len()?.checked_sub(512) {
            storage.read_at(at, &mut footer)?;
        }
        Ok((&footer == b"conectix").then_some(Magic::Foreign("VHD")))
    }

    fn at_head(storage: &dyn Storage) -> Result<Vec<Magic>> {
        const FOREIGN: [(usize, &[u8], &str); 7] = [
            (0, b"KDMV", "VMDK"),
            (0, b"COWD", "VMDK"),
            (0, b"# Disk DescriptorFile", "VMDK"),
            (0, b"conectix", "VHD"),
            (0, b"vhdxfile", "VHDX"),
            (0, b"QED\0", "QED"),
            (0x40, &[0x7f, 0x10, 0xda, 0xbe], "VDI"),
        ];
        let mut head = [0; 512];
        let found = storage.read_at(0, &mut head)?;
        let head = &head[..found];
        let begins =
            |at: usize, magic: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
        let qcow2 = begins(0, &qcow2::MAGIC).then_some(Magic::Qcow2);
        let foreign = FOREIGN.iter().filter(|(at, magic, _)| begins(*at, magic));
        Ok(qcow2.into_iter().chain(foreign.map(|(_, _, name)| Magic::Foreign(name))).collect())
    }
}

/// What is known of a disk's format before anybody decides.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// Its path as the user named it.
    pub path: &'a Path,
    /// Whether it is a block device, which promises raw.
    pub block_device: bool,
    /// What its content claims.
    pub magic: Option<Magic>,
}

impl Evidence<'_> {
    fn promised(&self) -> Option<Format> {
        if self.block_device { Some(Format::Raw) } else { Format::promised_by(self.path) }
    }

    /// The format that the name promises and the content confirms.
    pub fn agreed(&self) -> Option<Format> {
        match (self.promised(), self.magic) {
            (Some(Format::Qcow2), Some(Magic::Qcow2)) => Some(Format::Qcow2),
            (Some(Format::Raw), None) => Some(Format::Raw),
            _ => None,
        }
    }

    /// The format for a verb that writes, or follows names: name and content must agree, unless
    /// the caller said what it is.
    ///
    /// # Errors
    /// [`FormatMismatch`](ErrorKind::FormatMismatch), naming what disagrees.
    pub fn believe(&self, told: Option<Format>) -> Result<Format> {
        let refuse = |message: String| {
            let error = Error::new(ErrorKind::FormatMismatch, message).at_path(self.path);
            Err(match (told, self.magic) {
                (None, Some(Magic::Foreign(_))) => error.in_case(Case::ForeignFormat),
                _ => error,
            })
        };
        match (told, self.promised(), self.magic) {
            (Some(Format::Raw), ..) => Ok(Format::Raw),
            (Some(Format::Qcow2), _, Some(Magic::Qcow2)) => Ok(Format::Qcow2),
            (Some(Format::Qcow2), ..) => refuse("not a qcow2 image: it has no qcow2 magic".into()),
            (None, Some(Format::Raw), Some(magic)) => refuse(format!(
                "the name promises a raw disk, but the content begins as {}: its guest may have \
                 written that",
                magic.name()
            )),
            (None, _, Some(Magic::Foreign(name))) => {
                refuse(format!("the content is a {name} image, which is not handled"))
            }
            (None, _, Some(Magic::Qcow2)) => Ok(Format::Qcow2),
            (None, Some(Format::Raw), None) => Ok(Format::Raw),
            (None, Some(Format::Qcow2), None) => {
                refuse("the name promises qcow2, but the content has no qcow2 magic".into())
            }
            (None, None, None) => {
                refuse("neither the name nor the content says what format this is".into())
            }
        }
    }

    /// The format for a verb that only reads this one file: the content's, with what contradicts
    /// it.
    pub fn report(&self, told: Option<Format>) -> (Format, Option<String>) {
        let shown = match (told, self.magic) {
            (Some(told), _) => told,
            (None, Some(Magic::Qcow2)) => Format::Qcow2,
            (None, _) => Format::Raw,
        };
        let contradiction = self.believe(told).err().map(|error| match error.case() {
            Some(Case::ForeignFormat) => {
                format!("{}; the sizes are those of the file", error.without_path())
            }
            _ => error.without_path().to_string(),
        });
        (shown, contradiction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(path: &str, magic: Option<Magic>) -> Evidence<'_> {
        Evidence { path: Path::new(path), block_device: false, magic }
    }

    #[test]
    fn name_and_content_must_agree() {
        let (qcow2, vmdk) = (Some(Magic::Qcow2), Some(Magic::Foreign("VMDK")));
        let believed = [
            ("d.qcow2", qcow2, Format::Qcow2),
            ("d", qcow2, Format::Qcow2),
            ("d.IMG", None, Format::Raw),
            ("d.rawdisk", None, Format::Raw),
        ];
        for (path, magic, format) in believed {
            assert_eq!(evidence(path, magic).believe(None).unwrap(), format, "{path}");
        }
        let doubted =
            [("d.raw", qcow2), ("d.img", vmdk), ("d", vmdk), ("d.qcow2", None), ("d", None)];
        for (path, magic) in doubted {
            let error = evidence(path, magic).believe(None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::FormatMismatch, "{path}");
            let foreign = (magic == vmdk).then_some(Case::ForeignFormat);
            assert_eq!(error.case(), foreign, "{path}");
            assert_eq!(evidence(path, magic).believe(Some(Format::Raw)).unwrap(), Format::Raw);
        }
        let device = Evidence { path: Path::new("/dev/x"), block_device: true, magic: qcow2 };
        assert!(device.believe(None).is_err());
        assert!(evidence("d", None).believe(Some(Format::Qcow2)).is_err());
    }
}
