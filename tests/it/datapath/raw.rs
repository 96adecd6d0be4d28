//! Raw disks: the bytes of the file, whatever was done.

use vmdisk::block::{BlockDevice, Discard};
use vmdisk::image::{Image, OpenOptions};

use crate::draw::{Draw, whole_matrix};
use crate::support::{Env, same_bytes};

use super::disk::contents;

const NAME: &str = "d.raw";

fn step(image: &Image, model: &mut [u8], discard: Discard, draw: &mut Draw) {
    let size = model.len() as u64;
    let at = draw.below(size);
    let len = (1 + draw.below(100_000)).min(size - at);
    let model = &mut model[at as usize..(at + len) as usize];
    match draw.below(5) {
        0 | 1 => {
            model.fill(draw.next() as u8);
            image.write_at(at, model).expect("a write");
        }
        2 => {
            model.fill(0);
            image.write_zeroes(at, len).expect("zeros");
        }
        3 => {
            image.discard(at, len).expect("a discard");
            if discard == Discard::Unmap {
                model.fill(0);
            }
        }
        _ => image.flush().expect("a flush"),
    }
}

/// A raw disk of any length shows what was done to it by us and by QEMU, and keeps its length.
#[test]
fn a_raw_disk_is_its_bytes() {
    let mut draw = Draw::seeded(61);
    let rounds = if whole_matrix() { 200 } else { 6 };
    for size in [1 << 20, 700_001, 511] {
        let env = Env::new();
        let mut model: Vec<u8> = (0..size).map(|n| (n / 3) as u8).collect();
        env.write(NAME, &model);
        for _ in 0..rounds {
            let mut options = OpenOptions::to_write();
            options.device.discard = draw.pick(&[Discard::Unmap, Discard::Free]);
            options.device.detect_zeroes = draw.one_in(2);
            let image = Image::open(env.path(NAME), &options).expect("a disk");
            assert_eq!(image.size(), size as u64);
            for _ in 0..20 {
                step(&image, &mut model, options.device.discard, &mut draw);
                same_bytes(&contents(&image), &model, NAME);
            }
            image.close().expect("the end");
            let found = std::fs::read(env.path(NAME)).expect("the disk");
            same_bytes(&found, &model, &format!("{size} bytes"));
            let (at, value) = (draw.below(size as u64 - 100), draw.next() as u8);
            env.qemu_io("raw", NAME, &format!("write -P {value} {at} 100"));
            model[at as usize..at as usize + 100].fill(value);
        }
    }
}
