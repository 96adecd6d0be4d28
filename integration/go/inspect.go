package vmdisk

// InspectRequest asks what an image file claims. What is left at its zero value gets the default.
type InspectRequest struct {
	// Path is the disk.
	Path string `json:"path"`
	// Format is the format that it is said to have. Default: what its name promises.
	Format Format `json:"format,omitempty"`
	// Untrusted judges the image as one that a stranger made. Default: false.
	Untrusted bool `json:"untrusted,omitempty"`
	// MaxSize is, with Untrusted, the largest size of the guest's disk that is safe. Default: none.
	MaxSize Size `json:"max_size,omitempty"`

	callFields
}

// InspectReport is what an image file claims. Nothing of it is trusted, and none of it was followed.
type InspectReport struct {
	// Path is the disk.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Content is what the content begins as: "qcow2", a format that is not handled by its name, else
	// "raw".
	Content string `json:"content"`
	// FormatDoubt is why that would not be believed by a verb that writes; else empty.
	FormatDoubt string `json:"format_doubt"`
	// FileSizeBytes is the length of the file, in bytes.
	FileSizeBytes uint64 `json:"file_size_bytes"`
	// AllocatedBytes is what of it is allocated on the host, in bytes.
	AllocatedBytes uint64 `json:"allocated_bytes"`
	// Header is what a qcow2 header claims, where there is one of a version that is known.
	Header *HeaderReport `json:"header"`
	// HeaderProblem is why no verb would read that header; empty where one would.
	HeaderProblem string `json:"header_problem"`
	// Verdict is whether it is safe to use, if that was asked for.
	Verdict SafetyVerdict `json:"verdict"`
	// Reasons is why it is not, if that was asked for.
	Reasons []Reason `json:"reasons"`
	// Meta is who says so.
	Meta Meta `json:"meta"`
}

// HeaderReport is a qcow2 header, field by field.
type HeaderReport struct {
	// Version is the version of the format.
	Version uint64 `json:"version"`
	// HeaderLengthBytes is the length of the fixed part, in bytes.
	HeaderLengthBytes uint64 `json:"header_length_bytes"`
	// ClusterBits is the base-2 logarithm of the cluster size.
	ClusterBits uint64 `json:"cluster_bits"`
	// VirtualSizeBytes is the size of the guest's disk, in bytes.
	VirtualSizeBytes uint64 `json:"virtual_size_bytes"`
	// CryptMethod is the encryption method; 0 is none.
	CryptMethod uint64 `json:"crypt_method"`
	// RefcountOrder is the base-2 logarithm of the width of reference counts, in bits.
	RefcountOrder uint64 `json:"refcount_order"`
	// CompressionMethod is how compressed clusters are packed, as stored: 0 deflate, 1 Zstandard.
	CompressionMethod uint64 `json:"compression_method"`
	// Features is every feature bit that is set.
	Features []FeatureReport `json:"features"`
	// Tables is the tables that it leads to.
	Tables []TableReport `json:"tables"`
	// Extensions is the first header extensions, in their order.
	Extensions []ExtensionReport `json:"extensions"`
	// ExtensionsLeftOut is how many more there are.
	ExtensionsLeftOut uint64 `json:"extensions_left_out"`
	// Snapshots is how many internal snapshots there are.
	Snapshots uint64 `json:"snapshots"`
	// Bitmaps is how many persistent bitmaps there are.
	Bitmaps uint64 `json:"bitmaps"`
	// BackingFile is the backing file's name as stored. Not trusted, not opened.
	BackingFile string `json:"backing_file"`
	// BackingFormat is the backing file's format as recorded.
	BackingFormat string `json:"backing_format"`
	// DataFile is the external data file's name as stored. Not trusted, not opened.
	DataFile string `json:"data_file"`
}

// FeatureReport is a feature bit that is set.
type FeatureReport struct {
	// Set is the set that it belongs to.
	Set FeatureSet `json:"set"`
	// Bit is its number.
	Bit uint64 `json:"bit"`
	// Name is what the image calls it, else the format; empty where neither does.
	Name string `json:"name"`
	// Known tells whether the program knows it.
	Known bool `json:"known"`
}

// TableReport is a table that the header leads to.
type TableReport struct {
	// Name is what it is.
	Name string `json:"name"`
	// OffsetBytes is where it begins in the file, in bytes.
	OffsetBytes uint64 `json:"offset_bytes"`
	// Count is its entries; of the refcount table, its clusters.
	Count uint64 `json:"count"`
	// LengthBytes is its length in bytes; nil where the header does not say.
	LengthBytes *uint64 `json:"length_bytes"`
}

// ExtensionReport is a header extension.
type ExtensionReport struct {
	// ID is its type, in hexadecimal.
	ID string `json:"id"`
	// Name is what it is; empty where that is not known.
	Name string `json:"name"`
	// OffsetBytes is where its data begins in the file, in bytes.
	OffsetBytes uint64 `json:"offset_bytes"`
	// LengthBytes is the length of its data, in bytes.
	LengthBytes uint64 `json:"length_bytes"`
}

// Reason is one thing that speaks against an image.
type Reason struct {
	// Rule is the rule.
	Rule Rule `json:"rule"`
	// Message is the same in words; what they quote of the image is escaped.
	Message string `json:"message"`
}

// SafetyVerdict is whether an image is safe to use.
type SafetyVerdict string

const (
	// VerdictSafe is said where no rule speaks against it.
	VerdictSafe SafetyVerdict = "safe"
	// VerdictUnsafe is said where some rule does.
	VerdictUnsafe SafetyVerdict = "unsafe"
)

// FeatureSet is what a program must do about a feature bit that it does not know.
type FeatureSet string

const (
	// FeatureIncompatible is for bits of images that it must not open.
	FeatureIncompatible FeatureSet = "incompatible"
	// FeatureCompatible is for bits that it may ignore.
	FeatureCompatible FeatureSet = "compatible"
	// FeatureAutoclear is for bits that it clears when it writes.
	FeatureAutoclear FeatureSet = "autoclear"
)

// Rule is what speaks against an image.
type Rule string

const (
	// RuleFormat is name and content that disagree about the format, or a content of several.
	RuleFormat Rule = "format"
	// RuleUnsupportedFormat is a format that is not handled.
	RuleUnsupportedFormat Rule = "unsupported_format"
	// RuleMalformedHeader is a header that breaks a rule of the format.
	RuleMalformedHeader Rule = "malformed_header"
	// RuleBackingFile is a backing file that would be opened.
	RuleBackingFile Rule = "backing_file"
	// RuleDataFile is an external data file that would be opened, and written.
	RuleDataFile Rule = "data_file"
	// RuleUnknownFeature is a feature, or a version, that the program does not know.
	RuleUnknownFeature Rule = "unknown_feature"
	// RuleExtendedL2 is extended L2 entries, which other programs that judge images do not accept.
	RuleExtendedL2 Rule = "extended_l2"
	// RuleEncryption is encryption.
	RuleEncryption Rule = "encryption"
	// RuleOversizeTable is a table that is larger than it need be, than is allowed, or than the file.
	RuleOversizeTable Rule = "oversize_table"
	// RuleOversizeDisk is a guest's disk that is larger than is allowed.
	RuleOversizeDisk Rule = "oversize_disk"
	// RuleMarkedCorrupt is an image that is marked as damaged.
	RuleMarkedCorrupt Rule = "marked_corrupt"
)
