//! The verbs: a request in, a report out, one file each. The only room that sees both an image
//! and a guest. Requests and reports are the contract: the library, the command line and the
//! protocol all speak them.

mod amend;
mod backing;
mod bitmap;
mod capabilities;
mod chain;
mod check;
mod choices;
mod clone;
mod commit;
mod compact;
mod compare;
mod context;
mod convert;
mod create;
mod damage;
mod ensure;
mod existing;
mod fits;
mod flatten;
#[cfg(any(test, fuzzing))]
pub mod fuzz_tests;
mod growth;
mod guest;
mod hash;
mod info;
mod inspect;
mod map;
mod measure;
mod named;
mod options;
mod payload;
mod place;
mod policy;
mod preset;
mod rebase;
mod resize;
mod salvage;
mod snapshot;
mod source;
mod verb;
mod wire;

pub use amend::{AmendReport, AmendRequest, AmendmentReport, amend};
pub use bitmap::{
    BitmapAddRequest, BitmapChangeReport, BitmapListReport, BitmapListRequest, BitmapMergeRequest,
    BitmapRemoveRequest, BitmapReport, BitmapRequest, bitmap_add, bitmap_clear, bitmap_disable,
    bitmap_enable, bitmap_list, bitmap_merge, bitmap_remove,
};
pub use capabilities::{
    CapabilitiesReport, CapabilitiesRequest, HostReport, LimitsReport, Locks, capabilities,
};
pub use chain::{
    ChainImage, ChainReport, ChainRequest, DependentReport, DependentsReport, NamedFileReport,
    NamedFor, ProblemReport, chain,
};
pub use check::{
    BrokenRuleReport, CheckReport, CheckRequest, CheckVerdict, FindingKind, FindingReport,
    FindingSeverity, LostRange, Reader, ReaderEffect, ReaderReport, ReaderRule, Repair,
    RepairReport, UndoRepairReport, UndoRepairRequest, check, undo_repair,
};
pub use choices::{
    BackingStore, Compat, Compression, Format, Guest, GuestFs, IfExists, PartitionTable,
    Preallocation, Preset, ReadZeros, TrustLevel,
};
pub use clone::{CloneMethod, CloneReport, CloneRequest, clone};
pub use commit::{CommitReport, CommitRequest, Overlay, commit};
pub use compact::{CompactReport, CompactRequest, compact};
pub use compare::{CompareReport, CompareRequest, ComparedDisk, Difference, compare};
pub use context::Context;
pub use convert::{ConvertReport, ConvertRequest, CopyMethod, convert, convert_from, convert_to};
pub use create::{BackingReport, CreateReport, GuestReport, create};
pub use damage::{Damage, DamageReport, DamageRequest, damage};
pub use ensure::{EnsureReport, ensure};
pub use flatten::{FlattenReport, FlattenRequest, flatten};
pub use growth::{FilesystemGrowthReport, GrowthReport, PartitionGrowthReport, RefusalReport};
pub use guest::{
    FilesystemReport, InsideReport, InsideRequest, PartitionReport, PartitionTableReport, guest,
};
pub use hash::{HashReport, HashRequest, hash};
pub use info::{
    InfoReport, InfoRequest, JournalReport, JournalState, Qcow2Report, QemuBitmap, QemuChild,
    QemuData, QemuEncryption, QemuInfo, QemuKeySlot, QemuSnapshot, QemuSpecific, SnapshotReport,
    info,
};
pub use inspect::{
    ExtensionReport, FeatureReport, FeatureSet, HeaderReport, InspectReport, InspectRequest,
    Reason, Rule, SafetyVerdict, TableReport, inspect,
};
pub use map::{MapEntry, MapImage, MapKind, MapReport, MapRequest, OpenMap, Picture, map};
pub use measure::{MeasureReport, MeasureRequest, measure};
pub(crate) use named::as_named;
pub use options::{BackingOptions, CreateRequest, EnsureRequest, GuestOptions, LayoutOptions};
pub use policy::{LockOptions, TrustOptions};
pub use rebase::{RebaseReport, RebaseRequest, rebase};
pub use resize::{ResizeReport, ResizeRequest, TargetSize, resize};
pub use salvage::{IfTaken, Loss, Lost, SalvageReport, SalvageRequest, salvage};
pub use snapshot::{
    SnapshotApplyRequest, SnapshotChangeReport, SnapshotCreateRequest, SnapshotListReport,
    SnapshotListRequest, SnapshotRequest, SnapshotShowReport, snapshot_apply, snapshot_create,
    snapshot_delete, snapshot_list, snapshot_show,
};
pub use verb::{
    Amend, BitmapAdd, BitmapClear, BitmapDisable, BitmapEnable, BitmapList, BitmapMerge,
    BitmapRemove, Capabilities, Chain, Check, Clone, Commit, Compact, Compare, Convert, Create,
    Ensure, Flatten, Hash, Info, Inside, Inspect, Map, Measure, Rebase, Resize, Salvage,
    SnapshotApply, SnapshotCreate, SnapshotDelete, SnapshotList, SnapshotShow, UndoRepair, Verb,
    Visitor, each_verb,
};
pub(crate) use wire::{SIZE_FORMAT, bytes_hex, lossy, parse_mode};
