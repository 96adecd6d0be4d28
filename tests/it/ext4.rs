//! ext2, ext3 and ext4 as `mke2fs` makes them, grown, and held against what `resize2fs` makes of a
//! copy; `e2fsck` then looks at what came of it, also where a growth stopped half-way.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use vmdisk::block::{BlockDevice, MemoryDevice, Slice};
use vmdisk::guest::FilesystemKind;
use vmdisk::guest::edit::{Content, Edit, Stage};
use vmdisk::guest::ext4::{Filesystem, Growth, Reading, Refusal};
use vmdisk::host::Access;
use vmdisk::raw::Raw;

use super::draw::{Draw, each, whole_matrix};
use super::support::{Env, Run};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What `mke2fs` is told, from what e2fsprogs makes today to what it and its like made long ago.
pub(crate) const FEATURES: &[&str] = &[
    "-t ext4",
    "-t ext4",
    "-t ext4 -O metadata_csum_seed,orphan_file",
    "-t ext4 -O ^64bit",
    "-t ext4 -O ^metadata_csum,^64bit",
    "-t ext4 -O ^metadata_csum,^64bit,uninit_bg",
    "-t ext4 -O ^metadata_csum,uninit_bg",
    "-t ext4 -O ^metadata_csum,^flex_bg",
    "-t ext4 -O ^flex_bg",
    "-t ext4 -O ^metadata_csum,^64bit,uninit_bg,^flex_bg",
    "-t ext4 -G 4 -O inline_data,^has_journal",
    "-t ext4 -O ^resize_inode",
    "-t ext3",
    "-t ext2",
];

/// Makes `disk` that large again.
fn set_len(path: &Path, len: u64) {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    file.and_then(|file| file.set_len(len)).expect("a file of this length");
}

/// Writes edits in their order.
fn apply<'a>(path: &Path, edits: impl IntoIterator<Item = &'a Edit>) {
    let file = OpenOptions::new().write(true).open(path).expect("the disk");
    for edit in edits {
        let written = match &edit.content {
            Content::Bytes(bytes) => file.write_all_at(bytes, edit.offset),
            Content::Zeros(len) => file.write_all_at(&vec![0; *len as usize], edit.offset),
        };
        written.expect("room on the disk");
    }
}

/// The content of every file below a folder, as a hash; of a link, where it leads.
fn hashes(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).expect("a folder") {
            let path = entry.expect("an entry").path();
            let mut hasher = DefaultHasher::new();
            if path.is_symlink() {
                std::fs::read_link(&path).expect("a link").hash(&mut hasher);
            } else if path.is_dir() {
                folders.push(path.clone());
            } else {
                std::fs::read(&path).expect("a file").hash(&mut hasher);
            }
            let name = path.strip_prefix(folder).expect("a path below it").to_owned();
            found.insert(name, hasher.finish());
        }
    }
    found
}

/// What `dumpe2fs -h` says, but for the fields that may differ.
const COUNTS: &[&str] = &[
    "Inode count:",
    "Block count:",
    "Reserved block count:",
    "Free blocks:",
    "Free inodes:",
    "Reserved GDT blocks:",
    "Blocks per group:",
    "Inodes per group:",
    "Filesystem features:",
    "Filesystem state:",
];

