//! A folder, the program, and the oracles.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use vmdisk::host::{Access, FileStorage, resolve};

/// What one run of a program said.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn of(output: Output) -> Run {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Standard output as one JSON value.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Fails the test unless the run ended with this code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Run {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }
}

/// Whoever runs the tests may want other programs to log.
fn without_logs(command: &mut Command) {
    command.env_remove("VMDISK_LOG").env_remove("RUST_LOG");
}

/// A folder of its own for one test.
pub(crate) struct Env {
    folder: tempfile::TempDir,
}

impl Env {
    pub(crate) fn new() -> Env {
        Env { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// One in this folder.
    #[cfg(target_os = "linux")]
    pub(crate) fn within(folder: &Path) -> Env {
        Env { folder: tempfile::tempdir_in(folder).expect("a temporary folder") }
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file of the folder, open.
    pub(crate) fn storage(&self, name: impl AsRef<Path>, access: Access) -> FileStorage {
        let path = resolve(&self.path(name)).expect("a file");
        FileStorage::open(&path, access).expect("a file")
    }

    /// Writes a file into the folder.
    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, contents).expect("a file in the temporary folder");
        path
    }

    /// Runs a program in the folder.
    pub(crate) fn run<S: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = S>,
    ) -> Run {
        let program = program.as_ref();
        let mut command = Command::new(program);
        command.args(args).current_dir(self.folder.path()).stdin(std::process::Stdio::null());
        without_logs(&mut command);
        let output = command.output();
        Run::of(output.unwrap_or_else(|error| panic!("cannot run {program:?}: {error}")))
    }

    /// Runs `vmdisk` with arguments separated by blanks.
    pub(crate) fn vmdisk(&self, line: &str) -> Run {
        self.run(VMDISK, line.split_whitespace())
    }

    /// Runs `vmdisk … --json`, which must succeed, and returns its report.
    #[track_caller]
    pub(crate) fn report(&self, line: &str) -> Value {
        self.vmdisk(&format!("{line} --json")).exits(0).json()
    }

    /// Runs `vmdisk … --json`, which must fail with this code and kind, and returns the error.
    #[track_caller]
    pub(crate) fn fails(&self, line: &str, code: i32, kind: &str) -> Value {
        let error = self.vmdisk(&format!("{line} --json")).exits(code).json();
        assert_eq!(error["error"]["data"]["kind"], kind, "{line}: {error:#}");
        error["error"].clone()
    }

    /// Runs `qemu-img` with arguments separated by blanks; it must succeed.
    #[track_caller]
    pub(crate) fn qemu_img(&self, line: &str) -> Run {
        self.run("qemu-img", line.split_whitespace()).exits(0)
    }

    /// Runs one `qemu-io` command on an image; it must succeed.
    #[track_caller]
    pub(crate) fn qemu_io(&self, format: &str, image: &str, command: &str) -> String {
        let run = self.run("qemu-io", ["-f", format, "-c", command, image]).exits(0);
        let failed = run.stdout.contains("failed") || run.stdout.contains("error");
        assert!(!failed, "{command}: {}", run.stdout);
        run.stdout
    }

    /// `qemu-img check` finds nothing at all.
    #[track_caller]
    pub(crate) fn is_clean(&self, image: &str) {
        let run = self.run("qemu-img", ["check", "-f", "qcow2", "--output=json", image]);
        assert_eq!(run.code, Some(0), "{image}: {run:?}");
    }

    /// The bytes of the guest's disk, by way of `qemu-img`.
    pub(crate) fn guest_bytes(&self, image: &str, offset: u64, len: usize) -> Vec<u8> {
        // A block size of 512 so that any sector can be asked for.
        let (skip, count) = (offset / 512, len.div_ceil(512));
        let args = [
            "dd".to_owned(),
            "-O".to_owned(),
            "raw".to_owned(),
            "bs=512".to_owned(),
            format!("skip={skip}"),
            format!("count={}", skip as usize + count),
            format!("if={image}"),
            "of=dd.out".to_owned(),
        ];
        self.run("qemu-img", args).exits(0);
        let mut bytes = std::fs::read(self.path("dd.out")).expect("qemu-img's output");
        std::fs::remove_file(self.path("dd.out")).expect("the output just read");
        bytes.truncate(len);
        bytes
    }

