package vmdisk

import "context"

// BitmapListRequest asks for the persistent dirty bitmaps of an image. What is left at its zero value
// gets the default.
type BitmapListRequest struct {
	// Path is the disk: a qcow2 image.
	Path string `json:"path"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// Count has the bitmaps read too, and tells how much each has as dirty. Default: false.
	Count bool `json:"count,omitempty"`

	callFields
}

// BitmapAddRequest asks for a bitmap that has nothing as dirty. What is left at its zero value gets the
// default.
type BitmapAddRequest struct {
	// Path is the disk: a qcow2 image of version 3.
	Path string `json:"path"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// Name is the name: 1 to 1023 bytes, none of which is 0, that no bitmap of the image has.
	Name string `json:"name"`
	// Granularity is bytes of the disk that a bit stands for: a power of two from 512 to 2 GiB.
	// Default: a cluster, but from 4 KiB to 64 KiB.
	Granularity Size `json:"granularity,omitempty"`
	// Disabled has it left as it is by programs that would keep it up to date. Default: false.
	Disabled bool `json:"disabled,omitempty"`
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

// BitmapRemoveRequest asks to remove a bitmap, or all of them.
type BitmapRemoveRequest struct {
	// Path is the disk: a qcow2 image.
	Path string `json:"path"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// Name is the name of the one; excludes All.
	Name string `json:"name,omitempty"`
	// All removes every bitmap, those also that the image does not vouch for any more. Default: false.
	All bool `json:"all,omitempty"`
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

// BitmapRequest asks to change a bitmap.
type BitmapRequest struct {
	// Path is the disk: a qcow2 image.
	Path string `json:"path"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// Name is the bitmap's name.
	Name string `json:"name"`
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

// BitmapMergeRequest asks to merge bitmaps into another one.
type BitmapMergeRequest struct {
	// Path is the disk: a qcow2 image.
	Path string `json:"path"`
	// Format is its format, where name and content leave a doubt. Default: what they agree on.
	Format Format `json:"format,omitempty"`
	// Name is the name of the bitmap that changes.
	Name string `json:"name"`
	// From is the names of those that are merged into it; they stay as they are.
	From []string `json:"from"`
	// Source is the image that they are in, of a disk of the same size. Default: the same image.
	Source string `json:"source,omitempty"`
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

// BitmapListReport is the bitmaps of an image.
type BitmapListReport struct {
	// Path is the disk.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Bitmaps is its bitmaps, in the order of the image.
	Bitmaps []BitmapReport `json:"bitmaps"`
	// Lost is how many bitmaps it had before a program that does not keep them wrote to it: they are
	// not true any more, and their room is leaked.
	Lost uint64 `json:"lost"`
	// Meta is who says so.
	Meta Meta `json:"meta"`
}

// BitmapChangeReport is what a change of bitmaps did.
type BitmapChangeReport struct {
	// Path is the disk.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// Changed tells whether anything was written; false where all was as asked for already.
	Changed bool `json:"changed"`
	// Bitmaps is the bitmaps that the image has now, in its order.
	Bitmaps []BitmapReport `json:"bitmaps"`
	// FreedBytes is bytes of the file whose clusters were freed.
	FreedBytes uint64 `json:"freed_bytes"`
	// RefcountsRebuilt tells whether reference counts of a dirty image were rebuilt first.
	RefcountsRebuilt bool `json:"refcounts_rebuilt"`
	// Notes is what else the caller should know, for people.
	Notes []string `json:"notes"`
	// Meta is who did it.
	Meta Meta `json:"meta"`
}

// BitmapReport is one bitmap.
type BitmapReport struct {
	// Name is its name.
	Name string `json:"name"`
	// NameBytesHex is the name's bytes in hexadecimal, where they are not UTF-8.
	NameBytesHex string `json:"name_bytes_hex"`
	// GranularityBytes is bytes of the disk that a bit stands for.
	GranularityBytes uint64 `json:"granularity_bytes"`
	// Enabled tells whether programs that know bitmaps keep it up to date.
	Enabled bool `json:"enabled"`
	// InUse tells whether whoever had it in use did not save it, or has it in use right now: what it
	// says in the file is not true, and it can only be removed.
	InUse bool `json:"in_use"`
	// ExtraDataBytes is bytes of extra data, which no program is known to write; nil where it has none.
	ExtraDataBytes *uint64 `json:"extra_data_bytes"`
	// ExtraDataCompatible tells whether one who does not know the extra data may use it all the same;
	// nil where it has none.
	ExtraDataCompatible *bool `json:"extra_data_compatible"`
	// DirtyBytes is how much of the disk it has as dirty, in bytes; nil where that was not asked for,
	// or cannot be told.
	DirtyBytes *uint64 `json:"dirty_bytes"`
}

// BitmapList lists the persistent dirty bitmaps of an image; it takes no lock, so it works while a
// machine runs. Errors are as with
// [Client.Create].
func (c *Client) BitmapList(ctx context.Context, request BitmapListRequest, options ...CallOption) (*BitmapListReport, error) {
	return call[BitmapListReport](ctx, c, "bitmap_list", &request, options)
}

// BitmapAdd adds a bitmap to an image, which has nothing as dirty yet. Errors are as with
// [Client.Create].
func (c *Client) BitmapAdd(ctx context.Context, request BitmapAddRequest, options ...CallOption) (*BitmapChangeReport, error) {
	return call[BitmapChangeReport](ctx, c, "bitmap_add", &request, options)
}

// BitmapRemove removes a bitmap from an image, or all of them. Errors are as with
// [Client.Create].
func (c *Client) BitmapRemove(ctx context.Context, request BitmapRemoveRequest, options ...CallOption) (*BitmapChangeReport, error) {
	return call[BitmapChangeReport](ctx, c, "bitmap_remove", &request, options)
}

// BitmapClear has a bitmap forget what is dirty. Errors are as with
// [Client.Create].
func (c *Client) BitmapClear(ctx context.Context, request BitmapRequest, options ...CallOption) (*BitmapChangeReport, error) {
	return call[BitmapChangeReport](ctx, c, "bitmap_clear", &request, options)
}

// BitmapEnable has a bitmap kept up to date by programs that know bitmaps. Errors are as with
// [Client.Create].
func (c *Client) BitmapEnable(ctx context.Context, request BitmapRequest, options ...CallOption) (*BitmapChangeReport, error) {
	return call[BitmapChangeReport](ctx, c, "bitmap_enable", &request, options)
}

// BitmapDisable has a bitmap left as it is by programs that would keep it up to date. Errors are as with
// [Client.Create].
func (c *Client) BitmapDisable(ctx context.Context, request BitmapRequest, options ...CallOption) (*BitmapChangeReport, error) {
	return call[BitmapChangeReport](ctx, c, "bitmap_disable", &request, options)
}

// BitmapMerge has a bitmap take over what others have as dirty. Errors are as with
// [Client.Create].
func (c *Client) BitmapMerge(ctx context.Context, request BitmapMergeRequest, options ...CallOption) (*BitmapChangeReport, error) {
	return call[BitmapChangeReport](ctx, c, "bitmap_merge", &request, options)
}