impl Env {
    /// Runs one of the programs of e2fsprogs on arguments separated by blanks.
    fn e2(&self, line: &str) -> Run {
        self.e2_args(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// The same; hanging ends it with an exit code of its own.
    fn e2_args(&self, args: &[&str]) -> Run {
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        self.run("env", [&[path, "timeout", "60"], args].concat())
    }

    /// One command of `debugfs`, which may contain blanks.
    fn debugfs(&self, options: &str, command: &str, disk: &str) -> Run {
        let args = options.split_whitespace().chain(["-R", command, disk]);
        self.e2_args(&std::iter::once("debugfs").chain(args).collect::<Vec<_>>()).exits(0)
    }

    /// What is on a filesystem: every file with its content.
    fn files(&self, disk: &str) -> BTreeMap<PathBuf, u64> {
        self.files_with("", disk)
    }

    /// The same, as `debugfs` with these options reads it.
    fn files_with(&self, options: &str, disk: &str) -> BTreeMap<PathBuf, u64> {
        let out = self.path(format!("{disk}.files"));
        std::fs::create_dir(&out).expect("a folder");
        self.debugfs(options, &format!("rdump / {disk}.files"), disk);
        let found = hashes(&out);
        std::fs::remove_dir_all(&out).expect("the folder just made");
        found
    }

    /// A copy with the same holes.
    fn copied(&self, from: &str, to: &str) {
        self.run("cp", ["--sparse=always", from, to]).exits(0);
    }

    /// `e2fsck` has nothing to say against it.
    #[track_caller]
    fn fsck_is_content(&self, disk: &str, what: &str) {
        let run = self.e2(&format!("e2fsck -fn {disk}"));
        assert_eq!(run.code, Some(0), "{what}: {}", run.stdout);
        // Some complaints do not show in the code.
        let mut lines = run.stdout.lines().filter(|line| !line.is_empty());
        let silent = lines.all(|line| line.starts_with("Pass ") || line.contains(" files ("));
        assert!(silent, "{what}: {}", run.stdout);
    }

    /// The counts that `dumpe2fs` reads.
    fn counts(&self, disk: &str) -> BTreeMap<String, String> {
        let text = self.e2(&format!("dumpe2fs -h {disk}")).exits(0).stdout;
        let fields = text.lines().filter(|line| COUNTS.iter().any(|name| line.starts_with(name)));
        let fields = fields.filter_map(|line| line.split_once(':'));
        fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
    }

    /// Plans the growth of the filesystem that the first `partition` bytes of `disk` hold.
    fn growth(&self, disk: &str, partition: u64, len: u64) -> Result<Growth, Refusal> {
        let disk = Raw::open(Box::new(self.storage(disk, Access::Read))).expect("a disk");
        let filesystem = filesystem(&Slice::new(&disk, 0, partition));
        let size = filesystem.grown_size_bytes(len);
        let growth = filesystem.growth(&disk, len).expect("a disk that can be read");
        if let Ok(growth) = &growth {
            assert_eq!(size, Ok(growth.new_size_bytes));
            are_apart(growth, len);
        }
        growth
    }

    /// Makes `disk` so long and its filesystem fill it, stage by stage.
    #[track_caller]
    fn grow_to(&self, disk: &str, partition: u64, len: u64) -> Growth {
        let growth = self.growth(disk, partition, len).expect("a growth");
        let path = self.path(disk);
        let now = std::fs::metadata(&path).expect("the disk").len();
        set_len(&path, now.max(len));
        apply(&path, &growth.edits);
        growth
    }

    /// Where `dumpe2fs` sees the inode tables of groups from this block on, each reads as zeros.
    fn new_inode_tables_are_zero(&self, disk: &str, old_size: u64, block: u64) {
        let text = self.e2(&format!("dumpe2fs {disk}")).exits(0).stdout;
        let file = std::fs::File::open(self.path(disk)).expect("the disk");
        let tables = text.lines().filter_map(|line| line.trim().strip_prefix("Inode table at "));
        for table in tables {
            let range = table.split_whitespace().next().expect("a range");
            let (first, last) = range.split_once('-').expect("two blocks");
            let [first, last] = [first, last].map(|block| block.parse::<u64>().expect("a number"));
            if first * block >= old_size {
                let mut bytes = vec![0xFF; ((last - first + 1) * block) as usize];
                file.read_exact_at(&mut bytes, first * block).expect("an inode table");
                assert!(bytes.iter().all(|byte| *byte == 0), "the inode table at block {first}");
            }
        }
    }
}

#[track_caller]
fn filesystem(device: &dyn BlockDevice) -> Filesystem {
    match Filesystem::read(device).expect("a disk that can be read") {
        Reading::Filesystem(filesystem) => *filesystem,
        other => panic!("{other:?}"),
    }
}

/// Edits come in the order of their stages, lie inside, and none meets another; only what is behind
/// the old filesystem, or cannot be seen with its superblock, comes first.
fn are_apart(growth: &Growth, len: u64) {
    let edits: Vec<&Edit> = growth.edits.iter().collect();
    assert!(edits.is_sorted_by_key(|edit| edit.stage));
    let mut ranges: Vec<_> =
        edits.iter().map(|edit| (edit.offset, edit.offset + edit.content.len())).collect();
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "{pair:?}");
    }
    assert!(ranges.last().is_none_or(|last| last.1 <= growth.new_size_bytes.min(len)));
    let switch: Vec<_> = edits.iter().filter(|edit| edit.stage == Stage::Superblock).collect();
    assert!(edits.is_empty() || switch.len() == 1 && switch[0].offset == 1024);
    for edit in edits.iter().filter(|edit| matches!(edit.content, Content::Zeros(_))) {
        assert!(edit.stage == Stage::Beyond && edit.offset >= growth.old_size_bytes, "{edit:?}");
    }
}

