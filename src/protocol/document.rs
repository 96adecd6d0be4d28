//! The published document, packed: it is large, and rarely asked for.

use std::io::Read;
use std::sync::LazyLock;

use flate2::read::DeflateDecoder;

/// `openrpc.json`, which is there to be read; a test makes this of it.
pub(super) const PACKED: &[u8] = include_bytes!("openrpc.json.deflate");

/// The OpenRPC document: what `rpc.discover` answers and `vmdisk schema` prints.
pub fn document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
        let mut text = String::new();
        // OK to ignore: the document is part of the program, and a test reads it.
        let _ = DeflateDecoder::new(PACKED).read_to_string(&mut text);
        text
    });
    &DOCUMENT
}
