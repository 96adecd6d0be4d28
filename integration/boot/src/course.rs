//! What happens to one disk: it is made, formatted by its guest, grown by its host, and looked at
//! by both.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::Value;

use crate::host::Host;
use crate::initramfs::System;
use crate::machine::{Bus, Guest, Machine, Task, Told};
use crate::packages::Packages;
use crate::{Result, failure};

const MIB: u64 = 1 << 20;

/// The first size: the guests of boot2docker take 1000 MiB of it to swap to.
const SIZE_MIB: u64 = 1400;

/// The size afterwards.
const GROWN_MIB: u64 = 2500;

/// Fails what is being tested unless something holds.
macro_rules! expect {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return failure(format!($($message)+));
        }
    };
}

/// How a disk is used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) guest: Guest,
    pub(crate) format: &'static str,
    /// More of `vmdisk create`.
    pub(crate) create: &'static str,
    pub(crate) keys: &'static [&'static [&'static str]],
    pub(crate) bus: Bus,
    /// More of QEMU's `-drive`.
    pub(crate) drive: &'static str,
    pub(crate) course: Course,
}

/// What happens to it between its first boot and its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Course {
    /// It is grown.
    Grown,
    /// It becomes the base of another, which is larger.
    Base,
    /// The emulator is killed while the guest writes; the disk is checked and grown.
    Killed,
    /// Nothing: it was made without an archive.
    Bare,
}

/// What there was to see.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Room that the file took on the host, after each boot.
    pub(crate) allocated_mib: Vec<u64>,
}

/// What all scenarios use.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    pub(crate) vmdisk: &'a Path,
    pub(crate) packages: &'a Packages,
    pub(crate) system: &'a System,
    pub(crate) initramfs: &'a Path,
}

/// One scenario under way.
struct Run<'a> {
    scenario: Scenario,
    host: Host<'a>,
    machine: Machine<'a>,
    keys: Vec<String>,
    /// Whether the disk is larger than what is inside.
    grown_alone: bool,
    seen: Seen,
}

/// Plays a scenario in a folder of its own.
pub(crate) fn play(scenario: Scenario, stage: &Stage<'_>, folder: &Path) -> Result<Seen> {
    let machine = Machine {
        qemu: &stage.packages.qemu,
        kernel: &stage.system.kernel,
        initramfs: stage.initramfs,
        folder,
        guest: scenario.guest,
        bus: scenario.bus,
        drive: scenario.drive,
    };
    let host = Host { vmdisk: stage.vmdisk, folder };
    let seen = Seen { allocated_mib: Vec::new() };
    let mut run = Run { scenario, host, machine, keys: Vec::new(), grown_alone: false, seen };
    run.create()?;
    match scenario.course {
        Course::Grown => run.grown()?,
        Course::Base => run.base()?,
        Course::Killed => run.killed()?,
        Course::Bare => run.bare()?,
    }
    Ok(run.seen)
}