/// A filesystem that is to grow.
#[derive(Debug, Clone)]
struct Case {
    features: &'static str,
    block: u64,
    inode: u64,
    ratio: u64,
    more: &'static str,
    /// Of the filesystem, in KiB.
    old_kib: u64,
    /// Of the room that it is to fill, in bytes.
    new: u64,
    /// Whether it is nearly full.
    full: bool,
    /// How much of the disk behind it holds something else, in bytes; how much there is altogether.
    garbage: u64,
    behind: u64,
    seed: u64,
}

impl Case {
    fn drawn(draw: &mut Draw) -> Case {
        let block = draw.pick(&[1024, 1024, 2048, 4096, 4096, 4096]);
        let old_kib = match draw.below(6) {
            0 => 2048 + draw.below(6 << 10),
            1 => 400 << 10,
            2 => (128 << 10) + draw.below(4 << 10),
            _ => (9 << 10) + draw.below(120 << 10),
        };
        let old = old_kib * KIB;
        let new = match draw.below(8) {
            0 => old + draw.below(9 * MIB),
            1 => old + 4096 * draw.below(300),
            2 => 4 * GIB,
            3 => old * (2 + draw.below(40)),
            4 => 8 * GIB + draw.below(GIB),
            // Next to the border of a group.
            5 => (old / (128 * MIB) + 2) * 128 * MIB + draw.below(16 * MIB),
            _ => old + old / 8 * draw.below(40) + draw.below(MIB),
        };
        let behind = if draw.one_in(2) { draw.below(new - old + 2 * MIB) } else { 0 };
        let garbage = if draw.one_in(2) { behind.min(40 * MIB) } else { 0 };
        Case {
            features: draw.pick(FEATURES),
            block,
            inode: draw.pick(&[128, 256, 256, 512]),
            ratio: draw.pick(&[2048, 8192, 16384, 16384, 65536]).max(block),
            more: draw.pick(&["", "", "-m 0", "-m 1.7", "-m 23 -g 2048", "-J size=4 -N 4000"]),
            old_kib,
            new,
            full: old_kib < 100 << 10 && draw.one_in(2),
            garbage,
            behind,
            seed: draw.next(),
        }
    }

    /// Makes the filesystem; `None` where `mke2fs` says that it cannot be.
    fn make(&self, env: &Env) -> Option<()> {
        let old = self.old_kib * KIB;
        let folder = env.path("content");
        self.fill(&folder, if self.full { old / 10 * 6 } else { old / 40 });
        let Case { features, block, inode, ratio, .. } = self;
        let more = if features.contains("journal") || features.contains("ext2") {
            self.more.trim_start_matches("-J size=4")
        } else {
            self.more
        };
        let line = format!(
            "mke2fs -F -q {features} -b {block} -I {inode} -i {ratio} {more} -L label -d content \
             disk {}K",
            self.old_kib
        );
        let run = env.e2(&line);
        (run.code == Some(0)).then_some(())
    }

    /// Files of many sizes, so many bytes of them.
    fn fill(&self, folder: &Path, mut bytes: u64) {
        let mut draw = Draw::from_seed(self.seed);
        std::fs::create_dir(folder).expect("a folder");
        std::os::unix::fs::symlink("file3", folder.join("link")).expect("a link");
        for index in 0..40 {
            let sub = folder.join(format!("folder{}", index % 7));
            std::fs::create_dir_all(&sub).expect("a folder");
            let len = match index {
                0 => bytes / 2,
                _ => draw.below(64 * KIB).min(bytes / 8),
            };
            bytes -= len;
            let pattern = draw.next().to_le_bytes();
            let content: Vec<u8> =
                (0..len).map(|at| pattern[at as usize % 8] ^ (at >> 12) as u8).collect();
            std::fs::write(sub.join(format!("file{index}")), content).expect("a file");
        }
    }

    /// Something else on the disk behind the filesystem.
    fn litter(&self, env: &Env) {
        let old = self.old_kib * KIB;
        set_len(&env.path("disk"), old + self.behind);
        let bytes: Vec<u8> = (0..self.garbage).map(|at| (at >> 9) as u8 | 1).collect();
        env.patch("disk", old, &bytes);
    }
}

