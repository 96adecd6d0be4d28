//! Images that are left alone: refused with a kind of their own, every byte as it was.

use crate::support::Env;

/// Sets bits of the last byte of the incompatible features.
fn set_incompatible(env: &Env, bits: u8) {
    let header = std::fs::read(env.path("d.qcow2")).expect("the image");
    env.patch("d.qcow2", 79, &[header[79] | bits]);
}

/// What a resize in place would damage is refused whether the disk would grow or shrink, before
/// anything is written: snapshots in version 2, bitmaps, external data files, encryption of both
/// kinds, an image marked corrupt.
#[test]
fn what_a_resize_would_damage_is_left_alone() {
    type Make = fn(&Env);
    const DIRTY: u8 = 1;
    const CORRUPT: u8 = 2;
    let table: &[(&str, Make, &str)] = &[
        (
            "version 2 with a snapshot",
            |env| {
                env.qemu_img("create -q -f qcow2 -o compat=0.10 d.qcow2 10M");
                env.qemu_img("snapshot -c s d.qcow2");
            },
            "has_snapshots",
        ),
        (
            "a bitmap",
            |env| {
                env.qemu_img("create -q -f qcow2 d.qcow2 10M");
                env.qemu_img("bitmap --add d.qcow2 b");
            },
            "unsupported_feature",
        ),
        (
            "an external data file",
            |env| {
                env.qemu_img("create -q -f qcow2 -o data_file=data.raw d.qcow2 10M");
            },
            "unsupported_feature",
        ),
        (
            "AES",
            |env| {
                env.qemu_img(
                    "create -q -f qcow2 --object secret,id=s,data=abc \
                     -o encrypt.format=aes,encrypt.key-secret=s d.qcow2 10M",
                );
            },
            "unsupported_feature",
        ),
        (
            "LUKS",
            |env| {
                env.qemu_img("create -q -f qcow2 d.qcow2 10M");
                env.patch("d.qcow2", 32, &2u32.to_be_bytes());
            },
            "unsupported_feature",
        ),
        (
            "marked corrupt",
            |env| {
                env.qemu_img("create -q -f qcow2 d.qcow2 10M");
                set_incompatible(env, CORRUPT);
            },
            "corrupt",
        ),
        (
            "an incompatible feature that nobody knows",
            |env| {
                env.qemu_img("create -q -f qcow2 d.qcow2 10M");
                set_incompatible(env, 0x80);
            },
            "unsupported_feature",
        ),
        (
            "dirty and marked corrupt",
            |env| {
                env.qemu_img("create -q -f qcow2 d.qcow2 10M");
                set_incompatible(env, DIRTY | CORRUPT);
            },
            "corrupt",
        ),
    ];
    for (what, make, kind) in table {
        let env = Env::new();
        println!("{what}");
        make(&env);
        for size in ["20M", "1M", "512B"] {
            let line = format!("resize d.qcow2 --size {size} --shrink");
            env.refuses(&line, kind);
        }
        env.refuses("ensure d.qcow2 --size 20M", kind);
        let data = std::fs::metadata(env.path("data.raw"));
        assert!(
            data.is_ok_and(|data| data.len() == 10 << 20) == (*what == "an external data file")
        );
        if *what != "an incompatible feature that nobody knows" {
            let info = env.report("info d.qcow2");
            assert_eq!(info["virtual_size_bytes"].as_u64().map(|size| size >= 1 << 20), Some(true));
        }
    }
}

/// A dirty image with bitmaps is refused like any with bitmaps.
#[test]
fn dirty_bitmaps_are_left_alone() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 10M");
    env.qemu_img("bitmap --add d.qcow2 b");
    set_incompatible(&env, 1);
    let before = std::fs::read(env.path("d.qcow2")).expect("the image");
    env.fails("resize d.qcow2 --size 20M", 1, "unsupported_feature");
    assert!(before == std::fs::read(env.path("d.qcow2")).expect("the image"));
}

