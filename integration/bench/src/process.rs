//! Whole processes: started, waited for, timed; and single requests to one that stays.

use std::fs::{create_dir, read_dir, read_to_string, remove_dir_all, remove_file};
use std::io::{BufRead, BufReader, Error, Read, Result, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio, id};
use std::time::{Duration, Instant};

use crate::sys;

/// A program, its arguments and what it is told.
#[derive(Debug, Clone)]
pub(crate) struct Invocation {
    program: PathBuf,
    arguments: Vec<String>,
    input: Input,
    /// Whether it prints the nanoseconds that count.
    tells_time: bool,
}

/// What comes in by standard input.
#[derive(Debug, Clone)]
enum Input {
    Nothing,
    /// A line, and its end.
    Line(String),
    /// A line over and over, each sent when the one before has been answered.
    Session(String),
}

/// How often a line is sent to a session, after a first one that is not timed.
const REQUESTS: u32 = 200;

/// What one process took, or one request to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// From before its start until after its end, or until its answer, or what it told.
    pub(crate) elapsed: Duration,
    /// The most memory it had, in KiB.
    pub(crate) peak_kib: u64,
}

impl Invocation {
    /// `program` with arguments that hold no blanks, which separate them.
    pub(crate) fn new(program: &Path, arguments: &str) -> Invocation {
        let arguments = arguments.split_whitespace().map(str::to_owned).collect();
        Invocation {
            program: program.to_owned(),
            arguments,
            input: Input::Nothing,
            tells_time: false,
        }
    }

    /// Commands of a shell, which ends with the first that fails; it finds those of the system's
    /// administrator too.
    pub(crate) fn shell(script: &str) -> Invocation {
        let script = format!("export PATH=\"$PATH:/usr/sbin:/sbin\"; {script}");
        let arguments = vec!["-ec".to_owned(), script];
        let program = PathBuf::from("/bin/sh");
        Invocation { program, arguments, input: Input::Nothing, tells_time: false }
    }

    /// Whether such a shell would find a program.
    pub(crate) fn finds(program: &str) -> bool {
        Self::shell(&format!("command -v {program}")).run(Path::new("/")).is_ok()
    }

    /// The same, told one line.
    pub(crate) fn told(self, line: &str) -> Invocation {
        Invocation { input: Input::Line(line.to_owned()), ..self }
    }

    /// The same, but it is a request to it that is timed.
    pub(crate) fn asked(self, line: &str) -> Invocation {
        Invocation { input: Input::Session(line.to_owned()), ..self }
    }

    /// The same, but it says itself, in nanoseconds, what counts of its time.
    pub(crate) fn telling_its_time(self) -> Invocation {
        Invocation { tells_time: true, ..self }
    }

    /// Runs it in `folder`, its output discarded.
    ///
    /// A child's peak counts what it was before it executed the program, so it is never below what
    /// this process, which is small, has itself.
    pub(crate) fn run(&self, folder: &Path) -> Result<Sample> {
        match &self.input {
            Input::Nothing => self.run_whole(folder, None),
            Input::Line(line) => self.run_whole(folder, Some(line)),
            Input::Session(line) => self.run_session(folder, line),
        }
    }

    fn run_whole(&self, folder: &Path, line: Option<&str>) -> Result<Sample> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(folder);
        command.stdin(if line.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(if self.tells_time { Stdio::piped() } else { Stdio::null() });
        command.stderr(Stdio::null());
        let start = Instant::now();
        let mut child = command.spawn().map_err(|error| self.failed(&error.to_string()))?;
        if let (Some(line), Some(mut input)) = (line, child.stdin.take()) {
            input.write_all(format!("{line}\n").as_bytes())?;
        }
        let mut told = String::new();
        if let Some(mut output) = child.stdout.take() {
            output.read_to_string(&mut told)?;
        }
        let (status, peak_kib) = sys::wait(&child)?;
        let mut elapsed = start.elapsed();
        if !status.success() {
            return Err(self.failed(&status.to_string()));
        }
        if self.tells_time {
            let nanoseconds = told.trim().parse();
            elapsed = Duration::from_nanos(nanoseconds.map_err(|_| self.failed("tells no time"))?);
        }
        Ok(Sample { elapsed, peak_kib })
    }

    fn run_session(&self, folder: &Path, line: &str) -> Result<Sample> {
        let mut session = self.start_session(folder)?;
        session.ask(line)?;
        let start = Instant::now();
        (0..REQUESTS).try_for_each(|_| session.ask(line))?;
        let elapsed = start.elapsed() / REQUESTS;
        Ok(Sample { elapsed, peak_kib: session.end()? })
    }

    /// Starts it, to be asked.
    pub(crate) fn start_session(&self, folder: &Path) -> Result<Session> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(folder).stderr(Stdio::null());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else {
            return Err(self.failed("no pipes"));
        };
        Ok(Session { child, input, output: BufReader::new(output) })
    }

    /// The first line that it prints.
    pub(crate) fn first_line(&self) -> Result<String> {
        let output = Command::new(&self.program).args(&self.arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    fn failed(&self, why: &str) -> Error {
        let arguments = self.arguments.join(" ");
        Error::other(format!("{} {arguments}: {why}", self.program.display()))
    }
}

/// A program that answers a line with a line.
#[derive(Debug)]
pub(crate) struct Session {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Session {
    /// Sends a line and waits for the answer, which must be no error.
    pub(crate) fn ask(&mut self, line: &str) -> Result<()> {
        self.input.write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        if !answer.contains("\"result\"") {
            return Err(Error::other(format!("{line}: {answer}")));
        }
        Ok(())
    }

    /// The memory that it has now, in KiB; 0 where the system does not tell.
    pub(crate) fn memory_kib(&self) -> u64 {
        let status = read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let words = line.and_then(|line| line.split_whitespace().next());
        words.and_then(|word| word.parse().ok()).unwrap_or_default()
    }

    /// Ends it, and tells the most memory that it had, in KiB.
    pub(crate) fn end(self) -> Result<u64> {
        let Session { child, input, output } = self;
        drop((input, output));
        sys::wait(&child).map(|(_, peak_kib)| peak_kib)
    }
}

/// A folder of our own, removed at the end.
#[derive(Debug)]
pub(crate) struct WorkFolder(PathBuf);

impl WorkFolder {
    /// Makes it inside `parent`.
    pub(crate) fn inside(parent: &Path) -> Result<WorkFolder> {
        let path = parent.canonicalize()?.join(format!("vmdisk-bench.{}", id()));
        create_dir(&path)?;
        Ok(WorkFolder(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Removes every file in it.
    pub(crate) fn clear(&self) -> Result<()> {
        read_dir(&self.0)?.try_for_each(|entry| remove_file(entry?.path()))
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        // Nothing depends on it, and there is nobody to tell.
        let _ = remove_dir_all(&self.0);
    }
}
