//! The archive that a boot2docker guest expects, built a second time and by hand.

/// The name of the first entry.
pub(crate) const MAGIC: &str = "boot2docker, please format-me";

/// The classic layout: the magic, `.ssh`, and the keys twice.
pub(crate) fn classic(keys: &str) -> Vec<u8> {
    let mut archive = entry(MAGIC, b'0', 0, MAGIC);
    archive.extend(entry(".ssh", b'5', 0o700, ""));
    archive.extend(entry(".ssh/authorized_keys", b'0', 0o644, keys));
    archive.extend(entry(".ssh/authorized_keys2", b'0', 0o644, keys));
    archive.resize(archive.len() + 1024, 0);
    archive
}

fn entry(name: &str, kind: u8, mode: u32, data: &str) -> Vec<u8> {
    let mut block = vec![0; 512];
    let mut put = |at: usize, text: &str| {
        block[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", data.len()));
    put(136, "00000000000");
    put(148, "        ");
    put(257, "ustar\x0000");
    put(329, "0000000");
    put(337, "0000000");
    block[156] = kind;
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block.extend(data.as_bytes());
    block.resize(block.len().next_multiple_of(512), 0);
    block
}
