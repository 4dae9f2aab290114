package audit

import (
	"errors"
	"fmt"
)

var (
	// ErrReadOnly: the log refuses to write until it was repaired and reopened; the message says why.
	ErrReadOnly = errors.New("audit: log is read-only")
	// ErrClock: the clock is behind the last entry, or the entry ahead of the clock. Nothing was written.
	ErrClock = errors.New("audit: clock disagrees with the log")
	// ErrDiskFull: free space is below the watermark. Nothing was written.
	ErrDiskFull = errors.New("audit: disk is below its watermark")
	// ErrClosed: Run has ended or is ending. Nothing was written.
	ErrClosed = errors.New("audit: log is closed")
	// ErrUnknown: the entry may be in the log or not. A failed commit also makes the log read-only, see ErrReopen.
	ErrUnknown = errors.New("audit: outcome unknown")
	// ErrReopen: Run ended because the outcome of a commit is unknown and the disk takes writes again. Close the log and open it
	// from a new process: only that reads what is there, and believes nothing that is in memory.
	ErrReopen = errors.New("audit: the log is to be opened again, to find out what was written")
	// ErrInUse: another process has the log open.
	ErrInUse = errors.New("audit: log is in use")
	// ErrExists: Create found something in its place.
	ErrExists = errors.New("audit: log exists already")
	// ErrNotFound: no such entry, seal or tile, or not yet.
	ErrNotFound = errors.New("audit: not found")
	// ErrPruned: the log no longer has the entry; its leaf and its proofs it has. The newest prune entry says where it is.
	ErrPruned = errors.New("audit: entry was pruned")
	// ErrNotPrunable: a range may not be pruned, or not yet; the message says why. Nothing was written.
	ErrNotPrunable = errors.New("audit: not to be pruned")
	// ErrSealTooOld: the last seal is older than MaxSealAge, or there is none.
	ErrSealTooOld = errors.New("audit: last seal is too old")
	// ErrPrecondition: a precondition without an error of its own does not hold.
	ErrPrecondition = errors.New("audit: precondition does not hold")
)

// PreconditionError rejected one entry; nothing of it was written. It unwraps to the precondition's own error.
type PreconditionError struct {
	Key string
	Err error
}

func (e *PreconditionError) Error() string {
	return fmt.Sprintf("audit: precondition on %q: %v", e.Key, e.Err)
}

func (e *PreconditionError) Unwrap() error { return e.Err }