/// It is what `resize2fs` makes of a copy, and every file is as it was. Says whether there was
/// anything to gain.
fn grows(case: &Case) -> bool {
    let env = Env::new();
    let old = case.old_kib * KIB;
    if case.make(&env).is_none() {
        return false;
    }
    case.litter(&env);
    let before = env.files("disk");
    env.copied("disk", "theirs");
    let growth = match env.growth("disk", old, case.new) {
        Ok(_) => env.grow_to("disk", old, case.new),
        Err(refusal) => {
            let names = ["no_resize_inode", "reservation_exhausted", "too_many_inodes"];
            assert!(names.contains(&refusal.name()), "{refusal}");
            return false;
        }
    };
    let what = format!("{} -> {}", growth.old_size_bytes, growth.new_size_bytes);
    env.fsck_is_content("disk", &what);
    assert_eq!(env.files("disk"), before, "{what}");
    env.new_inode_tables_are_zero("disk", old, case.block);

    let len = case.new;
    set_len(&env.path("theirs"), len);
    // It takes two runs where the table of groups grows and makes the last group useless.
    for _ in 0..2 {
        env.e2("resize2fs -f theirs").exits(0);
    }
    let (ours, theirs) = (env.counts("disk"), env.counts("theirs"));
    alike(&ours, &theirs, &what);
    set_len(&env.path("disk"), len);
    let again = env.e2("resize2fs -f disk").exits(0);
    let words = again.stdout + &again.stderr;
    assert!(words.contains("Nothing to do"), "{what}: {words}");
    assert!(env.growth("disk", len, len).expect("a growth").edits.is_empty());
    !growth.edits.is_empty()
}

/// The same counts; `resize2fs` computes what is reserved for root with rounding errors.
#[track_caller]
fn alike(ours: &BTreeMap<String, String>, theirs: &BTreeMap<String, String>, what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (name, value) in ours {
        let number = |text: &str| text.parse::<u64>().ok();
        let near = match (number(value), number(&theirs[name])) {
            (Some(one), Some(two)) => name == "Reserved block count" && one.abs_diff(two) <= 1,
            _ => false,
        };
        assert!(near || *value == theirs[name], "{what}: {name} is {value}, not {}", theirs[name]);
    }
}

#[test]
fn filesystems_of_all_kinds_grow_as_with_resize2fs() {
    let mut draw = Draw::seeded(30);
    let count = if whole_matrix() { 500 } else { 30 };
    let cases: Vec<Case> = (0..count).map(|_| Case::drawn(&mut draw)).collect();
    let grown = AtomicUsize::new(0);
    each(&cases, |case| {
        grown.fetch_add(grows(case).into(), Ordering::Relaxed);
    });
    let grown = grown.into_inner();
    println!("{grown} of {count} grew");
    assert!(grown > count * 2 / 3, "{grown} of {count} grew");
}

/// What `e2fsck` may say of a disk on which a growth stopped half-way. It is about blocks that count
/// as used and are not, and about the inode that holds blocks for more descriptors: no word of a
/// file, and none that a kernel that mounts the disk would say.
const HALF_WAY: &[&str] = &[
    "Pass ",
    "Resize inode not valid.  Recreate? no",
    "Inode 7, i_blocks is ",
    "Block bitmap differences: ",
    "Free blocks count wrong",
    "Fix? no",
    "label: ",
];

/// What it may say more where one of the last group's bitmap and descriptor was written without the
/// other.
const TORN: &[&str] = &["block bitmap does not match checksum.", "IGNORED."];

/// A growth that stopped: which of its edits were written.
#[derive(Debug, Clone, Copy)]
enum Stopped {
    /// All of these stages.
    After(Stage),
    /// All stages before this one, and some of its edits.
    Within(Stage),
}

/// Every file can be read as before; `e2fsck` makes a sound filesystem of it, of the old size or of
/// the new one, with every file.
fn stopped(env: &Env, case: &Case, draw: &mut Draw, stopped: Stopped) {
    let (old, before) = (case.old_kib * KIB, env.files("disk"));
    let growth = env.growth("disk", old, case.new).expect("a growth");
    let written = growth.edits.iter().filter(|edit| match stopped {
        Stopped::After(stage) => edit.stage <= stage,
        Stopped::Within(stage) => edit.stage < stage || edit.stage == stage && draw.one_in(2),
    });
    let written: Vec<&Edit> = written.collect();
    env.copied("disk", "half");
    set_len(&env.path("half"), case.new.max(old + case.behind));
    apply(&env.path("half"), written.iter().copied());
    let what = format!("{stopped:?}");
    let releasing = matches!(stopped, Stopped::Within(Stage::Release));
    // With `-c` it does not look at bitmaps.
    let options = if releasing { "-c" } else { "" };
    assert_eq!(env.files_with(options, "half"), before, "{what}");

    let run = env.e2("e2fsck -fn half");
    let switched = written.iter().any(|edit| edit.stage >= Stage::Superblock);
    if !switched && growth.edits.iter().all(|edit| edit.stage != Stage::Descriptors) {
        assert_eq!(run.code, Some(0), "{what}: {}", run.stdout);
    }
    for line in run.stdout.lines().filter(|line| !line.is_empty()) {
        let known = HALF_WAY.iter().any(|words| line.starts_with(words));
        let torn = releasing && TORN.iter().any(|words| line.ends_with(words));
        assert!(known || torn, "{what}: {line} in {}", run.stdout);
    }
    let run = env.e2("e2fsck -fy half");
    assert!(run.code <= Some(1), "{what}: {}", run.stdout);
    env.fsck_is_content("half", &what);
    assert_eq!(env.files("half"), before, "{what}");
}

