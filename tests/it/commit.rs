//! `vmdisk commit`: what an image holds goes down, against `qemu-img commit`.

use crate::support::Env;

/// A base, an overlay above it, and what their guests write.
struct Kind {
    name: &'static str,
    /// Options of the base, `raw` for a raw one, and its size.
    base: (&'static str, &'static str),
    overlay: (&'static str, &'static str),
    below: &'static [&'static str],
    above: &'static [&'static str],
}

const BELOW: &[&str] = &["write -P 1 0 900k", "write -P 2 1500k 400k"];
const ABOVE: &[&str] = &[
    "write -P 3 100k 300k",
    "write -P 4 511k 1k",
    "write -z 600k 200k",
    "discard 832k 64k",
    "write -P 5 1900k 148k",
    "write -P 0 1600k 64k",
];

const KINDS: &[Kind] = &[
    Kind { name: "plain", base: ("", "2M"), overlay: ("", "2M"), below: BELOW, above: ABOVE },
    Kind {
        name: "small clusters above large ones",
        base: ("cluster_size=2M", "2M"),
        overlay: ("cluster_size=512", "2M"),
        below: BELOW,
        above: ABOVE,
    },
    Kind {
        name: "large clusters above small ones",
        base: ("cluster_size=4k,refcount_bits=1", "2M"),
        overlay: ("cluster_size=1M", "2M"),
        below: BELOW,
        above: ABOVE,
    },
    Kind {
        name: "subclusters above",
        base: ("", "2M"),
        overlay: ("extended_l2=on,cluster_size=128k", "2M"),
        below: BELOW,
        above: ABOVE,
    },
    Kind {
        name: "subclusters below",
        base: ("extended_l2=on,cluster_size=64k", "2M"),
        overlay: ("", "2M"),
        below: BELOW,
        above: ABOVE,
    },
    Kind { name: "raw", base: ("raw", "2M"), overlay: ("", "2M"), below: BELOW, above: ABOVE },
    Kind {
        name: "a raw base that is smaller",
        base: ("raw", "1M"),
        overlay: ("", "2M"),
        below: &["write -P 1 0 900k"],
        above: ABOVE,
    },
    Kind {
        name: "a base that is smaller, down to the sector",
        base: ("", "1050112"),
        overlay: ("", "2M"),
        below: &["write -P 1 0 900k"],
        above: ABOVE,
    },
    Kind {
        name: "a base that is larger",
        base: ("", "3M"),
        overlay: ("", "2097664"),
        below: &["write -P 1 0 3M"],
        above: ABOVE,
    },
    Kind {
        name: "version 2 above",
        base: ("", "2M"),
        overlay: ("compat=0.10", "2M"),
        below: BELOW,
        above: ABOVE,
    },
    Kind {
        name: "version 2 below",
        base: ("compat=0.10", "2M"),
        overlay: ("", "2M"),
        below: BELOW,
        above: ABOVE,
    },
    Kind {
        name: "lazy counts",
        base: ("lazy_refcounts=on", "2M"),
        overlay: ("lazy_refcounts=on", "2M"),
        below: BELOW,
        above: ABOVE,
    },
    Kind { name: "nothing above", base: ("", "2M"), overlay: ("", "2M"), below: BELOW, above: &[] },
    Kind {
        name: "counts of 64 bits, small clusters",
        base: ("refcount_bits=64,cluster_size=512", "2M"),
        overlay: ("refcount_bits=64,cluster_size=512", "2M"),
        below: BELOW,
        above: ABOVE,
    },
];

impl Kind {
    fn is_raw(&self) -> bool {
        self.base.0 == "raw"
    }

    fn base_format(&self) -> &'static str {
        if self.is_raw() { "raw" } else { "qcow2" }
    }

    /// Makes `base` and `d.qcow2` above it.
    fn make(&self, env: &Env) {
        let format = self.base_format();
        let options = |options: &str| match options {
            "" | "raw" => String::new(),
            options => format!("-o {options}"),
        };
        let (below, above) = (options(self.base.0), options(self.overlay.0));
        env.qemu_img(&format!("create -q -f {format} {below} base {}", self.base.1));
        for command in self.below {
            env.qemu_io(format, "base", command);
        }
        env.qemu_img(&format!(
            "create -q -f qcow2 {above} -b base -F {format} d.qcow2 {}",
            self.overlay.1
        ));
        for command in self.above {
            env.qemu_io("qcow2", "d.qcow2", command);
        }
        env.qemu_img("convert -f qcow2 -O raw d.qcow2 before.raw");
    }

    /// The disk shows what it showed, and both files are sound.
    fn shows_the_same(&self, env: &Env) {
        env.qemu_img("compare -f qcow2 -F raw d.qcow2 before.raw");
        env.is_clean("d.qcow2");
        if !self.is_raw() {
            env.is_clean("base");
        }
    }
}

/// What has nothing of its own.
fn is_empty(env: &Env, image: &str) {
    let map = env.qemu_img(&format!("map -f qcow2 --output=json {image}")).json();
    let own = map.as_array().expect("a list").iter().filter(|run| run["depth"] == 0);
    // What lies beyond the base's end is the disk's own zeros.
    assert_eq!(own.filter(|run| run["data"] == true).count(), 0, "{map:#}");
}

/// The base holds afterwards what it holds after `qemu-img commit`, the disk shows what it showed,
/// and is empty.
#[test]
fn the_base_becomes_what_qemu_img_makes_of_it() {
    for kind in KINDS {
        println!("{}", kind.name);
        let env = Env::new();
        kind.make(&env);
        for file in ["base", "d.qcow2"] {
            let copy = format!("theirs-{file}");
            std::fs::copy(env.path(file), env.path(&copy)).expect("a copy");
        }
        let theirs =
            format!("rebase -u -f qcow2 -F {} -b theirs-base theirs-d.qcow2", kind.base_format());
        env.qemu_img(&theirs);
        env.qemu_img("commit -q -f qcow2 theirs-d.qcow2");
        env.run("rm", ["theirs-d.qcow2"]).exits(0);

        let report = env.report("commit d.qcow2 --into base");
        assert_eq!(report["changed"], !kind.above.is_empty(), "{report:#}");
        let format = kind.base_format();
        env.qemu_img(&format!("compare -f {format} -F {format} base theirs-base"));
        kind.shows_the_same(&env);
        is_empty(&env, "d.qcow2");
        let again = env.report("commit d.qcow2 --into base");
        assert_eq!(again["changed"], false, "{again:#}");
        // An empty overlay takes writes.
        env.qemu_io("qcow2", "d.qcow2", "write -P 9 300k 200k");
        env.is_clean("d.qcow2");
    }
}
