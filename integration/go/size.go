package vmdisk

import "strconv"

// Size is a number of bytes with its unit, such as "20GiB": K, M, G, T, P, E and KiB, MiB, … are
// powers of 1024, KB, MB, … powers of ten, B is bytes. A number without a unit is refused by the
// program, with [ErrBadSize]: it has meant bytes, 10^6 and 2^20 in tools of this family. The empty
// Size is none.
//
// A text that a user wrote becomes one by conversion: vmdisk.Size(flag).
type Size string

// Bytes is a size of n bytes.
func Bytes(n uint64) Size { return size(n, "B") }

// MiB is a size of n × 2^20 bytes.
func MiB(n uint64) Size { return size(n, "MiB") }

// GiB is a size of n × 2^30 bytes.
func GiB(n uint64) Size { return size(n, "GiB") }

func size(n uint64, unit string) Size { return Size(strconv.FormatUint(n, 10) + unit) }
