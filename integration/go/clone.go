package vmdisk

// CloneRequest asks for a second disk that shows the same. What is left at its zero value gets the
// default.
type CloneRequest struct {
	// Path is the disk.
	Path string `json:"path"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// Out is where the clone will be.
	Out string `json:"out"`
	// Method is how it is made. Default: CloneReflink where the file system can, else CloneOverlay,
	// else CloneCopy.
	Method CloneMethod `json:"method,omitempty"`
	// IfExists is what to do when that path exists. Default: IfTakenFail.
	IfExists IfTaken `json:"if_exists,omitempty"`
	// Force replaces what is there although other images in its folder depend on it; needs
	// IfTakenReplace. Default: false.
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

// CloneReport is what was made.
type CloneReport struct {
	// Path is the disk.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Out is where the clone is.
	Out string `json:"out"`
	// OutBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	OutBytesHex string `json:"out_bytes_hex"`
	// Method is how it was made.
	Method CloneMethod `json:"method"`
	// Format is the format of the clone.
	Format Format `json:"format"`
	// VirtualSizeBytes is the size of the guest's disk, in bytes.
	VirtualSizeBytes uint64 `json:"virtual_size_bytes"`
	// FileSizeBytes is the length of the clone's file, in bytes.
	FileSizeBytes uint64 `json:"file_size_bytes"`
	// AllocatedBytes is what of it is allocated on the host, in bytes; blocks that are shared count
	// in both files.
	AllocatedBytes uint64 `json:"allocated_bytes"`
	// Backing is the backing file of the clone as it is stored.
	Backing string `json:"backing"`
	// Notes is what else the caller should know, for people.
	Notes []string `json:"notes"`
	// Meta is who did it.
	Meta Meta `json:"meta"`
}

// CloneMethod is how a clone is made.
type CloneMethod string

const (
	// CloneReflink shares the blocks of both files until one of them changes.
	CloneReflink CloneMethod = "reflink"
	// CloneOverlay makes a new qcow2 image above the disk, which must not change any more.
	CloneOverlay CloneMethod = "overlay"
	// CloneCopy copies the file, byte for byte; holes stay holes.
	CloneCopy CloneMethod = "copy"
)
