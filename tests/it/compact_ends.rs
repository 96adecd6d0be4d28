//! Compactions that do not come to their end: stopped or killed at any moment, called off at any step.

use std::fs;
use std::thread::sleep;
use std::time::Instant;

use vmdisk::host::LockPolicy;
use vmdisk::image::gate::Trust;
use vmdisk::ops::{CompactRequest, Context};
use vmdisk::{ErrorKind, ops};

use crate::draw::whole_matrix;
use crate::stops::StopsAt;
use crate::support::{Env, same_bytes};

/// An image of which much is not needed: zeros, holes, gaps between compressed clusters.
fn folder() -> Env {
    let env = Env::new();
    let noise =
        |n: u32| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8 & if n >> 22 & 1 == 0 { 255 } else { 7 };
    env.write("disk", (0..32u32 << 20).map(noise).collect::<Vec<_>>());
    env.qemu_img("convert -c -O qcow2 disk m.qcow2");
    let gaps = (0..32).map(|n| format!("discard {}k {}k", n << 10, 64 * (1 + n % 7)));
    env.qemu_io_all("m.qcow2", &gaps.collect::<Vec<_>>());
    env.qemu_io_all("m.qcow2", &["write -P 0 3M 7M".to_owned(), "write -P 5 17M 5M".to_owned()]);
    env
}

/// The image shows what it did, is sound but for leaks, and the next run finishes.
fn goes_on(env: &Env, before: &[u8], len: u64, when: &str) {
    let check = env.run("qemu-img", ["check", "-q", "-f", "qcow2", "d.qcow2"]);
    assert!(matches!(check.code, Some(0 | 3)), "{when}: {check:?}");
    same_bytes(&env.disk("qcow2", "d.qcow2"), before, when);
    env.report("compact d.qcow2");
    env.is_clean("d.qcow2");
    same_bytes(&env.disk("qcow2", "d.qcow2"), before, &format!("{when}, and once more"));
    let found = fs::metadata(env.path("d.qcow2")).expect("a file").len();
    assert!(found <= len + len / 50, "{when}: {found} of {len}");
}

/// Whatever signal comes at whatever moment.
#[test]
fn stopped_at_any_moment() {
    let env = folder();
    let before = env.disk("qcow2", "m.qcow2");
    let copy = || fs::copy(env.path("m.qcow2"), env.path("d.qcow2")).expect("a copy");
    copy();
    let start = Instant::now();
    let done = env.report("compact d.qcow2 --progress off");
    let (took, len) = (start.elapsed(), done["file_size_bytes"].as_u64().expect("a length"));
    let old = fs::read(env.path("m.qcow2")).expect("the image");
    let (mut midst, mut stopped) = (0, 0);
    let times = if whole_matrix() { 100 } else { 10 };
    for n in 0..times {
        copy();
        let running = env.start("compact d.qcow2 --progress off --json");
        sleep(took * n / times);
        let when = format!("after {n} of {times}");
        if n % 2 == 0 {
            running.kill();
        } else {
            running.signal("TERM");
            let run = running.wait();
            if run.code != Some(0) {
                let error = run.exits(143).json()["error"].clone();
                assert_eq!(error["data"]["kind"], "cancelled", "{when}: {error:#}");
                let now = fs::read(env.path("d.qcow2")).expect("the image");
                assert!(error["data"]["changed"] == true || now == old, "{when}: {error:#}");
                stopped += 1;
            }
        }
        let now = fs::read(env.path("d.qcow2")).expect("the image");
        midst += i32::from(now != old && now.len() as u64 != len);
        goes_on(&env, &before, len, &when);
    }
    println!("{times} times in {took:?}: {midst} in its midst, {stopped} said so");
    assert!(midst > 0 && stopped > 0, "{midst}, {stopped}");
}

/// Called off at its reports, of every phase.
#[test]
fn called_off_at_any_step() {
    let env = folder();
    let before = env.disk("qcow2", "m.qcow2");
    let (trust, locks) = (Trust::default(), LockPolicy::default());
    let run = |nth: usize| {
        fs::copy(env.path("m.qcow2"), env.path("d.qcow2")).expect("a copy");
        let progress = StopsAt::new(nth);
        let context =
            Context { progress: &progress, cancel: &progress.cancel, trust: &trust, locks: &locks };
        let done = ops::compact(&CompactRequest::new(env.path("d.qcow2")), context);
        (done, progress.seen.into_inner())
    };
    let (done, reports) = run(usize::MAX);
    let len = done.expect("a report").file_size_bytes;
    let most = if whole_matrix() { 200 } else { 10 };
    let mut stopped = 0;
    for nth in (0..reports).step_by(reports.div_ceil(most)).chain([reports - 1]) {
        if let Err(error) = run(nth).0 {
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{nth}: {error}");
            stopped += 1;
        }
        goes_on(&env, &before, len, &format!("called off at {nth} of {reports}"));
    }
    println!("called off at {stopped} of {reports} reports");
    assert!(stopped >= 6, "{stopped}");
}
