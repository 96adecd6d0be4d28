//! The verbs: a request in, a report out, one file each. The only room that sees both an image
//! and a guest. Requests and reports are the contract: the library, the command line and the
//! protocol all speak them.

mod backing;
mod capabilities;
mod chain;
mod check;
mod choices;
mod context;
mod create;
mod damage;
mod ensure;
mod existing;
mod fits;
#[cfg(any(test, fuzzing))]
pub mod fuzz_tests;
mod growth;
mod guest;
mod info;
mod inspect;
mod map;
mod measure;
mod options;
mod payload;
mod place;
mod policy;
mod preset;
mod resize;
mod salvage;
mod verb;
mod wire;

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
    Preallocation, Preset, TrustLevel,
};
pub use context::Context;
pub use create::{BackingReport, CreateReport, GuestReport, create};
pub use damage::{Damage, DamageReport, DamageRequest, damage};
pub use ensure::{EnsureReport, ensure};
pub use growth::{FilesystemGrowthReport, GrowthReport, PartitionGrowthReport, RefusalReport};
pub use guest::{
    FilesystemReport, InsideReport, InsideRequest, PartitionReport, PartitionTableReport, guest,
};
pub use info::{
    InfoReport, InfoRequest, JournalReport, JournalState, Qcow2Report, SnapshotReport, info,
};
pub use inspect::{
    ExtensionReport, FeatureReport, FeatureSet, HeaderReport, InspectReport, InspectRequest,
    Reason, Rule, SafetyVerdict, TableReport, inspect,
};
pub use map::{MapEntry, MapImage, MapKind, MapReport, MapRequest, OpenMap, Picture, map};
pub use measure::{MeasureReport, MeasureRequest, measure};
pub use options::{BackingOptions, CreateRequest, EnsureRequest, GuestOptions, LayoutOptions};
pub use policy::{LockOptions, TrustOptions};
pub use resize::{ResizeReport, ResizeRequest, TargetSize, resize};
pub use salvage::{IfTaken, Loss, Lost, SalvageReport, SalvageRequest, salvage};
pub use verb::{
    Capabilities, Chain, Check, Create, Ensure, Info, Inside, Inspect, Map, Measure, Resize,
    Salvage, UndoRepair, Verb, Visitor, each_verb,
};
pub(crate) use wire::{SIZE_FORMAT, bytes_hex, lossy, parse_mode};
