//! Images that lie: whatever they are asked, they answer, and what they are asked and how large
//! their files are bounds the work that it takes and the room, whatever they claim.

use std::sync::Arc;

use super::check::scan;
use super::fixtures_tests::{has_room, made_by, with_bitmap, with_snapshot};
use super::header::Header;
use super::metered_tests::{Account, Metered};
use super::open::Qcow2;
use super::shape_tests::{Data, Shape, to_size};
use super::subject_tests::Step;
use crate::block::BlockDevice;
use crate::host::storage::Storage;
use crate::task::{Cancel, Silent, Task};

/// The most that is read or written at once, in bytes.
const MOST: u64 = 40_000;

/// What an image has before it is damaged, beside data of every kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beside {
    pub(super) snapshot: bool,
    pub(super) bitmap: bool,
}

/// What is put into the image's file, at an offset that is cut to fit.
#[derive(Debug, Clone, Copy)]
pub(super) enum Damage {
    Word(u64, u64),
    /// The same word, so many times: a table whose entries all lead to one place.
    Fill(u64, u16, u64),
}

/// Damages an image and then does all that can be done with it.
pub(super) fn survive(shape: Shape, beside: Beside, damage: &[Damage], steps: &[Step]) {
    let (files, account) = Metered::files(&victim(shape, beside));
    damage.iter().for_each(|damage| damage.apply(&files[0]));
    let mut meter = Meter::new(&files, account, shape);
    let cancel = Cancel::new();
    let task = Task::new(&Silent, &cancel);
    if let Ok(header) = Header::read(&*files[0]) {
        let _ = meter.watch("scan", 0, || scan(&*files[0], &header, task).map(drop));
    }
    for writable in [false, true] {
        let mut image = None;
        meter.watch("open", 0, || image = shape.open(&files, writable).ok());
        let Some(image) = image else { continue };
        steps.iter().for_each(|step| use_at(&mut meter, &image, *step));
        let _ = meter.watch("close", 0, || image.close());
    }
    if let Ok(mut image) = shape.open(&files, false) {
        let options = to_size(image.size() / 2 + 70_000);
        let _ = meter.watch("resize", 70_000, || image.resize(&options, task).map(drop));
    }
}

/// The files of an image with something of everything.
pub(super) fn victim(shape: Shape, beside: Beside) -> Vec<Vec<u8>> {
    let cluster = 1u64 << shape.cluster_bits;
    let steps = [
        Step::Write(100, 2 * cluster as usize, 3),
        Step::Pack(3, 3, 5),
        Step::Zero(7 * cluster, cluster),
    ];
    let (mut files, _) = made_by(shape, &steps);
    let mut image = std::mem::take(&mut files[0]);
    // Where what is packed is shared too, two bits do not count it.
    let shareable = shape.data == Data::Inside && shape.order > 1;
    if beside.snapshot && shareable && has_room(image.clone()) {
        image = with_snapshot(image);
    }
    if beside.bitmap && has_room(image.clone()) {
        image = with_bitmap(image);
    }
    files[0] = image;
    files
}

impl Damage {
    fn apply(self, file: &Metered) {
        let len = file.len().unwrap();
        let (at, times, word) = match self {
            Damage::Word(at, word) => (at % len, 1, word),
            Damage::Fill(at, times, word) => (at % len / 8 * 8, u64::from(times), word),
        };
        let times = times.min((len - at).div_ceil(8)) as usize;
        file.write_at(at, &word.to_be_bytes().repeat(times)).unwrap();
    }
}

/// Reads where the step says, and does there what it says.
fn use_at(meter: &mut Meter, image: &Qcow2, step: Step) {
    let (Step::Write(at, ..) | Step::Zero(at, _) | Step::Discard(at, _) | Step::Pack(at, ..)) =
        step
    else {
        return;
    };
    let at = at % image.size().max(1);
    let len = MOST.min(image.size() - at);
    let mut buf = vec![0; len as usize];
    let _ = meter.watch("read", len, || image.read_at(at, &mut buf));
    let _ = meter.watch("extent", len, || image.extent(at, at + len).map(drop));
    let _ = match step {
        Step::Write(..) => meter.watch("write", len, || image.write_at(at, &buf)),
        Step::Zero(..) => meter.watch("zero", len, || image.write_zeroes(at, len)),
        Step::Discard(..) => meter.watch("discard", len, || image.discard(at, len)),
        _ => meter.watch("pack", len, || {
            let at = at >> 16 << 16;
            let len = (image.size() - at).min(1 << 16) as usize;
            buf.resize(len, 7);
            image.write_compressed(at, &buf)
        }),
    };
}

/// Holds the work of each operation, and the room of all, against what they are worth.
pub(super) struct Meter {
    account: Arc<Account>,
    /// Bytes of the files before anything was done with them.
    len: u64,
    room: u64,
    cluster: u64,
    asked: u64,
}

impl Meter {
    pub(super) fn new(files: &[Arc<Metered>], account: Arc<Account>, shape: Shape) -> Meter {
        let len = files.iter().map(|file| file.len().unwrap()).sum();
        let (room, cluster) = (account.room(), 1 << shape.cluster_bits);
        Meter { account, len, room, cluster, asked: 0 }
    }

    pub(super) fn watch<T>(&mut self, what: &str, asked: u64, work: impl FnOnce() -> T) -> T {
        let before = self.account.work();
        let done = work();
        let worked = self.account.work() - before;
        self.asked += asked;
        let worth = self.len + self.asked + 8 * self.cluster;
        assert!(worked <= 2 * worth, "{what}: {worked} bytes of work for {worth}");
        let grown = self.account.room().saturating_sub(self.room);
        assert!(grown <= worth, "{what}: {grown} bytes more for {worth}");
        done
    }
}
