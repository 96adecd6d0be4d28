// Package vmdisk is a client of the program vmdisk, which creates, grows, inspects and mends the disks
// of local virtual machines. It keeps one `vmdisk rpc` running and asks it one thing after the other.
package vmdisk

import (
	"context"
	"os"
	"os/exec"
	"sync"
	"time"
)

// Client asks the program. Its zero value is ready to use, by several goroutines at once. The
// program is started by the first call, and again by the next one after it ended.
//
// The program does one thing after the other, so calls wait for one another, also while one of them
// waits for a lock; what shall happen at the same time needs a Client each. Relative paths are
// relative to the folder that this process was in when the program was started. Where the system
// has process groups the program is in one of its own, so that ^C does not reach it.
type Client struct {
	// Program is the program's path, or its name in PATH. Default: the environment variable
	// VMDISK, else "vmdisk" in PATH.
	Program string
	// Grace is how long the program may take to stop, once it was told to, before it is killed.
	// Default: 5 seconds.
	Grace time.Duration

	once   sync.Once
	turn   chan struct{} // holds an element while somebody has the session
	closed chan struct{}

	mutex   sync.Mutex
	session *session
}

// CallOption is something about one call that is no part of the request.
type CallOption func(*callOptions)

type callOptions struct{ progress func(Progress) }

// Progress is how far a long call is. Done never goes backwards within a phase.
type Progress struct {
	// Phase is what is being done.
	Phase string `json:"phase"`
	// Done is how much of it is done.
	Done uint64 `json:"done"`
	// Total is how much there is to do.
	Total uint64 `json:"total"`
	// Unit is what Done and Total count: "bytes".
	Unit string `json:"unit"`
}

// WithProgress has show called with the progress of a call, at most ten times a second, in order,
// by the goroutine that made the call and before it returns. It must not call the same Client.
//
// While show runs, newer progress takes the place of older, and what has not been shown when the
// program answers, or when the context is done, is not shown. The call does not return before show
// does, but a slow show delays nothing else: the program goes on, and is told to stop, and killed if
// it does not, as if there were none. When show panics, the program is stopped as if the context
// were done, and then the panic goes on to who made the call.
func WithProgress(show func(Progress)) CallOption {
	return func(options *callOptions) { options.progress = show }
}

// Create creates a disk: whole and synced under its name, or not at all.
//
// Like every call, it fails with an [*Error] when the program says no, a [*ProgramError] when the
// program cannot be started, and a [*ProcessError] when it ended before it answered. When ctx is
// done the program is told to stop and the call waits until it has, so that nothing is left behind:
// then errors.Is holds with ctx.Err() and with [ErrCancelled]. If the disk was finished first, there
// is no error. A program that does not stop is killed after [Client.Grace]; then errors.Is holds
// with ctx.Err() and errors.As with a [*ProcessError].
func (c *Client) Create(ctx context.Context, request CreateRequest, options ...CallOption) (*CreateReport, error) {
	return call[CreateReport](ctx, c, "create", &request, options)
}

// Ensure creates a disk, or grows it, or leaves it as it is: the one call for every machine start.
// Errors are as with [Client.Create].
func (c *Client) Ensure(ctx context.Context, request EnsureRequest, options ...CallOption) (*EnsureReport, error) {
	return call[EnsureReport](ctx, c, "ensure", &request, options)
}

// Resize grows a disk with its last partition and the filesystem in it, or shrinks it. Errors are as with [Client.Create].
func (c *Client) Resize(ctx context.Context, request ResizeRequest, options ...CallOption) (*ResizeReport, error) {
	return call[ResizeReport](ctx, c, "resize", &request, options)
}

// Rebase puts a disk above another backing file, or above none; it reads the same as before. Errors
// are as with [Client.Create].
func (c *Client) Rebase(ctx context.Context, request RebaseRequest, options ...CallOption) (*RebaseReport, error) {
	return call[RebaseReport](ctx, c, "rebase", &request, options)
}

// Amend makes a disk another kind of qcow2 image, which reads the same. Errors are as with
// [Client.Create].
func (c *Client) Amend(ctx context.Context, request AmendRequest, options ...CallOption) (*AmendReport, error) {
	return call[AmendReport](ctx, c, "amend", &request, options)
}

// Info tells what a disk is; it takes no lock, so it works while a machine runs. Errors are as with
// [Client.Create].
func (c *Client) Info(ctx context.Context, request InfoRequest, options ...CallOption) (*InfoReport, error) {
	return call[InfoReport](ctx, c, "info", &request, options)
}

