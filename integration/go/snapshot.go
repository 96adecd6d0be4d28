package vmdisk

// SnapshotListRequest asks which internal snapshots an image has. What is left at its zero value
// gets the default.
type SnapshotListRequest struct {
	// Path is the disk.
	Path string `json:"path"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`

	callFields
}

// SnapshotShowRequest asks about a snapshot. What is left at its zero value gets the default.
type SnapshotShowRequest struct {
	// Path is the disk.
	Path string `json:"path"`
	// Snapshot is the snapshot's id or its name.
	Snapshot string `json:"snapshot"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`

	callFields
}

// SnapshotCreateRequest asks for a snapshot. What is left at its zero value gets the default.
type SnapshotCreateRequest struct {
	// Path is the disk.
	Path string `json:"path"`
	// Name is the snapshot's name: 1 to 255 bytes without control characters, and no other
	// snapshot's name or id.
	Name string `json:"name"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// LockTimeoutSeconds is how long to wait for a disk that is in use. Default: 0.
	LockTimeoutSeconds float64 `json:"lock_timeout_seconds,omitempty"`
	// NoLock goes on where the file system offers no locks. Default: false.
	NoLock bool `json:"no_lock,omitempty"`

	callFields
}

// SnapshotApplyRequest asks for a disk as it was when a snapshot was taken. What is left at its zero
// value gets the default.
type SnapshotApplyRequest struct {
	// Path is the disk.
	Path string `json:"path"`
	// Snapshot is the snapshot's id or its name.
	Snapshot string `json:"snapshot"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// DiskOnly takes the disk alone of a snapshot that has the state of a running machine too: its
	// guest then finds its disk as after a power cut. Default: false.
	DiskOnly bool `json:"disk_only,omitempty"`
	// Force does it although other images have this one as their backing file, and would show
	// something else. Default: false.
	Force bool `json:"force,omitempty"`
	// LockTimeoutSeconds is how long to wait for a disk that is in use. Default: 0.
	LockTimeoutSeconds float64 `json:"lock_timeout_seconds,omitempty"`
	// NoLock goes on where the file system offers no locks. Default: false.
	NoLock bool `json:"no_lock,omitempty"`

	callFields
}

// SnapshotDeleteRequest asks for a snapshot to be deleted. What is left at its zero value gets the
// default.
type SnapshotDeleteRequest struct {
	// Path is the disk.
	Path string `json:"path"`
	// Snapshot is the snapshot's id or its name.
	Snapshot string `json:"snapshot"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// LockTimeoutSeconds is how long to wait for a disk that is in use. Default: 0.
	LockTimeoutSeconds float64 `json:"lock_timeout_seconds,omitempty"`
	// NoLock goes on where the file system offers no locks. Default: false.
	NoLock bool `json:"no_lock,omitempty"`

	callFields
}

// SnapshotListReport is the snapshots of an image.
type SnapshotListReport struct {
	// Path is the disk.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Snapshots is in the order in which they were taken.
	Snapshots []SnapshotReport `json:"snapshots"`
	// Meta is who says so.
	Meta Meta `json:"meta"`
}

// SnapshotShowReport is a snapshot.
type SnapshotShowReport struct {
	// Path is the disk.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Snapshot is what the image says of it.
	Snapshot SnapshotReport `json:"snapshot"`
	// ExclusiveBytes is the bytes of the image that it alone holds on to: they become free when it
	// is deleted. nil for an image whose counts may be stale.
	ExclusiveBytes *uint64 `json:"exclusive_bytes"`
	// Notes is what else the caller should know, for people.
	Notes []string `json:"notes"`
	// Meta is who says so.
	Meta Meta `json:"meta"`
}

// SnapshotChangeReport is what a change of the snapshots did.
type SnapshotChangeReport struct {
	// Path is the disk.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Changed tells whether anything was written.
	Changed bool `json:"changed"`
	// Snapshot is the snapshot that was made, applied or deleted.
	Snapshot SnapshotReport `json:"snapshot"`
	// OldVirtualSizeBytes is the size of the disk before, in bytes.
	OldVirtualSizeBytes uint64 `json:"old_virtual_size_bytes"`
	// VirtualSizeBytes is the size of the disk now, in bytes.
	VirtualSizeBytes uint64 `json:"virtual_size_bytes"`
	// FreedBytes is by how many bytes what the image has in use became less.
	FreedBytes uint64 `json:"freed_bytes"`
	// RefcountsRebuilt tells whether reference counts of a dirty image were rebuilt first.
	RefcountsRebuilt bool `json:"refcounts_rebuilt"`
	// Meta is who did it.
	Meta Meta `json:"meta"`
}

// SnapshotReport is one internal snapshot.
type SnapshotReport struct {
	// ID is its id.
	ID string `json:"id"`
	// Name is its name.
	Name string `json:"name"`
	// DateSeconds is when it was taken, in seconds since 1970.
	DateSeconds uint64 `json:"date_seconds"`
	// DateNanoseconds is the nanoseconds since that second.
	DateNanoseconds uint64 `json:"date_nanoseconds"`
	// VMClockNanoseconds is how long the machine had run when it was taken, in nanoseconds.
	VMClockNanoseconds uint64 `json:"vm_clock_nanoseconds"`
	// Instructions is how many instructions the machine had executed; nil where that was not counted.
	Instructions *uint64 `json:"instructions"`
	// VMStateBytes is the size of the machine state saved with it, in bytes.
	VMStateBytes uint64 `json:"vm_state_bytes"`
	// VirtualSizeBytes is the size of the disk when it was taken, in bytes; nil where old programs did
	// not record it.
	VirtualSizeBytes *uint64 `json:"virtual_size_bytes"`
}