impl Run<'_> {
    fn create(&mut self) -> Result<()> {
        let Scenario { guest, create, .. } = self.scenario;
        let mut flags = String::new();
        for (number, kind) in self.scenario.keys.iter().enumerate() {
            let name = format!("id{number}");
            self.keys.push(self.host.make_key(&name, kind)?);
            flags += &format!(" --ssh-key {name}.pub");
        }
        let guest = if flags.is_empty() { "none" } else { guest.profile() };
        let disk = self.disk();
        let report = self
            .host
            .vmdisk(&format!("create {disk} --size {SIZE_MIB}M --guest {guest}{flags} {create}"))?;
        expect!(report["virtual_size_bytes"] == SIZE_MIB * MIB, "created: {report}");
        Ok(())
    }

    fn disk(&self) -> String {
        format!("disk.{}", self.scenario.format)
    }

    fn boot(&mut self, disk: &str, task: Task) -> Result<Told> {
        let path = self.host.path(disk);
        let told = self.machine.boot(&path, self.scenario.format, task)?;
        self.seen.allocated_mib.push(path.metadata()?.blocks() * 512 / MIB);
        let mut complaints = told.all("complaint");
        if self.grown_alone {
            // The backup of a GPT is not at the end of the disk.
            complaints.retain(|line| !line.contains("GPT:"));
        }
        expect!(complaints.is_empty(), "the kernel complains: {complaints:?}");
        Ok(told)
    }

    /// The disk as the guest finds it for the first time: formatted, and its keys let in.
    fn first_boot(&mut self, task: Task) -> Result<Told> {
        let told = self.boot(&self.disk(), task)?;
        expect!(told.get("formatted").is_ok(), "it was not formatted");
        expect!(told.number("device_bytes")? == SIZE_MIB * MIB, "it has another size: {told:?}");
        self.lets_in(&told)?;
        Ok(told)
    }

    fn lets_in(&self, told: &Told) -> Result<()> {
        for name in ["authorized_keys", "authorized_keys2"] {
            let found = told.all(name);
            expect!(found == self.keys, "{name}: {found:?}, not {:?}", self.keys);
        }
        let modes = "700 .ssh 644 .ssh/authorized_keys 644 .ssh/authorized_keys2";
        expect!(told.get("modes")? == modes, "modes: {}", told.get("modes")?);
        let swaps = told.number("swap_kib")? > 900 << 10;
        expect!(swaps == self.scenario.guest.swaps(), "swap: {}", told.number("swap_kib")?);
        Ok(())
    }

    fn grown(&mut self) -> Result<()> {
        let first = self.first_boot(Task::Write)?;
        self.is_sound(&self.disk(), &first)?;
        let report = self.ensure(&self.disk(), GROWN_MIB, "")?;
        expect!(report["action"] == "grown", "not grown: {report}");
        self.filled(&report, &first)?;
        self.is_sound(&self.disk(), &first)?;
        self.lived_in(&self.disk(), &first, &report)
    }

    fn base(&mut self) -> Result<()> {
        let first = self.first_boot(Task::Write)?;
        self.is_sound(&self.disk(), &first)?;
        self.host.keep(&self.disk())?;
        let above = format!("--backing {}", self.disk());
        let report = self.ensure("above.qcow2", GROWN_MIB, &above)?;
        expect!(report["action"] == "created", "not created: {report}");
        self.filled(&report, &first)?;
        self.is_sound("above.qcow2", &first)?;
        self.lived_in("above.qcow2", &first, &report)?;
        self.host.is_as_kept(&self.disk())
    }

    fn killed(&mut self) -> Result<()> {
        let (disk, first) = (self.disk(), self.first_boot(Task::WriteUntilKilled)?);
        let (code, report) = self.host.vmdisk_ends(&format!("check {disk}"))?;
        // A killed emulator wastes clusters at worst; lazy counts may be wrong, and the image says
        // so.
        let lazy = self.scenario.create.contains("lazy");
        expect!(report["dirty"] == lazy, "dirty is {}", report["dirty"]);
        expect!(code == 0 || code == 3 || lazy && code == 2, "exit code {code} of check");
        let report = self.host.vmdisk(&format!("check {disk} --repair all"))?;
        expect!(report["repair"]["lost_bytes"] == 0, "lost: {}", report["repair"]);
        self.host.qemu_finds_nothing(&disk, self.scenario.format)?;
        // The guest's filesystem was in use: the disk grows, and the rest when the guest has put it
        // right.
        let report = self.ensure(&disk, GROWN_MIB, "")?;
        let refusal = &report["growth"]["refusal"]["name"];
        expect!(report["action"] == "grown", "not grown: {report}");
        expect!(refusal == "needs_recovery", "not left alone: {report}");
        self.grown_alone = true;
        let second = self.boot(&disk, Task::Read { room_mib: 0 })?;
        self.grown_alone = false;
        self.is_the_same(&second, &first)?;
        expect!(second.number("device_bytes")? == GROWN_MIB * MIB, "not larger: {second:?}");
        let size = |told: &Told| told.number("filesystem_bytes");
        expect!(size(&second)? == size(&first)?, "the filesystem has another size: {second:?}");
        self.is_sound(&disk, &first)?;
        let report = self.ensure(&disk, GROWN_MIB, "")?;
        self.filled(&report, &first)?;
        self.is_sound(&disk, &first)?;
        self.lived_in(&disk, &first, &report)
    }

    /// Without an archive: formatted all the same, and nobody is let in.
    fn bare(&mut self) -> Result<()> {
        let told = self.boot(&self.disk(), Task::Write)?;
        expect!(told.get("formatted").is_ok(), "it was not formatted");
        let keys = [told.all("authorized_keys"), told.all("authorized_keys2")].concat();
        expect!(keys.is_empty(), "somebody is let in: {keys:?}");
        expect!(told.get("file").is_ok(), "nothing was written");
        self.is_sound(&self.disk(), &told)
    }

    fn ensure(&self, disk: &str, mib: u64, more: &str) -> Result<Value> {
        let Scenario { guest, format, .. } = self.scenario;
        let keys: String = (0..self.keys.len()).map(|n| format!(" --ssh-key id{n}.pub")).collect();
        let guest = match more {
            "" => format!("--guest {}{keys}", guest.profile()),
            _ => String::new(), // The base has the keys.
        };
        self.host.vmdisk(&format!("ensure {disk} --size {mib}M --format {format} {guest} {more}"))
    }

    /// Partition and filesystem reach to the end of the disk, as far as the report goes.
    fn filled(&self, report: &Value, first: &Told) -> Result<()> {
        let growth = &report["growth"];
        expect!(growth["refusal"].is_null(), "not filled: {report}");
        let end = GROWN_MIB * MIB - first.number("partition_start")?;
        for what in ["partition", "filesystem"] {
            let bytes = growth[what]["size_bytes"].as_u64().unwrap_or_default();
            // A backup of the partition table lies behind it.
            expect!(bytes <= end && bytes + MIB >= end, "{what} ends elsewhere: {report}");
        }
        Ok(())
    }

    /// The last boot, which finds all as it was, and larger; and what is left then is sound.
    fn lived_in(&mut self, disk: &str, first: &Told, report: &Value) -> Result<()> {
        let task = Task::Read { room_mib: self.room_mib(first)? };
        let last = self.boot(disk, task)?;
        self.is_the_same(&last, first)?;
        expect!(last.number("device_bytes")? == GROWN_MIB * MIB, "it has another size: {last:?}");
        for what in ["partition", "filesystem"] {
            let (is, promised) = (last.number(&format!("{what}_bytes"))?, &report["growth"][what]);
            expect!(promised["size_bytes"] == is, "the {what} has {is} bytes: {report}");
        }
        self.is_sound(disk, &last)
    }

    /// More than the filesystem had before.
    fn room_mib(&self, first: &Told) -> Result<u64> {
        Ok(first.number("filesystem_bytes")? / MIB + 50)
    }

    /// Nothing was formatted again, and nothing is gone.
    fn is_the_same(&self, told: &Told, first: &Told) -> Result<()> {
        expect!(told.get("formatted").is_err(), "it was formatted again");
        for name in ["file", "filesystem_uuid", "partition_start"] {
            let (is, was) = (told.get(name)?, first.get(name)?);
            expect!(is == was, "{name} is {is}, was {was}");
        }
        self.lets_in(told)
    }

    /// Nobody has anything to say against the image or the filesystem in it.
    fn is_sound(&self, disk: &str, told: &Told) -> Result<()> {
        let format = self.scenario.format;
        if format == "qcow2" {
            self.host.vmdisk(&format!("check {disk}"))?;
        }
        self.host.qemu_finds_nothing(disk, format)?;
        self.host.e2fsck_finds_nothing(disk, format, told.number("partition_start")?)
    }
}
