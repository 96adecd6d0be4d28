//! What a verb is, and the list of them. The protocol, its document and `capabilities` walk this
//! list, so that a verb which is added here is served by them all; the command line has its flags.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::capabilities::{CapabilitiesReport, CapabilitiesRequest, capabilities};
use super::chain::{ChainReport, ChainRequest, chain};
use super::check::{
    CheckReport, CheckRequest, UndoRepairReport, UndoRepairRequest, check, undo_repair,
};
use super::context::Context;
use super::create::{CreateReport, create};
use super::ensure::{EnsureReport, ensure};
use super::guest::{InsideReport, InsideRequest, guest};
use super::info::{InfoReport, InfoRequest, info};
use super::inspect::{InspectReport, InspectRequest, inspect};
use super::map::{MapReport, MapRequest, map};
use super::measure::{MeasureReport, MeasureRequest, measure};
use super::options::{CreateRequest, EnsureRequest};
use super::resize::{ResizeReport, ResizeRequest, resize};
use super::salvage::{SalvageReport, SalvageRequest, salvage};
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

    /// Tells what this program and this host can do.
    Capabilities = capabilities(CapabilitiesRequest) -> CapabilitiesReport,
    opens: false, locks: false;
}