// Guest tells what is inside of a disk: payload, partitions, filesystems, and how far they would
// grow. It works while a machine runs. Errors are as with [Client.Create].
func (c *Client) Guest(ctx context.Context, request InsideRequest, options ...CallOption) (*InsideReport, error) {
	return call[InsideReport](ctx, c, "guest", &request, options)
}

// Map tells which parts of a disk are data, zeros or nothing, and where in its files they are. A reply
// has 10000 entries at most, unless the request says otherwise; NextStartOffsetBytes is where to go on.
// It works while a machine runs. Errors are as with [Client.Create].
func (c *Client) Map(ctx context.Context, request MapRequest, options ...CallOption) (*MapReport, error) {
	return call[MapReport](ctx, c, "map", &request, options)
}

// Measure tells how large a new image's file would be. Errors are as with [Client.Create].
func (c *Client) Measure(ctx context.Context, request MeasureRequest, options ...CallOption) (*MeasureReport, error) {
	return call[MeasureReport](ctx, c, "measure", &request, options)
}

// Chain tells which images a disk consists of, and which depend on it. Errors are as with
// [Client.Create]; what is wrong below the disk is none.
func (c *Client) Chain(ctx context.Context, request ChainRequest, options ...CallOption) (*ChainReport, error) {
	return call[ChainReport](ctx, c, "chain", &request, options)
}

// Inspect tells what an image file claims, and whether it is safe to use, without following any of
// it. Errors are as with [Client.Create]; that an image is unsafe is none.
func (c *Client) Inspect(ctx context.Context, request InspectRequest, options ...CallOption) (*InspectReport, error) {
	return call[InspectReport](ctx, c, "inspect", &request, options)
}

// Check tells whether an image is sound, and repairs it if asked to. Errors are as with
// [Client.Create]; that an image is damaged is none.
func (c *Client) Check(ctx context.Context, request CheckRequest, options ...CallOption) (*CheckReport, error) {
	return call[CheckReport](ctx, c, "check", &request, options)
}

// UndoRepair takes a repair back. Errors are as with [Client.Create].
func (c *Client) UndoRepair(ctx context.Context, request UndoRepairRequest, options ...CallOption) (*UndoRepairReport, error) {
	return call[UndoRepairReport](ctx, c, "undo_repair", &request, options)
}

// Salvage reads what can be read of a damaged disk into a new raw disk. Errors are as with
// [Client.Create]; that something is lost is none.
func (c *Client) Salvage(ctx context.Context, request SalvageRequest, options ...CallOption) (*SalvageReport, error) {
	return call[SalvageReport](ctx, c, "salvage", &request, options)
}

// Commit writes what a disk holds into the image below it, or into one further down. Errors are as with
// [Client.Create], and [ErrHasDependents] and [ErrHasSnapshots] where something else would change.
func (c *Client) Commit(ctx context.Context, request CommitRequest, options ...CallOption) (*CommitReport, error) {
	return call[CommitReport](ctx, c, "commit", &request, options)
}

// Flatten copies what shows through from below into a disk, which stands alone then. Errors are as with
// [Client.Create].
func (c *Client) Flatten(ctx context.Context, request FlattenRequest, options ...CallOption) (*FlattenReport, error) {
	return call[FlattenReport](ctx, c, "flatten", &request, options)
}

// Compact gives room back to the host that a disk does not need, in place. Errors are as with
// [Client.Create].
func (c *Client) Compact(ctx context.Context, request CompactRequest, options ...CallOption) (*CompactReport, error) {
	return call[CompactReport](ctx, c, "compact", &request, options)
}

// Clone makes a second disk that shows the same. Errors are as with [Client.Create].
func (c *Client) Clone(ctx context.Context, request CloneRequest, options ...CallOption) (*CloneReport, error) {
	return call[CloneReport](ctx, c, "clone", &request, options)
}

// SnapshotList tells which internal snapshots an image has. It takes no lock.
func (c *Client) SnapshotList(ctx context.Context, request SnapshotListRequest, options ...CallOption) (*SnapshotListReport, error) {
	return call[SnapshotListReport](ctx, c, "snapshot_list", &request, options)
}

// SnapshotShow tells all that is known of a snapshot. It takes no lock.
func (c *Client) SnapshotShow(ctx context.Context, request SnapshotShowRequest, options ...CallOption) (*SnapshotShowReport, error) {
	return call[SnapshotShowReport](ctx, c, "snapshot_show", &request, options)
}

// SnapshotCreate keeps what a disk holds now under a name, inside of the image.
func (c *Client) SnapshotCreate(ctx context.Context, request SnapshotCreateRequest, options ...CallOption) (*SnapshotChangeReport, error) {
	return call[SnapshotChangeReport](ctx, c, "snapshot_create", &request, options)
}

