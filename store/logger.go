package store

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// trouble is what Badger failed at in the background.
type trouble struct {
	once sync.Once
	is   chan struct{}
	err  error // set before is is closed
}

func (t *trouble) set(err error) {
	t.once.Do(func() {
		t.err = err
		close(t.is)
	})
}

func (t *trouble) get() error {
	select {
	case <-t.is:
		return t.err
	default:
		return nil
	}
}

// wait returns when done is closed, or with the trouble as soon as there is some.
func (t *trouble) wait(done <-chan struct{}) error {
	select {
	case <-t.is:
		return t.err
	case <-done:
		return t.get()
	}
}

// logger passes on what Badger warns of, and is where its background work ends when it fails. Badger would go on: it has written a
// table to MANIFEST that it then removed, repeats the flush and removes the write-ahead log. From then on nobody could tell
// whether a table was lost, so it does not come to that: the goroutine stays here, and the store takes no more.
type logger struct {
	log     *slog.Logger
	trouble *trouble
}

func (l logger) Errorf(format string, args ...any) {
	l.write(slog.LevelError, format, args)
	l.endOn(strings.HasPrefix(format, "error flushing memtable"), format, args)
}

func (l logger) Warningf(format string, args ...any) {
	if strings.Contains(format, "Compact FAILED") {
		args = args[:2] // the third is all of its tables
		format = "compactor %d: %v"
		l.write(slog.LevelError, format, args)
		l.endOn(true, format, args)
	}
	l.write(slog.LevelWarn, format, args)
}

func (logger) Infof(string, ...any) {}

func (logger) Debugf(string, ...any) {}

func (l logger) endOn(failed bool, format string, args []any) {
	if failed {
		l.trouble.set(fmt.Errorf("%w: %s", ErrFailed, fmt.Sprintf(format, args...)))
		select {}
	}
}

func (l logger) write(level slog.Level, format string, args []any) {
	if l.log == nil {
		return
	}
	text := strings.TrimSpace(fmt.Sprintf(format, args...))
	// Badger's logger has no context to pass on.
	l.log.LogAttrs(context.Background(), level, "badger", slog.String("text", text))
}
