//! Writing an image anew, beside itself, as another kind of image.

use std::path::Path;

use super::AmendRequest;
use crate::error::{Error, ErrorKind, Result};
use crate::host::{Staging, resolve};
use crate::image::Image;
use crate::image::copy::{self, CopyOptions, Packing, Target};
use crate::ops::choices::{Compression, Preallocation};
use crate::ops::context::Context;
use crate::ops::existing::Existing;
use crate::ops::options::LayoutOptions;
use crate::ops::place::Place;
use crate::qcow2::check::scan;
use crate::qcow2::geometry::ClusterBits;
use crate::qcow2::{
    BackingName, Compatible, CompressionType, CreateOptions, Extension, Header, HeaderForm,
    Incompatible,
};
use crate::units::{ByteSize, VirtualSize};

/// The new image, planned.
pub(super) struct Rewrite {
    options: CreateOptions,
    /// Whether its clusters are packed, since some of the old one's are.
    packs: bool,
}

impl Rewrite {
    /// The new image, if what is asked for needs one.
    ///
    /// # Errors
    /// Of what does not go together, and what reading says.
    pub(super) fn of(
        existing: &Existing,
        old: &Header,
        request: &AmendRequest,
        backing: Option<Option<BackingName>>,
        context: Context<'_>,
    ) -> Result<Option<Rewrite>> {
        old.require_not_corrupt()?;
        let geometry = old.geometry;
        if let Some(size) = request.cluster_size
            && ClusterBits::from_cluster_size(size.bytes()).is_none()
        {
            let size = size.exactly();
            let message =
                format!("cluster size {size}: allowed are powers of two from 512 bytes to 2 MiB");
            return Err(Error::new(ErrorKind::BadRequest, message).in_field("cluster_size"));
        }
        let asked = request.cluster_size.map(ByteSize::bytes);
        let clusters = asked.is_some_and(|size| size != geometry.cluster_size());
        let entries =
            request.extended_l2.is_some_and(|extended| extended != geometry.extended_l2());
        let packing = request.compression_type.map(CompressionType::from);
        let packing = packing.is_some_and(|packing| packing != old.compression);
        if !clusters && !entries && !packing {
            return Ok(None);
        }
        refuse_rewrite(existing, old, clusters || entries)?;
        let report = scan(existing.storage(), old, context.task())?;
        let packs = report.census.compressed.count > 0;
        if !clusters && !entries && !packs {
            return Ok(None);
        }
        refuse_rewrite(existing, old, true)?;
        // Counts that are known to be stale are not taken over.
        let is_damaged = match old.incompatible.contains(Incompatible::DIRTY) {
            true => report.damage().is_some(),
            false => report.corruptions > 0,
        };
        if is_damaged {
            let message = "the image is damaged: check it before it is written anew";
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let layout = layout(old, request);
        let virtual_size = VirtualSize::round_up(ByteSize::from_bytes(old.virtual_size))?;
        let backing = backing.unwrap_or_else(|| old.backing.clone());
        let mut options = layout.resolve(virtual_size, backing)?;
        let short = old.header_length == 104 && options.compression == CompressionType::Zlib;
        options.header_form = if short { HeaderForm::Short } else { HeaderForm::Qemu };
        options.validate()?;
        options.require_mappable()?;
        if request.data_file_raw == Some(true) {
            let message = "the image keeps its data inside: no data file can be raw";
            return Err(Error::new(ErrorKind::IncompatibleOptions, message));
        }
        Ok(Some(Rewrite { options, packs }))
    }

    /// The old header, as far as it becomes another one.
    pub(super) fn header(&self, old: &Header) -> Header {
        let lazy = Compatible::LAZY_REFCOUNTS;
        Header {
            version: self.options.version,
            geometry: self.options.geometry,
            compression: self.options.compression,
            compatible: old.compatible.without(lazy).with_if(self.options.lazy_refcounts, lazy),
            backing: self.options.backing.clone(),
            ..old.clone()
        }
    }

    /// What the caller should know.
    pub(super) fn note(&self) -> Option<String> {
        let note = "some clusters are compressed, so all of the new image's are";
        self.packs.then(|| note.to_owned())
    }

    /// Writes the new image and puts it in the place of the old one, which stays as it is until then.
    pub(super) fn carry_out(
        &self,
        existing: Existing,
        path: &Path,
        context: Context<'_>,
    ) -> Result<()> {
        let target = resolve(path)?;
        let place = Place::of(&target, Some(existing.storage()), None, None)?;
        let staging = Staging::begin(&target, place.mode, place.owner)?;
        let base = existing.below_alone(context)?;
        let source = existing.assemble_to_read(true, context)?;
        self.copy(&source, base.as_ref(), &staging, context)?;
        context.cancel.check()?;
        // The old one is locked until the new one has its name.
        let published = staging.publish(place.publish);
        drop(source);
        published
    }

    fn copy(
        &self,
        source: &Image,
        base: Option<&Image>,
        staging: &Staging,
        context: Context<'_>,
    ) -> Result<()> {
        let base = base.map(|disk| copy::Base { disk, is_below_source: true });
        let packing = self.packs.then(Packing::default);
        let options = CopyOptions { base, packing, ..CopyOptions::default() };
        let target = Target::Qcow2(self.options.clone());
        copy::copy(source, staging.storage(), &target, &options, context.task())
    }
}

/// Refuses what an image written anew would lose, by name; of an image that perhaps need not be
/// written anew, snapshots alone, which may have compressed clusters.
fn refuse_rewrite(existing: &Existing, old: &Header, is_sure: bool) -> Result<()> {
    let unsupported = |what: &str| {
        let message = format!("{what}: the image would have to be written anew, and lose that");
        Err(Error::new(ErrorKind::UnsupportedFeature, message))
    };
    if old.snapshots.count > 0 {
        let count = old.snapshots.count;
        let message = format!(
            "internal snapshots ({count}): the image would have to be written anew, and lose them"
        );
        return Err(Error::new(ErrorKind::HasSnapshots, message));
    }
    if !is_sure {
        return Ok(());
    }
    if old.bitmaps().is_some() {
        return unsupported("persistent bitmaps");
    }
    if old.has_external_data() {
        return unsupported("an external data file");
    }
    if old.extensions.iter().any(|extension| matches!(extension, Extension::Unknown { .. })) {
        return unsupported("a header extension that this version does not know");
    }
    if existing.storage().info()?.kind != crate::host::FileKind::Regular {
        return unsupported("a block device");
    }
    Ok(())
}

/// The layout that the image has, with what is asked for.
fn layout(old: &Header, request: &AmendRequest) -> LayoutOptions {
    let geometry = old.geometry;
    let compat = request.compat.unwrap_or(old.version.into());
    let cluster_size = ByteSize::from_bytes(geometry.cluster_size());
    let lazy = old.compatible.contains(Compatible::LAZY_REFCOUNTS);
    let v3 = old.version == crate::qcow2::Version::V3 && compat == old.version.into();
    LayoutOptions {
        preset: None,
        compat: Some(compat),
        cluster_size: Some(request.cluster_size.unwrap_or(cluster_size)),
        refcount_bits: request.refcount_bits.or(v3.then(|| geometry.refcount_order().bits())),
        extended_l2: Some(request.extended_l2.unwrap_or(geometry.extended_l2())),
        compression_type: Some(
            request.compression_type.unwrap_or(Compression::from(old.compression)),
        ),
        lazy_refcounts: Some(request.lazy_refcounts.unwrap_or(lazy && v3)),
        preallocation: Some(Preallocation::Off),
        nocow: false,
    }
}