#[test]
fn a_growth_that_stopped_half_way_endangers_no_file() {
    use Stopped::{After, Within};
    let mut draw = Draw::seeded(31);
    let count = if whole_matrix() { 150 } else { 9 };
    let cases: Vec<_> = (0..count).map(|_| (Case::drawn(&mut draw), draw.fork())).collect();
    each(&cases, |(case, draw)| {
        let (env, mut draw) = (Env::new(), draw.clone());
        if case.make(&env).is_none() {
            return;
        }
        case.litter(&env);
        if env.growth("disk", case.old_kib * KIB, case.new).is_err() {
            return;
        }
        let whole = [After(Stage::Beyond), After(Stage::Descriptors), After(Stage::Superblock)];
        let parts = [Stage::Beyond, Stage::Descriptors, Stage::Release, Stage::Release].map(Within);
        for state in whole.into_iter().chain(parts) {
            stopped(&env, case, &mut draw, state);
        }
    });
}

#[test]
fn a_filesystem_grows_again_and_again() {
    let sizes = [400 * MIB, GIB, 3 * GIB, 9 * GIB, 30 * GIB];
    let features = ["-t ext4", "-t ext4 -b 1024", "-t ext4 -O ^metadata_csum,^64bit,uninit_bg"];
    each(&features, |features| {
        let env = Env::new();
        std::fs::create_dir(env.path("content")).expect("a folder");
        std::fs::write(env.path("content/file"), vec![7; 300_000]).expect("a file");
        env.e2(&format!("mke2fs -F -q {features} -d content -L label disk 400M")).exits(0);
        env.copied("disk", "theirs");
        let before = env.files("disk");
        for pair in sizes.windows(2) {
            let growth = env.grow_to("disk", pair[0], pair[1]);
            assert!(growth.new_size_bytes > growth.old_size_bytes);
            env.fsck_is_content("disk", &format!("{features} {pair:?}"));
            // What a guest writes in between is there as well.
            set_len(&env.path("theirs"), pair[1]);
            env.e2("resize2fs -f theirs").exits(0);
            for disk in ["disk", "theirs"] {
                env.debugfs("-w", &format!("write content/file at{}", pair[0]), disk);
            }
        }
        alike(&env.counts("disk"), &env.counts("theirs"), features);
        let after = env.files("disk");
        assert!(before.iter().all(|(name, hash)| after.get(name) == Some(hash)));
        assert_eq!(after.len(), before.len() + 4);
    });
}

#[test]
fn what_a_filesystem_says_of_itself_is_told() {
    let cases = [
        ("ext2", 1024, FilesystemKind::Ext2),
        ("ext3", 2048, FilesystemKind::Ext3),
        ("ext4", 4096, FilesystemKind::Ext4),
        ("ext4 -O ^has_journal,bigalloc -C 16384", 4096, FilesystemKind::Ext4),
    ];
    for (kind, block, expected) in cases {
        let env = Env::new();
        let uuid = "01234567-89ab-cdef-0123-456789abcdef";
        let line = format!("mke2fs -F -q -t {kind} -b {block} -L some -U {uuid} disk 64M");
        env.e2(&line).exits(0);
        let disk = Raw::open(Box::new(env.storage("disk", Access::Read))).expect("a disk");
        let found = filesystem(&disk);
        let counts = env.counts("disk");
        let count = |name: &str| counts[name].parse::<u64>().expect("a number");
        assert_eq!((found.kind(), found.block_bytes()), (expected, block));
        assert_eq!(found.label().as_deref(), Some("some"));
        assert_eq!(found.uuid().to_string(), uuid);
        assert_eq!(found.size_bytes(), count("Block count") * block);
        assert_eq!(found.free_bytes(), count("Free blocks") * block);
        assert_eq!(found.used_bytes() + found.free_bytes(), found.size_bytes());
        assert_eq!(u64::from(found.inodes()), count("Inode count"));
        assert_eq!(u64::from(found.free_inodes()), count("Free inodes"));
        assert!(found.is_clean());
    }
    let empty = MemoryDevice::new(vec![0; 4096]);
    assert_eq!(Filesystem::read(&empty).expect("a disk"), Reading::Nothing);
    let short = MemoryDevice::new(vec![0; 2047]);
    assert_eq!(Filesystem::read(&short).expect("a disk"), Reading::Nothing);
}

