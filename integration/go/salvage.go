package vmdisk

// SalvageRequest asks for what can be read of a damaged disk. What is left at its zero value gets
// the default.
type SalvageRequest struct {
	// Path is the disk.
	Path string `json:"path"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// Out is where the new raw disk will be.
	Out string `json:"out"`
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

// SalvageReport is what was read of a damaged disk, and what is lost.
type SalvageReport struct {
	// Path is the disk that was read.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Format is its format.
	Format Format `json:"format"`
	// Out is where the new raw disk is.
	Out string `json:"out"`
	// OutBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	OutBytesHex string `json:"out_bytes_hex"`
	// VirtualSizeBytes is the size of the guest's disk, in bytes.
	VirtualSizeBytes uint64 `json:"virtual_size_bytes"`
	// AllocatedBytes is what of the new disk is allocated on the host, in bytes; what reads as zeros
	// is not.
	AllocatedBytes uint64 `json:"allocated_bytes"`
	// LostBytes is all that is lost, in bytes of the guest's disk: the new disk has zeros there.
	LostBytes uint64 `json:"lost_bytes"`
	// Lost is the first parts that are lost, in the order of the disk.
	Lost []Loss `json:"lost"`
	// LostLeftOut is how many more there are.
	LostLeftOut uint64 `json:"lost_left_out"`
	// Notes is what else the caller should know, for people.
	Notes []string `json:"notes"`
	// Meta is who did it.
	Meta Meta `json:"meta"`
}

// Loss is a part of the guest's disk that is lost.
type Loss struct {
	// GuestOffsetBytes is where it begins on the guest's disk, in bytes.
	GuestOffsetBytes uint64 `json:"guest_offset_bytes"`
	// LengthBytes is its length, in bytes.
	LengthBytes uint64 `json:"length_bytes"`
	// Reason is why.
	Reason Lost `json:"reason"`
}

// IfTaken is what to do when a file is where a new one shall be.
type IfTaken string

const (
	// IfTakenFail refuses.
	IfTakenFail IfTaken = "fail"
	// IfTakenReplace replaces it by the new disk, atomically.
	IfTakenReplace IfTaken = "replace"
)

// Lost is why a part of a disk is lost.
type Lost string

const (
	// LostUnreadable is what the medium does not give back, or not the table that leads to it.
	LostUnreadable Lost = "unreadable"
	// LostBeyondFile is what lies behind the end of the file, or the table that leads to it does.
	LostBeyondFile Lost = "beyond_file"
	// LostMalformed is what an entry leads to that breaks a rule of the format.
	LostMalformed Lost = "malformed"
	// LostCompressed is what is compressed and does not unpack.
	LostCompressed Lost = "compressed"
	// LostBacking is what is in a backing file that was not opened, or that is damaged there.
	LostBacking Lost = "backing"
	// LostOverclaimed is where more of the disk claims the same part of the file than the file can
	// hold.
	LostOverclaimed Lost = "overclaimed"
)
