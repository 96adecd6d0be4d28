package vmdisk

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// Kind says what went wrong, for programs: errors.Is(err, vmdisk.ErrLocked).
type Kind string

const (
	// ErrBadRequest: the request itself is not understood: a field, a value out of its range.
	ErrBadRequest Kind = "bad_request"
	// ErrProtocolUnsupported: the program speaks another version of the protocol than this client.
	ErrProtocolUnsupported Kind = "protocol_unsupported"
	// ErrBadSize: a size that is zero, negative, without a unit, or above what the format can hold.
	ErrBadSize Kind = "bad_size"
	// ErrWouldShrink: the disk is larger than the size asked for, and shrinking was not allowed.
	ErrWouldShrink Kind = "would_shrink"
	// ErrExists: the target exists already, or something of that name in the image.
	ErrExists Kind = "exists"
	// ErrNotFound: a file, folder, snapshot or bitmap that the request names does not exist.
	ErrNotFound Kind = "not_found"
	// ErrPermission: the system refused access.
	ErrPermission Kind = "permission"
	// ErrLocked: another process uses the disk; trying again later may succeed.
	ErrLocked Kind = "locked"
	// ErrNoSpace: the host file system is full, or cannot hold a file of that length.
	ErrNoSpace Kind = "no_space"
	// ErrIO: a read, write or sync failed for another reason.
	ErrIO Kind = "io"
	// ErrPayloadTooLarge: the keys do not fit in what the guest reads of its disk.
	ErrPayloadTooLarge Kind = "payload_too_large"
	// ErrUnsupportedFeature: the image uses something that this version does not handle.
	ErrUnsupportedFeature Kind = "unsupported_feature"
	// ErrIncompatibleOptions: options that exclude one another.
	ErrIncompatibleOptions Kind = "incompatible_options"
	// ErrCorrupt: the image contradicts its format.
	ErrCorrupt Kind = "corrupt"
	// ErrDirty: the image, or a bitmap in it, was not closed cleanly and cannot be mended for this
	// operation.
	ErrDirty Kind = "dirty"
	// ErrFormatMismatch: name and content of a disk disagree about its format.
	ErrFormatMismatch Kind = "format_mismatch"
	// ErrGuestNotEmpty: the guest's disk holds data that the request would destroy.
	ErrGuestNotEmpty Kind = "guest_not_empty"
	// ErrGuestRefused: what is inside the guest's disk may not be changed.
	ErrGuestRefused Kind = "guest_refused"
	// ErrHasDependents: other images depend on this one.
	ErrHasDependents Kind = "has_dependents"
	// ErrLockUnavailable: the file system offers no locks.
	ErrLockUnavailable Kind = "lock_unavailable"
	// ErrJournalStale: a journal beside the disk does not match the disk.
	ErrJournalStale Kind = "journal_stale"
	// ErrNotADisk: the path is something that cannot be a disk image (a folder, a pipe, a socket).
	ErrNotADisk Kind = "not_a_disk"
	// ErrBackingMissing: the backing file does not exist.
	ErrBackingMissing Kind = "backing_missing"
	// ErrBackingRefused: the trust policy does not allow opening a file that an image names.
	ErrBackingRefused Kind = "backing_refused"
	// ErrBackingCycle: the backing chain comes back to itself, or is deeper than the limit.
	ErrBackingCycle Kind = "backing_cycle"
	// ErrHasSnapshots: the image holds internal snapshots that forbid the operation.
	ErrHasSnapshots Kind = "has_snapshots"
	// ErrCancelled: stopped on request, at a safe point.
	ErrCancelled Kind = "cancelled"
	// ErrInternal: a defect of the program. A kind that this client does not know is one too.
	ErrInternal Kind = "internal"
)

// Error makes a Kind an error, the target of errors.Is.
func (k Kind) Error() string { return "vmdisk: " + strings.ReplaceAll(string(k), "_", " ") }

func (k Kind) known() bool {
	switch k {
	case ErrBadRequest, ErrProtocolUnsupported, ErrBadSize, ErrWouldShrink, ErrExists, ErrNotFound,
		ErrPermission, ErrLocked, ErrNoSpace, ErrIO, ErrPayloadTooLarge, ErrUnsupportedFeature,
		ErrIncompatibleOptions, ErrCorrupt, ErrDirty, ErrFormatMismatch, ErrGuestNotEmpty,
		ErrGuestRefused, ErrHasDependents, ErrLockUnavailable, ErrJournalStale, ErrNotADisk,
		ErrBackingMissing, ErrBackingRefused, ErrBackingCycle, ErrHasSnapshots, ErrCancelled,
		ErrInternal:
		return true
	}
	return false
}

