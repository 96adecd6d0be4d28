package vmdisk

// Format is the format of a disk.
type Format string

const (
	// FormatQcow2 is qcow2.
	FormatQcow2 Format = "qcow2"
	// FormatRaw is the guest's bytes and nothing else.
	FormatRaw Format = "raw"
)

// GuestFs is whether what is inside of a disk grows with it.
type GuestFs string

const (
	// GuestFsAuto has it grow where it can; else it stays as it is, and the report says why.
	GuestFsAuto GuestFs = "auto"
	// GuestFsOff leaves it as it is, not looked at.
	GuestFsOff GuestFs = "off"
	// GuestFsRequire has it grow, or nothing is changed.
	GuestFsRequire GuestFs = "require"
)

// ReadZeros is whether all data is read to find zeros in it.
type ReadZeros string

const (
	// ReadZerosAuto reads it where there is anything else to give up, or no filesystem says what is
	// free.
	ReadZerosAuto ReadZeros = "auto"
	// ReadZerosAlways reads it.
	ReadZerosAlways ReadZeros = "always"
	// ReadZerosNever takes for zeros only what tables and the host's file system know.
	ReadZerosNever ReadZeros = "never"
)

// PartitionTable is a kind of partition table.
type PartitionTable string

const (
	// PartitionTableMBR is the table in the first sector.
	PartitionTableMBR PartitionTable = "mbr"
	// PartitionTableGPT is a GUID partition table.
	PartitionTableGPT PartitionTable = "gpt"
)

// Preset says who will use a disk: it sets defaults, and refuses what that program cannot read.
type Preset string

const (
	// PresetQEMU is QEMU and everything that reads what QEMU writes.
	PresetQEMU Preset = "qemu"
	// PresetHyperkit is hyperkit and its OCaml qcow library.
	PresetHyperkit Preset = "hyperkit"
	// PresetCompat010 is programs that read version 2 only.
	PresetCompat010 Preset = "compat-0.10"
)

// Compat is the version of qcow2, as qemu-img calls it.
type Compat string

const (
	// CompatV2 is version 2.
	CompatV2 Compat = "0.10"
	// CompatV3 is version 3.
	CompatV3 Compat = "1.1"
)

// Compression is how compressed clusters are packed.
type Compression string

const (
	// CompressionZlib is Deflate.
	CompressionZlib Compression = "zlib"
	// CompressionZstd is Zstandard.
	CompressionZstd Compression = "zstd"
)

// Preallocation is what is laid out before the guest writes anything.
type Preallocation string

const (
	// PreallocationOff lays out nothing.
	PreallocationOff Preallocation = "off"
	// PreallocationTables lays out every L2 table, its entries unallocated, so that a backing file
	// shows through.
	PreallocationTables Preallocation = "tables"
	// PreallocationMetadata gives every cluster an address; the file stays sparse.
	PreallocationMetadata Preallocation = "metadata"
	// PreallocationFalloc has the host file system reserve the room.
	PreallocationFalloc Preallocation = "falloc"
	// PreallocationFull writes zeros.
	PreallocationFull Preallocation = "full"
)

// Guest is the guest that will find its payload at the beginning of the disk.
type Guest string

const (
	// GuestBoot2docker is boot2docker and docker-machine's own guests.
	GuestBoot2docker Guest = "boot2docker"
	// GuestMinikube is minikube.
	GuestMinikube Guest = "minikube"
	// GuestRancherOS is RancherOS.
	GuestRancherOS Guest = "rancheros"
	// GuestNone has nothing written.
	GuestNone Guest = "none"
)

// BackingStore is how a backing file's name is stored.
type BackingStore string

const (
	// BackingRelative stores it relative to the new image's folder.
	BackingRelative BackingStore = "relative"
	// BackingAbsolute stores it from the root.
	BackingAbsolute BackingStore = "absolute"
	// BackingAsGiven stores the characters as given, which the image's readers resolve against its
	// folder.
	BackingAsGiven BackingStore = "as-given"
)

// TrustLevel is what an image may make the program open.
type TrustLevel string

const (
	// TrustNone is nothing that it names.
	TrustNone TrustLevel = "none"
	// TrustFolder is regular files at or under its own folder.
	TrustFolder TrustLevel = "folder"
	// TrustNamed is those, and what is at or under the places in Allow.
	TrustNamed TrustLevel = "named"
	// TrustFull is any file.
	TrustFull TrustLevel = "full"
)

// IfExists is what to do when there is a file at the path of a new disk.
type IfExists string

const (
	// IfExistsFail refuses.
	IfExistsFail IfExists = "fail"
	// IfExistsKeep keeps it if it is what was asked for.
	IfExistsKeep IfExists = "keep"
	// IfExistsReplace replaces it by the new disk, atomically.
	IfExistsReplace IfExists = "replace"
)

// Action is what Ensure found to do.
type Action string

const (
	// ActionCreated is said where there was no disk.
	ActionCreated Action = "created"
	// ActionGrown is said where the disk was smaller.
	ActionGrown Action = "grown"
	// ActionUnchanged is said where the disk is as asked.
	ActionUnchanged Action = "unchanged"
)

// Locks is the locks that a file system has.
type Locks string

const (
	// LocksBytesAndFlock is QEMU's byte locks and flock.
	LocksBytesAndFlock Locks = "bytes_and_flock"
	// LocksBytes is QEMU's byte locks alone.
	LocksBytes Locks = "bytes"
	// LocksFlock is flock alone.
	LocksFlock Locks = "flock"
	// LocksNone is none.
	LocksNone Locks = "none"
)

// JournalState is what can be done about a journal.
type JournalState string

const (
	// JournalPending is what the next that opens the disk to write to it completes.
	JournalPending JournalState = "pending"
	// JournalStale is what does not fit the disk: nobody writes to the disk while it is there.
	JournalStale JournalState = "stale"
	// JournalUnknown is what could not be read, or whose disk could not.
	JournalUnknown JournalState = "unknown"
)
