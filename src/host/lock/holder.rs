//! Who holds a lock: the system does not tell with the refusal, but on Linux `/proc` knows.

use super::Obstacle;
use crate::error::Holder;
use crate::host::file::FileId;

/// A process whose open file has the lock in question; `None` when none is visible to us.
#[cfg(target_os = "linux")]
pub(super) fn find(id: FileId, obstacle: Obstacle) -> Option<Holder> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|&pid| holds(pid, id, obstacle).unwrap_or(false)).map(|pid| {
        let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Holder { pid, command: command.trim_end().to_owned() }
    })
}

/// macOS does not list locks.
#[cfg(target_os = "macos")]
pub(super) fn find(_: FileId, _: Obstacle) -> Option<Holder> {
    None
}

/// Whether a descriptor of this process has the lock; `None` when it may not be looked at or is
/// gone.
#[cfg(target_os = "linux")]
fn holds(pid: u32, id: FileId, obstacle: Obstacle) -> Option<bool> {
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).ok()?.flatten() {
        let Ok(about) = std::fs::read_to_string(entry.path()) else { continue };
        if !about.lines().any(|line| is_obstacle(line, obstacle)) {
            continue;
        }
        // The lock's line names its device too, but not as stat(2) does (on btrfs, say).
        let descriptor = format!("/proc/{pid}/fd/{}", entry.file_name().display());
        if std::fs::metadata(descriptor).is_ok_and(|metadata| FileId::new(&metadata) == id) {
            return Some(true);
        }
    }
    Some(false)
}

/// Reads a line such as `lock: 1: OFDLCK ADVISORY  READ -1 fe:00:12345 100 101` (proc(5)).
#[cfg(target_os = "linux")]
fn is_obstacle(line: &str, obstacle: Obstacle) -> bool {
    let Some(lock) = line.strip_prefix("lock:") else { return false };
    let words: Vec<_> = lock.split_whitespace().collect();
    let [_, family, .., first, last] = words[..] else { return false };
    match obstacle {
        Obstacle::Flock => family == "FLOCK",
        Obstacle::Byte(byte) => {
            let byte = u64::from(byte);
            family != "FLOCK"
                && first.parse().is_ok_and(|first: u64| first <= byte)
                && (last == "EOF" || last.parse().is_ok_and(|last: u64| byte <= last))
        }
    }
}
