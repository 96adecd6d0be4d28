//! The header field by field, beside the one that `qemu-img create` writes.

use crate::header::RawHeader;
use crate::support::Env;

/// Where tables lie is each program's own business; what they are is not.
const OFFSETS: &[&str] = &["l1_table_offset", "refcount_table_offset"];

fn compare(env: &Env, theirs: &str, ours: &str) {
    env.qemu_img(&format!("create -q -f qcow2 {theirs}"));
    env.report(&format!("create ours.qcow2 --guest none {ours}"));
    let expected = RawHeader::read(&env.path("theirs.qcow2"));
    let found = RawHeader::read(&env.path("ours.qcow2"));
    assert_eq!(found.fields.len(), expected.fields.len(), "{ours}");
    for (field, value) in &expected.fields {
        if !OFFSETS.contains(field) {
            assert_eq!(found.get(field), *value, "{ours}: {field}");
        }
    }
    assert_eq!(found.extensions, expected.extensions, "{ours}: the extensions");
    assert_eq!(found.backing, expected.backing, "{ours}: the backing file name");
    let size = found.get("size");
    for (name, header) in [("theirs.qcow2", &expected), ("ours.qcow2", &found)] {
        let cluster = 1 << header.get("cluster_bits");
        for table in OFFSETS {
            let offset = header.get(table);
            assert!(offset > 0 && offset % cluster == 0, "{name} of {size}: {table} {offset}");
        }
    }
    for name in ["ours.qcow2", "theirs.qcow2"] {
        std::fs::remove_file(env.path(name)).expect("the image just compared");
    }
}

/// With the default options (20 GiB, without and with a backing file, off and preallocated), and
/// with every option away from its default, the header that is written here has every field,
/// extension and name of QEMU's, in the same order; only the places of tables differ.
#[test]
fn every_field_is_as_qemu_writes_it() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 base.qcow2 1G");
    env.qemu_img("create -q -f raw base.raw 1G");
    for backing in ["", "qcow2", "raw"] {
        let theirs = match backing {
            "" => String::new(),
            format => format!("-b base.{format} -F {format}"),
        };
        let ours = match backing {
            "" => String::new(),
            format => format!("--backing base.{format} --backing-format {format}"),
        };
        let subclusters = if backing.is_empty() { "off" } else { "on" };
        for (preallocation, extended) in [("off", "off"), ("metadata", subclusters)] {
            let options = format!("preallocation={preallocation},extended_l2={extended}");
            let flags = format!("--preallocation {preallocation}");
            compare(
                &env,
                &format!("{theirs} -o {options} theirs.qcow2 20G"),
                &format!("{ours} {flags} --size 20G"),
            );
        }
        let table = [
            ("compat=0.10", "--compat 0.10"),
            ("cluster_size=512", "--cluster-size 512"),
            ("cluster_size=4096", "--cluster-size 4096"),
            ("cluster_size=8192", "--cluster-size 8192"),
            ("cluster_size=2M", "--cluster-size 2M"),
            ("refcount_bits=1", "--refcount-bits 1"),
            ("refcount_bits=64", "--refcount-bits 64"),
            ("lazy_refcounts=on", "--lazy-refcounts on"),
            ("compression_type=zstd", "--compression-type zstd"),
            ("extended_l2=on,cluster_size=128k", "--extended-l2 on --cluster-size 128K"),
        ];
        for (options, flags) in table {
            compare(
                &env,
                &format!("{theirs} -o {options} theirs.qcow2 3000000000"),
                &format!("{ours} {flags} --preallocation off --size 3000000000B"),
            );
        }
    }
}

/// The preset `hyperkit` keeps everything that is read inside the first 512 bytes: a header of 104
/// bytes, no extension, first table right behind the header's cluster, lazy and dirty.
#[test]
fn the_hyperkit_header_is_what_its_reader_takes() {
    let env = Env::new();
    env.report("create d.qcow2 --size 20G --preset hyperkit");
    let path = env.path("d.qcow2");
    let header = RawHeader::read(&path);
    let fields = [
        ("version", 3),
        ("backing_file_offset", 0),
        ("cluster_bits", 16),
        ("size", 20 << 30),
        ("crypt_method", 0),
        ("l1_size", 8192),
        ("refcount_table_offset", 65536),
        ("refcount_table_clusters", 1),
        ("l1_table_offset", 3 * 65536),
        ("nb_snapshots", 0),
        ("incompatible_features", 1),
        ("compatible_features", 1),
        ("autoclear_features", 0),
        ("refcount_order", 4),
        ("header_length", 104),
    ];
    for (field, value) in fields {
        assert_eq!(header.get(field), value, "{field}");
    }
    assert_eq!(header.extensions, [(0, Vec::new())]);
    let len = std::fs::metadata(&path).expect("the image").len();
    assert_eq!(len % 65536, 0, "whole clusters");
}
