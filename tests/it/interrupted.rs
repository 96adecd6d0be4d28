//! Signals that cut system calls short: whatever was interrupted is done again.

use crate::support::{Env, VMDISK};

/// Everything that a disk is read and written with.
const CALLS: &str = "pwrite64,pread64,ftruncate,fallocate,fsync,fdatasync";

/// Runs `vmdisk` while every second of these calls fails with EINTR. `path` leaves out the calls of
/// the system's loader, which does not try again.
fn interrupted(env: &Env, calls: &str, path: Option<&str>, line: &str) {
    let inject = format!("inject={calls}:error=EINTR:when=1+2");
    let trace = format!("trace={calls}");
    let mut args = vec!["-f", "-o", "calls", "-e", &trace, "-e", &inject];
    let path = path.map(|path| env.path(path).canonicalize().expect("a disk"));
    let path = path.as_ref().map(|path| path.to_str().expect("a path of plain letters"));
    args.extend(path.iter().flat_map(|path| ["-P", path]));
    args.push(VMDISK);
    args.extend(line.split_whitespace());
    env.run("strace", args).exits(0);
    let calls = std::fs::read_to_string(env.path("calls")).expect("the calls that were made");
    let failed = calls.lines().filter(|line| line.contains("(INJECTED)")).count();
    assert!(failed >= 5, "{line}: only {failed} calls were interrupted\n{calls}");
}

#[test]
fn interrupted_calls_are_made_again() {
    let env = Env::new();
    let writes = CALLS.replace("pread64,", "");
    interrupted(&env, &writes, None, "create d.qcow2 --size 1G --preallocation metadata");
    env.is_clean("d.qcow2");
    for (size, bytes) in [("3G", 3u64 << 30), ("512M --shrink", 512 << 20)] {
        interrupted(&env, CALLS, Some("d.qcow2"), &format!("resize d.qcow2 --size {size}"));
        env.is_clean("d.qcow2");
        assert_eq!(env.report("info d.qcow2")["virtual_size_bytes"], bytes);
    }
}