// SnapshotApply makes a disk what it was when a snapshot was taken; what it holds now is lost.
func (c *Client) SnapshotApply(ctx context.Context, request SnapshotApplyRequest, options ...CallOption) (*SnapshotChangeReport, error) {
	return call[SnapshotChangeReport](ctx, c, "snapshot_apply", &request, options)
}

// SnapshotDelete deletes a snapshot; the disk stays as it is.
func (c *Client) SnapshotDelete(ctx context.Context, request SnapshotDeleteRequest, options ...CallOption) (*SnapshotChangeReport, error) {
	return call[SnapshotChangeReport](ctx, c, "snapshot_delete", &request, options)
}

// Convert writes what the guest sees of a disk as a new one. Errors are as with [Client.Create].
func (c *Client) Convert(ctx context.Context, request ConvertRequest, options ...CallOption) (*ConvertReport, error) {
	return call[ConvertReport](ctx, c, "convert", &request, options)
}

// Compare compares what the guests of two disks see. Errors are as with [Client.Create]; that they
// differ is none.
func (c *Client) Compare(ctx context.Context, request CompareRequest, options ...CallOption) (*CompareReport, error) {
	return call[CompareReport](ctx, c, "compare", &request, options)
}

// Hash hashes what the guest of a disk sees: the same for every format. Errors are as with
// [Client.Create].
func (c *Client) Hash(ctx context.Context, request HashRequest, options ...CallOption) (*HashReport, error) {
	return call[HashReport](ctx, c, "hash", &request, options)
}

// Capabilities tells what the program and the host can do. Errors are as with [Client.Create].
func (c *Client) Capabilities(ctx context.Context, request CapabilitiesRequest, options ...CallOption) (*CapabilitiesReport, error) {
	return call[CapabilitiesReport](ctx, c, "capabilities", &request, options)
}

// Close lets the program finish what it does, for as long as [Client.Grace] allows, and ends it.
// Calls that wait for their turn, and later ones, fail with [ErrClosed]. The error is a
// [*ProcessError] if the program had to be killed; that it was gone before is no error here. It may
// be called again, and then returns nil.
func (c *Client) Close() error {
	c.init()
	c.mutex.Lock()
	if !isClosed(c.closed) {
		close(c.closed)
	}
	session := c.session
	c.mutex.Unlock()
	if session == nil {
		return nil
	}
	return session.close(ErrClosed)
}

func call[R any](ctx context.Context, c *Client, method string, request request, options []CallOption) (*R, error) {
	var chosen callOptions
	for _, option := range options {
		option(&chosen)
	}
	fields := request.fields()
	fields.Protocol, fields.Progress = protocol, chosen.progress != nil
	params, err := encode(request)
	if err != nil {
		return nil, err
	}

	c.init()
	if isClosed(c.closed) { // Also when the others are ready.
		return nil, ErrClosed
	}
	if ctx.Err() != nil {
		return nil, notBegun(ctx)
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-c.closed:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, notBegun(ctx)
	}
	session, err := c.running()
	if err != nil {
		return nil, err
	}
	report := new(R)
	err = session.call(ctx, method, params, chosen.progress, report)
	if err != nil {
		return nil, err
	}
	return report, nil
}

func notBegun(ctx context.Context) error {
	data := ErrorData{Kind: ErrCancelled}
	return &stoppedError{ctx.Err(), &Error{Message: "the call was not begun", ErrorData: data}}
}

func (c *Client) init() {
	c.once.Do(func() {
		c.turn, c.closed = make(chan struct{}, 1), make(chan struct{})
	})
}

// running is a session that has not ended.
func (c *Client) running() (*session, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if isClosed(c.closed) {
		return nil, ErrClosed
	}
	if c.session != nil && !c.session.ended() {
		return c.session, nil
	}
	path, from, err := c.find()
	if err == nil {
		c.session, err = start(path, c.grace())
	}
	if err != nil {
		c.session = nil
		return nil, &ProgramError{Program: path, From: from, Err: err}
	}
	return c.session, nil
}

// find is the program's path, and who named it.
func (c *Client) find() (path, from string, err error) {
	path, from = "vmdisk", "PATH"
	if variable := os.Getenv("VMDISK"); variable != "" {
		path, from = variable, "VMDISK"
	}
	if c.Program != "" {
		path, from = c.Program, "Client.Program"
	}
	found, err := exec.LookPath(path)
	if err != nil {
		return path, from, err
	}
	return found, from, nil
}

func (c *Client) grace() time.Duration {
	if c.Grace > 0 {
		return c.Grace
	}
	return 5 * time.Second
}
