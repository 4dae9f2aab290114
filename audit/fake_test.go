package audit

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
)

const testOrigin = "signet.test/log"

// tpm is a Quoter with teeth: it can fail before or after the counter moves, hang, reset, jump and repeat. Its state may
// live in a file, so that it outlives a killed process as a real TPM does.
type tpm struct {
	mu   sync.Mutex
	file string // "" = memory
	at   Anchor
	pcr  byte // the value of the one register that is quoted

	failState, failBefore, failAfter, failQuote, hang bool
	hung                                              chan struct{} // gets a value at each call that hangs
	increments                                        int
}

func newTPM() *tpm { return &tpm{at: Anchor{Reset: 3, Counter: 1000}, hung: make(chan struct{}, 64)} }

func fileTPM(t testing.TB, file string) *tpm {
	q := newTPM()
	q.file = file
	if b, err := os.ReadFile(file); err == nil {
		q.at = Anchor{
			Reset: binary.BigEndian.Uint32(b), Restart: binary.BigEndian.Uint32(b[4:]), Counter: binary.BigEndian.Uint64(b[8:]),
		}
		return q
	}
	if err := q.save(); err != nil {
		t.Fatal(err)
	}
	return q
}

func (q *tpm) save() error {
	if q.file == "" {
		return nil
	}
	b := binary.BigEndian.AppendUint32(nil, q.at.Reset)
	b = binary.BigEndian.AppendUint32(b, q.at.Restart)
	b = binary.BigEndian.AppendUint64(b, q.at.Counter)
	// More than once: a chip does not mind what is injected into calls of the file system.
	var err error
	for range 100 {
		if err = os.WriteFile(q.file+".new", b, 0o600); err == nil {
			if err = os.Rename(q.file+".new", q.file); err == nil {
				return nil
			}
		}
	}
	return err
}

func (q *tpm) set(change func(*tpm)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	change(q)
	if err := q.save(); err != nil {
		panic(err)
	}
}

func (q *tpm) now() Anchor {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.at
}

var errTPM = errors.New("tpm: injected")

func (q *tpm) enter(ctx context.Context) error {
	q.mu.Lock()
	hang := q.hang
	q.mu.Unlock()
	if !hang {
		return nil
	}
	select {
	case q.hung <- struct{}{}:
	default:
	}
	<-ctx.Done()
	return ctx.Err()
}

func (q *tpm) State(ctx context.Context) (Anchor, error) {
	if err := q.enter(ctx); err != nil {
		return Anchor{}, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.failState {
		return Anchor{}, errTPM
	}
	return q.at, nil
}

func (q *tpm) Increment(ctx context.Context) (uint64, error) {
	if err := q.enter(ctx); err != nil {
		return 0, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.failBefore {
		return 0, errTPM
	}
	q.at.Counter++
	q.increments++
	if err := q.save(); err != nil {
		return 0, err
	}
	if q.failAfter {
		return 0, errTPM
	}
	return q.at.Counter, nil
}

func (q *tpm) Quote(ctx context.Context, qualifying [32]byte) (Statement, error) {
	return q.state(ctx, "quote", qualifying)
}

func (q *tpm) CertifyCounter(ctx context.Context, qualifying [32]byte) (Statement, error) {
	return q.state(ctx, "counter", qualifying)
}

func (q *tpm) state(ctx context.Context, what string, qualifying [32]byte) (Statement, error) {
	if err := q.enter(ctx); err != nil {
		return Statement{}, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.failQuote {
		return Statement{}, errTPM
	}
	return Statement{
		Attest: fmt.Appendf(nil, "%s %d.%d %d %x", what, q.at.Reset, q.at.Restart, q.at.Counter, qualifying), Signature: []byte("sig"), PCRs: bytes.Repeat([]byte{q.pcr}, 32),
	}, nil
}

// clock is a settable clock.
type clock struct {
	mu     sync.Mutex
	offset time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset)
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += d
}

// testKey is the same in every process, so that a re-executed test continues the log of its parent.
func testKey(t testing.TB) *ecdsa.PrivateKey {
	d := sha256.Sum256([]byte("audit test key"))
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d[:])
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func testConfig(t testing.TB, q Quoter) Config {
	return Config{
		Dir: filepath.Join(t.TempDir(), "log"), Origin: testOrigin, Signer: testKey(t), Quoter: q,
		IndexKey: make([]byte, 32), PCRs: []int{7}, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		SealInterval: time.Millisecond, Heartbeat: time.Hour, MaxSealAge: time.Hour, Ballast: 1 << 20,
		hooks: hooks{space: func(string) (uint64, uint64, error) { return 50 << 30, 100 << 30, nil }},
	}
}

func ceremony(t testing.TB) []record.Entry {
	return []record.Entry{entry(t, time.Now(), record.TypeCeremony, "", nil)}
}

func entry(t testing.TB, at time.Time, kind record.Type, task string, payload any, m ...record.Mutation) record.Entry {
	t.Helper()
	var salt [32]byte
	if _, err := rand.Read(salt[:]); err != nil {
		t.Fatal(err)
	}
	e, err := record.New(record.Envelope{Type: kind, Time: at, Task: task, Body: []byte(`{}`)}, payload, salt)
	if err != nil {
		t.Fatal(err)
	}
	e.Mutations = m
	if task != "" {
		e.Terms = []record.Term{{Kind: "task", ID: task}}
	}
	return e
}

func create(t testing.TB, cfg Config) {
	t.Helper()
	if err := Create(t.Context(), cfg, ceremony(t)); err != nil {
		t.Fatal(err)
	}
}

// running is an open log whose Run runs until stop.
type running struct {
	*Log
	stop func() error
}

func start(t testing.TB, cfg Config) running {
	t.Helper()
	l, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	var once sync.Once
	var result error
	stop := func() error {
		once.Do(func() {
			cancel()
			result = errors.Join(<-done, l.Close())
		})
		return result
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Logf("stop: %v", err)
		}
	})
	return running{l, stop}
}

func (r running) mustStop(t testing.TB) {
	t.Helper()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
}

func mustAppend(t testing.TB, l *Log, e record.Entry) Position {
	t.Helper()
	pos, err := l.Append(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	return pos
}

// mustFsck fails on any finding.
func mustFsck(t testing.TB, cfg Config) Report {
	t.Helper()
	r, err := Fsck(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Findings {
		t.Errorf("fsck: %s %d: %s", f.What, f.Index, f.Detail)
	}
	return r
}

func wantReason(t testing.TB, l *Log, word string) {
	t.Helper()
	st := l.Status()
	for _, r := range st.Reasons {
		if strings.HasPrefix(r, word+":") {
			if st.Writable {
				t.Error("writable with a reason")
			}
			return
		}
	}
	t.Errorf("reasons %q, want one that begins with %q", st.Reasons, word)
}
