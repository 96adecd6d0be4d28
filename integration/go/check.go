package vmdisk

// CheckRequest asks whether an image is sound. What is left at its zero value gets the default.
type CheckRequest struct {
	// Path is the disk.
	Path string `json:"path"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// Repair is what is repaired. Default: nothing, and nothing is written.
	Repair Repair `json:"repair,omitempty"`
	// DryRun tells only what a repair would do. Default: false.
	DryRun bool `json:"dry_run,omitempty"`
	// SaveTo is where what is needed to take the repair back is saved, in a new file. A block device
	// has no folder for it: it must be named. Default: beside the disk, as DISK.repair-SECONDS.
	SaveTo string `json:"save_to,omitempty"`
	// For is the program whose rules the image is held against too; RepairAll then also marks what
	// that program needs marked. Default: none.
	For Reader `json:"for,omitempty"`
	// LockTimeoutSeconds is how long to wait for a disk that is in use. Default: 0.
	LockTimeoutSeconds float64 `json:"lock_timeout_seconds,omitempty"`
	// NoLock goes on where the file system offers no locks. Default: false.
	NoLock bool `json:"no_lock,omitempty"`

	callFields
}

// UndoRepairRequest takes a repair back. What is left at its zero value gets the default.
type UndoRepairRequest struct {
	// UndoFile is the file that the repair left: RepairReport.UndoFile.
	UndoFile string `json:"undo_file"`
	// Path is the disk. Default: the one beside that file that it is about.
	Path string `json:"path,omitempty"`
	// LockTimeoutSeconds is how long to wait for a disk that is in use. Default: 0.
	LockTimeoutSeconds float64 `json:"lock_timeout_seconds,omitempty"`
	// NoLock goes on where the file system offers no locks. Default: false.
	NoLock bool `json:"no_lock,omitempty"`

	callFields
}

// CheckReport is what a check found.
type CheckReport struct {
	// Path is the disk.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Verdict is how it is.
	Verdict CheckVerdict `json:"verdict"`
	// Leaks is clusters that are counted more often than they are used.
	Leaks uint64 `json:"leaks"`
	// Corruptions is findings that are corruption.
	Corruptions uint64 `json:"corruptions"`
	// Notices is findings that are neither.
	Notices uint64 `json:"notices"`
	// Findings is the first of them, in the order of the walk.
	Findings []FindingReport `json:"findings"`
	// FindingsLeftOut is how many more there are.
	FindingsLeftOut uint64 `json:"findings_left_out"`
	// Dirty tells whether the image says that its counts may be stale.
	Dirty bool `json:"dirty"`
	// MarkedCorrupt tells whether the image says that it is damaged.
	MarkedCorrupt bool `json:"marked_corrupt"`
	// TotalClusters is clusters of the guest's disk.
	TotalClusters uint64 `json:"total_clusters"`
	// AllocatedClusters is those of them that have a place in the image, compressed or not.
	AllocatedClusters uint64 `json:"allocated_clusters"`
	// CompressedClusters is those of them that are compressed.
	CompressedClusters uint64 `json:"compressed_clusters"`
	// ImageEndBytes is where the last cluster in use ends, in bytes from the beginning of the file.
	ImageEndBytes uint64 `json:"image_end_bytes"`
	// Repair is what was repaired, if that was asked for; all else is as it is afterwards.
	Repair *RepairReport `json:"repair"`
	// For is what the program makes of it that was asked for, after a repair as it is then; nil where
	// none was.
	For *ReaderReport `json:"for"`
	// Meta is who says so.
	Meta Meta `json:"meta"`
}

// FindingReport is one thing that is not as it must be.
type FindingReport struct {
	// Kind is what it is.
	Kind FindingKind `json:"kind"`
	// Severity is how much it weighs.
	Severity FindingSeverity `json:"severity"`
	// Message is the same in words.
	Message string `json:"message"`
	// Structure is what of the image it is about, if that is known.
	Structure string `json:"structure"`
	// HostOffsetBytes is where that is in the file, in bytes.
	HostOffsetBytes uint64 `json:"host_offset_bytes"`
	// GuestOffsetBytes is where on the guest's disk the data begins that it is about, in bytes; nil
	// where the active disk does not have it.
	GuestOffsetBytes *uint64 `json:"guest_offset_bytes"`
	// EntryOffsetBytes is where in the file the entry is that is wrong, in bytes; nil where it is not
	// one entry.
	EntryOffsetBytes *uint64 `json:"entry_offset_bytes"`
	// Stored is what the image counts.
	Stored *uint64 `json:"stored"`
	// Found is how often the cluster is used.
	Found *uint64 `json:"found"`
	// RepairableBy is the level of repair that mends it; empty if there is none.
	RepairableBy Repair `json:"repairable_by"`
}

// RepairReport is what a repair did, or would do.
type RepairReport struct {
	// Level is how far it went.
	Level Repair `json:"level"`
	// Changed tells whether anything was written.
	Changed bool `json:"changed"`
	// LeaksBefore is clusters that were counted and not used before.
	LeaksBefore uint64 `json:"leaks_before"`
	// CorruptionsBefore is findings that were corruption before.
	CorruptionsBefore uint64 `json:"corruptions_before"`
	// ReplacedBytes is bytes of metadata that were replaced.
	ReplacedBytes uint64 `json:"replaced_bytes"`
	// CopiedClusters is clusters that two had, and that have one owner now.
	CopiedClusters uint64 `json:"copied_clusters"`
	// AddedBytes is bytes that the file is longer.
	AddedBytes uint64 `json:"added_bytes"`
	// Lost is what the guest lost: it reads as zeros now, or, where the image cannot say so, as what
	// is below. The first ranges, in the order of the disk.
	Lost []LostRange `json:"lost"`
	// LostLeftOut is how many more ranges there are.
	LostLeftOut uint64 `json:"lost_left_out"`
	// LostBytes is bytes of all of them that the guest lost; those that are kept do not count.
	LostBytes uint64 `json:"lost_bytes"`
	// Unmended is what could not be mended; then nothing was changed.
	Unmended []FindingReport `json:"unmended"`
	// UndoFile is what was saved to take the repair back; empty where nothing was.
	UndoFile string `json:"undo_file"`
	// UndoFileBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	UndoFileBytesHex string `json:"undo_file_bytes_hex"`
}

// LostRange is a range of a guest's disk that a repair gave up.
type LostRange struct {
	// GuestOffsetBytes is where it begins, in bytes; nil where only internal snapshots had it.
	GuestOffsetBytes *uint64 `json:"guest_offset_bytes"`
	// LengthBytes is its length, in bytes.
	LengthBytes uint64 `json:"length_bytes"`
	// EntryOffsetBytes is where in the file the first of the entries was, in bytes.
	EntryOffsetBytes uint64 `json:"entry_offset_bytes"`
	// Kept says that what was found is kept: metadata lay in the same place, so that nobody can
	// tell whose it is. Otherwise the range reads as zeros, or as what is below.
	Kept bool `json:"kept"`
}

// ReaderReport is what one program makes of an image.
type ReaderReport struct {
	// Reader is the program.
	Reader Reader `json:"reader"`
	// Broken is every rule of it that the image breaks.
	Broken []BrokenRuleReport `json:"broken"`
}

// BrokenRuleReport is a rule that an image breaks.
type BrokenRuleReport struct {
	// Rule is the rule.
	Rule ReaderRule `json:"rule"`
	// Effect is what the program does with such an image.
	Effect ReaderEffect `json:"effect"`
	// Message is the same in words.
	Message string `json:"message"`
	// Count is how often the image breaks it.
	Count uint64 `json:"count"`
	// HostOffsetBytes is where in the file it does so first, in bytes: the field of the header, the
	// entry of a table, or the table.
	HostOffsetBytes *uint64 `json:"host_offset_bytes"`
	// GuestOffsetBytes is where on the guest's disk the data begins that is about, in bytes; nil
	// where it is not about data.
	GuestOffsetBytes *uint64 `json:"guest_offset_bytes"`
}

// UndoRepairReport is what was done about a repair.
type UndoRepairReport struct {
	// Path is the disk.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Changed tells whether anything was written; otherwise the disk was as before the repair
	// already.
	Changed bool `json:"changed"`
	// Meta is who did it.
	Meta Meta `json:"meta"`
}

// Repair is how far a repair goes.
type Repair string

const (
	// RepairLeaks lowers counts of clusters that are used less often, and puts right what says so.
	RepairLeaks Repair = "leaks"
	// RepairAll mends everything that can be mended.
	RepairAll Repair = "all"
)

// CheckVerdict is how an image is.
type CheckVerdict string

const (
	// CheckClean is nothing that a program would ever have to repair.
	CheckClean CheckVerdict = "clean"
	// CheckLeaks is clusters that are counted and not used: room is wasted, no data is at risk.
	CheckLeaks CheckVerdict = "leaks"
	// CheckCorrupt is data that is lost, or will be once somebody writes.
	CheckCorrupt CheckVerdict = "corrupt"
)

// FindingSeverity is how much a finding weighs.
type FindingSeverity string

const (
	// SeverityNotice is allowed by the format, but no program is known to do it.
	SeverityNotice FindingSeverity = "notice"
	// SeverityLeak is room that nothing uses.
	SeverityLeak FindingSeverity = "leak"
	// SeverityCorruption is data that is lost, or will be once somebody writes.
	SeverityCorruption FindingSeverity = "corruption"
)

// FindingKind is what is not as it must be.
type FindingKind string

const (
	// FindingLeak is a cluster that is counted more often than it is referred to.
	FindingLeak FindingKind = "leak"
	// FindingUndercount is a cluster that is counted less often than it is referred to.
	FindingUndercount FindingKind = "undercount"
	// FindingCopiedFlag is a COPIED flag that does not say whether the count is one.
	FindingCopiedFlag FindingKind = "copied_flag"
	// FindingMalformed is an entry or a field that breaks a rule of the format.
	FindingMalformed FindingKind = "malformed"
	// FindingBeyondFile is something behind the end of the file.
	FindingBeyondFile FindingKind = "beyond_file"
	// FindingCutShort is a table that the file ends in: what its entries led to is lost.
	FindingCutShort FindingKind = "cut_short"
	// FindingOverlap is metadata that lies where something else does.
	FindingOverlap FindingKind = "overlap"
	// FindingShared is guest data that lies where other guest data does.
	FindingShared FindingKind = "shared"
	// FindingUnreadable is a table that the medium does not give back.
	FindingUnreadable FindingKind = "unreadable"
)

// Reader is the program whose reader an image is held against.
type Reader string

const (
	// ReaderHyperkit is hyperkit and its OCaml qcow library.
	ReaderHyperkit Reader = "hyperkit"
)

// ReaderEffect is what a reader does with an image that breaks one of its rules.
type ReaderEffect string

const (
	// EffectFreezes stops the guest when the file must grow.
	EffectFreezes ReaderEffect = "freezes"
	// EffectRefused does not open the image.
	EffectRefused ReaderEffect = "refused"
	// EffectMiscounts makes the reference counts wrong without a mark that says so.
	EffectMiscounts ReaderEffect = "miscounts"
	// EffectReadsOtherwise shows the guest other data than was meant.
	EffectReadsOtherwise ReaderEffect = "reads_otherwise"
	// EffectDestroys destroys the image, or what is in it, when it is opened or written to.
	EffectDestroys ReaderEffect = "destroys"
)

// ReaderRule is what an image has that a reader does not take as it is meant.
type ReaderRule string

const (
	// ReaderRuleHeaderLength is a header of version 3 that has not 104 bytes.
	ReaderRuleHeaderLength ReaderRule = "header_length"
	// ReaderRuleClusterSize is a cluster size outside 4 KiB to 2 MiB, in version 2 to 1 MiB.
	ReaderRuleClusterSize ReaderRule = "cluster_size"
	// ReaderRuleIncompatibleFeatures is an incompatible feature but the dirty and the corrupt bit.
	ReaderRuleIncompatibleFeatures ReaderRule = "incompatible_features"
	// ReaderRuleAutoclearFeatures is any autoclear feature.
	ReaderRuleAutoclearFeatures ReaderRule = "autoclear_features"
	// ReaderRuleExtensionsBeyondSector is header extensions that do not end in the first 512 bytes.
	ReaderRuleExtensionsBeyondSector ReaderRule = "extensions_beyond_sector"
	// ReaderRuleBackingFile is a backing file.
	ReaderRuleBackingFile ReaderRule = "backing_file"
	// ReaderRuleEncryption is encryption.
	ReaderRuleEncryption ReaderRule = "encryption"
	// ReaderRuleRefcountBits is reference counts that have not 16 bits.
	ReaderRuleRefcountBits ReaderRule = "refcount_bits"
	// ReaderRuleSnapshots is internal snapshots.
	ReaderRuleSnapshots ReaderRule = "snapshots"
	// ReaderRuleNotLazy is no lazy refcounts.
	ReaderRuleNotLazy ReaderRule = "not_lazy"
	// ReaderRuleLazyNotDirty is lazy refcounts without the dirty bit.
	ReaderRuleLazyNotDirty ReaderRule = "lazy_not_dirty"
	// ReaderRuleV3FieldsInV2 is fields of version 3 under a header of version 2, which a session with
	// discard leaves.
	ReaderRuleV3FieldsInV2 ReaderRule = "v3_fields_in_v2"
	// ReaderRuleCompressedClusters is compressed clusters.
	ReaderRuleCompressedClusters ReaderRule = "compressed_clusters"
	// ReaderRuleZeroClusters is entries that say that a cluster is zeros.
	ReaderRuleZeroClusters ReaderRule = "zero_clusters"
	// ReaderRuleSharedClusters is two references to one cluster.
	ReaderRuleSharedClusters ReaderRule = "shared_clusters"
	// ReaderRuleBeyondFile is a reference to what lies behind the end of the file.
	ReaderRuleBeyondFile ReaderRule = "beyond_file"
)
