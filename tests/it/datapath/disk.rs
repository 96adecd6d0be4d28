//! An image that we and QEMU change in turn, and what it and its snapshots must show.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use vmdisk::block::{BlockDevice, CacheConfig, Discard, ExtentKind, Extents};
use vmdisk::image::gate::Trust;
use vmdisk::image::{Image, OpenOptions};

use crate::draw::Draw;
use crate::support::{Env, same_bytes};

/// The image under test is always `d.qcow2`.
pub(super) const IMAGE: &str = "d.qcow2";

/// To be written, together with a data file in the same folder.
pub(super) fn to_write(env: &Env) -> OpenOptions {
    OpenOptions { trust: Trust::default().and(env.path("")), ..OpenOptions::to_write() }
}

/// What an image must show, and where its next changes come from.
pub(super) struct Disk<'a> {
    pub(super) env: &'a Env,
    name: &'a str,
    pub(super) draw: Draw,
    /// Every byte of the disk.
    pub(super) model: Vec<u8>,
    /// What lies below it, zeros where nothing does.
    below: Vec<u8>,
    /// Every byte of each snapshot.
    snapshots: BTreeMap<String, Vec<u8>>,
    cluster: u64,
    /// Snapshots are for images that keep their data themselves.
    own_data: bool,
    /// QEMU packs only what it can discard first.
    packs: bool,
    /// How many snapshots the reference counts have room for.
    max_snapshots: usize,
    bitmaps: bool,
    /// The data file is the disk as it is.
    raw_data: bool,
}

impl<'a> Disk<'a> {
    /// As QEMU reads it now.
    pub(super) fn of(env: &'a Env, name: &'a str, mut draw: Draw) -> Self {
        let info = env.qemu_info(IMAGE);
        let model = env.disk("qcow2", IMAGE);
        let about = &info["format-specific"]["data"];
        let mut below = match info["backing-filename"].as_str() {
            Some(file) => {
                let format = info["backing-filename-format"].as_str().expect("a backing format");
                env.disk(format, file)
            }
            None => Vec::new(),
        };
        below.resize(model.len(), 0);
        let listed = info["snapshots"].as_array().cloned().unwrap_or_default();
        let names = listed.iter().map(|one| one["name"].as_str().expect("a name").to_owned());
        let snapshots = names.map(|name| (name.clone(), env.snapshot_disk(IMAGE, &name))).collect();
        let noise: Vec<u8> = (0..64 << 10).flat_map(|_| draw.next().to_le_bytes()).collect();
        env.write("noise", noise);
        let own_data = about["data-file"].is_null();
        let bits = about["refcount-bits"].as_u64().expect("a refcount width");
        Disk {
            env,
            name,
            draw,
            model,
            below,
            snapshots,
            cluster: info["cluster-size"].as_u64().expect("a cluster size"),
            own_data,
            packs: own_data && (info["backing-filename"].is_null() || about["compat"] != "0.10"),
            // Packed data takes several counts of a cluster for each disk.
            max_snapshots: if bits < 8 { 0 } else { 6 },
            bitmaps: name.contains("bitmap"),
            raw_data: about["data-file-raw"] == true,
        }
    }

    fn size(&self) -> u64 {
        self.model.len() as u64
    }

    /// A range of the disk, of one of the kinds that matter: any bytes, sectors, whole clusters, a
    /// few bytes across a border, the end of the disk, many clusters.
    pub(super) fn range(&mut self) -> (u64, u64) {
        let (size, cluster) = (self.size(), self.cluster);
        let draw = &mut self.draw;
        let (at, len) = match draw.below(6) {
            0 => (draw.below(size), 1 + draw.below(70_000)),
            1 => (draw.below(size / 512) * 512, draw.sectors(40_000)),
            2 => (draw.below(size.div_ceil(cluster)) * cluster, cluster * (1 + draw.below(4))),
            3 => ((draw.below(size) / cluster * cluster).saturating_sub(5), 1 + draw.below(16)),
            4 => {
                let back = 1 + draw.below(100_000.min(size));
                (size - back, back)
            }
            _ => (draw.below(size), 1 + draw.below(600_000)),
        };
        (at, len.min(size - at))
    }