    /// Starts a program in the folder, its standard input open.
    pub(crate) fn spawn<S: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = S>,
    ) -> Running {
        let mut command = Command::new(program.as_ref());
        command.args(args).current_dir(self.folder.path()).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running::of(command)
    }

    /// Starts `vmdisk` with arguments separated by blanks.
    pub(crate) fn start(&self, line: &str) -> Running {
        self.spawn(VMDISK, line.split_whitespace())
    }

    /// Lets everybody look into the folder.
    pub(crate) fn open_to_all(self) -> Env {
        set_mode(self.folder.path(), 0o755);
        self
    }

    /// The names in the folder, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).expect("the test's folder");
        let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let mut names: Vec<_> = entries.map(|entry| name(entry.expect("an entry"))).collect();
        names.sort_unstable();
        names
    }

    /// Everything in the folder and below, each with all that a change would show in.
    pub(crate) fn contents(&self) -> BTreeMap<PathBuf, String> {
        let mut contents = BTreeMap::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(folder).expect("a folder of the test");
            for path in entries.map(|entry| entry.expect("an entry").path()) {
                contents.insert(path.clone(), fingerprint(&path));
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path);
                }
            }
        }
        contents
    }

    /// The program must refuse this line of arguments: see [`Env::refuses_args`].
    #[track_caller]
    pub(crate) fn refuses(&self, line: &str, kind: &str) -> Value {
        self.refuses_args(&line.split_whitespace().collect::<Vec<_>>(), kind)
    }

    /// The program must refuse these arguments: see [`Env::refuses_by`].
    #[track_caller]
    pub(crate) fn refuses_args(&self, args: &[&str], kind: &str) -> Value {
        self.refuses_by(&[VMDISK], args, kind)
    }

    /// The program, called by way of `prefix`, must refuse these arguments, once in words and
    /// once as JSON: with the exit code of `kind`, without a hang or a panic, with nothing on the
    /// wrong stream, and with everything in the folder as it was. Returns the error object.
    #[track_caller]
    pub(crate) fn refuses_by(&self, prefix: &[&str], args: &[&str], kind: &str) -> Value {
        let before = self.contents();
        let call = |extra: &[&str]| {
            let words: Vec<&str> = [prefix, args, extra].concat();
            self.spawn(words[0], &words[1..]).wait()
        };
        let code = exit_of(args, kind);
        let words = call(&[]).exits(code);
        assert_eq!(words.stdout, "", "{args:?}: words belong on standard error");
        assert!(words.stderr.starts_with("vmdisk: "), "{args:?}: {words:?}");
        for foreign in
            ["panicked", "os error", "error:", "tip:", "Trust", "Some(", "expected value"]
        {
            assert!(!words.stderr.contains(foreign), "{args:?}: {foreign} in {words:?}");
        }
        let error = failure_with(&call(&["--json"]), code, kind);
        assert_eq!(error["data"]["changed"], false, "{args:?}: {error:#}");
        let after = self.contents();
        assert_eq!(before, after, "{args:?} changed something: {error:#}");
        error
    }
}

/// What a change of a file would show in: kind, mode, owner, inode, length, time and content.
fn fingerprint(path: &Path) -> String {
    let about = path.symlink_metadata().expect("a file of the test");
    let mut hasher = DefaultHasher::new();
    if about.is_file() {
        std::fs::read(path).expect("a file of the test").hash(&mut hasher);
    } else if about.is_symlink() {
        std::fs::read_link(path).expect("a link of the test").hash(&mut hasher);
    }
    // Those of a folder change with what is in it.
    let (len, time) = if about.is_dir() { (0, 0) } else { (about.len(), about.mtime_nsec()) };
    let (mode, user, inode) = (about.mode(), about.uid(), about.ino());
    format!("{mode:o} of {user}, {inode}, {len} bytes, {time}, {:x}", hasher.finish())
}

/// The error object of a failed `--json` run, every promise about its form kept.
#[track_caller]
pub(crate) fn failure(run: &Run, kind: &str) -> Value {
    failure_with(run, code_of(kind), kind)
}

/// The same, with another exit code.
#[track_caller]
fn failure_with(run: &Run, code: i32, kind: &str) -> Value {
    assert_eq!(run.code, Some(code), "{run:?}");
    assert!(!run.stderr.contains("panicked"), "{run:?}");
    let whole = run.json();
    let error = whole["error"].clone();
    assert_eq!(whole.as_object().map(serde_json::Map::len), Some(1), "{whole:#}");
    assert!(error["code"].as_i64().is_some_and(|code| code > 0), "{whole:#}");
    assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{whole:#}");
    assert_eq!(error["data"]["kind"], kind, "{whole:#}");
    assert_eq!(error["data"]["retriable"], kind == "locked", "{whole:#}");
    assert!(error["data"]["changed"].is_boolean(), "{whole:#}");
    error
}

/// The exit code of a failure of this kind.
pub(crate) fn code_of(kind: &str) -> i32 {
    match kind {
        "locked" => 75,
        "bad_request" | "bad_size" | "incompatible_options" | "protocol_unsupported" => 2,
        _ => 1,
    }
}

/// The exit code of a failure of this kind, of the verb in these arguments: 1 of `compare` says that
/// disks differ.
pub(crate) fn exit_of(args: &[&str], kind: &str) -> i32 {
    match (args.contains(&"compare"), code_of(kind)) {
        (true, 1) => 2,
        (true, 2) => 64,
        (_, code) => code,
    }
}

/// The text of a failure.
pub(crate) fn message(error: &Value) -> &str {
    error["message"].as_str().expect("a message")
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    let permissions = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, permissions).expect("a file of the test");
}

/// Waits until it is so, for a generous while.
#[track_caller]
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        sleep(Duration::from_millis(1));
    }
}

/// How long anything may take before it counts as hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A program that runs. Dropping it kills it.
pub(crate) struct Running {
    child: Child,
    what: String,
}

