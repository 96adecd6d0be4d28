package vmdisk

// CommitRequest asks for what a disk holds to go into an image below it. What is left at its zero
// value gets the default.
type CommitRequest struct {
	// Path is the disk: a qcow2 image above a backing file.
	Path string `json:"path"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// Into is the image that gets its contents, and those of the images between. Default: its backing
	// file, which must then lie where Allow lets images have something written.
	Into string `json:"into,omitempty"`
	// Overlay is what becomes of the disk. Default: OverlayEmpty.
	Overlay Overlay `json:"overlay,omitempty"`
	// Force lets what other images and snapshots show change. Default: false.
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

// CommitReport is what was committed.
type CommitReport struct {
	// Path is the disk.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Changed says whether anything was written.
	Changed bool `json:"changed"`
	// Base is the image that has its contents now.
	Base string `json:"base"`
	// BaseBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	BaseBytesHex string `json:"base_bytes_hex"`
	// BaseFormat is the format of that image.
	BaseFormat Format `json:"base_format"`
	// OldBaseVirtualSizeBytes is the size of that image's disk before, in bytes.
	OldBaseVirtualSizeBytes uint64 `json:"old_base_virtual_size_bytes"`
	// BaseVirtualSizeBytes is its size now, in bytes.
	BaseVirtualSizeBytes uint64 `json:"base_virtual_size_bytes"`
	// DataBytes is data that was written to it, in bytes.
	DataBytes uint64 `json:"data_bytes"`
	// ZeroBytes is what was made zeros in it, in bytes.
	ZeroBytes uint64 `json:"zero_bytes"`
	// Overlay is what became of the disk.
	Overlay Overlay `json:"overlay"`
	// FreedBytes is bytes of the disk's file whose clusters were freed.
	FreedBytes uint64 `json:"freed_bytes"`
	// Between is images between the two, whose own disks may show something else now, nearest to the
	// disk first.
	Between []string `json:"between"`
	// Notes is what else the caller should know, for people.
	Notes []string `json:"notes"`
	// Meta is who did it.
	Meta Meta `json:"meta"`
}

// Overlay is what becomes of a disk once the image below has what it held.
type Overlay string

const (
	// OverlayEmpty empties it: it lies above that image and has nothing of its own.
	OverlayEmpty Overlay = "empty"
	// OverlayKeep leaves it as it is; it holds what that image has now too.
	OverlayKeep Overlay = "keep"
	// OverlayDelete removes its file.
	OverlayDelete Overlay = "delete"
)
