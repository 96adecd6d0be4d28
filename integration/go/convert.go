package vmdisk

// ConvertRequest asks for what the guest sees of a disk as a new one. What is left at its zero value
// gets the default.
type ConvertRequest struct {
	// Path is the disk that is read.
	Path string `json:"path"`
	// SourceFormat is its format, where name and content leave a doubt. Default: what they agree on.
	SourceFormat Format `json:"source_format,omitempty"`
	// Snapshot is the id or the name of an internal snapshot, whose disk is read instead. Default:
	// none.
	Snapshot string `json:"snapshot,omitempty"`
	// Out is where the new disk will be.
	Out string `json:"out"`
	// Format is the new disk's format. Default: what its name promises, else qcow2.
	Format Format `json:"format,omitempty"`
	// Layout is how it is laid out; Preallocation is off unless asked for.
	Layout *LayoutOptions `json:"layout,omitempty"`
	// Backing is what it lies above: what reads the same there is left out. Default: nothing.
	Backing *BackingOptions `json:"backing,omitempty"`
	// Compress is whether its clusters are compressed, and how. Default: they are not.
	Compress Compression `json:"compress,omitempty"`
	// Level is how hard: 1 to 9 with zlib, 1 to 22 with zstd. Default: 6 and 3.
	Level uint64 `json:"level,omitempty"`
	// SparseSize is so many bytes of zeros, one after the other, that become a hole: a multiple of
	// 512 up to 1 MiB. With "0B", nothing is looked through, and only what the source is known to
	// have as zeros becomes one. Default: 4 KiB.
	SparseSize Size `json:"sparse_size,omitempty"`
	// Verify is whether the new disk is read again, and compared, before it appears. Default: false.
	Verify bool `json:"verify,omitempty"`
	// IfExists is what to do when the new disk's path exists. Default: IfTakenFail.
	IfExists IfTaken `json:"if_exists,omitempty"`
	// Force replaces what is there although other images in its folder depend on it; needs
	// IfTakenReplace. Default: false.
	Force bool `json:"force,omitempty"`
	// Mode is the new file's permission bits, in octal. Default: those of the file that it replaces,
	// else "0600".
	Mode string `json:"mode,omitempty"`
	// Owner is the new file's owner, as "user" or "user:group", by name or number. Default: that of
	// the file that it replaces, else whoever runs the program.
	Owner string `json:"owner,omitempty"`
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

// ConvertReport is what was written.
type ConvertReport struct {
	// Path is the disk that was read.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// SourceFormat is its format.
	SourceFormat Format `json:"source_format"`
	// Out is where the new disk is.
	Out string `json:"out"`
	// OutBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	OutBytesHex string `json:"out_bytes_hex"`
	// Format is its format.
	Format Format `json:"format"`
	// VirtualSizeBytes is the size of the guest's disk, in bytes.
	VirtualSizeBytes uint64 `json:"virtual_size_bytes"`
	// FileSizeBytes is the length of the new file, in bytes.
	FileSizeBytes uint64 `json:"file_size_bytes"`
	// AllocatedBytes is what of it is allocated on the host, in bytes.
	AllocatedBytes uint64 `json:"allocated_bytes"`
	// Backing is the backing file of the new disk, as it is stored.
	Backing *BackingReport `json:"backing"`
	// Method is how the contents got there.
	Method CopyMethod `json:"method"`
	// Verified is whether the new disk was read again and found to be the same.
	Verified bool `json:"verified"`
	// Notes is what else the caller should know, for people.
	Notes []string `json:"notes"`
	// Meta is who did it.
	Meta Meta `json:"meta"`
}

// CopyMethod is how the contents got into a new disk.
type CopyMethod string

const (
	// CopyMethodReflink shares the blocks of the source's file.
	CopyMethodReflink CopyMethod = "reflink"
	// CopyMethodInKernel is the system copying them from file to file.
	CopyMethodInKernel CopyMethod = "in_kernel"
	// CopyMethodWritten is reading and writing them.
	CopyMethodWritten CopyMethod = "written"
)

// CompareRequest asks whether the guests of two disks see the same. What is left at its zero value
// gets the default.
type CompareRequest struct {
	// Path is one disk.
	Path string `json:"path"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// Snapshot is the id or the name of an internal snapshot of it, whose disk is compared instead.
	// Default: none.
	Snapshot string `json:"snapshot,omitempty"`
	// Other is the other disk.
	Other string `json:"other"`
	// OtherFormat is its format, where name and content leave a doubt. Default: what they agree on.
	OtherFormat Format `json:"other_format,omitempty"`
	// OtherSnapshot is the id or the name of an internal snapshot of it, whose disk is compared
	// instead. Default: none.
	OtherSnapshot string `json:"other_snapshot,omitempty"`
	// Strict is whether the disks must also have one size, and have their zeros as such in the same
	// places. Else what one has behind the end of the other must be zeros. Default: false.
	Strict bool `json:"strict,omitempty"`
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

// CompareReport is what two disks are to each other.
type CompareReport struct {
	// Path is the disk.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Format is its format.
	Format Format `json:"format"`
	// VirtualSizeBytes is the size of the guest's disk, in bytes.
	VirtualSizeBytes uint64 `json:"virtual_size_bytes"`
	// Other is the other disk.
	Other ComparedDisk `json:"other"`
	// Identical is whether they are the same.
	Identical bool `json:"identical"`
	// Difference is in what they differ, if they do.
	Difference Difference `json:"difference"`
	// GuestOffsetBytes is where they differ first, in bytes from the beginning; the end of the smaller
	// one where that is all.
	GuestOffsetBytes *uint64 `json:"guest_offset_bytes"`
	// Meta is who did it.
	Meta Meta `json:"meta"`
}

// ComparedDisk is a disk that was compared.
type ComparedDisk struct {
	// Path is where it is.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Format is its format.
	Format Format `json:"format"`
	// VirtualSizeBytes is the size of the guest's disk, in bytes.
	VirtualSizeBytes uint64 `json:"virtual_size_bytes"`
}

// Difference is in what two disks differ.
type Difference string

const (
	// DifferenceContent is a byte.
	DifferenceContent Difference = "content"
	// DifferenceSize is their size, if that matters.
	DifferenceSize Difference = "size"
	// DifferenceAllocation is what is allocated: one has zeros as such where the other has data, if
	// that matters.
	DifferenceAllocation Difference = "allocation"
)

// HashRequest asks for the hash of what the guest of a disk sees. What is left at its zero value gets
// the default.
type HashRequest struct {
	// Path is the disk.
	Path string `json:"path"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// Snapshot is the id or the name of an internal snapshot, whose disk is hashed instead. Default:
	// none.
	Snapshot string `json:"snapshot,omitempty"`
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

// HashReport is the hash of a disk.
type HashReport struct {
	// Path is the disk.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Format is its format.
	Format Format `json:"format"`
	// VirtualSizeBytes is the size of the guest's disk, in bytes.
	VirtualSizeBytes uint64 `json:"virtual_size_bytes"`
	// Algorithm is how it is hashed: the name of the definition.
	Algorithm string `json:"algorithm"`
	// Hash is the hash, in hexadecimal.
	Hash string `json:"hash"`
	// Meta is who did it.
	Meta Meta `json:"meta"`
}