/// A filesystem that must not grow: what `mke2fs` is told, what `debugfs` then sets in the
/// superblock, and why.
const REFUSED: &[(&str, &str, &str)] = &[
    ("-t ext4", "feature needs_recovery", "needs_recovery"),
    ("-t ext4", "ssv state 0", "not_clean"),
    ("-t ext4", "ssv state 0x21", "not_clean"),
    ("-t ext4", "ssv state 3", "has_errors"),
    ("-t ext4", "ssv state 5", "orphans"),
    ("-t ext4", "ssv last_orphan 12", "orphans"),
    ("-t ext4 -O orphan_file", "feature orphan_present", "orphans"),
    ("-t ext4 -O bigalloc -C 16384", "", "bigalloc"),
    ("-t ext4 -O meta_bg,^resize_inode", "", "meta_bg"),
    ("-t ext4 -O sparse_super2", "", "sparse_super2"),
    ("-t ext4 -O mmp", "", "mmp"),
    ("-t ext4 -O quota", "", "quota"),
    ("-t ext4", "feature read-only", "read_only"),
    ("-t ext4", "feature shared_blocks", "shared_blocks"),
    ("-t ext4 -O ^sparse_super,^resize_inode", "", "no_sparse_super"),
    ("-t ext4", "feature FEATURE_I19", "unsupported_features"),
    ("-t ext4", "feature FEATURE_R30", "unsupported_features"),
    ("-t ext4", "feature dirdata", "unsupported_features"),
    ("-t ext4 -b 8192", "", "block_size"),
    ("-t ext4", "ssv desc_size 128", "descriptor_size"),
    ("-t ext4", "ssv free_blocks_count 100", "free_blocks_count"),
    ("-t ext4", "ssv free_inodes_count 100", "free_inodes_count"),
    ("-t ext4 -O ^resize_inode", "", "no_resize_inode"),
    ("-t ext4 -b 1024 -E resize=200000", "", "reservation_exhausted"),
    // These are not believed in the first place.
    ("-O journal_dev", "", "journal_device"),
    ("-t ext4", "ssv rev_level 0", "revision"),
    ("-t ext4", "ssv rev_level 2", "revision"),
    ("-t ext4", "ssv inodes_count 100", "damaged_filesystem"),
    ("-t ext4", "ssv first_data_block 0", "damaged_filesystem"),
    ("-t ext4", "ssv blocks_per_group 0", "damaged_filesystem"),
    ("-t ext4", "ssv inodes_per_group 0", "damaged_filesystem"),
    ("-t ext4", "ssv inode_size 100", "damaged_filesystem"),
    ("-t ext4", "ssv log_block_size 9", "damaged_filesystem"),
    ("-t ext4", "ssv reserved_gdt_blocks 5000", "damaged_filesystem"),
    ("-t ext4", "ssv clusters_per_group 5000", "damaged_filesystem"),
    ("-t ext4 -O ^64bit", "ssv blocks_count_hi 1", "damaged_filesystem"),
];

#[test]
fn what_is_not_understood_or_not_sound_is_refused_by_name() {
    each(REFUSED, |&(options, command, name)| {
        let env = Env::new();
        env.e2(&format!("mke2fs -F -q {options} disk 64M")).exits(0);
        if !command.is_empty() {
            env.debugfs("-w", command, "disk");
        }
        let disk = Raw::open(Box::new(env.storage("disk", Access::Read))).expect("a disk");
        let refusal = match Filesystem::read(&disk).expect("a disk that can be read") {
            Reading::Refused(refusal) => refusal,
            Reading::Filesystem(found) => {
                let growth = found.growth(&disk, 20 * GIB).expect("a disk that can be read");
                let refusal = growth.expect_err("a refusal");
                assert!(found.refusal().is_none_or(|early| *early == refusal));
                refusal
            }
            Reading::Nothing => panic!("nothing was found"),
        };
        assert_eq!(refusal.name(), name, "{refusal}");
        assert!(refusal.to_string().len() > 20);
    });
}

