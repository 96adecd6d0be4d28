package vmdisk

// QemuInfo is what `qemu-img info --output=json` tells of a disk, or of the file that it is in.
type QemuInfo struct {
	// Children is what it consists of: the file that the disk is in.
	Children []QemuChild `json:"children"`
	// BackingFilenameFormat is the backing file's format, as recorded.
	BackingFilenameFormat string `json:"backing-filename-format"`
	// Snapshots is internal snapshots, if there are any.
	Snapshots []QemuSnapshot `json:"snapshots"`
	// VirtualSize is the size of the guest's disk in bytes; of the file, rounded up to 512 bytes.
	VirtualSize uint64 `json:"virtual-size"`
	// Filename is where it is, as it was asked for.
	Filename string `json:"filename"`
	// ClusterSize is bytes a cluster; 0 where there are none.
	ClusterSize uint64 `json:"cluster-size"`
	// Format is its format; of the file, file or host_device.
	Format string `json:"format"`
	// ActualSize is what of the file is allocated on the host, in bytes.
	ActualSize uint64 `json:"actual-size"`
	// Encrypted tells whether the guest's data is encrypted.
	Encrypted bool `json:"encrypted"`
	// FormatSpecific is what only this format has; nil where it has nothing.
	FormatSpecific *QemuSpecific `json:"format-specific"`
	// FullBackingFilename is the backing file's name, with the folder of the image before it if it is
	// relative.
	FullBackingFilename string `json:"full-backing-filename"`
	// BackingFilename is the backing file's name as stored.
	BackingFilename string `json:"backing-filename"`
	// DirtyFlag tells whether reference counts may be stale.
	DirtyFlag bool `json:"dirty-flag"`
}

// QemuChild is one of the things that a disk consists of.
type QemuChild struct {
	// Name is what it is for: file.
	Name string `json:"name"`
	// Info is what it is.
	Info QemuInfo `json:"info"`
}

// QemuSpecific is what only one format has.
type QemuSpecific struct {
	// Type is the format.
	Type string `json:"type"`
	// Data is what that has; nothing, of a file.
	Data QemuData `json:"data"`
}

// QemuData is what only qcow2 has.
type QemuData struct {
	// Compat is the version.
	Compat string `json:"compat"`
	// CompressionType is how compressed clusters are packed.
	CompressionType string `json:"compression-type"`
	// LazyRefcounts tells whether reference counts may be updated late; nil of version 2.
	LazyRefcounts *bool `json:"lazy-refcounts"`
	// Bitmaps is persistent bitmaps, if there are any.
	Bitmaps []QemuBitmap `json:"bitmaps"`
	// RefcountBits is bits a reference count.
	RefcountBits uint64 `json:"refcount-bits"`
	// DataFile is the external data file's name as stored.
	DataFile string `json:"data-file"`
	// DataFileRaw tells whether that is the disk, byte for byte; nil where there is none.
	DataFileRaw *bool `json:"data-file-raw"`
	// Corrupt tells whether the image is marked damaged; nil of version 2.
	Corrupt *bool `json:"corrupt"`
	// ExtendedL2 tells whether L2 entries have subclusters; nil of version 2.
	ExtendedL2 *bool `json:"extended-l2"`
	// Encrypt is how guest data is encrypted; nil where it is not.
	Encrypt *QemuEncryption `json:"encrypt"`
}

// QemuEncryption is how guest data is encrypted. What is said beside the method is said of LUKS.
type QemuEncryption struct {
	// Format is the method: aes or luks.
	Format string `json:"format"`
	// CipherAlg is the cipher and the bits of its key, such as aes-256.
	CipherAlg string `json:"cipher-alg"`
	// CipherMode is how the cipher is used, such as xts.
	CipherMode string `json:"cipher-mode"`
	// IvgenAlg is where initial vectors are from, such as plain64.
	IvgenAlg string `json:"ivgen-alg"`
	// IvgenHashAlg is the hash that those need, if any.
	IvgenHashAlg string `json:"ivgen-hash-alg"`
	// HashAlg is the hash of key derivation.
	HashAlg string `json:"hash-alg"`
	// DetachedHeader tells whether the encryption header is in another file; nil where that is not
	// known.
	DetachedHeader *bool `json:"detached-header"`
	// PayloadOffset is where guest data would begin behind the encryption header, in bytes.
	PayloadOffset uint64 `json:"payload-offset"`
	// MasterKeyIters is how often the master key's digest was hashed.
	MasterKeyIters uint32 `json:"master-key-iters"`
	// UUID is the UUID.
	UUID string `json:"uuid"`
	// Slots are the places for keys.
	Slots []QemuKeySlot `json:"slots"`
}

// QemuKeySlot is a place for a key.
type QemuKeySlot struct {
	// Active tells whether there is a key.
	Active bool `json:"active"`
	// Iters is how often its passphrase was hashed.
	Iters uint32 `json:"iters"`
	// Stripes is into how many stripes it is split.
	Stripes uint32 `json:"stripes"`
	// KeyOffset is where it is in the encryption header, in bytes.
	KeyOffset uint64 `json:"key-offset"`
}

// QemuSnapshot is one internal snapshot.
type QemuSnapshot struct {
	// Icount is how many instructions the machine had executed; nil where that was not counted.
	Icount *uint64 `json:"icount"`
	// VMClockNsec is how long the machine had run: nanoseconds since the last second.
	VMClockNsec uint64 `json:"vm-clock-nsec"`
	// Name is its name.
	Name string `json:"name"`
	// DateSec is when it was taken, in seconds since 1970.
	DateSec uint64 `json:"date-sec"`
	// DateNsec is nanoseconds since that second.
	DateNsec uint64 `json:"date-nsec"`
	// VMClockSec is how long the machine had run, in whole seconds.
	VMClockSec uint64 `json:"vm-clock-sec"`
	// ID is its id.
	ID string `json:"id"`
	// VMStateSize is the size of the machine state saved with it, in bytes.
	VMStateSize uint64 `json:"vm-state-size"`
}

// QemuBitmap is one persistent bitmap.
type QemuBitmap struct {
	// Flags is those of in-use and auto that it has.
	Flags []string `json:"flags"`
	// Name is its name.
	Name string `json:"name"`
	// Granularity is bytes of the disk that a bit stands for.
	Granularity uint64 `json:"granularity"`
}
