//! Presets: from what was asked to every option of the format, or to the reason why not.

use super::choices::{Compat, Compression, Preset};
use super::options::LayoutOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::qcow2::geometry::{ClusterBits, Geometry, RefcountOrder};
use crate::qcow2::{
    BackingName, CompressionType, CreateOptions, HeaderForm, L1Capacity, Preallocation, Version,
};
use crate::units::VirtualSize;

impl LayoutOptions {
    /// Whether anything is asked for that only qcow2 has.
    pub(super) fn first_qcow2_option(&self) -> Option<(&'static str, &'static str)> {
        let asked = [
            (self.preset.is_some(), ("preset", "layout.preset")),
            (self.compat.is_some(), ("compat", "layout.compat")),
            (self.cluster_size.is_some(), ("cluster size", "layout.cluster_size")),
            (self.refcount_bits.is_some(), ("refcount bits", "layout.refcount_bits")),
            (self.extended_l2.is_some(), ("extended L2", "layout.extended_l2")),
            (self.compression_type.is_some(), ("compression type", "layout.compression_type")),
            (self.lazy_refcounts.is_some(), ("lazy refcounts", "layout.lazy_refcounts")),
        ];
        asked.into_iter().find(|(asked, _)| *asked).map(|(_, name)| name)
    }

    /// Decides everything that was left open.
    ///
    /// # Errors
    /// [`BadRequest`](ErrorKind::BadRequest) for values that the format does not have,
    /// [`IncompatibleOptions`](ErrorKind::IncompatibleOptions) for what the preset cannot have.
    pub(super) fn resolve(
        &self,
        virtual_size: VirtualSize,
        backing: Option<BackingName>,
    ) -> Result<CreateOptions> {
        let preset = self.preset.unwrap_or(Preset::Qemu);
        self.check_preset(preset, backing.is_some())?;
        let preallocation = match (self.preallocation, preset, &backing) {
            (Some(asked), ..) => asked.into(),
            (None, Preset::Hyperkit, _) => Preallocation::Off,
            (None, _, Some(_)) => Preallocation::Tables,
            (None, _, None) => Preallocation::Metadata,
        };
        let version = match (self.compat, preset) {
            (Some(Compat::V2), _) | (None, Preset::Compat010) => Version::V2,
            _ => Version::V3,
        };
        // As QEMU: preallocation above a backing file is possible with subclusters only.
        let needs_subclusters = backing.is_some() && preallocation.maps_data();
        let extended_l2 = self.extended_l2.unwrap_or(needs_subclusters && version == Version::V3);
        let hyperkit = preset == Preset::Hyperkit;
        Ok(CreateOptions {
            version,
            geometry: self.geometry(extended_l2)?,
            virtual_size,
            backing,
            compression: match self.compression_type {
                Some(Compression::Zstd) => CompressionType::Zstd,
                Some(Compression::Zlib) | None => CompressionType::Zlib,
            },
            lazy_refcounts: self.lazy_refcounts.unwrap_or(hyperkit),
            dirty: hyperkit,
            header_form: if hyperkit { HeaderForm::Short } else { HeaderForm::Qemu },
            l1_capacity: if hyperkit { L1Capacity::WholeClusters } else { L1Capacity::AsNeeded },
            preallocation,
        })
    }

    fn geometry(&self, extended_l2: bool) -> Result<Geometry> {
        let bad = |message: String| Error::new(ErrorKind::BadRequest, message);
        let bits = match self.cluster_size {
            None => ClusterBits::DEFAULT,
            Some(size) => ClusterBits::from_cluster_size(size.bytes()).ok_or_else(|| {
                bad(format!(
                    "cluster size {}: allowed are powers of two from 512 bytes to 2 MiB",
                    size.exactly()
                ))
            })?,
        };
        let order = match self.refcount_bits {
            None => RefcountOrder::DEFAULT,
            Some(bits) => RefcountOrder::from_bits(bits).ok_or_else(|| {
                bad(format!("refcount bits {bits}: allowed are 1, 2, 4, 8, 16, 32 and 64"))
            })?,
        };
        Geometry::new(bits, order, extended_l2).ok_or_else(|| {
            let cluster_size = bits.cluster_size();
            incompatible(format!(
                "extended L2 entries need clusters of at least 16 KiB, not {cluster_size} bytes"
            ))
        })
    }

