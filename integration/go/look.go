package vmdisk

// MapRequest asks for the map of a disk, or of a part of it. What is left at its zero value gets the
// default.
type MapRequest struct {
	// Path is the disk.
	Path string `json:"path"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// StartOffset is where on the guest's disk the map begins. Default: 0.
	StartOffset Size `json:"start_offset,omitempty"`
	// MaxLength is how much of the disk it is about. Default: up to the end.
	MaxLength Size `json:"max_length,omitempty"`
	// MaxEntries is how many entries are answered, at most: NextStartOffsetBytes is where to go on.
	// Default: 10000; no more than 100000.
	MaxEntries uint64 `json:"max_entries,omitempty"`
	// SVG is where a picture of the map goes: of all of it, however many entries are answered. It
	// takes the place of another picture, and of nothing else. Default: nowhere.
	SVG string `json:"svg,omitempty"`
	// Trust is what an image may make the program open. Default: TrustFolder; TrustNamed when Allow
	// is given.
	Trust TrustLevel `json:"trust,omitempty"`
	// Allow is folders, and single files, that images may name, beside what TrustNamed or TrustNone
	// allows. Default: none.
	Allow []string `json:"allow,omitempty"`

	callFields
}

// MapReport is the map of a disk.
type MapReport struct {
	// Path is where the disk is.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Format is the format of its content.
	Format Format `json:"format"`
	// VirtualSizeBytes is the size of the guest's disk, in bytes.
	VirtualSizeBytes uint64 `json:"virtual_size_bytes"`
	// InUse tells whether somebody writes to the disk right now: what is told may be out of date
	// already.
	InUse bool `json:"in_use"`
	// Images is what it consists of, the uppermost first: an entry's Depth counts them from 0.
	Images []MapImage `json:"images"`
	// SVG is where the picture is that was asked for.
	SVG string `json:"svg"`
	// SVGBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	SVGBytesHex string `json:"svg_bytes_hex"`
	// Entries is the runs of the disk, in order; neighbours that are alike are one.
	Entries []MapEntry `json:"entries"`
	// NextStartOffsetBytes is where the next entry begins, in bytes of the disk, where there are
	// more: the StartOffset to go on with. It is 0 where there are none.
	NextStartOffsetBytes uint64 `json:"next_start_offset_bytes"`
	// Meta is who says so.
	Meta Meta `json:"meta"`
}

// MapImage is an image that a disk consists of.
type MapImage struct {
	// Path is where it is.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Format is its format.
	Format Format `json:"format"`
	// DataFile is where the guest's data is, if that is another file.
	DataFile string `json:"data_file"`
	// DataFileBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	DataFileBytesHex string `json:"data_file_bytes_hex"`
}

// MapEntry is a run of a disk, as qemu-img map --output=json has it.
type MapEntry struct {
	// Start is where it begins on the guest's disk, in bytes.
	Start uint64 `json:"start"`
	// Length is how long it is, in bytes.
	Length uint64 `json:"length"`
	// Depth is which image decides what it shows: 0 is the disk itself, 1 its backing file, and so
	// on.
	Depth uint64 `json:"depth"`
	// Present tells whether that image has it allocated, as data or as zeros.
	Present bool `json:"present"`
	// Zero tells whether it reads as zeros.
	Zero bool `json:"zero"`
	// Data tells whether there is room for data.
	Data bool `json:"data"`
	// Compressed tells whether the data is compressed.
	Compressed bool `json:"compressed"`
	// Offset is where it begins in the file that has the data, in bytes; nil where it has no place
	// there.
	Offset *uint64 `json:"offset"`
}

// MeasureRequest asks how large a new image's file would be. What is left at its zero value gets the
// default.
type MeasureRequest struct {
	// Path is the disk whose contents it would have, with everything below it; excludes Size.
	Path string `json:"path,omitempty"`
	// SourceFormat is the format of that disk, where name and content leave a doubt. Default: what
	// they agree on.
	SourceFormat Format `json:"source_format,omitempty"`
	// Snapshot is the id or the name of an internal snapshot of it, whose disk is meant instead.
	// Default: none.
	Snapshot string `json:"snapshot,omitempty"`
	// Size is the size of an empty disk; rounded up to 512 bytes.
	Size Size `json:"size,omitempty"`
	// Format is the format of the new image. Default: FormatQcow2.
	Format Format `json:"format,omitempty"`
	// Layout is how it would be laid out.
	Layout *LayoutOptions `json:"layout,omitempty"`
	// Trust is what an image may make the program open. Default: TrustFolder; TrustNamed when Allow
	// is given.
	Trust TrustLevel `json:"trust,omitempty"`
	// Allow is folders, and single files, that images may name, beside what TrustNamed or TrustNone
	// allows. Default: none.
	Allow []string `json:"allow,omitempty"`

	callFields
}

// MeasureReport is how large the file of a new image would be.
type MeasureReport struct {
	// Path is the disk whose contents it would have.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Format is the format of the new image.
	Format Format `json:"format"`
	// VirtualSizeBytes is the size of the guest's disk, in bytes.
	VirtualSizeBytes uint64 `json:"virtual_size_bytes"`
	// RequiredBytes is the size of the file with the data that there is, in bytes: what reads as
	// zeros takes no room.
	RequiredBytes uint64 `json:"required_bytes"`
	// FullyAllocatedBytes is the size of the file once the guest has written to every cluster, in
	// bytes.
	FullyAllocatedBytes uint64 `json:"fully_allocated_bytes"`
	// BitmapsBytes is what the disk's bitmaps would take besides, in bytes; nil where one of both
	// images cannot have any.
	BitmapsBytes *uint64 `json:"bitmaps_bytes"`
	// Meta is who says so.
	Meta Meta `json:"meta"`
}

// ChainRequest asks for the chain of a disk. What is left at its zero value gets the default.
type ChainRequest struct {
	// Path is the disk.
	Path string `json:"path"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// Dependents is a folder in which, however deep, images are looked for that depend on the disk.
	// Default: nowhere.
	Dependents string `json:"dependents,omitempty"`
	// Trust is what an image may make the program open. Default: TrustFolder; TrustNamed when Allow
	// is given.
	Trust TrustLevel `json:"trust,omitempty"`
	// Allow is folders, and single files, that images may name, beside what TrustNamed or TrustNone
	// allows. Default: none.
	Allow []string `json:"allow,omitempty"`

	callFields
}