#[test]
fn a_filesystem_that_does_not_fit_or_has_changed_is_refused() {
    let env = Env::new();
    env.e2("mke2fs -F -q -t ext4 disk 64M").exits(0);
    let disk = Raw::open(Box::new(env.storage("disk", Access::Read))).expect("a disk");
    let short = filesystem(&Slice::new(&disk, 0, 64 * MIB - 4096));
    let refusal = short.refusal().expect("a refusal");
    assert_eq!(refusal.name(), "filesystem_beyond_partition");
    assert_eq!(short.size_bytes(), 64 * MIB);

    let found = filesystem(&disk);
    let growth = |device: &dyn BlockDevice, len: u64| {
        let growth = found.growth(device, len).expect("a disk that can be read");
        growth.map(|growth| growth.edits).map_err(|refusal| refusal.name())
    };
    assert_eq!(growth(&disk, 64 * MIB - 1), Err("smaller_filesystem"));
    assert!(growth(&disk, 64 * MIB + 4095).expect("nothing to do").is_empty());
    let cut = Slice::new(&disk, 0, 60 * MIB);
    assert_eq!(growth(&cut, GIB), Err("filesystem_beyond_partition"));
    assert!(growth(&disk, GIB).is_ok());
    env.debugfs("-w", "ssv mnt_count 3", "disk");
    assert_eq!(growth(&disk, GIB), Err("filesystem_changed"));
}

/// A small filesystem in memory, with several groups, that is damaged over and over again.
struct Small {
    env: Env,
    sound: Vec<u8>,
    /// Bytes of the structures that a growth goes by: where they begin, and how many there are.
    places: Vec<(u64, u64)>,
    /// Whether the superblock has a checksum.
    sealed: bool,
    files: BTreeMap<PathBuf, u64>,
}

/// Its size, and that which it grows to: as many groups as take another block of descriptors.
const SMALL: (u64, u64) = (6 * MIB, 70 * MIB);

impl Small {
    fn new(features: &str) -> Small {
        let env = Env::new();
        let content = env.path("content");
        std::fs::create_dir(&content).expect("a folder");
        for index in 0..20_u64 {
            let file = content.join(format!("file{index}"));
            std::fs::write(file, vec![index as u8; 150_000]).expect("a file");
        }
        let line = format!("mke2fs -F -q -b 1024 -g 1024 {features} -d content disk 6100K");
        env.e2(&line).exits(0);
        set_len(&env.path("disk"), SMALL.0);
        let sound = std::fs::read(env.path("disk")).expect("the disk");
        let stat = env.debugfs("", "stat <7>", "disk").stdout;
        let indirect = stat.split("(DIND):").nth(1).and_then(|rest| rest.split(',').next());
        let indirect: u64 = indirect.and_then(|text| text.parse().ok()).expect("a block");
        let text = env.e2("dumpe2fs disk").exits(0).stdout;
        let all = |what: &str| {
            let found = text.split(what).skip(1);
            let numbers =
                found.map(|rest| rest.trim_start().split(|c: char| !c.is_ascii_digit()).next());
            numbers
                .map(|number| number.and_then(|text| text.parse().ok()).expect("a number"))
                .collect::<Vec<u64>>()
        };
        let (tables, bitmaps) = (all("Inode table at "), all("Block bitmap at "));
        let reserved = all("Reserved GDT blocks at ")[0];
        let inode = all("Inode size:").first().copied().unwrap_or(256);
        let places = vec![
            (1024, 1024),
            (1024, 0x180),
            (2048, 6 * 64),
            (2048, 6 * 64),
            (tables[0] * 1024 + 6 * inode, inode),
            (indirect * 1024, 1024),
            (reserved * 1024, 4096),
            (bitmaps[5] * 1024, 128),
        ];
        let sealed = sound[1024 + 0x65] & 4 != 0;
        let files = env.files("disk");
        Small { env, sound, places, sealed, files }
    }

