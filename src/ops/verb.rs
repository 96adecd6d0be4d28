//! What a verb is, and the list of them. The protocol, its document and `capabilities` walk this
//! list, so that a verb which is added here is served by them all; the command line has its flags.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::amend::{AmendReport, AmendRequest, amend};
use super::bitmap::{
    BitmapAddRequest, BitmapChangeReport, BitmapListReport, BitmapListRequest, BitmapMergeRequest,
    BitmapRemoveRequest, BitmapRequest, bitmap_add, bitmap_clear, bitmap_disable, bitmap_enable,
    bitmap_list, bitmap_merge, bitmap_remove,
};
use super::capabilities::{CapabilitiesReport, CapabilitiesRequest, capabilities};
use super::chain::{ChainReport, ChainRequest, chain};
use super::check::{
    CheckReport, CheckRequest, UndoRepairReport, UndoRepairRequest, check, undo_repair,
};
use super::clone::{CloneReport, CloneRequest, clone};
use super::commit::{CommitReport, CommitRequest, commit};
use super::compact::{CompactReport, CompactRequest, compact};
use super::compare::{CompareReport, CompareRequest, compare};
use super::context::Context;
use super::convert::{ConvertReport, ConvertRequest, convert};
use super::create::{CreateReport, create};
use super::ensure::{EnsureReport, ensure};
use super::flatten::{FlattenReport, FlattenRequest, flatten};
use super::guest::{InsideReport, InsideRequest, guest};
use super::hash::{HashReport, HashRequest, hash};
use super::info::{InfoReport, InfoRequest, info};
use super::inspect::{InspectReport, InspectRequest, inspect};
use super::map::{MapReport, MapRequest, map};
use super::measure::{MeasureReport, MeasureRequest, measure};
use super::options::{CreateRequest, EnsureRequest};
use super::rebase::{RebaseReport, RebaseRequest, rebase};
use super::resize::{ResizeReport, ResizeRequest, resize};
use super::salvage::{SalvageReport, SalvageRequest, salvage};
use super::snapshot::{
    SnapshotApplyRequest, SnapshotChangeReport, SnapshotCreateRequest, SnapshotListReport,
    SnapshotListRequest, SnapshotRequest, SnapshotShowReport, snapshot_apply, snapshot_create,
    snapshot_delete, snapshot_list, snapshot_show,
};
use crate::error::Result;

/// A verb: a request in, a report out.
pub trait Verb {
    /// Its name, in the library, on the command line and in the protocol.
    const NAME: &'static str;
    /// What it does, in a sentence.
    const SUMMARY: &'static str;
    /// Whether it may open files that images name, and so heeds
    /// [`TrustOptions`](super::TrustOptions).
    const OPENS: bool;
    /// Whether it locks disks, and so heeds [`LockOptions`](super::LockOptions).
    const LOCKS: bool;
    /// What is asked.
    type Request: DeserializeOwned + JsonSchema;
    /// What is answered.
    type Report: Serialize + JsonSchema;