/// A dirty image with snapshots or compressed clusters has its counts rebuilt, then is resized;
/// one with more references than its counts have room for is refused.
#[test]
fn dirty_images_are_mended_and_resized() {
    let snapshot = |env: &Env| {
        env.qemu_img("create -q -f qcow2 d.qcow2 10M");
        env.qemu_io_all("d.qcow2", &["write -P 7 0 2M".to_owned()]);
        env.qemu_img("snapshot -c s d.qcow2");
    };
    let compressed = |env: &Env| {
        env.write("s.raw", [vec![7; 2 << 20], vec![0; 8 << 20]].concat());
        env.qemu_img("convert -c -O qcow2 s.raw d.qcow2");
    };
    let makes: [&dyn Fn(&Env); 2] = [&snapshot, &compressed];
    for make in makes {
        let env = Env::new();
        make(&env);
        set_incompatible(&env, 1);
        for (size, len) in [("20M", 20 << 20), ("1M --shrink", 1 << 20)] {
            env.report(&format!("resize d.qcow2 --size {size}"));
            env.is_clean("d.qcow2");
            let disk = env.disk("qcow2", "d.qcow2");
            assert_eq!(disk.len(), len);
            assert!(disk.iter().take(2 << 20).all(|&byte| byte == 7), "{size}");
        }
    }
    let env = Env::new();
    snapshot(&env);
    set_incompatible(&env, 1);
    env.patch("d.qcow2", 99, &[0]);
    env.refuses("resize d.qcow2 --size 20M", "dirty");
}

/// A guest can write the header of another format into its raw disk. A disk whose name promises
/// raw and whose content does not is refused until the caller says what it is; told that it is
/// raw, it is resized as raw and the header inside stays a guest's bytes.
#[test]
fn a_header_inside_a_raw_disk_is_not_believed() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 -b /etc/hostname -F raw -u inner.qcow2 1G");
    let mut inner = std::fs::read(env.path("inner.qcow2")).expect("an image");
    inner.resize(1 << 20, 0);
    for name in ["d.raw", "d.img", "d.RAW"] {
        env.write(name, &inner);
        env.refuses(&format!("resize {name} --size 2M"), "format_mismatch");
        env.refuses(&format!("ensure {name} --size 2M"), "format_mismatch");
        env.refuses(&format!("create {name} --size 2M --if-exists keep"), "format_mismatch");
        let over = format!("create o.qcow2 --backing {name} --size 2M");
        env.fails(&over, 1, "format_mismatch");
        assert!(!env.path("o.qcow2").exists());
        let info = env.report(&format!("info {name}"));
        assert!(info["format_doubt"].is_string(), "{info:#}");

        let grown = env.report(&format!("resize {name} --size 2M --format raw"));
        assert_eq!(grown["format"], "raw");
        let after = std::fs::read(env.path(name)).expect("the disk");
        assert_eq!(after.len(), 2 << 20);
        assert!(after.starts_with(&inner), "{name}: the guest's bytes");
        let ensured = env.report(&format!("ensure {name} --size 3M --format raw"));
        assert_eq!(ensured["virtual_size_bytes"], 3 << 20);
        let over = format!("create o.qcow2 --backing {name} --backing-format raw --size 4M");
        env.report(&over);
        let theirs = env.qemu_info("o.qcow2");
        assert_eq!(theirs["backing-filename-format"], "raw");
        std::fs::remove_file(env.path("o.qcow2")).expect("the overlay");
    }
    // The other way round: a name that promises qcow2 over content that is none.
    env.write("n.qcow2", vec![0; 4096]);
    env.refuses("resize n.qcow2 --size 2M", "format_mismatch");
    env.refuses("resize n.qcow2 --size 2M --format qcow2", "format_mismatch");
}

/// Images of other formats are named and refused, whatever the file is called.
#[test]
fn other_formats_are_named_and_refused() {
    let formats =
        [("vmdk", "VMDK"), ("vpc", "VHD"), ("vhdx", "VHDX"), ("vdi", "VDI"), ("qed", "QED")];
    for (format, name) in formats {
        for file in ["d", "d.qcow2", "d.img"] {
            let env = Env::new();
            env.qemu_img(&format!("create -q -f {format} {file} 4M"));
            let line = format!("resize {file} --size 80M");
            let error = env.refuses(&line, "format_mismatch");
            let message = error["message"].as_str().unwrap_or_default();
            assert!(message.contains(name), "{format}: {message}");
            // Whoever did as told with a disk that is called raw would destroy what is in it.
            let hint = error["data"]["hint"].as_str().unwrap_or_default();
            assert!(hint.contains("qemu-img convert") && !hint.contains("raw"), "{hint}");
            let over = format!("create o.qcow2 --backing {file} --size 80M");
            env.fails(&over, 1, "format_mismatch");
            env.refuses(&format!("ensure {file} --size 80M"), "format_mismatch");
        }
    }
    let env = Env::new();
    env.qemu_img("create -q -f vpc -o subformat=fixed d 4M");
    env.refuses("resize d --size 80M", "format_mismatch");
    let text = "# Disk DescriptorFile\nversion=1\n";
    env.write("t", text);
    env.refuses("resize t --size 80M", "format_mismatch");
}

