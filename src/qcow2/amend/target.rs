//! The header that an amended image has, or why it cannot have it.

use super::Amendment;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::Storage;
use crate::qcow2::extension::Extension;
use crate::qcow2::feature::{Autoclear, Compatible, Incompatible, name_table};
use crate::qcow2::geometry::{Geometry, RefcountOrder};
use crate::qcow2::header::{CompressionType, Header, Version};
use crate::qcow2::raw_header::{V2_HEADER_LEN, V3_HEADER_LEN, V3_MIN_HEADER_LEN};
use crate::qcow2::snapshot::read_snapshots;

/// What `header` becomes, but for the place of its refcount table.
pub(super) fn target(
    storage: &dyn Storage,
    header: &Header,
    amendment: &Amendment,
) -> Result<Header> {
    let version = amendment.version.unwrap_or(header.version);
    if amendment.backing.is_some() && (header.version, version) == (Version::V3, Version::V2) {
        return incompatible(
            "compat 0.10 and another backing file, one after the other: zeros hide what is below now",
        );
    }
    let mut target = match &amendment.backing {
        None => header.clone(),
        Some(backing) => header.with_backing(backing.as_ref()),
    };
    target.version = version;
    target.geometry = geometry(header, amendment.refcount_order, version)?;
    let lazy = Compatible::LAZY_REFCOUNTS;
    let is_lazy = header.compatible.contains(lazy) && version == Version::V3;
    let wants_lazy = amendment.lazy_refcounts.unwrap_or(is_lazy);
    target.compatible = header.compatible.without(lazy).with_if(wants_lazy, lazy);
    if let Some(compression) = amendment.compression {
        let (zstd, bit) = (compression == CompressionType::Zstd, Incompatible::COMPRESSION);
        target.compression = compression;
        target.incompatible = target.incompatible.without(bit).with_if(zstd, bit);
        if zstd && target.header_length == V3_MIN_HEADER_LEN {
            return incompatible("compression type zstd does not fit a header of 104 bytes");
        }
    }
    let raw_data = Autoclear::RAW_EXTERNAL_DATA;
    if let Some(raw) = amendment.raw_data_file {
        if raw && !header.has_external_data() {
            return incompatible("the image keeps its data inside: no data file can be raw");
        }
        target.autoclear = target.autoclear.without(raw_data).with_if(raw, raw_data);
    }
    if target.autoclear.contains(raw_data) && target.backing.is_some() {
        return incompatible(
            "an image whose external data file is read as a raw disk has no backing file",
        );
    }
    match (header.version, version) {
        (Version::V3, Version::V2) => to_version_2(target),
        (Version::V2, Version::V3) => to_version_3(storage, target),
        (_, Version::V2) => require_version_2(&target).map(|()| target),
        (_, Version::V3) => Ok(target),
    }
}

fn geometry(header: &Header, order: Option<RefcountOrder>, version: Version) -> Result<Geometry> {
    let order = match (order, version) {
        (Some(order), Version::V2) if order != RefcountOrder::DEFAULT => {
            return incompatible("version 2 (compat 0.10) has 16-bit reference counts only");
        }
        (Some(order), _) => order,
        (None, Version::V2) => RefcountOrder::DEFAULT,
        (None, Version::V3) => header.geometry.refcount_order(),
    };
    let old = header.geometry;
    // OK to default: cluster size and form of entries are those of an image that is open.
    Ok(Geometry::new(old.cluster_bits(), order, old.extended_l2()).unwrap_or(old))
}

/// What version 2 does not have, by name.
fn require_version_2(target: &Header) -> Result<()> {
    let needs_3 = |what: &str| {
        let message = format!("{what} need version 3 (compat 1.1)");
        Err(Error::new(ErrorKind::IncompatibleOptions, message))
    };
    if target.compatible.contains(Compatible::LAZY_REFCOUNTS) {
        return needs_3("lazy refcounts");
    }
    if target.compression != CompressionType::Zlib {
        return needs_3("clusters compressed with zstd");
    }
    if target.geometry.extended_l2() {
        return needs_3("extended L2 entries");
    }
    if target.has_external_data() {
        return needs_3("external data files");
    }
    if target.bitmaps().is_some() {
        return needs_3("persistent bitmaps");
    }
    Ok(())
}

fn to_version_2(mut target: Header) -> Result<Header> {
    if target.snapshots.count > 0 {
        let message = "internal snapshots may have clusters that only version 3 (compat 1.1) knows";
        return Err(Error::new(ErrorKind::HasSnapshots, message));
    }
    require_version_2(&target)?;
    if target.unknown_tail.iter().any(|&byte| byte != 0) {
        let message = "the header has fields that this version does not know";
        return Err(Error::new(ErrorKind::UnsupportedFeature, message));
    }
    target.compatible = Compatible::default();
    target.autoclear = Autoclear::default();
    target.header_length = V2_HEADER_LEN;
    target.unknown_tail = Vec::new();
    target.extensions.retain(|extension| !matches!(extension, Extension::FeatureNames(_)));
    Ok(target)
}

fn to_version_3(storage: &dyn Storage, mut target: Header) -> Result<Header> {
    if target.snapshots.count > 0 {
        let snapshots = read_snapshots(storage, &target)?;
        if snapshots.iter().any(|snapshot| snapshot.disk_size_bytes.is_none()) {
            let message = "an internal snapshot does not say how large its disk is, as version 3 \
                           (compat 1.1) has it";
            return Err(Error::new(ErrorKind::HasSnapshots, message));
        }
    }
    target.header_length = V3_HEADER_LEN;
    // As for new images: no name table where it would take much of a small first cluster.
    if target.geometry.cluster_size() > 4096 {
        let place =
            target.extensions.iter().take_while(|e| !matches!(e, Extension::Unknown { .. }));
        let place = place.count();
        target.extensions.insert(place, Extension::FeatureNames(name_table()));
    }
    Ok(target)
}

fn incompatible<T>(message: &str) -> Result<T> {
    Err(Error::new(ErrorKind::IncompatibleOptions, message))
}