    fn check_preset(&self, preset: Preset, backing: bool) -> Result<()> {
        let refuse = |why: &str| Err(incompatible(format!("preset {preset}: {why}")));
        match preset {
            Preset::Qemu => Ok(()),
            Preset::Compat010 if self.compat == Some(Compat::V3) => {
                refuse("is version 2, so it excludes compat 1.1")
            }
            Preset::Compat010 => Ok(()),
            Preset::Hyperkit => match self.why_not_hyperkit(backing) {
                Some(why) => refuse(why),
                None => Ok(()),
            },
        }
    }

    /// What hyperkit's reader does not read, or destroys.
    fn why_not_hyperkit(&self, backing: bool) -> Option<&'static str> {
        let cluster_size = self.cluster_size.map_or(65536, |size| size.bytes());
        let reasons = [
            (backing, "its reader ignores backing files and shows zeros"),
            (self.compat == Some(Compat::V2), "it needs the lazy refcounts of version 3"),
            (
                self.lazy_refcounts == Some(false),
                "it allocates without counting, so lazy refcounts must stay on",
            ),
            (self.extended_l2 == Some(true), "its reader rejects extended L2 entries"),
            (
                self.compression_type == Some(Compression::Zstd),
                "its reader rejects compression type zstd",
            ),
            (
                self.refcount_bits.is_some_and(|bits| bits != 16),
                "it writes 16-bit reference counts whatever the header says",
            ),
            (cluster_size < 4096, "its reader rejects clusters below 4 KiB"),
        ];
        reasons.into_iter().find(|(applies, _)| *applies).map(|(_, why)| why)
    }
}

fn incompatible(message: String) -> Error {
    Error::new(ErrorKind::IncompatibleOptions, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::ByteSize;

    fn resolve(options: LayoutOptions, backing: bool) -> Result<CreateOptions> {
        let size = VirtualSize::round_up(ByteSize::from_bytes(1 << 30)).unwrap();
        let backing = backing.then(|| BackingName { name: b"b".to_vec(), format: None });
        options.resolve(size, backing)
    }

    #[test]
    fn defaults_follow_from_preset_and_backing() {
        let plain = resolve(LayoutOptions::default(), false).unwrap();
        assert_eq!(plain.preallocation, Preallocation::Metadata);
        let overlay = resolve(LayoutOptions::default(), true).unwrap();
        assert_eq!(overlay.preallocation, Preallocation::Tables);
        assert!(!overlay.geometry.extended_l2());
        let asked = LayoutOptions {
            preallocation: Some(super::super::choices::Preallocation::Metadata),
            ..LayoutOptions::default()
        };
        assert!(resolve(asked, true).unwrap().geometry.extended_l2());
        let hyperkit = LayoutOptions { preset: Some(Preset::Hyperkit), ..LayoutOptions::default() };
        let hyperkit = resolve(hyperkit, false).unwrap();
        assert!(hyperkit.dirty && hyperkit.lazy_refcounts);
        assert_eq!(hyperkit.preallocation, Preallocation::Off);
        assert_eq!(hyperkit.l1_capacity, L1Capacity::WholeClusters);
    }

    #[test]
    fn presets_refuse_what_their_readers_cannot_have() {
        let hyperkit = || LayoutOptions { preset: Some(Preset::Hyperkit), ..Default::default() };
        let refused = [
            (hyperkit(), true),
            (LayoutOptions { compat: Some(Compat::V2), ..hyperkit() }, false),
            (LayoutOptions { refcount_bits: Some(8), ..hyperkit() }, false),
            (LayoutOptions { cluster_size: Some(ByteSize::from_bytes(512)), ..hyperkit() }, false),
            (LayoutOptions { extended_l2: Some(true), ..hyperkit() }, false),
            (LayoutOptions { lazy_refcounts: Some(false), ..hyperkit() }, false),
        ];
        for (options, backing) in refused {
            let error = resolve(options.clone(), backing).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::IncompatibleOptions, "{options:?}");
        }
    }
}
