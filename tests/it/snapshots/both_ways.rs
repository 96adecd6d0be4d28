//! Snapshots made, applied and deleted by us and by QEMU, in turn, on every kind of image that
//! QEMU's tools make.

use std::collections::BTreeMap;

use crate::draw::{Draw, each, whole_matrix};
use crate::fixtures::{Make, every_image};
use crate::support::{Env, same_bytes};

use super::view::disk_at;

const IMAGE: &str = "d.qcow2";

/// An image, and what it and its snapshots must show.
struct Turns<'a> {
    env: &'a Env,
    name: &'a str,
    draw: Draw,
    model: Vec<u8>,
    snapshots: BTreeMap<String, Vec<u8>>,
    made: u64,
    /// How many snapshots QEMU makes: it is not shown what it cannot count.
    room: usize,
    bitmaps: bool,
}

impl<'a> Turns<'a> {
    fn of(env: &'a Env, name: &'a str, draw: Draw) -> Self {
        let info = env.qemu_info(IMAGE);
        let bits = info["format-specific"]["data"]["refcount-bits"].as_u64().expect("a width");
        let listed = env.report(&format!("snapshot list {IMAGE}"))["snapshots"].clone();
        let snapshots = listed.as_array().into_iter().flatten().map(|one| {
            let name = one["name"].as_str().expect("a name");
            let mut disk = env.snapshot_disk(IMAGE, name);
            disk.truncate(one["virtual_size_bytes"].as_u64().expect("a size") as usize);
            (name.to_owned(), disk)
        });
        let snapshots = snapshots.collect();
        Turns {
            env,
            name,
            draw,
            model: env.disk("qcow2", IMAGE),
            snapshots,
            made: 0,
            // Packed data takes several counts of a cluster for each disk.
            room: if bits < 8 { 0 } else { 5 },
            bitmaps: name.contains("a bitmap"),
        }
    }

    fn any(&mut self) -> Option<String> {
        let names: Vec<_> = self.snapshots.keys().cloned().collect();
        (!names.is_empty()).then(|| names[self.draw.below(names.len() as u64) as usize].clone())
    }

    /// One turn, by our program or by QEMU's. Where counts are narrow, QEMU cannot always apply what
    /// it could count: it adds before it takes away.
    fn turn(&mut self, ours: bool) {
        let ours = ours || self.room == 0;
        let name = match self.draw.below(5) {
            0 | 1 => None,
            _ => self.any(),
        };
        match (name, self.draw.below(2)) {
            (Some(name), 0) if !self.bitmaps => {
                match ours {
                    true => drop(self.env.report(&format!("snapshot apply {IMAGE} {name}"))),
                    false => drop(self.env.qemu_img(&format!("snapshot -a {name} {IMAGE}"))),
                }
                self.model = self.snapshots[&name].clone();
            }
            (Some(name), _) => {
                match ours {
                    true => drop(self.env.report(&format!("snapshot delete {IMAGE} {name}"))),
                    false => drop(self.env.qemu_img(&format!("snapshot -d {name} {IMAGE}"))),
                }
                self.snapshots.remove(&name);
            }
            (None, _) => self.create(ours),
        }
    }

    fn create(&mut self, ours: bool) {
        self.made += 1;
        let name = format!("made-{}", self.made);
        let full = self.snapshots.len() >= self.room;
        if ours && full {
            let before = self.env.contents();
            let line = format!("snapshot create {IMAGE} {name} --json");
            let run = self.env.vmdisk(&line);
            if run.code != Some(0) {
                let said = run.json()["error"].clone();
                let (kind, changed) = (&said["data"]["kind"], &said["data"]["changed"]);
                assert!(kind == "unsupported_feature" && changed == false, "{said:#}");
                assert!(said["message"].as_str().is_some_and(|text| text.contains("counts of")));
                return assert_eq!(self.env.contents(), before, "{}", self.name);
            }
        } else if ours {
            self.env.report(&format!("snapshot create {IMAGE} {name}"));
        } else if full {
            return;
        } else {
            self.env.qemu_img(&format!("snapshot -c {name} {IMAGE}"));
        }
        self.snapshots.insert(name, self.model.clone());
    }

    /// The guest writes, so that snapshots differ.
    fn write(&mut self) {
        let size = self.model.len() as u64;
        let (at, value) = (self.draw.below(size / 512) * 512, 1 + self.draw.below(250));
        let len = self.draw.sectors(200_000).min(size - at);
        let command = match self.draw.below(4) {
            0 => format!("discard {at} {len}"),
            1 => format!("write -z {at} {len}"),
            _ => format!("write -P {value} {at} {len}"),
        };
        self.env.qemu_io_all(IMAGE, &[command]);
        self.model = self.env.disk("qcow2", IMAGE);
    }

    fn reads_so_for_qemu(&self) {
        self.env.is_clean(IMAGE);
        same_bytes(&self.env.disk("qcow2", IMAGE), &self.model, self.name);
        let info = self.env.qemu_info(IMAGE);
        let listed = info["snapshots"].as_array().map_or(0, Vec::len);
        assert_eq!(listed, self.snapshots.len(), "{}: {info:#}", self.name);
        for (name, expected) in &self.snapshots {
            let mut found = self.env.snapshot_disk(IMAGE, name);
            // QEMU gives each the size that the image has now.
            let expected = &expected[..expected.len().min(found.len())];
            found.truncate(expected.len());
            same_bytes(&found, expected, &format!("{}: {name}", self.name));
        }
    }

    fn reads_so_for_us(&self) {
        for (name, expected) in &self.snapshots {
            let found = disk_at(self.env, IMAGE, name);
            let len = expected.len().min(found.len());
            same_bytes(&found[..len], &expected[..len], &format!("{}: {name}", self.name));
        }
        let list = self.env.report(&format!("snapshot list {IMAGE}"));
        assert_eq!(list["snapshots"].as_array().map(Vec::len), Some(self.snapshots.len()));
    }
}

#[test]
fn in_turn() {
    let mut draw = Draw::seeded(31);
    // A bitmap that nobody vouches for is what a check calls leaked.
    let kept = |(name, _): &(&str, Make)| {
        !name.contains("external data") && !name.contains("nobody vouches")
    };
    let images: Vec<_> = every_image().into_iter().filter(kept).collect();
    let cases: Vec<_> = images.into_iter().map(|image| (image, draw.fork())).collect();
    let sampled =
        |n: usize, name: &str| whole_matrix() || name.contains("snapshots") || n.is_multiple_of(3);
    let cases: Vec<_> =
        cases.into_iter().enumerate().filter(|(n, ((name, _), _))| sampled(*n, name)).collect();
    let rounds = if whole_matrix() { 12 } else { 1 };
    each(&cases, |(_, ((name, make), draw))| {
        let env = Env::new();
        make(&env);
        let mut turns = Turns::of(&env, name, draw.clone());
        for _ in 0..rounds {
            turns.turn(true);
            turns.reads_so_for_qemu();
            turns.write();
            turns.turn(true);
            turns.turn(false);
            turns.reads_so_for_us();
            turns.write();
        }
        // The last of them goes, and nothing of any is left.
        while let Some(name) = turns.any() {
            env.report(&format!("snapshot delete {IMAGE} {name}"));
            turns.snapshots.remove(&name);
        }
        turns.reads_so_for_qemu();
    });
}
