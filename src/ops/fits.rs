//! Whether a disk that exists is what a request asks for.

use super::choices::{Compat, Compression, Preset};
use super::existing::Existing;
use super::options::CreateRequest;
use crate::error::{Case, Error, ErrorKind, Result};
use crate::host::{folder_of, resolve};
use crate::qcow2::Header;
use crate::units::exactly;

/// Refuses an existing disk that is not as the request explicitly asks.
///
/// # Errors
/// [`FormatMismatch`](ErrorKind::FormatMismatch) for another format, [`Exists`](ErrorKind::Exists)
/// naming everything else that differs.
pub(super) fn check_fit(
    existing: &Existing,
    request: &CreateRequest,
    compare_size: bool,
) -> Result<()> {
    let (is, asked) = (existing.format(), request.format());
    let looks = existing.looks_like();
    let refuse = |kind, message| Err(Error::new(kind, message).at_path(&request.path));
    if is != asked || looks.is_some_and(|looks| looks != asked) {
        let is = looks.unwrap_or(is);
        let message = format!("the disk is {is}, asked for {asked}");
        return refuse(ErrorKind::FormatMismatch, message)
            .map_err(|error| error.in_case(Case::AnotherFormat));
    }
    let differs = differences(existing, request, compare_size)?;
    if !differs.is_empty() {
        let differs = differs.join("; ");
        let message = format!("the disk that is there is not as asked: {differs}");
        return refuse(ErrorKind::Exists, message);
    }
    Ok(())
}

/// What of an existing disk is not as the request explicitly asks, in words.
fn differences(
    existing: &Existing,
    request: &CreateRequest,
    compare_size: bool,
) -> Result<Vec<String>> {
    let mut differs = Vec::new();
    let mut compare = |what: &str, is: String, asked: Option<String>| {
        if let Some(asked) = asked.filter(|asked| *asked != is) {
            differs.push(format!("{what} is {is}, asked for {asked}"));
        }
    };
    if compare_size {
        let asked = request.asked_size()?.map(crate::units::VirtualSize::round_up).transpose()?;
        let is = existing.virtual_size()?;
        compare("size", exactly(is).to_string(), asked.map(|size| size.to_string()));
    }
    let layout = &request.layout;
    let Some(header) = existing.header() else {
        let backing = request.backing.as_ref().map(|_| "backing file");
        let option = layout.first_qcow2_option().map(|(option, _)| option).or(backing);
        differs.extend(option.map(|option| format!("a raw disk has no {option}")));
        return Ok(differs);
    };
    let for_hyperkit = header.is_for_hyperkit().then_some(Preset::Hyperkit.name());
    if layout.preset == Some(Preset::Hyperkit) {
        let is = for_hyperkit.unwrap_or("one that counts references");
        compare("preset", is.to_owned(), Some(Preset::Hyperkit.to_string()));
    }
    let compat_of_preset = (layout.preset == Some(Preset::Compat010)).then_some(Compat::V2);
    let compat = Compat::from(header.version);
    compare(
        "compat",
        compat.to_string(),
        layout.compat.or(compat_of_preset).map(|c| c.to_string()),
    );
    let geometry = header.geometry;
    let cluster_size = layout.cluster_size.map(|size| size.exactly().to_string());
    compare("cluster size", exactly(geometry.cluster_size()).to_string(), cluster_size);
    let bits = layout.refcount_bits.map(|bits| bits.to_string());
    compare("refcount bits", geometry.refcount_order().bits().to_string(), bits);
    let extended = layout.extended_l2.map(on_off);
    compare("extended L2", on_off(geometry.extended_l2()), extended);
    let compression = Compression::from(header.compression);
    compare(
        "compression type",
        compression.to_string(),
        layout.compression_type.map(|c| c.to_string()),
    );
    let lazy = header.compatible.contains(crate::qcow2::Compatible::LAZY_REFCOUNTS);
    compare("lazy refcounts", on_off(lazy), layout.lazy_refcounts.map(on_off));
    differs.extend(backing_difference(existing, header, request)?);
    Ok(differs)
}

/// Whether the backing file is another one than the request names.
fn backing_difference(
    existing: &Existing,
    header: &Header,
    request: &CreateRequest,
) -> Result<Option<String>> {
    use std::os::unix::ffi::OsStrExt;
    let stored = header.backing.as_ref().map(|backing| backing.name.as_slice());
    let asked = request.backing.as_ref().map(|backing| &backing.path);
    let (Some(stored), Some(asked)) = (stored, asked) else {
        return Ok(match (stored, asked) {
            (Some(stored), None) => {
                Some(format!("backing file is '{}', asked for none", stored.escape_ascii()))
            }
            (None, Some(asked)) => {
                Some(format!("there is no backing file, asked for {}", asked.display()))
            }
            _ => None,
        });
    };
    // Both are names; what counts is the file that they lead to.
    let folder = folder_of(existing.storage().path())?;
    let is = resolve(&folder.join(std::ffi::OsStr::from_bytes(stored))).ok();
    let same = is.is_some() && is == resolve(asked).ok();
    let asked_format = request.backing.as_ref().and_then(|backing| backing.format);
    let format = header.backing.as_ref().and_then(|backing| backing.format.as_deref());
    if let Some(asked) = asked_format.filter(|asked| format != Some(asked.name().as_bytes())) {
        let is = format.unwrap_or(b"not recorded").escape_ascii();
        return Ok(Some(format!("backing format is {is}, asked for {asked}")));
    }
    Ok((!same).then(|| {
        format!("backing file is '{}', asked for {}", stored.escape_ascii(), asked.display())
    }))
}

fn on_off(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}
