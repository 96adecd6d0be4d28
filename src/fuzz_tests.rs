//! What the targets of the fuzzer share: runs of bytes, and how those that were worth keeping are
//! done again.

/// Bytes that are taken one by one; behind the last there are zeros.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    pub(crate) fn short(&mut self) -> u64 {
        u64::from(u16::from_be_bytes([self.byte(), self.byte()]))
    }

    pub(crate) fn word(&mut self) -> u64 {
        (0..8).fold(0, |word, _| word << 8 | u64::from(self.byte()))
    }

    /// The next bytes, as many as there are of these.
    pub(crate) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }
}

#[cfg(test)]
const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// What libFuzzer prints of a run.
#[cfg(test)]
fn decode(text: &str) -> Vec<u8> {
    let digits = text.chars().map_while(|digit| DIGITS.find(digit));
    let bits: Vec<bool> =
        digits.flat_map(|digit| (0..6).rev().map(move |bit| digit >> bit & 1 == 1)).collect();
    let byte = |bits: &[bool]| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
    bits.chunks_exact(8).map(byte).collect()
}

/// Does all runs of a file again, one a line. Named is the run that fails.
#[cfg(test)]
pub(crate) fn again(runs: &str, target: fn(&[u8])) {
    for run in runs.lines() {
        let unwinding = Named(run);
        target(&decode(run));
        std::mem::forget(unwinding);
    }
}

/// Tells which run it was.
#[cfg(test)]
struct Named<'a>(&'a str);

#[cfg(test)]
impl Drop for Named<'_> {
    fn drop(&mut self) {
        eprintln!("the run is {}", self.0);
    }
}

#[test]
fn runs_are_read_as_they_were_printed() {
    assert_eq!(decode("/AMm9igm9gQ="), [0xfc, 3, 0x26, 0xf6, 0x28, 0x26, 0xf6, 4]);
    assert_eq!(decode("QUI="), *b"AB");
}
