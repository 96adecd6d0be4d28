//! What can be chosen about a new image, and what the format allows together.

use super::geometry::Geometry;
use super::header::{BackingName, CompressionType, MAX_BACKING_NAME, Version};
use crate::error::{Error, ErrorKind, Result};
use crate::units::VirtualSize;

/// What is laid out before the guest writes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preallocation {
    /// Nothing.
    Off,
    /// Every L2 table, with its entries unallocated: what is below shows through.
    Tables,
    /// Every L2 table and an address for every guest cluster; the file stays sparse.
    Metadata,
    /// As `Metadata`, and the host file system reserves the room.
    Falloc,
    /// As `Metadata`, and zeros are written.
    Full,
}

impl Preallocation {
    /// Whether every guest cluster gets a host cluster.
    pub fn maps_data(self) -> bool {
        matches!(self, Preallocation::Metadata | Preallocation::Falloc | Preallocation::Full)
    }
}

/// How many entries the L1 table gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L1Capacity {
    /// As many as the size needs.
    AsNeeded,
    /// As many as fit in its clusters, so that growing need not touch it.
    WholeClusters,
}

/// The header's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderForm {
    /// As QEMU writes it: with the compression type and the feature name table.
    Qemu,
    /// 104 bytes and no feature names: readers from before 2020 reject anything longer.
    Short,
}

/// Everything that makes one new image differ from another.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// The version of the format.
    pub version: Version,
    /// Cluster size, reference count width and L2 entry form.
    pub geometry: Geometry,
    /// The size of the guest's disk.
    pub virtual_size: VirtualSize,
    /// The backing file to record.
    pub backing: Option<BackingName>,
    /// How clusters will be compressed.
    pub compression: CompressionType,
    /// Whether reference counts may be updated late.
    pub lazy_refcounts: bool,
    /// Whether the image is marked dirty from the start, for readers that never count.
    pub dirty: bool,
    /// The header's form (version 3).
    pub header_form: HeaderForm,
    /// How many entries the L1 table gets.
    pub l1_capacity: L1Capacity,
    /// What is laid out from the start.
    pub preallocation: Preallocation,
}

impl CreateOptions {
    /// The rules of the format about what goes together.
    ///
    /// # Errors
    /// [`IncompatibleOptions`](ErrorKind::IncompatibleOptions), and
    /// [`BadRequest`](ErrorKind::BadRequest) for a backing file name that is too long.
    pub fn validate(&self) -> Result<()> {
        let refuse = |why: &str| Err(Error::new(ErrorKind::IncompatibleOptions, why));
        if self.version == Version::V2 {
            if self.geometry.refcount_order().get() != 4 {
                return refuse("version 2 (compat 0.10) has 16-bit reference counts only");
            }
            if self.geometry.extended_l2() {
                return refuse("extended L2 entries need version 3 (compat 1.1)");
            }
            if self.compression != CompressionType::Zlib {
                return refuse("compression type zstd needs version 3 (compat 1.1)");
            }
            if self.lazy_refcounts || self.dirty {
                return refuse("lazy refcounts need version 3 (compat 1.1)");
            }
        }
        if self.header_form == HeaderForm::Short && self.compression != CompressionType::Zlib {
            return refuse("compression type zstd does not fit a header of 104 bytes");
        }
        if self.backing.as_ref().is_some_and(|backing| backing.name.len() > MAX_BACKING_NAME) {
            return Err(self.header_too_long());
        }
        let maps_data = self.preallocation.maps_data();
        if self.backing.is_some() && maps_data && !self.geometry.extended_l2() {
            return refuse("preallocation with a backing file needs extended L2 entries");
        }
        Ok(())
    }

    /// Refuses a disk that is larger than the geometry can map.
    ///
    /// # Errors
    /// [`BadSize`](ErrorKind::BadSize).
    pub fn require_mappable(&self) -> Result<()> {
        if self.geometry.holds(self.virtual_size) {
            return Ok(());
        }
        let message = format!(
            "size {} is above what clusters of {} bytes can map: {} bytes",
            self.virtual_size,
            self.geometry.cluster_size(),
            self.geometry.max_virtual_size()
        );
        Err(Error::new(ErrorKind::BadSize, message))
    }

    /// The backing file name does not fit.
    pub(super) fn header_too_long(&self) -> Error {
        let name = self.backing.as_ref().map_or(0, |backing| backing.name.len());
        let cluster = self.geometry.cluster_size();
        let message = format!(
            "backing file name of {name} bytes: at most {MAX_BACKING_NAME} are allowed, and it must fit \
             behind the header in a cluster of {cluster} bytes"
        );
        Error::new(ErrorKind::BadRequest, message)
    }
}