impl Running {
    pub(crate) fn of(mut command: Command) -> Running {
        let what = format!("{command:?}");
        without_logs(&mut command);
        let child = command.spawn();
        Running { child: child.unwrap_or_else(|error| panic!("cannot run {what}: {error}")), what }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(sent.expect("kill").success(), "{}: no signal {name}", self.what);
    }

    /// Its standard input, to write to; it ends where the pipe is dropped.
    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("a pipe that nobody else has")
    }

    /// Its standard output, to read from.
    pub(crate) fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("a pipe that nobody else has")
    }

    /// Kills it with SIGKILL, if it still runs, and waits for its end.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    /// What it said and how it ended; hanging fails the test.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Run {
        drop(self.child.stdin.take());
        let start = Instant::now();
        while !self.has_ended() {
            assert!(start.elapsed() < PATIENCE, "{} hangs", self.what);
            sleep(Duration::from_millis(1));
        }
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let status = self.child.wait().expect("a child");
        if let Some(mut pipe) = self.child.stdout.take() {
            pipe.read_to_end(&mut stdout).expect("its output");
        }
        if let Some(mut pipe) = self.child.stderr.take() {
            pipe.read_to_end(&mut stderr).expect("its words");
        }
        Run::of(Output { status, stdout, stderr })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// The program as somebody without privileges runs it.
pub(crate) struct Stranger {
    /// Holds a copy of the program that everybody can reach.
    _folder: tempfile::TempDir,
    prefix: Vec<String>,
}

impl Stranger {
    pub(crate) fn new() -> Stranger {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = folder.path().join("vmdisk");
        let mut prefix = Vec::new();
        if is_root() {
            set_mode(folder.path(), 0o755);
            std::fs::copy(VMDISK, &program).expect("a copy of the program");
            let drops = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
            prefix = drops.map(str::to_owned).to_vec();
        } else {
            std::os::unix::fs::symlink(VMDISK, &program).expect("a link to the program");
        }
        prefix.push(program.display().to_string());
        Stranger { _folder: folder, prefix }
    }

    /// The words before the arguments.
    pub(crate) fn prefix(&self) -> Vec<&str> {
        self.prefix.iter().map(String::as_str).collect()
    }
}

/// Whether this run may do everything.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|about| about.uid() == 0)
}

impl Env {
    /// The whole of the guest's disk, by way of `qemu-img`, and its backing files.
    pub(crate) fn disk(&self, format: &str, image: &str) -> Vec<u8> {
        self.converted(["-f", format, image])
    }

    /// The whole disk as an internal snapshot has it.
    pub(crate) fn snapshot_disk(&self, image: &str, snapshot: &str) -> Vec<u8> {
        self.converted(["-f", "qcow2", "-l", snapshot, image])
    }

    fn converted<const N: usize>(&self, args: [&str; N]) -> Vec<u8> {
        let args = ["convert", "-O", "raw"].into_iter().chain(args).chain(["disk.out"]);
        self.run("qemu-img", args).exits(0);
        let bytes = std::fs::read(self.path("disk.out")).expect("qemu-img's output");
        std::fs::remove_file(self.path("disk.out")).expect("the output just read");
        bytes
    }

    /// What `qemu-img info` says. It opens no backing file and heeds no lock.
    pub(crate) fn qemu_info(&self, image: &str) -> Value {
        self.run("qemu-img", ["info", "-U", "-f", "qcow2", "--output=json", image]).exits(0).json()
    }

    /// Runs `qemu-io` commands on a qcow2 image in one go; all must succeed.
    #[track_caller]
    pub(crate) fn qemu_io_all(&self, image: &str, commands: &[String]) {
        let args = ["-f", "qcow2"].map(str::to_owned).into_iter();
        let commands = commands.iter().flat_map(|command| ["-c".to_owned(), command.clone()]);
        let run = self.run("qemu-io", args.chain(commands).chain([image.to_owned()])).exits(0);
        let failed = run.stdout.contains("failed") || run.stdout.contains("error");
        assert!(!failed, "{}", run.stdout);
    }

    /// Overwrites bytes of a file.
    pub(crate) fn patch(&self, file: &str, offset: u64, bytes: &[u8]) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().write(true).open(self.path(file));
        file.and_then(|file| file.write_all_at(bytes, offset)).expect("a patched file");
    }
}

/// Fails with the place of the first difference: two disks are too long to be printed.
#[track_caller]
pub(crate) fn same_bytes(found: &[u8], expected: &[u8], what: &str) {
    let at = found.iter().zip(expected).position(|(a, b)| a != b);
    if let Some(at) = at {
        let (found, expected) = (found[at], expected[at]);
        panic!("{what}: byte {at} is {found:#04x}, expected {expected:#04x}");
    }
    assert_eq!(found.len(), expected.len(), "{what}: the length");
}

/// The program as built for this test run.
pub(crate) const VMDISK: &str = env!("CARGO_BIN_EXE_vmdisk");

/// A public key that no private key is known for.
pub(crate) const PUBLIC_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g test\n";
