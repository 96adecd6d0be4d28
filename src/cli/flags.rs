//! Flags that several verbs share.

use std::path::{Path, PathBuf};

use clap::{ArgAction, Args, ValueEnum};

use super::names::{bytes, mebibytes, one_of, size};
use super::output::Output;
use super::progress::ProgressChoice;
use crate::error::Result;
use crate::host::LockPolicy;
use crate::image::gate::Trust;
use crate::ops::{
    BackingOptions, BackingStore, Compat, Compression, Context, EnsureRequest, Format, Guest,
    GuestFs, GuestOptions, LayoutOptions, LockOptions, Preallocation, Preset, TrustLevel,
    TrustOptions, parse_mode,
};
use crate::task::{Cancel, Silent};
use crate::units::ByteSize;

/// How the result is told.
#[derive(Debug, Args)]
pub(super) struct OutputFlags {
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Print nothing but what was asked for, and errors
    #[arg(long, short, global = true)]
    pub(super) quiet: bool,
    /// Tell on standard error what is done; -vv tells every step
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub(super) verbose: u8,
}

/// The forms in which some results are told besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputForm {
    QemuJson,
}

/// What to do about locks.
#[derive(Debug, Args)]
#[command(next_help_heading = "Locks")]
pub(super) struct LockFlags {
    /// Wait this many seconds for a disk that is in use
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, allow_hyphen_values = true)]
    lock_timeout: f64,
    /// Go on where the file system offers no locks
    #[arg(long)]
    no_lock: bool,
}

/// What an image may make us open.
#[derive(Debug, Args)]
#[command(next_help_heading = "Trust")]
pub(super) struct TrustFlags {
    /// Which files an image may make us open: none, those at or under its own folder (folder), also
    /// those that --allow names (named), or all (full) [default: folder; named with --allow]
    #[arg(long, value_name = "LEVEL", value_parser = one_of(TrustLevel::ALL, TrustLevel::name))]
    trust: Option<TrustLevel>,
    /// Also files at or under this folder (repeatable)
    #[arg(long, value_name = "FOLDER")]
    allow: Vec<PathBuf>,
}

impl LockFlags {
    fn options(&self) -> LockOptions {
        LockOptions { lock_timeout_seconds: self.lock_timeout, no_lock: self.no_lock }
    }
}

impl TrustFlags {
    fn options(&self) -> TrustOptions {
        TrustOptions { trust: self.trust, allow: self.allow.clone() }
    }

