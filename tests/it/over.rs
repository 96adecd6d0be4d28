//! Keys above a base: what the base begins with decides whether they may be written.

use crate::payload::{MAGIC, classic};
use crate::support::{Env, PUBLIC_KEY, same_bytes};

const SIZE: usize = 3 << 20;

fn with(changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut disk = vec![0; SIZE];
    for (at, bytes) in changes {
        disk[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    disk
}

/// A partition of type 83 from sector 2048 on.
const PARTITION: &[u8] = &[0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0];

/// Whatever the base is stored as (raw, plain, compressed both ways, below another overlay), what
/// its guest left at its beginning is recognised: keys go over a blank disk and over an older
/// payload, of which nothing stays; over partitions and filesystems only when it is insisted on.
/// The base keeps every byte, and shows behind what was written.
#[test]
fn what_the_base_begins_with_is_recognised() {
    let protective = [&[0, 0, 0, 0, 0xee, 0, 0, 0, 1, 0, 0, 0, 0, 8, 0, 0][..], &[0; 48]].concat();
    let old_payload = classic(&"ssh-rsa AAAA old key\n".repeat(20));
    let bases: &[(&str, Vec<u8>, bool)] = &[
        ("blank", with(&[]), true),
        ("magic", with(&[(0, MAGIC.as_bytes())]), true),
        ("payload", with(&[(0, &old_payload), (100_000, b"data")]), true),
        ("mbr", with(&[(446, PARTITION), (510, &[0x55, 0xaa])]), false),
        (
            "magic and mbr",
            with(&[(0, MAGIC.as_bytes()), (446, PARTITION), (510, &[0x55, 0xaa])]),
            false,
        ),
        ("gpt", with(&[(446, &protective), (510, &[0x55, 0xaa]), (512, b"EFI PART")]), false),
        ("gpt alone", with(&[(512, b"EFI PART")]), false),
        ("ext4", with(&[(1080, &[0x53, 0xef]), (1024 + 0x60, &[0x40, 0, 0, 0])]), false),
        ("other", with(&[(40_000, b"something")]), false),
    ];
    let forms = [
        ("cp s.raw b.raw", "b.raw --backing-format raw"),
        ("qemu-img convert -f raw -O qcow2 s.raw b.qcow2", "b.qcow2"),
        ("qemu-img convert -f raw -c -O qcow2 s.raw b.qcow2", "b.qcow2"),
        ("qemu-img convert -f raw -c -O qcow2 -o compression_type=zstd s.raw b.qcow2", "b.qcow2"),
        (
            "qemu-img convert -f raw -O qcow2 -o cluster_size=512 s.raw c.qcow2 && \
             qemu-img create -q -f qcow2 -b c.qcow2 -F qcow2 b.qcow2 3M",
            "b.qcow2",
        ),
    ];
    let env = Env::new();
    env.write("id.pub", PUBLIC_KEY);
    for (what, disk, allowed) in bases {
        env.write("s.raw", disk);
        for (form, backing) in forms {
            env.run("sh", ["-c", &format!("rm -f b.* c.* d.*; {form}")]).exits(0);
            let file = backing.split(' ').next().expect("a name");
            let before = std::fs::read(env.path(file)).expect("the base");
            let line = format!("create d.qcow2 --size 4M --backing {backing} --ssh-key id.pub");
            if !allowed {
                env.fails(&line, 1, "guest_not_empty");
                assert!(!env.path("d.qcow2").exists(), "{what}, {form}");
                // Without keys nothing is written, so nothing is in the way.
                env.report(&format!("create d.qcow2 --size 4M --backing {backing}"));
                let mut expected = disk.clone();
                expected.resize(4 << 20, 0);
                same_bytes(&env.disk("qcow2", "d.qcow2"), &expected, what);
                std::fs::remove_file(env.path("d.qcow2")).expect("the overlay");
            }
            let insist = if *allowed { "" } else { " --overwrite-guest" };
            env.report(&format!("{line}{insist}"));
            let payload = classic(PUBLIC_KEY);
            let mut expected = disk.clone();
            expected.resize(4 << 20, 0);
            expected[..4096].fill(0);
            expected[..payload.len()].copy_from_slice(&payload);
            same_bytes(&env.disk("qcow2", "d.qcow2"), &expected, &format!("{what}, {form}"));
            env.is_clean("d.qcow2");
            assert!(before == std::fs::read(env.path(file)).expect("the base"), "{what}, {form}");
        }
    }
}
