package vmdisk

// CreateReport is what was created.
type CreateReport struct {
	// Path is where it is.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Changed tells whether anything was written; false when an existing disk was kept.
	Changed bool `json:"changed"`
	// Format is its format.
	Format Format `json:"format"`
	// VirtualSizeBytes is the size of the guest's disk, in bytes.
	VirtualSizeBytes uint64 `json:"virtual_size_bytes"`
	// FileSizeBytes is the length of the file, in bytes.
	FileSizeBytes uint64 `json:"file_size_bytes"`
	// AllocatedBytes is what of it is allocated on the host, in bytes.
	AllocatedBytes uint64 `json:"allocated_bytes"`
	// Preallocation is what was laid out from the start; empty when an existing disk was kept.
	Preallocation Preallocation `json:"preallocation"`
	// Backing is the backing file as it is stored, if there is one.
	Backing *BackingReport `json:"backing"`
	// Guest is what the guest will find at the beginning of the disk, if anything.
	Guest *GuestReport `json:"guest"`
	// Growth is what became of what is inside, where Ensure looked at that.
	Growth *GrowthReport `json:"growth"`
	// Compaction is how it was compacted, where Ensure did that.
	Compaction *Compaction `json:"compaction"`
	// Notes is what else the caller should know, for people.
	Notes []string `json:"notes"`
	// Meta is who did it.
	Meta Meta `json:"meta"`
}

// EnsureReport is what Ensure found to do and did.
type EnsureReport struct {
	// Action is what there was to do.
	Action Action `json:"action"`
	// Path is where the disk is.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Changed tells whether anything was written.
	Changed bool `json:"changed"`
	// Format is its format.
	Format Format `json:"format"`
	// VirtualSizeBytes is the size of the guest's disk now, in bytes.
	VirtualSizeBytes uint64 `json:"virtual_size_bytes"`
	// Preallocation is what was laid out, if anything was.
	Preallocation Preallocation `json:"preallocation"`
	// Growth is what became of what is inside, where Ensure looked at that.
	Growth *GrowthReport `json:"growth"`
	// Compaction is how it was compacted, where Ensure did that.
	Compaction *Compaction `json:"compaction"`
	// Notes is what else the caller should know, for people.
	Notes []string `json:"notes"`
	// Meta is who did it.
	Meta Meta `json:"meta"`

	// FileSizeBytes is the length of the file, in bytes; not said of a disk that was grown.
	FileSizeBytes uint64 `json:"file_size_bytes"`
	// AllocatedBytes is what of it is allocated on the host, in bytes; not said of a disk that was
	// grown.
	AllocatedBytes uint64 `json:"allocated_bytes"`
	// Backing is the backing file as it is stored, if a disk above one was created.
	Backing *BackingReport `json:"backing"`
	// Guest is what the guest will find at the beginning of a disk that was created, if anything.
	Guest *GuestReport `json:"guest"`

	// OldVirtualSizeBytes is the size before, in bytes, of a disk that was grown.
	OldVirtualSizeBytes uint64 `json:"old_virtual_size_bytes"`
	// PreallocationInferred tells, of a disk that was grown, whether Preallocation was inferred
	// from the image.
	PreallocationInferred bool `json:"preallocation_inferred"`
	// FreedBytes is bytes of the file whose clusters were freed when it was grown.
	FreedBytes uint64 `json:"freed_bytes"`
	// RefcountsRebuilt tells, of a disk that was grown, whether reference counts of a dirty image
	// were rebuilt first.
	RefcountsRebuilt bool `json:"refcounts_rebuilt"`
}

