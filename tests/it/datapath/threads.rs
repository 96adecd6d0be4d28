//! Several threads that use one image at once.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use vmdisk::block::BlockDevice;
use vmdisk::image::Image;

use crate::draw::{Draw, whole_matrix};
use crate::fixtures::every_image;
use crate::support::{Env, same_bytes};

use super::disk::{Disk, IMAGE, contents};

const THREADS: u64 = 4;

/// A stripe of the disk that only one thread uses, and what it must show.
struct Stripe<'a> {
    start: u64,
    model: &'a mut [u8],
}

impl Stripe<'_> {
    fn range(&self, draw: &mut Draw) -> Range<usize> {
        let len = self.model.len() as u64;
        let (at, wanted) = (draw.below(len), 1 + draw.below(len));
        // Often all of it: then there are whole clusters inside.
        if draw.one_in(3) {
            return 0..self.model.len();
        }
        at as usize..(at + wanted).min(len) as usize
    }

    fn change(&mut self, image: &Image, draw: &mut Draw) {
        let range = self.range(draw);
        let (at, len) = (self.start + range.start as u64, range.len() as u64);
        let model = &mut self.model[range.clone()];
        match draw.below(6) {
            0..=2 => {
                model.fill(draw.next() as u8);
                image.write_at(at, model).expect("a write");
            }
            3 => {
                model.fill(0);
                image.write_zeroes(at, len).expect("zeros");
            }
            4 => {
                // What it shows then is what it shows from then on.
                image.discard(at, len).expect("a discard");
                let mut found = vec![1; model.len()];
                image.read_at(at, &mut found).expect("a read");
                model.copy_from_slice(&found);
            }
            _ => {
                let mut found = vec![1; model.len()];
                image.read_at(at, &mut found).expect("a read");
                same_bytes(&found, model, &format!("{len} bytes at {at}"));
            }
        }
    }
}

/// Cuts the model into stripes and deals them out.
fn deal(model: &mut [u8], len: usize) -> Vec<Vec<Stripe<'_>>> {
    let mut hands: Vec<Vec<Stripe<'_>>> = (0..THREADS).map(|_| Vec::new()).collect();
    for (n, model) in model.chunks_mut(len).enumerate() {
        let start = (n * len) as u64;
        hands[n % THREADS as usize].push(Stripe { start, model });
    }
    hands
}

/// Each thread changes its own stripes, which share clusters with its neighbours', while others
/// flush and read: everybody sees what they wrote, then and afterwards.
fn used_by_many(name: &str, stripe: usize, mut draw: Draw) {
    let (_, make) = every_image().into_iter().find(|(other, _)| *other == name).expect("an image");
    let env = Env::new();
    make(&env);
    let mut disk = Disk::of(&env, name, draw.fork());
    let steps = if whole_matrix() { 4000 } else { 150 };
    let image = disk.open();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let hands = deal(&mut disk.model, stripe);
        let workers: Vec<_> = hands
            .into_iter()
            .map(|mut stripes| {
                let (image, mut draw) = (&image, draw.fork());
                scope.spawn(move || {
                    for _ in 0..steps {
                        let one = draw.below(stripes.len() as u64) as usize;
                        stripes[one].change(image, &mut draw);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                image.flush().expect("a flush");
                contents(&image);
            }
        });
        let ends: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        assert!(ends.iter().all(Result::is_ok), "{name}: a thread failed");
    });
    same_bytes(&contents(&image), &disk.model, name);
    image.close().expect("the end");
    env.is_clean(IMAGE);
    disk.reads_so_for_qemu();
}

#[test]
fn threads_do_not_get_in_each_others_way() {
    let mut draw = Draw::seeded(51);
    for (name, stripe) in [
        ("plain", 3000),
        ("clusters of 512 bytes, snapshots", 2900),
        ("subclusters, snapshots", 40_000),
        ("deflate, snapshots", 30_000),
        ("over qcow2", 90_000),
        ("lazy", 150_000),
        ("external data, subclusters", 30_000),
        ("counts of 1 bit, clusters of 512 bytes", 5000),
    ] {
        used_by_many(name, stripe, draw.fork());
    }
}
