package siem

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
)

const origin = "signet.test/log"

// madeUp is a log whose entries follow from their index. It grows when a test says so.
type madeUp struct{ size, minimum atomic.Uint64 }

func grown(n uint64) *madeUp {
	l := new(madeUp)
	l.size.Store(n)
	return l
}

func (l *madeUp) Head() checkpoint.Checkpoint {
	return checkpoint.Checkpoint{Origin: origin, Size: l.size.Load()}
}

func (l *madeUp) Minimum() uint64 { return l.minimum.Load() }

func (l *madeUp) EnvelopeRange(_ context.Context, from, to uint64, fn func(uint64, []byte) error) error {
	if to > l.size.Load() {
		return fmt.Errorf("asked for entries before %d of %d", to, l.size.Load())
	}
	if from < l.Minimum() {
		return audit.ErrPruned
	}
	for ; from < to; from++ {
		if err := fn(from, made(from)); err != nil {
			return err
		}
	}
	return nil
}

func made(index uint64) []byte {
	return fmt.Appendf(nil, `{"v":1,"type":"decision","time":"2026-03-01T12:00:00.120Z","service":"records","body":{"allow":true,"resource_id":"%d"}}`, index)
}

// received are the events that a collector has. Each is held against the made-up log.
type received struct {
	mu    sync.Mutex
	count map[uint64]int
	order []uint64
	more  chan struct{}
	bad   string
}

func newReceived() *received {
	return &received{count: map[uint64]int{}, more: make(chan struct{}, 1)}
}

func (r *received) take(event []byte) {
	var v struct {
		Unmapped struct {
			Index    uint64 `json:"index"`
			LeafHash string `json:"leaf_hash"`
		} `json:"unmapped"`
		RawData string `json:"raw_data"`
	}
	err := json.Unmarshal(event, &v)
	r.mu.Lock()
	defer r.mu.Unlock()
	if h := record.LeafHash([]byte(v.RawData)); err != nil || fmt.Sprintf("%x", h) != v.Unmapped.LeafHash {
		r.bad = string(event)
	}
	r.count[v.Unmapped.Index]++
	r.order = append(r.order, v.Unmapped.Index)
	select {
	case r.more <- struct{}{}:
	default:
	}
}

// has says how many of the first n entries are there.
func (r *received) has(n uint64) (count uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range n {
		if r.count[i] > 0 {
			count++
		}
	}
	return count
}

// waits until all of from ≤ index < n are there.
func (r *received) waits(t *testing.T, from, n uint64) {
	t.Helper()
	late := time.After(2 * time.Minute)
	for r.has(n) < n-from {
		select {
		case <-r.more:
		case <-late:
			t.Fatalf("%d of %d entries came", r.has(n), n-from)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bad != "" {
		t.Errorf("not an event: %.2000s", r.bad)
	}
}

// inOrder fails where an entry came before one that is before it had come.
func (r *received) inOrder(t *testing.T, from uint64) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for next, seen := from, r.order; len(seen) > 0; seen = seen[1:] {
		if seen[0] > next {
			t.Fatalf("%d came before %d", seen[0], next)
		}
		next = max(next, seen[0]+1)
	}
}

// lines is a log of what the sender said.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func config(t testing.TB, url string, l Log) Config {
	t.Helper()
	target, err := ParseTarget(url, false)
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		Name: "soc", Target: target, FromStart: true, Cursor: filepath.Join(t.TempDir(), "soc.json"), Log: l, Origin: origin,
		Jitter: func() float64 { return .99 }, Logger: slog.New(slog.DiscardHandler),
	}
}

// runs runs a sender until the test or the function that it returns ends it.
func runs(t testing.TB, c Config) (*Sender, func()) {
	t.Helper()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop := func() { cancel(); <-done }
	t.Cleanup(stop)
	return s, stop
}

// until polls with a deadline.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(2 * time.Minute); !ok(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("never: " + what)
		}
	}
}

// counter is a TPM as far as the log's sealer needs one.
type counter struct{ n atomic.Uint64 }

func (c *counter) State(context.Context) (audit.Anchor, error) {
	return audit.Anchor{Reset: 1, Counter: c.n.Load()}, nil
}
func (c *counter) Increment(context.Context) (uint64, error) { return c.n.Add(1), nil }
func (c *counter) Quote(context.Context, [32]byte) (audit.Statement, error) {
	return audit.Statement{Attest: []byte("q"), Signature: []byte("s"), PCRs: make([]byte, 32)}, nil
}

func (c *counter) CertifyCounter(context.Context, [32]byte) (audit.Statement, error) {
	return audit.Statement{Attest: []byte("c"), Signature: []byte("s")}, nil
}

// realLog is a log on disk, running.
func realLog(t testing.TB) *audit.Log {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := audit.Config{
		Dir: filepath.Join(t.TempDir(), "log"), Origin: origin, Signer: key, Quoter: new(counter), PCRs: []int{0}, IndexKey: make([]byte, 32), Now: time.Now,
		Log: slog.New(slog.DiscardHandler), SealInterval: time.Second, Heartbeat: time.Hour, MaxSealAge: time.Hour, Ballast: 1 << 20, MinFree: 1,
	}
	if err := audit.Create(t.Context(), c, []record.Entry{decision(t, 0)}); err != nil {
		t.Fatal(err)
	}
	l, err := audit.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// secret stands in every payload.
const secret = "physician-x"

func decision(t testing.TB, i int) record.Entry {
	t.Helper()
	body := fmt.Appendf(nil, `{"allow":true,"resource_id":"%d"}`, i)
	e, err := record.New(record.Envelope{Type: record.TypeDecision, Time: time.Now(), Service: "records", User: "ab12", Body: body},
		record.UserPayload{Issuer: "https://idp", Subject: secret}, [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// appends appends n entries with some writers at a time, and returns when all are durable.
func appends(t testing.TB, l *audit.Log, n int) {
	t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				if _, err := l.Append(context.Background(), decision(t, int(i))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