// ResizeReport is what a resize did.
type ResizeReport struct {
	// Path is the disk.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Changed tells whether anything was written.
	Changed bool `json:"changed"`
	// Format is its format.
	Format Format `json:"format"`
	// OldVirtualSizeBytes is its size before, in bytes.
	OldVirtualSizeBytes uint64 `json:"old_virtual_size_bytes"`
	// VirtualSizeBytes is its size now, in bytes.
	VirtualSizeBytes uint64 `json:"virtual_size_bytes"`
	// Preallocation is what was laid out for what was added; empty when nothing was.
	Preallocation Preallocation `json:"preallocation"`
	// PreallocationInferred tells whether that was inferred from the image.
	PreallocationInferred bool `json:"preallocation_inferred"`
	// FreedBytes is bytes of the file whose clusters were freed.
	FreedBytes uint64 `json:"freed_bytes"`
	// RefcountsRebuilt tells whether reference counts of a dirty image were rebuilt first.
	RefcountsRebuilt bool `json:"refcounts_rebuilt"`
	// Growth is what became of what is inside, where that was looked at.
	Growth *GrowthReport `json:"growth"`
	// Compaction is how it was compacted, where Ensure did that.
	Compaction *Compaction `json:"compaction"`
	// Notes is what else the caller should know, for people.
	Notes []string `json:"notes"`
	// Meta is who did it.
	Meta Meta `json:"meta"`
}

// InfoReport is what a disk is.
type InfoReport struct {
	Image
	// Meta is who says so.
	Meta Meta `json:"meta"`
}

// Image is a disk, or one of those below it.
type Image struct {
	// Path is where it is.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Format is the format of its content.
	Format Format `json:"format"`
	// FormatDoubt is why that format would not be believed by a verb that writes; else empty.
	FormatDoubt string `json:"format_doubt"`
	// VirtualSizeBytes is the size of the guest's disk, in bytes.
	VirtualSizeBytes uint64 `json:"virtual_size_bytes"`
	// FileSizeBytes is the length of the file, in bytes.
	FileSizeBytes uint64 `json:"file_size_bytes"`
	// AllocatedBytes is what of it is allocated on the host, in bytes.
	AllocatedBytes uint64 `json:"allocated_bytes"`
	// Qcow2 is what only qcow2 has.
	Qcow2 *Qcow2Report `json:"qcow2"`
	// Journal is a journal beside a raw disk: a change of it was interrupted, or is under way.
	Journal *JournalReport `json:"journal"`
	// Chain is what is below it, nearest first, if that was asked for.
	Chain []Image `json:"chain"`
	// Qemu is the same as `qemu-img info --output=json` tells it; nil unless that was asked for.
	Qemu *QemuInfo `json:"qemu"`
}

// JournalReport is a journal beside a raw disk.
type JournalReport struct {
	// Path is where it is.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// State is what can be done about it.
	State JournalState `json:"state"`
	// Reason is why it cannot be acted on; empty for one that is pending.
	Reason string `json:"reason"`
}

// Qcow2Report is what a qcow2 header says.
type Qcow2Report struct {
	// Compat is the version, as qemu-img calls it.
	Compat Compat `json:"compat"`
	// ClusterSizeBytes is bytes a cluster.
	ClusterSizeBytes uint64 `json:"cluster_size_bytes"`
	// RefcountBits is bits a reference count.
	RefcountBits uint64 `json:"refcount_bits"`
	// ExtendedL2 tells whether L2 entries have subclusters.
	ExtendedL2 bool `json:"extended_l2"`
	// CompressionType is how compressed clusters are packed.
	CompressionType Compression `json:"compression_type"`
	// LazyRefcounts tells whether reference counts may be updated late.
	LazyRefcounts bool `json:"lazy_refcounts"`
	// Dirty tells whether reference counts may be stale: the image was not closed, or never counts.
	Dirty bool `json:"dirty"`
	// Corrupt tells whether the image is marked damaged.
	Corrupt bool `json:"corrupt"`
	// HeaderLengthBytes is bytes of the header's fixed part.
	HeaderLengthBytes uint64 `json:"header_length_bytes"`
	// L1Entries is entries of the L1 table.
	L1Entries uint64 `json:"l1_entries"`
	// Encryption is the encryption method, if any.
	Encryption string `json:"encryption"`
	// BackingFile is the backing file's name as stored. Not trusted, not opened.
	BackingFile string `json:"backing_file"`
	// BackingFormat is the backing file's format as recorded.
	BackingFormat string `json:"backing_format"`
	// DataFile is the external data file's name as stored. Not trusted, not opened.
	DataFile string `json:"data_file"`
	// Bitmaps is how many persistent bitmaps there are.
	Bitmaps uint64 `json:"bitmaps"`
	// Snapshots is the internal snapshots.
	Snapshots []SnapshotReport `json:"snapshots"`
}

