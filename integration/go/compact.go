package vmdisk

// CompactRequest asks for a disk that takes less room. What is left at its zero value gets the default.
type CompactRequest struct {
	// Path is the disk.
	Path string `json:"path"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// GuestFs is whether what the guest calls free is given up: blocks of ext2, ext3 and ext4, and
	// swap. With GuestFsRequire, a disk of which nothing or not all is known is refused. Default:
	// GuestFsAuto.
	GuestFs GuestFs `json:"guest_fs,omitempty"`
	// ReadZeros is whether all data is read to find zeros in it. Default: ReadZerosAuto.
	ReadZeros ReadZeros `json:"read_zeros,omitempty"`
	// DryRun only tells what would be done. Default: false.
	DryRun bool `json:"dry_run,omitempty"`
	// Force gives up what the guest calls free although other images in the folder depend on the
	// disk: they show something else there. Default: false.
	Force bool `json:"force,omitempty"`
	// Trust is what an image may make the program open. Default: TrustFolder; TrustNamed when Allow
	// is given.
	Trust TrustLevel `json:"trust,omitempty"`
	// Allow is folders, and single files, that images may name, beside what TrustNamed or TrustNone
	// allows. Default: none.
	Allow []string `json:"allow,omitempty"`
	// LockTimeoutSeconds is how long to wait for a disk that is in use. Default: 0.
	LockTimeoutSeconds float64 `json:"lock_timeout_seconds,omitempty"`
	// NoLock goes on where the file system offers no locks. Default: false.
	NoLock bool `json:"no_lock,omitempty"`

	callFields
}

// Compaction is what was given back, or would be.
type Compaction struct {
	// Path is the disk.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Changed says whether anything was written.
	Changed bool `json:"changed"`
	// DryRun says whether it is only told what would be done.
	DryRun bool `json:"dry_run"`
	// Format is its format.
	Format Format `json:"format"`
	// VirtualSizeBytes is the size of the guest's disk, in bytes.
	VirtualSizeBytes uint64 `json:"virtual_size_bytes"`
	// OldFileSizeBytes is the length of the file before, in bytes.
	OldFileSizeBytes uint64 `json:"old_file_size_bytes"`
	// FileSizeBytes is the length of the file now, in bytes.
	FileSizeBytes uint64 `json:"file_size_bytes"`
	// OldAllocatedBytes is what of it was allocated on the host before, in bytes.
	OldAllocatedBytes uint64 `json:"old_allocated_bytes"`
	// AllocatedBytes is what of it is allocated on the host now, in bytes.
	AllocatedBytes uint64 `json:"allocated_bytes"`
	// ReclaimedBytes is data that could be given up, or was, of every kind together, in bytes: as it
	// lay in the file, uncompressed.
	ReclaimedBytes uint64 `json:"reclaimed_bytes"`
	// GuestFreeBytes is, of that, blocks that the guest's filesystems call free.
	GuestFreeBytes uint64 `json:"guest_free_bytes"`
	// SwapBytes is, of that, swap.
	SwapBytes uint64 `json:"swap_bytes"`
	// ZeroBytes is, of that, zeros.
	ZeroBytes uint64 `json:"zero_bytes"`
	// LeakedBytes is, of that, clusters that nothing referred to.
	LeakedBytes uint64 `json:"leaked_bytes"`
	// UnwrittenBytes is room that was laid out in the file and never written, in bytes.
	UnwrittenBytes uint64 `json:"unwritten_bytes"`
	// MovedBytes is what was moved from the end of the file to free clusters before it, in bytes.
	MovedBytes uint64 `json:"moved_bytes"`
	// GuestAware says whether what the guest calls free was believed and given up.
	GuestAware bool `json:"guest_aware"`
	// Notes is what else the caller should know, for people.
	Notes []string `json:"notes"`
}

// CompactReport is what was given back, or would be, and by whom.
type CompactReport struct {
	Compaction
	// Meta is who did it.
	Meta Meta `json:"meta"`
}
