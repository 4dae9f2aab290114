package audit

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-pki/signet/audit/record"
)

var errInjected = errors.New("injected")

// doubted is a log that runs and does not know what became of its last commit.
func doubted(t *testing.T, cfg Config) (l *Log, ended chan error) {
	t.Helper()
	var broken bool
	cfg.hooks.at = func(point string) error {
		if broken && point == "committed" {
			return errInjected
		}
		return nil
	}
	l, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ended = make(chan error, 1)
	it, err := l.newItem(entry(t, cfg.Now(), record.TypeTask, "", nil))
	if err != nil {
		t.Fatal(err)
	}
	broken = true
	l.commit([]*item{it})
	broken = false
	if r := <-it.done; !errors.Is(r.err, ErrUnknown) {
		t.Fatalf("outcome: %v", r.err)
	}
	go func() { ended <- l.Run(t.Context()) }()
	return l, ended
}

// ends waits for Run, and closes.
func ends(t *testing.T, l *Log, ended chan error) error {
	t.Helper()
	err := <-ended
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return err
}

// writer is what a handler of a logger writes lines to.
type writer func(line []byte)

func (w writer) Write(line []byte) (int, error) {
	w(line)
	return len(line), nil
}

// A log in doubt ends, so that it is opened again, and then goes on by itself: with what was written, and once.
func TestReopens(t *testing.T) {
	q := newTPM()
	cfg := testConfig(t, q)
	create(t, cfg)
	l, ended := doubted(t, cfg)
	if err := ends(t, l, ended); !errors.Is(err, ErrReopen) {
		t.Fatalf("Run: %v", err)
	}
	before := l.Head().Size
	again := start(t, cfg)
	if st := again.Status(); !st.Writable || st.Size != before+1 {
		t.Errorf("reopened: %+v", st)
	}
	sealNow(t, again.Log)
	again.mustStop(t)
	mustFsck(t, cfg)
}

// While nothing can be made durable the log stays as it is, readable and with its reason; when that passes, it ends.
func TestReopensWhenTheDiskIsWell(t *testing.T) {
	cfg := testConfig(t, newTPM())
	create(t, cfg)
	block := filepath.Join(cfg.Dir, reopenedName)
	if err := os.Mkdir(block, 0o700); err != nil {
		t.Fatal(err)
	}
	synced := make(chan struct{}, 16)
	cfg.Log = slog.New(slog.NewTextHandler(writer(func(line []byte) {
		if bytes.Contains(line, []byte("not reopened")) {
			synced <- struct{}{}
		}
	}), nil))
	l, ended := doubted(t, cfg)
	for range 3 {
		<-synced
		wantReason(t, l, "commit_unknown")
		if _, err := l.Append(t.Context(), entry(t, time.Now(), record.TypeTask, "", nil)); !errors.Is(err, ErrReadOnly) {
			t.Errorf("append: %v", err)
		}
		if _, err := l.Read(t.Context(), 0); err != nil {
			t.Errorf("read: %v", err)
		}
	}
	select {
	case err := <-ended:
		t.Fatalf("Run ended: %v", err)
	default:
	}
	if err := os.Remove(block); err != nil {
		t.Fatal(err)
	}
	if err := ends(t, l, ended); !errors.Is(err, ErrReopen) {
		t.Fatalf("Run: %v", err)
	}
	start(t, cfg).mustStop(t)
}

// What is tried again and again is not transient: then a person is asked.
func TestReopensSeldom(t *testing.T) {
	cfg := testConfig(t, newTPM())
	l := &Log{cfg: cfg}
	if err := os.Mkdir(cfg.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	l.cfg.Now = func() time.Time { return now }
	for range maxReopenings {
		if err := l.noteReopening(); err != nil {
			t.Fatal(err)
		}
		now = now.Add(10 * time.Minute)
	}
	if err := l.noteReopening(); !errors.Is(err, errOften) {
		t.Errorf("once more: %v", err)
	}
	now = now.Add(10 * time.Minute) // an hour after the first
	if err := l.noteReopening(); err != nil {
		t.Error(err)
	}
	now = now.Add(-48 * time.Hour)
	if err := l.noteReopening(); !errors.Is(err, errOften) {
		t.Errorf("the clock went back: %v", err)
	}
	l.cfg.hooks.space = func(string) (uint64, uint64, error) { return 1, 100, nil }
	if err := l.noteReopening(); !errors.Is(err, ErrDiskFull) {
		t.Errorf("a full disk: %v", err)
	}
}

// A log that was reopened too often stays until its context ends, and says so.
func TestStaysInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(t, newTPM())
		l := &Log{cfg: cfg}
		if err := os.Mkdir(cfg.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		times := strings.Repeat(time.Now().UTC().Format(time.RFC3339)+"\n", maxReopenings)
		if err := os.WriteFile(filepath.Join(cfg.Dir, reopenedName), []byte(times), 0o600); err != nil {
			t.Fatal(err)
		}
		l.state.doubt(errInjected)
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Minute)
		defer cancel()
		if err := l.awaitReopening(ctx); err != nil || time.Since(began) != 50*time.Minute {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		if reasons := strings.Join(l.state.reasons(), "; "); !strings.Contains(reasons, "injected") || !strings.Contains(reasons, "see to the disk") {
			t.Errorf("reasons %q", reasons)
		}
	})
}
