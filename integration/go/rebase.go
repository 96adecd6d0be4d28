package vmdisk

// RebaseRequest asks for another backing file below a disk. What is left at its zero value gets the
// default.
type RebaseRequest struct {
	// Path is the disk: a qcow2 image.
	Path string `json:"path"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// Backing is the file that it gets as its backing file.
	Backing *BackingOptions `json:"backing,omitempty"`
	// NoBacking gives it none, so that it stands alone; excludes Backing. Default: false.
	NoBacking bool `json:"no_backing,omitempty"`
	// Unsafe changes the name alone: for a backing file that was moved, or that the caller knows to
	// read the same. What is below the disk now need not be there. Default: false.
	Unsafe bool `json:"unsafe,omitempty"`
	// Force says that what images above the disk show may change with the name; needs Unsafe. Default:
	// false.
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

// RebaseReport is what a rebase did.
type RebaseReport struct {
	// Path is the disk.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Changed tells whether anything was written.
	Changed bool `json:"changed"`
	// OldBackingFile is the backing file that it had, as stored; empty where it stood alone.
	OldBackingFile string `json:"old_backing_file"`
	// Backing is the backing file that it has now; nil where it stands alone.
	Backing *BackingReport `json:"backing"`
	// CopiedBytes is what had to become the disk's own, in bytes, since the new backing file has
	// something else.
	CopiedBytes uint64 `json:"copied_bytes"`
	// ZeroedBytes is what the disk says is zeros now, in bytes, since the new backing file has
	// something else.
	ZeroedBytes uint64 `json:"zeroed_bytes"`
	// RefcountsRebuilt tells whether reference counts of a dirty image were rebuilt first.
	RefcountsRebuilt bool `json:"refcounts_rebuilt"`
	// Notes is what else the caller should know, for people.
	Notes []string `json:"notes"`
	// Meta is who did it.
	Meta Meta `json:"meta"`
}
