package vmdisk

// CreateRequest asks for a new disk. What is left at its zero value gets the default.
type CreateRequest struct {
	// Path is where the disk will be.
	Path string `json:"path"`
	// Size is how large the guest's disk is; rounded up to 512 bytes. Default: the backing file's
	// size, if there is one.
	Size Size `json:"size,omitempty"`
	// DockerMachineMB is the same in MiB, for drivers whose own option has that unit; excludes
	// Size. 0 is as unset as no Size.
	DockerMachineMB uint64 `json:"docker_machine_mb,omitempty"`
	// Format is the format. Default: what the path's name promises, else qcow2.
	Format Format `json:"format,omitempty"`
	// Layout is how it is laid out.
	Layout *LayoutOptions `json:"layout,omitempty"`
	// Backing is what it lies above. Default: nothing.
	Backing *BackingOptions `json:"backing,omitempty"`
	// Guest is what the guest will find.
	Guest *GuestOptions `json:"guest,omitempty"`
	// IfExists is what to do when the path exists. Default: IfExistsFail.
	IfExists IfExists `json:"if_exists,omitempty"`
	// Force replaces what is there although other images in its folder depend on it; needs
	// IfExistsReplace. Default: false.
	Force bool `json:"force,omitempty"`
	// Mode is the file's permission bits, in octal. Default: those of the file that it replaces,
	// else "0600".
	Mode string `json:"mode,omitempty"`
	// Owner is the file's owner, as "user" or "user:group", by name or number. Default: that of the
	// file that it replaces, else whoever runs the program.
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

// EnsureRequest asks for a disk that is there, with at least what is said. What is left at its
// zero value gets the default.
type EnsureRequest struct {
	// Path is where the disk is, or will be.
	Path string `json:"path"`
	// Size is how large the guest's disk is; rounded up to 512 bytes. Default: the backing file's
	// size, if there is one.
	Size Size `json:"size,omitempty"`
	// DockerMachineMB is the same in MiB, for drivers whose own option has that unit; excludes
	// Size. 0 is as unset as no Size.
	DockerMachineMB uint64 `json:"docker_machine_mb,omitempty"`
	// Format is the format. Default: what the path's name promises, else qcow2.
	Format Format `json:"format,omitempty"`
	// Layout is how it is laid out.
	Layout *LayoutOptions `json:"layout,omitempty"`
	// Backing is what it lies above. Default: nothing.
	Backing *BackingOptions `json:"backing,omitempty"`
	// Guest is what the guest will find.
	Guest *GuestOptions `json:"guest,omitempty"`
	// GuestFs is whether what is inside grows to fill the disk, the last partition and the
	// filesystem in it: of a disk that is there, and of a backing file in a new one. Default:
	// GuestFsAuto.
	GuestFs GuestFs `json:"guest_fs,omitempty"`
	// CompactAbovePercent compacts a disk that is there, as Client.Compact does it, where so many
	// percent of what it takes on the host could be given back: 1 to 99. Default: it is not looked at.
	CompactAbovePercent uint8 `json:"compact_above_percent,omitempty"`
	// Mode is the file's permission bits, in octal. Default: those of the file that it replaces,
	// else "0600".
	Mode string `json:"mode,omitempty"`
	// Owner is the file's owner, as "user" or "user:group", by name or number. Default: that of the
	// file that it replaces, else whoever runs the program.
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

// ResizeRequest asks for another size. What is left at its zero value gets the default.
type ResizeRequest struct {
	// Path is the disk.
	Path string `json:"path"`
	// Size is its size afterwards; rounded up to 512 bytes.
	Size Size `json:"size,omitempty"`
	// DockerMachineMB is the same in MiB, for drivers whose own option has that unit; excludes
	// Size. 0 is as unset as no Size.
	DockerMachineMB uint64 `json:"docker_machine_mb,omitempty"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// Preallocation is what is laid out for what is added. Default: PreallocationMetadata if the
	// disk's end has it, else PreallocationOff.
	Preallocation Preallocation `json:"preallocation,omitempty"`
	// Shrink lets it become smaller: what its guest has behind the new end is lost. Default: false.
	Shrink bool `json:"shrink,omitempty"`
	// GuestFs is whether what is inside grows with it, the last partition and the filesystem in it:
	// also where the disk has its size already. Default: GuestFsAuto.
	GuestFs GuestFs `json:"guest_fs,omitempty"`
	// RestoreGPT allows a damaged GPT at the start of the disk to be made anew from its backup.
	// Default: false.
	RestoreGPT bool `json:"restore_gpt,omitempty"`
	// Force lets its size change although other images in its folder depend on it: they show zeros
	// instead of what is cut, and nothing of what is added. Default: false.
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

// InfoRequest asks what a disk is. What is left at its zero value gets the default.
type InfoRequest struct {
	// Path is the disk.
	Path string `json:"path"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// Chain opens what is below it, as far as Trust allows. Default: false.
	Chain bool `json:"chain,omitempty"`
	// Qemu has it told once more in the very fields that `qemu-img info` has. Default: false.
	Qemu bool `json:"qemu,omitempty"`
	// Trust is what an image may make the program open. Default: TrustFolder; TrustNamed when Allow
	// is given.
	Trust TrustLevel `json:"trust,omitempty"`
	// Allow is folders, and single files, that images may name, beside what TrustNamed or TrustNone
	// allows. Default: none.
	Allow []string `json:"allow,omitempty"`

	callFields
}

// CapabilitiesRequest asks what the program and the host can do.
type CapabilitiesRequest struct {
	// Folder is the folder whose file system is tried out, with two small files that never have a
	// name. Default: the working directory, if files can be made there.
	Folder string `json:"folder,omitempty"`

	callFields
}

// LayoutOptions is how a new disk is laid out. What is not said is decided by the preset.
type LayoutOptions struct {
	// Preset is who will use the disk. Default: PresetQEMU.
	Preset Preset `json:"preset,omitempty"`
	// Compat is the version of qcow2. Default: CompatV3; CompatV2 with PresetCompat010.
	Compat Compat `json:"compat,omitempty"`
	// ClusterSize is how large a cluster is: a power of two from 512 bytes to 2 MiB. Default:
	// 64 KiB.
	ClusterSize Size `json:"cluster_size,omitempty"`
	// RefcountBits is bits a reference count: a power of two from 1 to 64. Default: 16.
	RefcountBits uint64 `json:"refcount_bits,omitempty"`
	// ExtendedL2 gives L2 entries subclusters. Default: false; true above a backing file when
	// more than PreallocationTables is preallocated.
	ExtendedL2 *bool `json:"extended_l2,omitempty"`
	// CompressionType is how compressed clusters will be packed. Default: CompressionZlib.
	CompressionType Compression `json:"compression_type,omitempty"`
	// LazyRefcounts allows reference counts to be updated late. Default: false; true with
	// PresetHyperkit.
	LazyRefcounts *bool `json:"lazy_refcounts,omitempty"`
	// Preallocation is what is laid out from the start. Default: PreallocationMetadata;
	// PreallocationTables above a backing file; PreallocationOff for raw, with PresetHyperkit and by
	// convert.
	Preallocation Preallocation `json:"preallocation,omitempty"`
	// Nocow asks btrfs not to copy the file on every write. Default: false.
	Nocow bool `json:"nocow,omitempty"`
}

// BackingOptions is the backing file of a new overlay.
type BackingOptions struct {
	// Path is the file, relative to the working directory (with BackingAsGiven: to the new image's
	// folder).
	Path string `json:"path"`
	// Format is its format. Default: probed for qcow2, never guessed to be raw.
	Format Format `json:"format,omitempty"`
	// Store is how its name is stored. Default: BackingRelative where it lies at most one folder
	// up, else BackingAbsolute.
	Store BackingStore `json:"store,omitempty"`
}

// GuestOptions is what the guest will find at the beginning of the disk.
type GuestOptions struct {
	// Profile is the guest. Default: GuestBoot2docker; GuestNone above a backing file, unless keys
	// are given.
	Profile Guest `json:"profile,omitempty"`
	// SSHKeys is public keys that may log in, each the text of a line of authorized_keys. Default:
	// none.
	SSHKeys []string `json:"ssh_keys,omitempty"`
	// SSHKeyFiles is files with public keys that may log in. Default: none.
	SSHKeyFiles []string `json:"ssh_key_files,omitempty"`
	// UserdataFile is a file with a ready payload archive (tar), instead of keys. Default: none.
	UserdataFile string `json:"userdata_file,omitempty"`
	// Overwrite lets a guest's partition table or filesystem be overwritten. Default: false.
	Overwrite bool `json:"overwrite,omitempty"`
}

// callFields is what every request says beside what is its own.
type callFields struct {
	Protocol string `json:"protocol,omitempty"`
	Progress bool   `json:"progress,omitempty"`
}

func (f *callFields) fields() *callFields { return f }
