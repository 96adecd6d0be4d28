package vmdisk

// InsideRequest asks what is inside of a disk. What is left at its zero value gets the default.
type InsideRequest struct {
	// Path is the disk.
	Path string `json:"path"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// Trust is what an image may make the program open. Default: TrustFolder; TrustNamed when Allow
	// is given.
	Trust TrustLevel `json:"trust,omitempty"`
	// Allow is folders, and single files, that images may name, beside what TrustNamed or TrustNone
	// allows. Default: none.
	Allow []string `json:"allow,omitempty"`

	callFields
}

// InsideReport is what is inside of a disk.
type InsideReport struct {
	// Path is where it is.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Format is the format of its content.
	Format Format `json:"format"`
	// VirtualSizeBytes is the size of the guest's disk, in bytes.
	VirtualSizeBytes uint64 `json:"virtual_size_bytes"`
	// InUse tells whether somebody writes to the disk right now: what is told may be out of date
	// already.
	InUse bool `json:"in_use"`
	// Contents is what it begins with: "empty", "payload" (the guest is going to format it), "mbr",
	// "gpt", a filesystem, "swap", "luks", "lvm" or "unknown".
	Contents string `json:"contents"`
	// PartitionTable is its partition table, if there is one.
	PartitionTable *PartitionTableReport `json:"partition_table"`
	// Filesystem is the filesystem that has the disk to itself, if there is one.
	Filesystem *FilesystemReport `json:"filesystem"`
	// Refusal is why nothing inside would grow, where that is so.
	Refusal *RefusalReport `json:"refusal"`
	// Journal is a journal beside a raw disk: a change of it was interrupted, or is under way.
	Journal *JournalReport `json:"journal"`
	// Notes is what else the caller should know, for people.
	Notes []string `json:"notes"`
	// Meta is who says so.
	Meta Meta `json:"meta"`
}

// PartitionTableReport is a partition table.
type PartitionTableReport struct {
	// Kind is its kind.
	Kind PartitionTable `json:"kind"`
	// Partitions is in the order of their numbers; none where the table cannot be believed.
	Partitions []PartitionReport `json:"partitions"`
}

// PartitionReport is a partition.
type PartitionReport struct {
	// Number is its number, from 1.
	Number uint32 `json:"number"`
	// StartBytes is where it begins, in bytes from the beginning of the disk.
	StartBytes uint64 `json:"start_bytes"`
	// SizeBytes is its length, in bytes.
	SizeBytes uint64 `json:"size_bytes"`
	// Type is what it is said to be for: a name, else the byte or the GUID that the table has.
	Type string `json:"type"`
	// Name is its name, of a GPT where it has one.
	Name string `json:"name"`
	// GUID is what it is told from all others by, of a GPT.
	GUID string `json:"guid"`
	// WouldGrowToBytes is the length that it would grow to, in bytes; 0 where it would not.
	WouldGrowToBytes uint64 `json:"would_grow_to_bytes"`
	// Contents is what it begins with: as of the disk.
	Contents string `json:"contents"`
	// Filesystem is the filesystem in it, if there is one.
	Filesystem *FilesystemReport `json:"filesystem"`
}

// FilesystemReport is a filesystem. What only ext2, ext3 and ext4 tell is left out of others.
type FilesystemReport struct {
	// Kind is what it is: "ext4", "xfs" and so on.
	Kind string `json:"kind"`
	// Label is its label, if it has one.
	Label string `json:"label"`
	// UUID is what it is told from all others by.
	UUID string `json:"uuid"`
	// SizeBytes is its size, in bytes.
	SizeBytes uint64 `json:"size_bytes"`
	// UsedBytes is what files, directories and the filesystem itself take, in bytes.
	UsedBytes uint64 `json:"used_bytes"`
	// FreeBytes is what is free, in bytes, what is reserved for the guest's root included.
	FreeBytes uint64 `json:"free_bytes"`
	// Clean tells whether it was unmounted cleanly; nil where that is not known.
	Clean *bool `json:"clean"`
	// WouldGrowToBytes is the size that it would grow to, in bytes; 0 where it would not.
	WouldGrowToBytes uint64 `json:"would_grow_to_bytes"`
}

// GrowthReport is what became of what is inside of a disk.
type GrowthReport struct {
	// Contents is what the disk begins with: as in [InsideReport]; empty where it could not be read.
	Contents string `json:"contents"`
	// Partition is the partition that was to grow, if there is one.
	Partition *PartitionGrowthReport `json:"partition"`
	// Filesystem is the filesystem that was to grow, if there is one.
	Filesystem *FilesystemGrowthReport `json:"filesystem"`
	// Refusal is why both were left as they are, if they were.
	Refusal *RefusalReport `json:"refusal"`
}

// PartitionGrowthReport is what became of a partition.
type PartitionGrowthReport struct {
	// Table is the kind of its table.
	Table PartitionTable `json:"table"`
	// Number is its number.
	Number uint32 `json:"number"`
	// OldSizeBytes is its length before, in bytes.
	OldSizeBytes uint64 `json:"old_size_bytes"`
	// SizeBytes is its length now, in bytes.
	SizeBytes uint64 `json:"size_bytes"`
	// Todo is what is left to do, as a command for a shell in the guest; else empty.
	Todo string `json:"todo"`
}

// FilesystemGrowthReport is what became of a filesystem.
type FilesystemGrowthReport struct {
	// Kind is what it is: "ext4", "xfs" and so on.
	Kind string `json:"kind"`
	// Label is its label, if it has one that could be read.
	Label string `json:"label"`
	// OldSizeBytes is its size before, in bytes, where that could be read.
	OldSizeBytes uint64 `json:"old_size_bytes"`
	// SizeBytes is its size now, in bytes, where that could be read.
	SizeBytes uint64 `json:"size_bytes"`
	// Todo is what is left to do, as a command for a shell in the guest; else empty.
	Todo string `json:"todo"`
}

// RefusalReport is why something is left as it is.
type RefusalReport struct {
	// Name is what it is, for programs; there may be more of them one day.
	Name string `json:"name"`
	// Message is what it is, for people.
	Message string `json:"message"`
}
