//! What can be asked for of a new disk.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::choices::{
    BackingStore, Compat, Compression, Format, Guest, GuestFs, IfExists, Preallocation, Preset,
};
use super::resize::auto;
use super::wire::{self, one_size};
use crate::error::Result;
use crate::image::probe;
use crate::units::ByteSize;

/// How a new disk is laid out. What is not said is decided by the preset.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub struct LayoutOptions {
    /// Who will use the disk. Default: `qemu`.
    pub preset: Option<Preset>,
    /// The version of qcow2. Default: `1.1`; `0.10` with preset `compat-0.10`.
    pub compat: Option<Compat>,
    /// Bytes a cluster: a power of two from 512 to 2 MiB. Default: 64 KiB.
    #[serde(deserialize_with = "wire::size::optional")]
    #[schemars(with = "Option<wire::Size>")]
    pub cluster_size: Option<ByteSize>,
    /// Bits a reference count: a power of two from 1 to 64. Default: 16.
    pub refcount_bits: Option<u64>,
    /// Whether L2 entries have subclusters. Default: `false`; `true` above a backing file when
    /// more than `tables` is preallocated.
    pub extended_l2: Option<bool>,
    /// How compressed clusters will be packed. Default: `zlib`.
    pub compression_type: Option<Compression>,
    /// Whether reference counts may be updated late. Default: `false`; `true` with preset
    /// `hyperkit`.
    pub lazy_refcounts: Option<bool>,
    /// What is laid out from the start. Default: `metadata`; `tables` above a backing file; `off`
    /// for raw, with preset `hyperkit` and by `convert`.
    pub preallocation: Option<Preallocation>,
    /// Whether btrfs is asked not to copy the file on every write. Default: `false`.
    pub nocow: bool,
}

/// The backing file of a new overlay.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct BackingOptions {
    /// The file, relative to the working directory (with `as-given`: to the new image's folder).
    pub path: PathBuf,
    /// Its format. Default: probed for qcow2, never guessed to be raw.
    pub format: Option<Format>,
    /// How its name is stored. Default: `relative` where it lies at most one folder up, else
    /// `absolute`.
    pub store: Option<BackingStore>,
}

/// What the guest will find at the beginning of the disk.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub struct GuestOptions {
    /// The guest. Default: `boot2docker`; `none` above a backing file, unless keys are given.
    pub profile: Option<Guest>,
    /// Public keys that may log in, each the text of a line of `authorized_keys`. Default: none.
    pub ssh_keys: Vec<String>,
    /// Files with public keys that may log in. Default: none.
    pub ssh_key_files: Vec<PathBuf>,
    /// A file with a ready payload archive (tar), instead of keys. Default: none.
    pub userdata_file: Option<PathBuf>,
    /// Whether a guest's partition table or filesystem may be overwritten. Default: `false`.
    pub overwrite: bool,
}

impl GuestOptions {
    /// Whether keys are given, in whatever form.
    pub(super) fn has_keys(&self) -> bool {
        !self.ssh_keys.is_empty() || !self.ssh_key_files.is_empty()
    }
}

/// Declares a request for a disk: what `create` and `ensure` are both asked for, and more.
macro_rules! disk_request {
    (
        $(#[$doc:meta])*
        $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr,)* }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, expecting = "an object")]
        pub struct $name {
            /// Where the disk is, or will be.
            pub path: PathBuf,
            /// How large the guest's disk is; rounded up to 512 bytes. Default: the backing
            /// file's size, if there is one.
            #[serde(default, deserialize_with = "wire::size::optional")]
            #[schemars(with = "Option<wire::Size>")]
            pub size: Option<ByteSize>,
            /// The same in MiB, for drivers whose own option has that unit; excludes `size`.
            #[schemars(with = "Option<wire::Mebibytes>")]
            pub docker_machine_mb: Option<u64>,
            /// The format. Default: what the path's name promises, else `qcow2`.
            pub format: Option<Format>,
            /// How it is laid out.
            #[serde(default, deserialize_with = "wire::object::required")]
            pub layout: LayoutOptions,
            /// What it lies above. Default: nothing.
            #[serde(default, deserialize_with = "wire::object::optional")]
            pub backing: Option<BackingOptions>,
            /// What the guest will find.
            #[serde(default, deserialize_with = "wire::object::required")]
            pub guest: GuestOptions,
            $($(#[$field_doc])* pub $field: $type,)*
            /// The file's permission bits, in octal. Default: those of the file that it replaces,
            /// else `0600`.
            #[serde(default, deserialize_with = "wire::mode::optional")]
            #[schemars(with = "Option<wire::Mode>")]
            pub mode: Option<u32>,
            /// The file's owner, as `user` or `user:group`, by name or number. Default: that of the
            /// file that it replaces, else whoever runs the program.
            pub owner: Option<String>,
        }

        impl $name {
            /// A disk at `path` with every default.
            pub fn new(path: impl Into<PathBuf>, size: Option<ByteSize>) -> Self {
                $name {
                    path: path.into(),
                    size,
                    docker_machine_mb: None,
                    format: None,
                    layout: LayoutOptions::default(),
                    backing: None,
                    guest: GuestOptions::default(),
                    $($field: $default,)*
                    mode: None,
                    owner: None,
                }
            }
        }
    };
}

disk_request! {
    /// A new disk that is asked for.
    CreateRequest {
        /// What to do when the path exists. Default: `fail`.
        #[serde(default = "fail")]
        if_exists: IfExists = fail(),
        /// Whether what is there is replaced although other images in its folder depend on it; needs
        /// `if_exists` `replace`. Default: `false`.
        #[serde(default)]
        force: bool = false,
    }
}

fn fail() -> IfExists {
    IfExists::Fail
}

disk_request! {
    /// A disk that is to be there, with at least what is asked for.
    EnsureRequest {
        /// Whether what is inside grows to fill the disk, the last partition and the filesystem in
        /// it: of a disk that is there, and of a backing file in a new one. Default: `auto`.
        #[serde(default = "auto")]
        guest_fs: GuestFs = auto(),
        /// Where so many percent of what the disk takes on the host could be given back, that is done,
        /// as `compact` does it: 1 to 99. Default: it is not looked at.
        compact_above_percent: Option<u8> = None,
    }
}

impl From<EnsureRequest> for CreateRequest {
    fn from(request: EnsureRequest) -> Self {
        let EnsureRequest {
            path,
            size,
            docker_machine_mb,
            format,
            layout,
            backing,
            guest,
            guest_fs: _,
            compact_above_percent: _,
            mode,
            owner,
        } = request;
        CreateRequest {
            path,
            size,
            docker_machine_mb,
            format,
            layout,
            backing,
            guest,
            if_exists: fail(),
            force: false,
            mode,
            owner,
        }
    }
}

impl CreateRequest {
    /// The size asked for, in whichever unit.
    pub(super) fn asked_size(&self) -> Result<Option<ByteSize>> {
        one_size(self.size, self.docker_machine_mb)
    }

    /// The format asked for, or promised by the name.
    pub(super) fn format(&self) -> Format {
        let promised = || probe::Format::promised_by(&self.path).map(Format::from);
        self.format.or_else(promised).unwrap_or(Format::Qcow2)
    }
}