// ChainReport is what a disk consists of.
type ChainReport struct {
	// Path is where the disk is.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// InUse tells whether somebody writes to the disk right now: what is told may be out of date
	// already.
	InUse bool `json:"in_use"`
	// Complete tells whether every image that is named was opened.
	Complete bool `json:"complete"`
	// Images is the images, the disk itself first.
	Images []ChainImage `json:"images"`
	// Dependents is what depends on the disk, if that was asked for.
	Dependents *DependentsReport `json:"dependents"`
	// Meta is who says so.
	Meta Meta `json:"meta"`
}

// ChainImage is an image of a chain.
type ChainImage struct {
	// Depth is how many images are above it.
	Depth uint64 `json:"depth"`
	// Path is where it is.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Format is its format.
	Format Format `json:"format"`
	// VirtualSizeBytes is the size of its guest's disk, in bytes.
	VirtualSizeBytes uint64 `json:"virtual_size_bytes"`
	// FileSizeBytes is the length of the file, in bytes.
	FileSizeBytes uint64 `json:"file_size_bytes"`
	// AllocatedBytes is what of it is allocated on the host, in bytes.
	AllocatedBytes uint64 `json:"allocated_bytes"`
	// DataBytes is how much of the disk it stores data for by itself, in bytes of the disk; nil where
	// nobody can tell.
	DataBytes *uint64 `json:"data_bytes"`
	// ZeroBytes is how much of the disk it makes zeros by itself, in bytes of the disk; what was laid
	// out and never written counts too. It is nil where nobody can tell.
	ZeroBytes *uint64 `json:"zero_bytes"`
	// Problem is why it cannot be told how much it has of its own.
	Problem *ProblemReport `json:"problem"`
	// BackingFile is what it names as its backing file.
	BackingFile *NamedFileReport `json:"backing_file"`
	// DataFile is what it names as its external data file.
	DataFile *NamedFileReport `json:"data_file"`
}

// NamedFileReport is a file that an image names.
type NamedFileReport struct {
	// Stored is its name as stored.
	Stored string `json:"stored"`
	// Format is its format as recorded; empty where none is.
	Format string `json:"format"`
	// Path is where that leads; empty where it was not followed.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// FileSizeBytes is the length of the file, in bytes, of a data file.
	FileSizeBytes *uint64 `json:"file_size_bytes"`
	// AllocatedBytes is what of it is allocated on the host, in bytes, of a data file.
	AllocatedBytes *uint64 `json:"allocated_bytes"`
	// Problem is why it was not followed, or could not be opened.
	Problem *ProblemReport `json:"problem"`
}

// ProblemReport is something that is in the way.
type ProblemReport struct {
	// Kind is the kind of error that it would be.
	Kind string `json:"kind"`
	// Message is what it is, for people.
	Message string `json:"message"`
}

// NamedFor is what an image names another file for.
type NamedFor string

const (
	// NamedForBackingFile is said of its backing file.
	NamedForBackingFile NamedFor = "backing_file"
	// NamedForDataFile is said of its external data file.
	NamedForDataFile NamedFor = "data_file"
)

// DependentsReport is what depends on a disk.
type DependentsReport struct {
	// Folder is the folder that was searched.
	Folder string `json:"folder"`
	// FolderBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	FolderBytesHex string `json:"folder_bytes_hex"`
	// Files is how many files were looked at.
	Files uint64 `json:"files"`
	// Complete tells whether all of them could be: else there may be more that depends on the disk.
	Complete bool `json:"complete"`
	// Found is the images that depend on it, directly or by way of one another, the nearest first.
	Found []DependentReport `json:"found"`
	// FoundLeftOut is how many more there are.
	FoundLeftOut uint64 `json:"found_left_out"`
	// NotFollowed is images that name what is below them in a way that is not followed ("json:",
	// "nbd:" and the like): the first of them.
	NotFollowed []string `json:"not_followed"`
	// NotFollowedLeftOut is how many more there are.
	NotFollowedLeftOut uint64 `json:"not_followed_left_out"`
	// Unread is how many files and folders could not be looked at.
	Unread uint64 `json:"unread"`
	// Problems is why not, of the first of them.
	Problems []ProblemReport `json:"problems"`
	// HasMore tells whether the folder has more files than are looked at.
	HasMore bool `json:"has_more"`
}

// DependentReport is an image that depends on a disk.
type DependentReport struct {
	// Depth is how many steps it is away: 1 for an image that names the disk itself.
	Depth uint64 `json:"depth"`
	// Path is where it is.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// NamedFor is what it names the file below it for.
	NamedFor NamedFor `json:"named_for"`
	// Below is the file that it names.
	Below string `json:"below"`
	// BelowBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	BelowBytesHex string `json:"below_bytes_hex"`
}
