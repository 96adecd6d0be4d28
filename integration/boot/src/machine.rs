//! A machine with one disk: started, waited for but not for ever, listened to, killed.

use std::fs::{OpenOptions, read_to_string, remove_file};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::packages::Qemu;
use crate::{Result, failure};

/// How long a boot may take: one takes a few seconds.
const LIMIT: Duration = Duration::from_secs(150);

/// How often a machine is looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// Rounds of writing before the emulator is killed.
const ROUNDS: u64 = 3;

/// Who formats the disk; the names are those of functions in `init`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guest {
    /// boot2docker 18.09 and later: GPT.
    Autoformat,
    /// boot2docker up to 18.06: MBR.
    Automount,
    /// minikube: GPT.
    Minikube,
}

impl Guest {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Guest::Autoformat => "autoformat",
            Guest::Automount => "automount",
            Guest::Minikube => "minikube",
        }
    }

    /// What the program calls it.
    pub(crate) const fn profile(self) -> &'static str {
        match self {
            Guest::Autoformat | Guest::Automount => "boot2docker",
            Guest::Minikube => "minikube",
        }
    }

    /// Whether it makes a partition to swap to.
    pub(crate) const fn swaps(self) -> bool {
        matches!(self, Guest::Autoformat | Guest::Automount)
    }
}

/// How the disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bus {
    Ide,
    Virtio,
}

/// What the guest does when it has its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Writes a file.
    Write,
    /// Writes a file, and then others until it is killed.
    WriteUntilKilled,
    /// Reads the file, and fills so many MiB.
    Read { room_mib: u64 },
}

/// A machine that is off.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) qemu: &'a Qemu,
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a Path,
    /// For what it says.
    pub(crate) folder: &'a Path,
    pub(crate) guest: Guest,
    pub(crate) bus: Bus,
    /// More of `-drive`, each after a comma.
    pub(crate) drive: &'a str,
}

impl Machine<'_> {
    /// Boots it on a disk until it goes off, or is killed; what its guest told.
    pub(crate) fn boot(&self, disk: &Path, format: &str, task: Task) -> Result<Told> {
        let (console, told) = (self.folder.join("console"), self.folder.join("told"));
        let _ = remove_file(&told); // The boot before may have left it.
        let errors = OpenOptions::new().create(true).append(true).open(self.folder.join("qemu"))?;
        let mut command = self.qemu.command();
        command.args(["-M", "pc", "-m", "256", "-smp", "1", "-nodefaults", "-no-user-config"]);
        command.args(["-display", "none", "-no-reboot"]).args(accelerator());
        command.arg("-kernel").arg(self.kernel).arg("-initrd").arg(self.initramfs);
        command.args(["-append", &self.command_line(task)]);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        command.arg("-serial").arg(format!("file:{}", told.display()));
        let file = disk.display().to_string().replace(',', ",,");
        let drive = format!("file={file},if=none,id=disk,format={format}{}", self.drive);
        let device = match self.bus {
            Bus::Ide => "ide-hd,drive=disk",
            Bus::Virtio => "virtio-blk-pci,drive=disk",
        };
        command.args(["-drive", &drive, "-device", device]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn()?;
        let mut running = Running { child, told };
        let told = match task {
            Task::WriteUntilKilled => running.kill_after(ROUNDS)?,
            _ => running.wait()?,
        };
        match (told.get("done"), task) {
            (Ok("yes"), _) | (_, Task::WriteUntilKilled) => Ok(told),
            _ => {
                let why = told.get("failed").unwrap_or("the guest went off without a word");
                failure(format!("{}: {why}\n{}", self.guest.name(), last_lines(&console)))
            }
        }
    }

    fn command_line(&self, task: Task) -> String {
        let task = match task {
            Task::Write => "task=write".to_owned(),
            Task::WriteUntilKilled => "task=busy".to_owned(),
            Task::Read { room_mib } => format!("task=look room={room_mib}"),
        };
        // The guest's clock and its mitigations are none of what is tested, and take their time.
        let kernel =
            "console=ttyS0 loglevel=4 panic=-1 mitigations=off no_timer_check tsc=reliable";
        format!("{kernel} guest={} {task}", self.guest.name())
    }
}

/// KVM where the processor has it and the system lets us, else QEMU's own translation.
fn accelerator() -> [&'static str; 4] {
    let processor = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let able = processor.split_whitespace().any(|word| word == "vmx" || word == "svm");
    match able && OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok() {
        true => ["-accel", "kvm", "-cpu", "host"],
        false => ["-accel", "tcg", "-cpu", "max"],
    }
}

/// A machine that is on; dropped, it is off.
#[derive(Debug)]
struct Running {
    child: Child,
    told: PathBuf,
}

impl Running {
    /// Waits until it goes off.
    fn wait(&mut self) -> Result<Told> {
        let mut ended: Option<ExitStatus> = None;
        self.watch(|running| {
            ended = running.child.try_wait()?;
            Ok(ended.is_some())
        })?;
        match ended {
            Some(status) if !status.success() => failure(format!("QEMU ended: {status}")),
            _ => Ok(Told::read(&self.told)),
        }
    }

    /// Kills it, as nothing but kill(9) does, when the guest wrote so many rounds.
    fn kill_after(&mut self, rounds: u64) -> Result<Told> {
        self.watch(|running| {
            if let Some(status) = running.child.try_wait()? {
                return failure(format!("QEMU ended before it was killed: {status}"));
            }
            let told = Told::read(&running.told);
            Ok(told.last("written").is_some_and(|written| written >= rounds))
        })?;
        self.child.kill()?;
        self.child.wait()?;
        Ok(Told::read(&self.told))
    }

    fn watch(&mut self, mut over: impl FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        while !over(self)? {
            if start.elapsed() > LIMIT {
                return failure(format!("the machine still runs after {} s", LIMIT.as_secs()));
            }
            sleep(PAUSE);
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Off already, unless something failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn last_lines(file: &Path) -> String {
    let text = read_to_string(file).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// What a guest told: names and values, in order.
#[derive(Debug)]
pub(crate) struct Told(Vec<(String, String)>);

impl Told {
    fn read(file: &Path) -> Told {
        let text = std::fs::read(file).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        // A line without its end is not finished.
        let finished = text.rsplit_once('\n').map_or("", |(finished, _)| finished);
        let pair = |line: &str| line.trim_end().split_once('=').map(|(n, v)| (n.into(), v.into()));
        Told(finished.lines().filter_map(pair).collect())
    }

    /// All values of this name.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The one value of this name.
    pub(crate) fn get(&self, name: &str) -> Result<&str> {
        match self.all(name)[..] {
            [value] => Ok(value),
            [] => failure(format!("the guest told no {name}")),
            _ => failure(format!("the guest told {name} more than once")),
        }
    }

    pub(crate) fn number(&self, name: &str) -> Result<u64> {
        let value = self.get(name)?;
        value.parse().or_else(|_| failure(format!("{name} is {value}")))
    }

    fn last(&self, name: &str) -> Option<u64> {
        self.all(name).last()?.parse().ok()
    }
}