// Error is what a request failed with: the program's answer, or this client's in its place where a
// request cannot be sent or an answer cannot be understood.
type Error struct {
	// Code is JSON-RPC's own code for a request that is not understood, else the positive code of
	// the kind.
	Code int64 `json:"code"`
	// Message is what went wrong, for people: may change, and must not be parsed.
	Message string `json:"message"`
	// ErrorData is what went wrong, for programs.
	ErrorData `json:"data"`
}

// ErrorData is what went wrong, for programs.
type ErrorData struct {
	// Kind is the kind of failure, as the program names it. To compare it, use errors.Is, which
	// knows what to make of a kind that is new.
	Kind Kind `json:"kind"`
	// Retriable tells whether the same request may succeed later without anything being mended.
	Retriable bool `json:"retriable"`
	// Changed tells whether a file that the request names may differ from before. False is a
	// promise.
	Changed bool `json:"changed"`
	// Path is the file that the failure is about, if it is about one.
	Path string `json:"path"`
	// PathBytesHex is its bytes in hexadecimal, where they are not UTF-8.
	PathBytesHex string `json:"path_bytes_hex"`
	// OffsetBytes is the offset in that file, in bytes, if the failure has one.
	OffsetBytes *uint64 `json:"offset_bytes"`
	// Errno is the system's error number; 0 when no system call failed.
	Errno int32 `json:"errno"`
	// Detail is which field of the request is to blame, if one is.
	Detail *Detail `json:"detail"`
	// Hint is what to do about it, for people.
	Hint string `json:"hint"`
	// Holder is the process that holds the lock, where the system tells.
	Holder *Holder `json:"holder"`
	// Supported is the versions of the protocol that the program speaks, with
	// ErrProtocolUnsupported.
	Supported []string `json:"supported"`
}

// Detail is a field of a request that is to blame.
type Detail struct {
	// Field is its name in the protocol, with dots between levels.
	Field string `json:"field"`
	// Nearest is the known field that it was perhaps meant to be.
	Nearest string `json:"nearest"`
}

// Holder is a process that holds a lock.
type Holder struct {
	// PID is its id.
	PID uint32 `json:"pid"`
	// Command is the name of its command.
	Command string `json:"command"`
}

// Error is the message, and the hint if there is one.
func (e *Error) Error() string {
	if e.Hint == "" {
		return "vmdisk: " + e.Message
	}
	return "vmdisk: " + e.Message + ": " + e.Hint
}

// Is makes errors.Is compare with the constants of Kind.
func (e *Error) Is(target error) bool {
	return target == e.Kind || target == ErrInternal && !e.Kind.known()
}

// ErrClosed is what calls of a closed Client fail with.
var ErrClosed = errors.New("vmdisk: the client is closed")

// ProgramError tells that the program cannot be started: it is not there (then errors.Is with
// exec.ErrNotFound or fs.ErrNotExist holds), or the system refuses to run it.
type ProgramError struct {
	// Program is what was looked for.
	Program string
	// From is who named it: "Client.Program", "VMDISK", or "PATH" when nobody did.
	From string
	// Err is what went wrong.
	Err error
}

func (e *ProgramError) Error() string {
	return fmt.Sprintf("vmdisk: cannot run %q (by %s): %v", e.Program, e.From, e.Err)
}

// Unwrap is what went wrong.
func (e *ProgramError) Unwrap() error { return e.Err }

// ProcessError tells that the program ended before it answered. The next call starts it again. A
// disk is then either the old one or the new one; what was left beside it is removed by a later
// Create or Ensure.
type ProcessError struct {
	// State is how it ended: its exit code, or the signal.
	State *os.ProcessState
	// Stderr is the end of what it wrote to standard error, at most 4 KiB.
	Stderr string
	// Err is why the client ended it; io.EOF when it ended by itself.
	Err error
}

func (e *ProcessError) Error() string {
	text := fmt.Sprintf("vmdisk: the program ended before it answered: %v (%v)", e.Err, e.State)
	if e.Stderr != "" {
		text += ": " + strings.TrimSpace(e.Stderr)
	}
	return text
}

// Unwrap is why the client ended it.
func (e *ProcessError) Unwrap() error { return e.Err }

// stoppedError is how a call ended whose context was done: both the context's error and its own.
type stoppedError struct{ context, call error }

func (e *stoppedError) Error() string        { return e.context.Error() + ": " + e.call.Error() }
func (e *stoppedError) Is(target error) bool { return errors.Is(e.context, target) }
func (e *stoppedError) Unwrap() error        { return e.call }
