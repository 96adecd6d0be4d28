#!/usr/bin/env python3
"""Makes the frames beside it (zstandard 0.25.0 from PyPI, which brings libzstd 1.5.7)."""

import zstandard

WORDS = b"disk cluster table header refcount snapshot backing guest host offset".split()


def text(length=4096):
    state, out = 1, b""
    while len(out) < length:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out += WORDS[(state >> 33) % len(WORDS)] + b" "
    return out[:length]


for level in (1, 3, 19):
    with open(f"level{level}.zst", "wb") as file:
        file.write(zstandard.ZstdCompressor(level=level).compress(text()))
stream = zstandard.ZstdCompressor(write_content_size=False, write_checksum=True).compressobj()
with open("streamed.zst", "wb") as file:
    file.write(stream.compress(text()) + stream.flush())
