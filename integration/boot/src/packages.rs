//! What a guest is made of, and QEMU where the system has none: Debian packages, fetched and
//! unpacked into a folder of our own, without root.

use std::fs::{create_dir_all, read_dir, remove_dir_all, rename, write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The guest's kernel. Of what it needs, nothing but itself is wanted.
const KERNEL: Wanted = Wanted {
    name: "kernel",
    packages: &["linux-image-cloud-amd64"],
    only: "linux-image-",
    beside_installed: false,
};

/// The guest's programs, with all their libraries.
const PROGRAMS: Wanted = Wanted {
    name: "programs",
    packages: &["busybox-static", "dash", "e2fsprogs", "fdisk", "mount", "util-linux"],
    only: "",
    beside_installed: false,
};

/// The emulator, with the libraries that the system does not have.
const QEMU: Wanted =
    Wanted { name: "qemu", packages: &["qemu-system-x86"], only: "", beside_installed: true };

/// The emulator's program.
const QEMU_PROGRAM: &str = "qemu-system-x86_64";

/// Packages that are fetched together.
struct Wanted {
    /// Their folder in the cache.
    name: &'static str,
    packages: &'static [&'static str],
    /// What the names begin with of those that are taken, of these packages and of what they need.
    only: &'static str,
    /// Whether what is installed on the system is there for them too.
    beside_installed: bool,
}

/// Why something cannot be had, for people.
pub(crate) type Missing = String;

/// What can be had.
#[derive(Debug)]
pub(crate) struct Packages {
    /// What the kernel's package holds, as it would lie below `/`.
    pub(crate) kernel: PathBuf,
    /// What those of the programs hold.
    pub(crate) programs: PathBuf,
    pub(crate) qemu: Qemu,
}

/// The emulator, and what it needs where it is not installed.
#[derive(Debug)]
pub(crate) struct Qemu {
    program: PathBuf,
    /// What its packages hold.
    root: Option<PathBuf>,
}

impl Qemu {
    /// A command that starts it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(root) = &self.root {
            let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
            let libraries = libraries.map(|folder| root.join(folder).display().to_string());
            command.env("LD_LIBRARY_PATH", libraries.join(":"));
            command.env("QEMU_MODULE_DIR", root.join("usr/lib/x86_64-linux-gnu/qemu"));
            for firmware in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(root.join(firmware));
            }
        }
        command
    }
}

/// Finds the packages in `cache`, or fetches them into it.
pub(crate) fn find(cache: &Path) -> Result<Packages, Missing> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err("it needs Linux on x86-64".to_owned());
    }
    let (kernel, programs) = (KERNEL.unpacked(cache)?, PROGRAMS.unpacked(cache)?);
    if finds(QEMU_PROGRAM) {
        let qemu = Qemu { program: QEMU_PROGRAM.into(), root: None };
        return Ok(Packages { kernel, programs, qemu });
    }
    let root = QEMU.unpacked(cache)?;
    let program = root.join("usr/bin").join(QEMU_PROGRAM);
    let qemu = Qemu { program, root: Some(root) };
    let works = qemu.command().arg("--version").stdout(Stdio::null()).status();
    if !works.is_ok_and(|status| status.success()) {
        return Err(format!("{} does not start", qemu.program.display()));
    }
    Ok(Packages { kernel, programs, qemu })
}

impl Wanted {
    /// Their folder in the cache, filled first if it is not there.
    fn unpacked(&self, cache: &Path) -> Result<PathBuf, Missing> {
        let Wanted { name, packages, .. } = self;
        let folder = cache.join(name);
        if folder.is_dir() {
            return Ok(folder);
        }
        for program in ["apt-get", "dpkg-deb"] {
            if !finds(program) {
                return Err(format!("{program} is not there to fetch its packages"));
            }
        }
        eprintln!("boot-test: fetching {}", packages.join(", "));
        let (archives, partial) =
            (cache.join(format!("{name}.deb")), cache.join(format!("{name}.new")));
        for folder in [&archives, &partial] {
            let _ = remove_dir_all(folder); // What an interrupted run left.
            create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        let fetched = Apt { lists: None }.fetch(self, &archives);
        fetched.or_else(|_| Apt::with_own_lists(cache)?.fetch(self, &archives))?;
        let entries = read_dir(&archives).map_err(|error| error.to_string())?;
        for archive in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if archive.extension().is_some_and(|ending| ending == "deb") {
                run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&partial))?;
            }
        }
        let _ = remove_dir_all(&archives);
        rename(&partial, &folder).map_err(|error| error.to_string())?;
        Ok(folder)
    }
}

/// How packages are fetched.
#[derive(Debug)]
struct Apt {
    /// A folder with lists of packages, where those of the system will not do.
    lists: Option<PathBuf>,
}

impl Apt {
    /// With lists that are fetched now: the system's are older than what its servers have, or
    /// missing.
    fn with_own_lists(cache: &Path) -> Result<Apt, Missing> {
        let lists = cache.join("lists");
        create_dir_all(lists.join("partial")).map_err(|error| error.to_string())?;
        let apt = Apt { lists: Some(lists) };
        run(apt.command().args(["-qq", "update"]))?;
        Ok(apt)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("apt-get");
        // Nothing of the system's is changed, not even what apt remembers about its lists.
        for option in [
            "Dir::Cache::pkgcache=",
            "Dir::Cache::srcpkgcache=",
            "APT::Sandbox::User=root",
            "Acquire::Retries=2",
            "Acquire::http::Timeout=20",
        ] {
            command.args(["-o", option]);
        }
        if let Some(lists) = &self.lists {
            command.arg("-o").arg(format!("Dir::State::Lists={}/", lists.display()));
        }
        command
    }

    /// Fetches packages, and those that they need, into a folder.
    fn fetch(&self, wanted: &Wanted, folder: &Path) -> Result<(), Missing> {
        let mut plan = self.command();
        if !wanted.beside_installed {
            let status = folder.join("status");
            write(&status, "").map_err(|error| error.to_string())?;
            plan.arg("-o").arg(format!("Dir::State::status={}", status.display()));
        }
        plan.args(["-s", "--no-install-recommends", "install"]).args(wanted.packages);
        let needed = needed(&run(&mut plan)?, wanted.only);
        run(self.command().current_dir(folder).args(["-qq", "download"]).args(needed)).map(drop)
    }
}

/// The packages that apt says it would install whose names begin so, each with its version.
fn needed(plan: &str, only: &str) -> Vec<String> {
    let package = |line: &str| {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
        let version = rest.split_once('(')?.1.split(' ').next()?;
        Some(format!("{name}={version}"))
    };
    let packages = plan.lines().filter_map(package);
    packages.filter(|package| package.starts_with(only)).collect()
}

/// Whether the system has a program.
fn finds(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// What a command prints, if it succeeds.
fn run(command: &mut Command) -> Result<String, Missing> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = said.lines().rfind(|line| line.starts_with("E:")).or(said.lines().last());
    Err(format!("{name}: {}", last.unwrap_or("failed")))
}