/// Where the tables of an image are, as its own words say.
struct Tables {
    image: Vec<u8>,
}

impl Tables {
    fn of(env: &Env) -> Tables {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::open(env.path("d.qcow2")).expect("the image");
        let mut image = vec![0; 4 << 20];
        let found = file.read_at(&mut image, 0).expect("the metadata");
        image.truncate(found);
        Tables { image }
    }

    fn word(&self, at: u64) -> u64 {
        let at = at as usize;
        u64::from_be_bytes(self.image[at..at + 8].try_into().expect("eight bytes"))
    }

    fn l1(&self) -> u64 {
        self.word(40)
    }

    fn refcount_table(&self) -> u64 {
        self.word(48)
    }

    /// Where the entry of a guest cluster is in the first L2 table.
    fn l2_entry(&self, cluster: u64) -> u64 {
        (self.word(self.l1()) & 0x00ff_ffff_ffff_fe00) + cluster * 8
    }
}

/// A resize gives clusters away, so it believes no count that the tables contradict: where two
/// things claim one cluster, or something in use is not counted, it refuses before a byte changes.
/// What is damaged this way reads well until then.
#[test]
fn damage_that_a_resize_would_make_worse_is_refused() {
    type Damage = fn(&Tables) -> (u64, u64);
    let table: &[(&str, &str, Damage)] = &[
        ("two L1 entries lead to one table", "4M", |t| (t.l1() + 8, t.word(t.l1()))),
        ("a refcount block is an L2 table", "4M", |t| {
            (t.refcount_table(), t.word(t.l1()) & 0x00ff_ffff_ffff_fe00)
        }),
        ("two refcount blocks are one", "4M", |t| {
            (t.refcount_table() + 8, t.word(t.refcount_table()))
        }),
        ("a dropped entry leads to the L1 table", "1M --shrink", |t| {
            (t.l2_entry(300), t.l1() | 1 << 63)
        }),
        ("a dropped entry leads to the refcount table", "1M --shrink", |t| {
            (t.l2_entry(300), t.refcount_table() | 1 << 63)
        }),
        ("a dropped cluster is a kept one", "1M --shrink", |t| {
            (t.l2_entry(300), t.word(t.l2_entry(3)))
        }),
        ("two dropped clusters are one", "1M --shrink", |t| {
            (t.l2_entry(300), t.word(t.l2_entry(301)))
        }),
        ("a dropped entry has reserved bits", "1M --shrink", |t| {
            (t.l2_entry(300), t.word(t.l2_entry(300)) | 2)
        }),
        ("the first four clusters are not counted", "1M --shrink", |t| {
            (t.word(t.refcount_table()), 0)
        }),
    ];
    for (name, size, damage) in table {
        let env = Env::new();
        env.report("create d.qcow2 --size 3M --cluster-size 4K --guest none");
        let (at, word) = damage(&Tables::of(&env));
        env.patch("d.qcow2", at, &word.to_be_bytes());
        println!("{name}");
        env.refuses(&format!("resize d.qcow2 --size {size}"), "corrupt");
    }
    let env = Env::new();
    env.report("create d.qcow2 --size 3M --cluster-size 4K --guest none");
    let tables = Tables::of(&env);
    let block = tables.word(tables.refcount_table());
    let cluster = (tables.word(tables.l2_entry(3)) & 0x00ff_ffff_ffff_fe00) >> 12;
    env.patch("d.qcow2", block + 2 * cluster, &[0, 0]);
    env.refuses("resize d.qcow2 --size 1M --shrink", "corrupt");
}