// BackingReport is a backing file as recorded.
type BackingReport struct {
	// Name is the name as stored in the image.
	Name string `json:"name"`
	// Format is the recorded format.
	Format Format `json:"format"`
	// VirtualSizeBytes is the size of its disk, in bytes.
	VirtualSizeBytes uint64 `json:"virtual_size_bytes"`
}

// GuestReport is a payload as written.
type GuestReport struct {
	// Profile is the profile's name.
	Profile string `json:"profile"`
	// Layout is the archive's layout; empty for the bare magic or a ready archive.
	Layout string `json:"layout"`
	// Keys is how many public keys were installed; nil for a ready archive, of which it is not
	// known.
	Keys *uint64 `json:"keys"`
	// PayloadBytes is the payload's length, in bytes.
	PayloadBytes uint64 `json:"payload_bytes"`
}

// CapabilitiesReport is what the program and the host can do.
type CapabilitiesReport struct {
	// Verbs is the verbs.
	Verbs []string `json:"verbs"`
	// Formats is the formats of disks.
	Formats []Format `json:"formats"`
	// Presets is the presets for new disks.
	Presets []Preset `json:"presets"`
	// Guests is the guests that a new disk can be prepared for.
	Guests []Guest `json:"guests"`
	// Preallocations is what can be laid out from the start.
	Preallocations []Preallocation `json:"preallocations"`
	// CompressionTypes is how clusters may be compressed.
	CompressionTypes []Compression `json:"compression_types"`
	// Limits is what is too small or too large.
	Limits LimitsReport `json:"limits"`
	// Host is what the folder's file system can do; nil when no folder was given and the working
	// directory cannot be tried.
	Host *HostReport `json:"host"`
	// Meta is who says so.
	Meta Meta `json:"meta"`
}

// LimitsReport is what is too small or too large.
type LimitsReport struct {
	// MinVirtualSizeBytes is the smallest disk, in bytes; sizes are rounded up to a multiple of it.
	MinVirtualSizeBytes uint64 `json:"min_virtual_size_bytes"`
	// MaxVirtualSizeBytes is the largest raw disk, in bytes. That of qcow2 depends on the size of
	// its clusters.
	MaxVirtualSizeBytes uint64 `json:"max_virtual_size_bytes"`
	// MaxChainDepth is the deepest backing chain, in images.
	MaxChainDepth uint64 `json:"max_chain_depth"`
	// MaxSSHKeyFileBytes is the largest file with public keys, in bytes.
	MaxSSHKeyFileBytes uint64 `json:"max_ssh_key_file_bytes"`
	// MaxUserdataBytes is the largest payload archive, in bytes.
	MaxUserdataBytes uint64 `json:"max_userdata_bytes"`
}

// HostReport is what a file system can do.
type HostReport struct {
	// Folder is the folder that was tried.
	Folder string `json:"folder"`
	// FolderBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	FolderBytesHex string `json:"folder_bytes_hex"`
	// System is the operating system.
	System string `json:"system"`
	// Locks is the locks that keep two programs from one disk.
	Locks Locks `json:"locks"`
	// Reflink tells whether a file can be copied by sharing its blocks.
	Reflink bool `json:"reflink"`
	// PunchHole tells whether blocks inside a file can be given back.
	PunchHole bool `json:"punch_hole"`
}

// Meta is the version of the protocol and of the program.
type Meta struct {
	// Protocol is the major version of the protocol.
	Protocol string `json:"protocol"`
	// Tool is the program.
	Tool Tool `json:"tool"`
}

// Tool is a program.
type Tool struct {
	// Name is its name.
	Name string `json:"name"`
	// Version is its version.
	Version string `json:"version"`
}
