//! Entries that make no sense: what QEMU does not read is not read, and what it does read is the
//! same here. Nothing is written to either.

use vmdisk::ErrorKind;
use vmdisk::block::BlockDevice;
use vmdisk::image::{Image, OpenOptions};

use crate::scan::{COPIED, Layout};
use crate::support::Env;

use super::disk::IMAGE;

const CLUSTER: u64 = 64 << 10;

/// The image's version, what becomes of its first L2 entry, and whether it is read then.
type Damage = (&'static str, fn(u64) -> u64, bool);

const DAMAGES: [Damage; 8] = [
    ("0.10", |word| word | 1, false),
    ("0.10", |_| 1, false),
    ("0.10", |word| word | 512, false),
    ("1.1", |word| word | 512, false),
    ("0.10", |word| word | 1 << 40, true),
    ("1.1", |word| word | 1 << 40, true),
    ("0.10", |_| COPIED | 1 << 55, true),
    ("1.1", |_| COPIED | 1 << 55, true),
];

/// A sector as QEMU reads it, if it does.
fn theirs(env: &Env, at: u64) -> Option<Vec<u8>> {
    let command = format!("read {at} 512");
    let run = env.run("qemu-io", ["-r", "-f", "qcow2", "-c", &command, IMAGE]);
    (run.code == Some(0)).then(|| env.guest_bytes(IMAGE, at, 512))
}

#[test]
fn what_qemu_does_not_read_is_not_read() {
    for (version, change, reads) in DAMAGES {
        let env = Env::new();
        env.qemu_img(&format!("create -q -f qcow2 -o compat={version} d.qcow2 2M"));
        env.qemu_io_all(IMAGE, &["write -P 7 0 192k".to_owned()]);
        let layout = Layout::of(&env);
        let word = change(layout.word(layout.l2[0]));
        env.patch(IMAGE, layout.l2[0], &word.to_be_bytes());
        let before = env.contents();

        let image = Image::open(env.path(IMAGE), &OpenOptions::to_write()).expect("an image");
        let ours = [0, CLUSTER].map(|at| {
            let mut found = vec![1; 512];
            image.read_at(at, &mut found).map(|()| found).map_err(|error| error.kind())
        });
        assert_eq!(image.write_at(9, b"x").unwrap_err().kind(), ErrorKind::Corrupt);
        image.close().expect("the end");
        assert!(env.contents() == before, "{word:#x} in {version}: nothing is written");
        for (at, ours) in [0, CLUSTER].into_iter().zip(ours) {
            let theirs = theirs(&env, at).ok_or(ErrorKind::Corrupt);
            assert_eq!(theirs.is_ok(), reads || at > 0, "{word:#x} in {version}");
            assert!(ours == theirs, "{word:#x} in {version} at {at}: {:?}", ours.err());
        }
    }
}