    /// The disk with a few bits or bytes wrong, mostly where it matters. A wrong superblock may have
    /// the right checksum.
    fn damaged(&self, draw: &mut Draw) -> Vec<u8> {
        let mut disk = self.sound.clone();
        for _ in 0..=draw.below(3) {
            let (start, len) = draw.pick(&self.places);
            let at = (start + draw.below(len)) as usize;
            match draw.below(4) {
                0 => disk[at] = draw.pick(&[0, 1, 0x7F, 0x80, 0xFF]),
                1 => disk[at] = disk[at].wrapping_add(1),
                2 => disk[at & !3..(at & !3) + 4].fill(draw.pick(&[0, 0xFF])),
                _ => disk[at] ^= 1 << draw.below(8),
            }
        }
        if self.sealed && draw.one_in(2) {
            const CRC32C: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
            let checksum = !CRC32C.checksum(&disk[1024..2044]);
            disk[2044..2048].copy_from_slice(&checksum.to_le_bytes());
        }
        disk
    }

    /// What `e2fsck` says of it.
    fn verdict(&self, name: &str) -> bool {
        let run = self.env.e2(&format!("e2fsck -fn {name}"));
        run.code == Some(0)
    }

    /// Says whether it was refused.
    fn holds(&self, draw: &mut Draw) -> bool {
        let disk = self.damaged(draw);
        let device = MemoryDevice::new(disk.clone());
        let Reading::Filesystem(found) = Filesystem::read(&device).expect("a disk") else {
            return true;
        };
        let Ok(growth) = found.growth(&device, SMALL.1).expect("a disk") else { return true };
        are_apart(&growth, SMALL.1);
        let names = ["damaged", "grown"].map(|name| format!("{name}{:x}", draw.next()));
        let [damaged, grown] = names;
        let _ = self.env.write(&damaged, &disk);
        let path = self.env.write(&grown, &disk);
        set_len(&path, SMALL.1);
        apply(&path, &growth.edits);
        if !self.verdict(&grown) {
            assert!(!self.verdict(&damaged), "it was sound before: {growth:?}");
        } else {
            assert_eq!(self.env.files(&grown), self.files);
        }
        for name in [damaged, grown] {
            std::fs::remove_file(self.env.path(name)).expect("the file just made");
        }
        false
    }
}

#[test]
fn a_corrupted_filesystem_is_refused_or_grows_as_sound_as_it_was() {
    let features = [
        "-t ext4 -J size=1",
        "-t ext4 -O ^has_journal,^metadata_csum,uninit_bg",
        "-t ext4 -O ^has_journal,^metadata_csum,^64bit",
        "-t ext2",
    ];
    let mut draw = Draw::seeded(32);
    let smalls = features.map(Small::new);
    let count = if whole_matrix() { 2000 } else { 250 };
    let cases: Vec<_> = (0..count).map(|index| (index, draw.fork())).collect();
    let refused = AtomicUsize::new(0);
    each(&cases, |(index, draw)| {
        let refusal = smalls[index % smalls.len()].holds(&mut draw.clone());
        refused.fetch_add(refusal.into(), Ordering::Relaxed);
    });
    let refused = refused.into_inner();
    println!("{refused} of {count} refused");
    assert!(refused > count / 2 && refused < count, "{refused} of {count} refused");
}

#[test]
fn all_that_was_reserved_for_descriptors_can_be_used() {
    let features = [
        "-t ext4 -O ^64bit",
        "-t ext4 -O ^metadata_csum",
        "-t ext4 -O metadata_csum_seed -I 1024",
        "-t ext3",
    ];
    each(&features, |features| {
        let env = Env::new();
        env.e2(&format!("mke2fs -F -q {features} -b 1024 -E resize=400000 disk 20M")).exits(0);
        env.copied("disk", "theirs");
        let refusal = env.growth("disk", 20 * MIB, 20 * GIB).expect_err("a refusal");
        let Refusal::ReservationExhausted { limit_bytes } = refusal else { panic!("{refusal}") };
        assert!(limit_bytes >= 400_000 * KIB, "{limit_bytes}");
        for len in [150 * MIB, limit_bytes, limit_bytes + 4096] {
            let growth = env.grow_to("disk", len, len);
            env.fsck_is_content("disk", features);
            assert!(growth.new_size_bytes <= limit_bytes);
            set_len(&env.path("theirs"), len);
            env.e2("resize2fs -f theirs").exits(0);
            alike(&env.counts("disk"), &env.counts("theirs"), features);
        }
        assert_eq!(env.counts("disk").get("Reserved GDT blocks"), None);
        let refusal = env.growth("disk", limit_bytes, limit_bytes + 9 * MIB).expect_err("no room");
        assert_eq!(refusal, Refusal::ReservationExhausted { limit_bytes });
    });
}