    /// One byte over and over, bytes that count, bytes that do not pack, or zeros.
    fn data(&mut self, len: u64) -> Vec<u8> {
        let (seed, kind) = (self.draw.next(), self.draw.below(5));
        let mut noise = Draw::from_seed(seed);
        match kind {
            0 | 1 => vec![seed as u8; len as usize],
            2 => (0..len).map(|n| (n + seed) as u8).collect(),
            3 => (0..len).map(|_| noise.next() as u8).collect(),
            _ => vec![0; len as usize],
        }
    }

    /// Options to write with, all of which come to the same.
    pub(super) fn options(&mut self) -> OpenOptions {
        let mut options = to_write(self.env);
        options.device.discard =
            self.draw.pick(&[Discard::Unmap, Discard::Free, Discard::KeepAllocated]);
        options.device.detect_zeroes = self.draw.one_in(2);
        if self.draw.one_in(2) {
            options.device.cache = CacheConfig { table_bytes: 0, refcount_bytes: 0 };
        }
        options
    }

    pub(super) fn open(&mut self) -> Image {
        let options = self.options();
        Image::open(self.env.path(IMAGE), &options)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// Changes the image in so many steps of our own; it is sound afterwards.
    pub(super) fn ours(&mut self, steps: usize) {
        let mut leaks = self.leaks_to_expect();
        let bytes = std::fs::read(self.env.path(IMAGE)).expect("the image");
        let v3 = bytes[7] == 3;
        if v3 && self.draw.one_in(5) {
            // Left dirty, whatever else it is: its counts are made anew, without those of bitmaps
            // that nobody vouches for.
            self.env.patch(IMAGE, 79, &[bytes[79] | 1]);
            if bytes[95] & 1 == 0 {
                leaks = 0;
            }
        }
        self.session(steps);
        self.is_sound(leaks);
        let dirty = v3 && self.env.qemu_info(IMAGE)["dirty-flag"] == true;
        assert!(!dirty, "{}: dirty at the end", self.name);
    }

    /// So many steps of our own, whatever becomes of the image.
    pub(super) fn session(&mut self, steps: usize) {
        let mut image = self.open();
        // The first is a write: what is only looked at is not made sound.
        self.write(&image);
        for _ in 1..steps {
            match self.draw.below(12) {
                0..=4 => self.write(&image),
                5 | 6 => self.zero(&image),
                7 | 8 => self.discard(&image),
                9 => image.flush().expect("a flush"),
                10 => {
                    image.close().expect("the end");
                    image = self.open();
                }
                _ => self.shows(&image, "in between"),
            }
        }
        self.shows(&image, "before the end");
        image.close().expect("the end");
    }

    fn write(&mut self, image: &Image) {
        let (at, len) = self.range();
        let data = self.data(len);
        image.write_at(at, &data).unwrap_or_else(|error| panic!("{at} {len}: {error}"));
        self.model[at as usize..(at + len) as usize].copy_from_slice(&data);
    }

    fn zero(&mut self, image: &Image) {
        let (at, len) = self.range();
        image.write_zeroes(at, len).unwrap_or_else(|error| panic!("{at} {len}: {error}"));
        self.model[at as usize..(at + len) as usize].fill(0);
    }

    /// What was discarded reads as before, as zeros or as what is below; everything else as before.
    fn discard(&mut self, image: &Image) {
        let (at, len) = self.range();
        image.discard(at, len).unwrap_or_else(|error| panic!("{at} {len}: {error}"));
        let now = contents(image);
        let (from, to) = (at as usize, (at + len) as usize);
        for (n, &byte) in now.iter().enumerate() {
            let inside = (from..to).contains(&n) && (byte == 0 || byte == self.below[n]);
            let allowed = inside || byte == self.model[n];
            assert!(allowed, "{}: byte {n} after a discard of {len} at {at}", self.name);
        }
        self.model = now;
    }

    fn shows(&self, image: &Image, when: &str) {
        same_bytes(&contents(image), &self.model, &format!("{}, {when}", self.name));
    }

    /// How many leaks QEMU will see once bitmaps are not vouched for any more: it does not look at
    /// them then, and takes what they use for lost.
    fn leaks_to_expect(&self) -> u64 {
        if !self.bitmaps {
            return 0;
        }
        let bytes = std::fs::read(self.env.path(IMAGE)).expect("the image");
        let mut copy = bytes.clone();
        copy[95] &= !1;
        self.env.write("copy.qcow2", copy);
        let check = ["check", "-f", "qcow2", "--output=json", "copy.qcow2"];
        self.env.run("qemu-img", check).json()["leaks"].as_u64().unwrap_or_default()
    }

    /// `qemu-img check` finds nothing, or no more than these leaks.
    pub(super) fn is_sound(&self, leaks: u64) {
        let run = self.env.run("qemu-img", ["check", "-f", "qcow2", "--output=json", IMAGE]);
        let json = run.json();
        let count = |name: &str| json[name].as_u64().unwrap_or_default();
        let found = (count("corruptions"), count("check-errors"), count("leaks"));
        assert_eq!(found, (0, 0, leaks), "{}: {run:?}", self.name);
        assert_eq!(run.code, Some(if leaks > 0 { 3 } else { 0 }), "{}: {run:?}", self.name);
    }

    /// QEMU reads the disk and every snapshot as they must be.
    pub(super) fn reads_so_for_qemu(&self) {
        same_bytes(&self.env.disk("qcow2", IMAGE), &self.model, self.name);
        if self.raw_data {
            let about = &self.env.qemu_info(IMAGE)["format-specific"]["data"];
            assert_eq!(about["data-file-raw"], true, "{}", self.name);
            let mut data = std::fs::read(self.env.path("data.raw")).expect("the data file");
            data.resize(self.model.len(), 0);
            same_bytes(&data, &self.model, &format!("{}: the data file", self.name));
        }
        for (name, expected) in &self.snapshots {
            let found = self.env.snapshot_disk(IMAGE, name);
            same_bytes(&found, expected, &format!("{}: snapshot {name}", self.name));
        }
    }

    /// Changes the image by so many commands of `qemu-io`, and perhaps its snapshots.
    pub(super) fn theirs(&mut self, steps: usize) {
        let commands: Vec<_> = (0..steps).map(|_| self.command()).collect();
        self.env.qemu_io_all(IMAGE, &commands);
        if self.packs {
            let commands = self.packing();
            self.env.qemu_io_all(IMAGE, &commands);
        }
        self.model = self.env.disk("qcow2", IMAGE);
        if self.own_data && self.max_snapshots > 0 && self.draw.one_in(2) {
            self.change_snapshots();
        }
    }

    fn command(&mut self) -> String {
        let (at, len) = self.range();
        let value = self.draw.next() as u8;
        match self.draw.below(8) {
            0..=3 => format!("write -P {value} {at} {len}"),
            4 => format!("write -z {at} {len}"),
            5 => format!("write -z -u {at} {len}"),
            6 => format!("discard {at} {len}"),
            _ => "flush".to_owned(),
        }
    }

    /// Packs some clusters, which must have no place of their own before. All in a session in
    /// which nothing that was packed is given up: QEMU goes on packing into a cluster that became
    /// free, even after it was handed out again.
    fn packing(&mut self) -> Vec<String> {
        let len = self.cluster;
        let clusters = self.size() / len;
        let chosen: BTreeSet<u64> =
            (0..3.min(clusters)).map(|_| self.draw.below(clusters)).collect();
        let discards: Vec<_> =
            chosen.iter().map(|n| format!("discard {} {len}", n * len)).collect();
        let packs = chosen.iter().map(|n| {
            let (at, value) = (n * len, self.draw.next() as u8);
            if value % 3 == 0 {
                format!("write -c -s noise {at} {len}")
            } else {
                format!("write -c -P {value} {at} {len}")
            }
        });
        discards.into_iter().chain(packs).collect()
    }

    /// Takes, deletes or goes back to a snapshot.
    fn change_snapshots(&mut self) {
        let any = self.snapshots.keys().next().cloned();
        match (self.draw.below(6), any) {
            (0, Some(name)) => {
                self.env.qemu_img(&format!("snapshot -d {name} {IMAGE}"));
                self.snapshots.remove(&name);
            }
            // QEMU goes back to no snapshot beside bitmaps; here, to none of another size.
            (1, Some(name)) if !self.bitmaps && !self.name.contains("another size") => {
                self.env.qemu_img(&format!("snapshot -a {name} {IMAGE}"));
                self.model = self.snapshots[&name].clone();
            }
            _ if self.snapshots.len() < self.max_snapshots => {
                let name = format!("s{}", self.draw.next());
                self.env.qemu_img(&format!("snapshot -c {name} {IMAGE}"));
                self.snapshots.insert(name, self.model.clone());
            }
            _ => {}
        }
    }

    /// We read every byte as it must be, in one piece and in many, and see the same extents as
    /// QEMU does.
    pub(super) fn reads_so_for_us(&mut self) {
        let image = Image::open(self.env.path(IMAGE), &OpenOptions::to_read());
        let image = image.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        self.shows(&image, "read");
        for _ in 0..20 {
            let (at, len) = self.range();
            let mut found = vec![1; len as usize];
            image.read_at(at, &mut found).expect("a read");
            let expected = &self.model[at as usize..(at + len) as usize];
            same_bytes(&found, expected, &format!("{}: {len} bytes at {at}", self.name));
        }
        self.maps_as_qemu_does(&image);
        image.close().expect("the end");
    }

    /// Our extents cover the disk without a gap, and each says what `qemu-img map` says of it.
    fn maps_as_qemu_does(&self, image: &Image) {
        let args = ["map", "-f", "qcow2", "--output=json", IMAGE];
        let map = self.env.run("qemu-img", args).exits(0).json();
        let map = map.as_array().expect("a list");
        let (mut at, mut runs) = (0, map.iter().peekable());
        for extent in Extents::of(image, 0..self.size()) {
            let extent = extent.expect("an extent");
            assert_eq!(extent.offset, at, "{}: a gap", self.name);
            at += extent.len;
            let bytes = &self.model[extent.offset as usize..at as usize];
            let zeros = bytes.iter().all(|&byte| byte == 0);
            assert!(extent.kind != ExtentKind::Zero || zeros, "{}: {extent:?}", self.name);
            while let Some(run) = runs.peek() {
                let (start, len) = (number(run, "start"), number(run, "length"));
                if start < at {
                    let (kind, ahead) = (extent.kind, extent.offset as i64 - start as i64);
                    assert!(is_alike(kind, ahead, run), "{}: {extent:?}, {run}", self.name);
                }
                if start + len > at {
                    break;
                }
                runs.next();
            }
        }
        assert_eq!(at, self.size(), "{}: the end", self.name);
        assert_eq!(runs.next().map(|run| number(run, "start") + number(run, "length")), None);
    }
}

fn number(run: &Value, name: &str) -> u64 {
    run[name].as_u64().expect("a number")
}

/// Whether a run of QEMU's map, which begins `ahead` bytes before an extent of ours, is the same.
fn is_alike(kind: ExtentKind, ahead: i64, run: &Value) -> bool {
    let own = run["depth"] == 0 && run["present"] == true;
    let flag = |name: &str| run[name] == true;
    match kind {
        ExtentKind::Unallocated => !own,
        ExtentKind::Compressed => own && flag("compressed"),
        ExtentKind::Zero => own && flag("zero") && !flag("data"),
        ExtentKind::Data { host_offset } => {
            let at = run["offset"].as_i64().map(|offset| offset + ahead);
            own && flag("data") && !flag("compressed") && at == Some(host_offset as i64)
        }
    }
}

/// Every byte, read at once.
pub(super) fn contents(image: &dyn BlockDevice) -> Vec<u8> {
    let mut found = vec![1; image.size() as usize];
    image.read_at(0, &mut found).expect("the disk");
    found
}
