//! Writing guest data compressed: packed clusters lie one behind another in host clusters that
//! they share, each of which is counted once for every packed cluster that touches it.

use std::borrow::Cow;

use super::entry::{CompressedRange, L2Entry};
use super::geometry::{ClusterCount, GuestCluster, GuestOffset, HostCluster, HostOffset};
use super::lengths::len_of;
use super::live::Live;
use super::open::Qcow2;
use crate::block::{is_zero, require_inside};
use crate::error::{Error, ErrorKind, Result};

impl Qcow2 {
    /// Writes whole clusters, compressed the image's way: what of them does not get smaller is
    /// written as it is, and zeros become zero clusters. Any number of threads may do this at
    /// once; packing is what takes the time, and they do it side by side.
    ///
    /// `offset`, in bytes, is a multiple of the cluster size, and so is the length of `data`,
    /// except that it may end at the disk's end.
    ///
    /// # Errors
    /// [`BadRequest`](ErrorKind::BadRequest) for parts of clusters and beyond the disk's end,
    /// [`Permission`](ErrorKind::Permission) if the image was opened to be read,
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) with an external data file, and what
    /// the storage says.
    pub fn write_compressed(&self, offset: u64, data: &[u8]) -> Result<()> {
        require_inside(self.header.virtual_size, "compressed write", offset, len_of(data))?;
        self.may_pack(offset, data)?;
        self.telling(|| {
            let mut at = GuestOffset::new(offset);
            for cluster in data.chunks(self.header.geometry.cluster_len()) {
                self.write_packed(at, cluster).map_err(|error| error.at_guest_offset(at.get()))?;
                at = at.plus_bytes(len_of(cluster));
            }
            Ok(())
        })
    }

    fn may_pack(&self, offset: u64, data: &[u8]) -> Result<()> {
        let geometry = self.header.geometry;
        if !self.options.writable {
            return Err(Error::new(ErrorKind::Permission, "the image was opened to be read"));
        }
        if self.data_file.is_some() {
            let message = "an image with an external data file cannot have compressed clusters";
            return Err(Error::new(ErrorKind::UnsupportedFeature, message));
        }
        let end = GuestOffset::new(offset).plus_bytes(len_of(data));
        let whole = geometry.within_cluster(end) == 0 || end.get() == self.header.virtual_size;
        if geometry.within_cluster(GuestOffset::new(offset)) != 0 || !whole {
            let (len, size) = (data.len(), geometry.cluster_size());
            let message = format!(
                "a compressed write must begin and end at multiples of the cluster size, {size} \
                 bytes, or end with the disk: found {len} bytes"
            );
            return Err(Error::new(ErrorKind::BadRequest, message).at_guest_offset(offset));
        }
        Ok(())
    }

    /// Writes one cluster, of which the end may be missing.
    fn write_packed(&self, offset: GuestOffset, data: &[u8]) -> Result<()> {
        if is_zero(data) && self.can_say_zero() {
            return self.zero_mapped(offset, len_of(data));
        }
        let geometry = self.header.geometry;
        let mut whole = Cow::from(data);
        if data.len() < geometry.cluster_len() {
            whole.to_mut().resize(geometry.cluster_len(), 0);
        }
        let mut packer = self.codec.packer();
        let placed = match packer.pack(&whole) {
            None => false,
            Some(packed) => {
                let cluster = geometry.guest_cluster(offset);
                self.changing(|live| self.place_packed(live, cluster, packed))?
            }
        };
        self.codec.keep_packer(packer);
        if placed { Ok(()) } else { self.write_mapped(offset, data) }
    }

    /// Puts packed data in the place of what a guest cluster was mapped to. Returns whether there
    /// was a place that an entry can name.
    fn place_packed(&self, live: &mut Live, cluster: GuestCluster, packed: &[u8]) -> Result<bool> {
        let geometry = self.header.geometry;
        let mapping = self.mapping_now(live, cluster)?;
        let table = self.own_table(live, cluster)?;
        let len = len_of(packed);
        let range = CompressedRange { offset: self.room_for_packed(live, len)?, len };
        let Some(entry) = L2Entry::compressed(range.offset, len, geometry) else {
            live.packed_end = None;
            self.give_up_packed(live, range);
            return Ok(false);
        };
        self.storage.write_at(range.offset.get(), packed)?;
        self.recent().forget();
        self.set_entry(live, table, cluster, entry).inspect_err(|_| {
            // Nothing refers to it: it must not stay taken.
            self.give_up_packed(live, range);
        })?;
        self.release(live, mapping);
        Ok(true)
    }

    /// A place for so many bytes, less than a cluster, and a reference more for each host cluster
    /// that they touch: behind the last packed data, going on into the next host cluster where
    /// that is free, else in a new host cluster.
    fn room_for_packed(&self, live: &mut Live, bytes: u64) -> Result<HostOffset> {
        let geometry = self.header.geometry;
        let mut start = None;
        if let Some(end) = live.packed_end.take() {
            let cluster = geometry.host_cluster(end);
            let next = cluster + ClusterCount::new(1);
            if let Some(count) = self.shareable(live, cluster)? {
                let fits = geometry.host_offset(next) >= end.plus_bytes(bytes);
                let other = if fits { None } else { Some(self.allocate(live)?) };
                if other.is_none_or(|other| other == next) {
                    self.set_count(live, cluster, count.saturating_add(1))?;
                    start = Some(end);
                } else {
                    start = other.map(|other| geometry.host_offset(other));
                }
            }
        }
        let start = match start {
            Some(start) => start,
            None => geometry.host_offset(self.allocate(live)?),
        };
        let end = start.plus_bytes(bytes);
        live.packed_end = (!geometry.is_aligned(end)).then_some(end);
        Ok(start)
    }

    /// The count of a cluster, if there is room in it for one more.
    fn shareable(&self, live: &mut Live, cluster: HostCluster) -> Result<Option<u64>> {
        let max = self.header.geometry.refcount_order().max_count();
        Ok(self.count_of(live, cluster)?.filter(|count| (1..max).contains(count)))
    }
}
