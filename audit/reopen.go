package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/signet-pki/signet/internal/durable"
)

// reopenedName is the file that says when the log was last opened again because of a doubt. Writing it is also the proof that the disk
// takes writes.
const reopenedName = "reopened"

// Not more often than this, or the disk is not well and a person is to look at it.
const (
	maxReopenings    = 5
	reopeningsWithin = time.Hour
)

var errOften = fmt.Errorf("reopened %d times within %s: see to the disk, then restart", maxReopenings, reopeningsWithin)

// awaitReopening returns [ErrReopen] when opening the log again can settle what it is broken by, or nil when ctx ends.
func (l *Log) awaitReopening(ctx context.Context) error {
	wait := pace{next: time.Now().Add(time.Second)} // for who asks why
	for l.state.inDoubt() {
		if !pause(ctx, time.Until(wait.next)) {
			return nil
		}
		err := l.noteReopening()
		if err == nil {
			return ErrReopen
		}
		l.cfg.Log.LogAttrs(ctx, slog.LevelError, "not reopened", slog.Any("error", err))
		if errors.Is(err, errOften) {
			l.state.fault("commit_unknown", err)
			break
		}
		wait.failed(time.Now())
	}
	<-ctx.Done()
	return nil
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// noteReopening makes durable that the log is about to be opened again. It fails where there was too little room or too many
// of them, or where nothing can be made durable.
func (l *Log) noteReopening() error {
	if low, err := l.diskLow(); err != nil || low {
		return errors.Join(err, ErrDiskFull)
	}
	path := filepath.Join(l.cfg.Dir, reopenedName)
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("audit: %w", err)
	}
	now := l.cfg.Now().UTC()
	recent := []string{now.Format(time.RFC3339)}
	for word := range strings.FieldsSeq(string(data)) {
		// What is in the future, or no time, is of a clock or a disk that is not well.
		if at, err := time.Parse(time.RFC3339, word); err != nil || now.Sub(at) < reopeningsWithin {
			recent = append(recent, word)
		}
	}
	if len(recent) > maxReopenings {
		return errOften
	}
	return durable.WriteFile(path, []byte(strings.Join(recent, "\n")+"\n"), 0o600)
}
