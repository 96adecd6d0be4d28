package vmdisk

// AmendRequest asks for a disk to become another kind of image. What is left at its zero value stays.
type AmendRequest struct {
	// Path is the disk: a qcow2 image.
	Path string `json:"path"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// Compat is the version of qcow2.
	Compat Compat `json:"compat,omitempty"`
	// LazyRefcounts allows reference counts to be updated late.
	LazyRefcounts *bool `json:"lazy_refcounts,omitempty"`
	// RefcountBits is bits a reference count: a power of two from 1 to 64; 16 in version 0.10.
	RefcountBits uint64 `json:"refcount_bits,omitempty"`
	// CompressionType is how compressed clusters are packed.
	CompressionType Compression `json:"compression_type,omitempty"`
	// ClusterSize is how large a cluster is: a power of two from 512 bytes to 2 MiB.
	ClusterSize Size `json:"cluster_size,omitempty"`
	// ExtendedL2 gives L2 entries subclusters.
	ExtendedL2 *bool `json:"extended_l2,omitempty"`
	// Backing is the backing file that is named, as by an unsafe rebase: what is in it is not looked
	// at.
	Backing *BackingOptions `json:"backing,omitempty"`
	// NoBacking names none any more; excludes Backing. Default: false.
	NoBacking bool `json:"no_backing,omitempty"`
	// Force says that what images above the disk show may change with the name of its backing file;
	// needs Backing or NoBacking. Default: false.
	Force bool `json:"force,omitempty"`
	// DataFileRaw tells whether the external data file is the disk, byte for byte.
	DataFileRaw *bool `json:"data_file_raw,omitempty"`
	// DryRun writes nothing, and only tells what would be. Default: false.
	DryRun bool `json:"dry_run,omitempty"`
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

// AmendReport is what an amendment did, or would do.
type AmendReport struct {
	// Path is the disk.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Changed tells whether anything was written.
	Changed bool `json:"changed"`
	// DryRun tells whether nothing was to be written.
	DryRun bool `json:"dry_run"`
	// Amendments is what is different, or would be.
	Amendments []AmendmentReport `json:"amendments"`
	// Rewritten tells whether the disk is written anew for that, and replaced.
	Rewritten bool `json:"rewritten"`
	// UnsaidZeroBytes is bytes of the disk that were said to be zeros, as version 0.10 cannot say it.
	UnsaidZeroBytes uint64 `json:"unsaid_zero_bytes"`
	// RefcountsRebuilt tells whether reference counts of a dirty image were rebuilt first.
	RefcountsRebuilt bool `json:"refcounts_rebuilt"`
	// FileSizeBytes is the length of the file now, in bytes.
	FileSizeBytes uint64 `json:"file_size_bytes"`
	// AllocatedBytes is what of it is allocated on the host, in bytes.
	AllocatedBytes uint64 `json:"allocated_bytes"`
	// Notes is what else the caller should know, for people.
	Notes []string `json:"notes"`
	// Meta is who did it.
	Meta Meta `json:"meta"`
}

// AmendmentReport is one thing that an amendment changes.
type AmendmentReport struct {
	// Option is its name: a field of the request, "backing_file" or "backing_format".
	Option string `json:"option"`
	// From is what it was; empty where it was not there.
	From string `json:"from"`
	// To is what it is; empty where it is not there any more.
	To string `json:"to"`
}