    /// Runs a verb that only looks, and so takes no lock.
    pub(super) fn looking<R>(
        &self,
        cancel: &Cancel,
        verb: impl FnOnce(Context<'_>) -> Result<R>,
    ) -> Result<R> {
        let (trust, locks) = (self.options().policy()?, LockPolicy::default());
        verb(Context { progress: &Silent, cancel, trust: &trust, locks: &locks })
    }
}

/// Runs a verb that opens no disk.
pub(super) fn asking<R>(cancel: &Cancel, verb: impl FnOnce(Context<'_>) -> Result<R>) -> Result<R> {
    let (trust, locks) = (Trust::none(), LockPolicy::default());
    verb(Context { progress: &Silent, cancel, trust: &trust, locks: &locks })
}

/// Flags of every verb that changes a disk.
#[derive(Debug, Args)]
pub(super) struct ChangeFlags {
    #[command(flatten)]
    locks: LockFlags,
    #[command(flatten)]
    trust: TrustFlags,
    /// How progress is shown on standard error: a bar on a terminal (auto), a JSON object a line
    /// (json), or not at all (off)
    #[arg(long, value_name = "HOW", value_enum, default_value = "auto", help_heading = None)]
    progress: ProgressChoice,
}

impl ChangeFlags {
    /// Runs a verb that changes a disk, telling its progress.
    pub(super) fn changing<R>(
        &self,
        output: Output,
        cancel: &Cancel,
        verb: impl FnOnce(Context<'_>) -> Result<R>,
    ) -> Result<R> {
        let (trust, locks) = (self.trust.options().policy()?, self.locks.options().policy()?);
        let progress = self.progress.start(output);
        verb(Context { progress: progress.as_ref(), cancel, trust: &trust, locks: &locks })
    }
}

/// Flags of every verb that locks a disk and opens nothing else.
#[derive(Debug, Args)]
pub(super) struct LockedFlags {
    #[command(flatten)]
    locks: LockFlags,
    /// How progress is shown on standard error: a bar on a terminal (auto), a JSON object a line
    /// (json), or not at all (off)
    #[arg(long, value_name = "HOW", value_enum, default_value = "auto", help_heading = None)]
    progress: ProgressChoice,
}

impl LockedFlags {
    /// Runs a verb on one disk, telling its progress.
    pub(super) fn locked<R>(
        &self,
        output: Output,
        cancel: &Cancel,
        verb: impl FnOnce(Context<'_>) -> Result<R>,
    ) -> Result<R> {
        let (trust, locks) = (Trust::none(), self.locks.options().policy()?);
        let progress = self.progress.start(output);
        verb(Context { progress: progress.as_ref(), cancel, trust: &trust, locks: &locks })
    }
}

/// What a new disk is made of: flags of `create` and `ensure`.
#[derive(Debug, Args)]
pub(super) struct DiskFlags {
    /// The disk [default: disk.qcow2, or disk.raw with --format raw]
    path: Option<PathBuf>,
    /// Size of the guest's disk, with its unit: 20G, 1.5TiB, 500MB [default: the backing file's]
    #[arg(long, short, value_parser = size, allow_hyphen_values = true)]
    size: Option<ByteSize>,
    /// The same in MiB, for scripts that carry docker-machine's flag
    #[arg(long, value_name = "MIB", conflicts_with = "size", value_parser = mebibytes)]
    docker_machine_mb: Option<u64>,
    /// Format [default: what the path's name promises, else qcow2]
    #[arg(long, short, value_parser = one_of(Format::ALL, Format::name))]
    format: Option<Format>,
    #[command(flatten)]
    backing: BackingFlags,
    #[command(flatten)]
    guest: GuestFlags,
    #[command(flatten)]
    layout: LayoutFlags,
    /// Permission bits of the file, in octal [default: 0600]
    #[arg(long, value_parser = parse_mode)]
    mode: Option<u32>,
    /// Owner of the file: user or user:group, names or numbers
    #[arg(long)]
    owner: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Backing file")]
pub(super) struct BackingFlags {
    /// Lay the disk over this image, which stays as it is
    #[arg(long, short, value_name = "FILE")]
    backing: Option<PathBuf>,
    /// Its format [default: probed for qcow2, never guessed raw]
    #[arg(long, value_name = "FORMAT", requires = "backing",
          value_parser = one_of(Format::ALL, Format::name))]
    backing_format: Option<Format>,
    /// How its name is stored [default: relative if at most one folder up, else absolute]
    #[arg(long, value_name = "HOW", requires = "backing",
          value_parser = one_of(BackingStore::ALL, BackingStore::name))]
    backing_store: Option<BackingStore>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Guest")]
struct GuestFlags {
    /// Who formats the disk [default: boot2docker; none with --backing and without keys]
    #[arg(long, value_parser = one_of(Guest::ALL, Guest::name))]
    guest: Option<Guest>,
    /// Public key that may log in (repeatable)
    #[arg(long, value_name = "FILE")]
    ssh_key: Vec<PathBuf>,
    /// A ready payload archive instead of keys
    #[arg(long, value_name = "FILE.tar")]
    userdata: Option<PathBuf>,
    /// Write keys even over a partition table or filesystem
    #[arg(long)]
    overwrite_guest: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Layout")]
pub(super) struct LayoutFlags {
    /// Who will use the disk [default: qemu]
    #[arg(long, value_parser = one_of(Preset::ALL, Preset::name))]
    preset: Option<Preset>,
    /// What is laid out from the start [default: metadata; tables with --backing; off for raw]
    #[arg(long, value_parser = one_of(Preallocation::ALL, Preallocation::name))]
    preallocation: Option<Preallocation>,
    /// Version of qcow2 [default: 1.1]
    #[arg(long, value_parser = one_of(Compat::ALL, Compat::name))]
    compat: Option<Compat>,
    /// Cluster size: a power of two from 512 to 2M [default: 64K]
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_hyphen_values = true)]
    cluster_size: Option<ByteSize>,
    /// Width of reference counts: 1, 2, 4, 8, 16, 32 or 64 [default: 16]
    #[arg(long, value_name = "BITS")]
    refcount_bits: Option<u64>,
    /// Subclusters: smaller copies on write [default: off; on when preallocating above a backing file]
    #[arg(long, value_name = "on|off", value_parser = on_off)]
    extended_l2: Option<bool>,
    /// How clusters will be compressed [default: zlib]
    #[arg(long, value_parser = one_of(Compression::ALL, Compression::name))]
    compression_type: Option<Compression>,
    /// Update reference counts late [default: off; on with --preset hyperkit]
    #[arg(long, value_name = "on|off", value_parser = on_off)]
    lazy_refcounts: Option<bool>,
    /// Ask btrfs not to copy the file on every write
    #[arg(long)]
    nocow: bool,
}

impl BackingFlags {
    pub(super) fn options(&self) -> Option<BackingOptions> {
        backing_options(self.backing.as_deref(), self.backing_format, self.backing_store)
    }
}

/// The backing file that is meant, if any.
pub(super) fn backing_options(
    path: Option<&Path>,
    format: Option<Format>,
    store: Option<BackingStore>,
) -> Option<BackingOptions> {
    path.map(|path| BackingOptions { path: path.to_owned(), format, store })
}

impl LayoutFlags {
    pub(super) fn options(&self) -> LayoutOptions {
        LayoutOptions {
            preset: self.preset,
            compat: self.compat,
            cluster_size: self.cluster_size,
            refcount_bits: self.refcount_bits,
            extended_l2: self.extended_l2,
            compression_type: self.compression_type,
            lazy_refcounts: self.lazy_refcounts,
            preallocation: self.preallocation,
            nocow: self.nocow,
        }
    }
}

impl DiskFlags {
    pub(super) fn request(&self) -> EnsureRequest {
        let default_path = || match self.format {
            Some(Format::Raw) => PathBuf::from("disk.raw"),
            _ => PathBuf::from("disk.qcow2"),
        };
        EnsureRequest {
            path: self.path.clone().unwrap_or_else(default_path),
            size: self.size,
            docker_machine_mb: self.docker_machine_mb,
            format: self.format,
            layout: self.layout.options(),
            backing: self.backing.options(),
            guest: GuestOptions {
                profile: self.guest.guest,
                ssh_keys: Vec::new(),
                ssh_key_files: self.guest.ssh_key.clone(),
                userdata_file: self.guest.userdata.clone(),
                overwrite: self.guest.overwrite_guest,
            },
            guest_fs: GuestFs::Auto,
            compact_above_percent: None,
            mode: self.mode,
            owner: self.owner.clone(),
        }
    }
}

pub(super) fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("'{text}' is neither on nor off")),
    }
}