    /// Does it.
    ///
    /// # Errors
    /// As the function of the same name says.
    fn run(request: &Self::Request, context: Context<'_>) -> Result<Self::Report>;
}

/// Is shown every verb.
pub trait Visitor {
    /// This is one.
    fn visit<V: Verb>(&mut self);
}

macro_rules! verbs {
    ($(
        #[doc = $summary:literal]
        $verb:ident = $function:ident($request:ty) -> $report:ty,
        opens: $opens:literal, locks: $locks:literal;
    )+) => {
        $(
            #[doc = $summary]
            #[derive(Debug)]
            pub struct $verb;

            impl Verb for $verb {
                const NAME: &'static str = stringify!($function);
                const SUMMARY: &'static str = $summary.trim_ascii();
                const OPENS: bool = $opens;
                const LOCKS: bool = $locks;
                type Request = $request;
                type Report = $report;

                fn run(request: &$request, context: Context<'_>) -> Result<$report> {
                    $function(request, context)
                }
            }
        )+

        /// Shows every verb to `visitor`.
        pub fn each_verb(visitor: &mut impl Visitor) {
            $(visitor.visit::<$verb>();)+
        }
    };
}

verbs! {
    /// Creates a disk: whole and synced under its name, or not at all.
    Create = create(CreateRequest) -> CreateReport, opens: true, locks: true;

    /// Creates a disk, or grows it, or leaves it as it is: the one call for every machine start.
    Ensure = ensure(EnsureRequest) -> EnsureReport, opens: true, locks: true;

    /// Grows a disk with its last partition and the filesystem in it, or shrinks it.
    Resize = resize(ResizeRequest) -> ResizeReport, opens: true, locks: true;

    /// Puts a disk above another backing file, or above none; it reads the same as before.
    Rebase = rebase(RebaseRequest) -> RebaseReport, opens: true, locks: true;

    /// Makes a disk another kind of qcow2 image, which reads the same.
    Amend = amend(AmendRequest) -> AmendReport, opens: true, locks: true;

    /// Tells what a disk is; takes no lock, so it works while a machine runs.
    Info = info(InfoRequest) -> InfoReport, opens: true, locks: false;

    /// Tells what is inside of a disk: payload, partitions, filesystems, and how far they would grow.
    Inside = guest(InsideRequest) -> InsideReport, opens: true, locks: false;

    /// Tells which parts of a disk are data, zeros or nothing, and where in its files they are.
    Map = map(MapRequest) -> MapReport, opens: true, locks: false;

    /// Tells how large a new image's file would be.
    Measure = measure(MeasureRequest) -> MeasureReport, opens: true, locks: false;

    /// Tells which images a disk consists of, and which depend on it.
    Chain = chain(ChainRequest) -> ChainReport, opens: true, locks: false;

    /// Tells what an image file claims, and whether it is safe to use, without following any of it.
    Inspect = inspect(InspectRequest) -> InspectReport, opens: false, locks: false;

    /// Checks whether an image is sound, and repairs it if asked to.
    Check = check(CheckRequest) -> CheckReport, opens: false, locks: true;

    /// Takes a repair back, from the file that it left beside the image.
    UndoRepair = undo_repair(UndoRepairRequest) -> UndoRepairReport, opens: false, locks: true;

    /// Reads what can be read of a damaged disk into a new raw disk, and tells what is lost.
    Salvage = salvage(SalvageRequest) -> SalvageReport, opens: true, locks: true;

    /// Writes what a disk holds into the image below it, or into one further down.
    Commit = commit(CommitRequest) -> CommitReport, opens: true, locks: true;

    /// Copies what shows through from below into a disk, which needs nothing below it then.
    Flatten = flatten(FlattenRequest) -> FlattenReport, opens: true, locks: true;

    /// Gives room back to the host that a disk does not need, in place, with the machine off.
    Compact = compact(CompactRequest) -> CompactReport, opens: true, locks: true;

    /// Makes a second disk that shows the same: shares blocks, else lies above it, else copies.
    Clone = clone(CloneRequest) -> CloneReport, opens: true, locks: true;

    /// Tells which internal snapshots an image has; takes no lock, so it works while a machine runs.
    SnapshotList = snapshot_list(SnapshotListRequest) -> SnapshotListReport,
    opens: false, locks: false;

    /// Tells all that is known of a snapshot, and what it alone holds on to.
    SnapshotShow = snapshot_show(SnapshotRequest) -> SnapshotShowReport,
    opens: false, locks: false;

    /// Keeps what a disk holds now under a name, inside of the image.
    SnapshotCreate = snapshot_create(SnapshotCreateRequest) -> SnapshotChangeReport,
    opens: false, locks: true;

    /// Makes a disk what it was when a snapshot was taken; what it holds now is lost.
    SnapshotApply = snapshot_apply(SnapshotApplyRequest) -> SnapshotChangeReport,
    opens: false, locks: true;

    /// Deletes a snapshot; the disk stays as it is.
    SnapshotDelete = snapshot_delete(SnapshotRequest) -> SnapshotChangeReport,
    opens: false, locks: true;

    /// Writes what the guest sees of a disk as a new one, raw or qcow2, compressed if asked to.
    Convert = convert(ConvertRequest) -> ConvertReport, opens: true, locks: true;

    /// Compares what the guests of two disks see.
    Compare = compare(CompareRequest) -> CompareReport, opens: true, locks: true;

    /// Hashes what the guest of a disk sees: the same for every format.
    Hash = hash(HashRequest) -> HashReport, opens: true, locks: true;

    /// Lists the persistent dirty bitmaps of an image.
    BitmapList = bitmap_list(BitmapListRequest) -> BitmapListReport, opens: false, locks: false;

    /// Adds a bitmap to an image, which has nothing as dirty yet.
    BitmapAdd = bitmap_add(BitmapAddRequest) -> BitmapChangeReport, opens: true, locks: true;

    /// Removes a bitmap from an image, or all of them.
    BitmapRemove = bitmap_remove(BitmapRemoveRequest) -> BitmapChangeReport,
    opens: true, locks: true;

    /// Has a bitmap forget what is dirty.
    BitmapClear = bitmap_clear(BitmapRequest) -> BitmapChangeReport, opens: true, locks: true;

    /// Has a bitmap kept up to date by programs that know bitmaps.
    BitmapEnable = bitmap_enable(BitmapRequest) -> BitmapChangeReport, opens: true, locks: true;

    /// Has a bitmap left as it is by programs that would keep it up to date.
    BitmapDisable = bitmap_disable(BitmapRequest) -> BitmapChangeReport, opens: true, locks: true;

    /// Has a bitmap take over what others have as dirty.
    BitmapMerge = bitmap_merge(BitmapMergeRequest) -> BitmapChangeReport, opens: true, locks: true;

    /// Tells what this program and this host can do.
    Capabilities = capabilities(CapabilitiesRequest) -> CapabilitiesReport,
    opens: false, locks: false;
}
