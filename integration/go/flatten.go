package vmdisk

// FlattenRequest asks for a disk that stands alone. What is left at its zero value gets the default.
type FlattenRequest struct {
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
	// LockTimeoutSeconds is how long to wait for a disk that is in use. Default: 0.
	LockTimeoutSeconds float64 `json:"lock_timeout_seconds,omitempty"`
	// NoLock goes on where the file system offers no locks. Default: false.
	NoLock bool `json:"no_lock,omitempty"`

	callFields
}

// FlattenReport is what was done to make a disk stand alone.
type FlattenReport struct {
	// Path is the disk.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Changed says whether anything was written; false where nothing was below it.
	Changed bool `json:"changed"`
	// Format is its format.
	Format Format `json:"format"`
	// OldBacking is the backing file that it had, as it was stored.
	OldBacking string `json:"old_backing"`
	// VirtualSizeBytes is the size of the guest's disk, in bytes.
	VirtualSizeBytes uint64 `json:"virtual_size_bytes"`
	// CopiedBytes is data that was copied from below, in bytes.
	CopiedBytes uint64 `json:"copied_bytes"`
	// FileSizeBytes is the length of the file, in bytes.
	FileSizeBytes uint64 `json:"file_size_bytes"`
	// AllocatedBytes is what of it is allocated on the host, in bytes.
	AllocatedBytes uint64 `json:"allocated_bytes"`
	// Notes is what else the caller should know, for people.
	Notes []string `json:"notes"`
	// Meta is who did it.
	Meta Meta `json:"meta"`
}
