package audit

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
)

func TestAppendReadProve(t *testing.T) {
	cfg := testConfig(t, newTPM())
	create(t, cfg)
	l := start(t, cfg)
	const n = 1000
	positions := make([]Position, n)
	envelopes := make([][]byte, n)
	var wg sync.WaitGroup
	for w := range 10 {
		wg.Go(func() {
			for i := w; i < n; i += 10 {
				e := entry(t, time.Now(), record.TypeDecision, fmt.Sprint("task-", i%7), map[string]int{"i": i})
				envelopes[i] = e.Envelope
				var err error
				if positions[i], err = l.Append(t.Context(), e); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	head := l.Head()
	hasher := rfc6962.New(crypto.SHA256)
	seen := map[uint64]bool{}
	for i, pos := range positions {
		s, err := l.Read(t.Context(), pos.Index)
		if err != nil || !bytes.Equal(s.Envelope, envelopes[i]) || seen[pos.Index] {
			t.Fatalf("entry %d at %d: %v", i, pos.Index, err)
		}
		seen[pos.Index] = true
		env, err := record.Check(s.Envelope)
		if err != nil || env.PayloadHash != record.PayloadHash(s.Salt, s.Payload) {
			t.Fatalf("entry %d: payload: %v", i, err)
		}
		p, err := l.Inclusion(t.Context(), pos.Index, head.Size)
		if err != nil {
			t.Fatal(err)
		}
		if err := proof.VerifyInclusion(hasher, pos.Index, head.Size, pos.LeafHash[:], slices2(p), head.Root[:]); err != nil {
			t.Fatalf("entry %d at %d: %v", i, pos.Index, err)
		}
	}
	if _, err := l.WaitSealed(t.Context(), positions[n-1].Index); err != nil {
		t.Fatal(err)
	}
	sealed, _, _ := l.LastSeal()
	verifier, err := checkpoint.NewVerifier(testOrigin, &testKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := checkpoint.Open(sealed.Checkpoint, verifier)
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []uint64{1, 256, 300, 1000} {
		old, err := l.Consistency(t.Context(), from, c.Size)
		if err != nil {
			t.Fatal(err)
		}
		tree, err := merkle.Load(from, tiles{db: l.db})
		if err != nil {
			t.Fatal(err)
		}
		root := tree.Root()
		if err := proof.VerifyConsistency(hasher, from, c.Size, slices2(old), root[:], c.Root[:]); err != nil {
			t.Errorf("consistency from %d: %v", from, err)
		}
	}
	found, err := l.Lookup(t.Context(), record.Term{Kind: "task", ID: "task-3"}, 0, 10000)
	if err != nil || len(found) != (n+3)/7 {
		t.Errorf("lookup: %d indexes, %v", len(found), err)
	}
	rest, err := l.Lookup(t.Context(), record.Term{Kind: "task", ID: "task-3"}, found[5]+1, 2)
	if err != nil || len(rest) != 2 || rest[0] != found[6] || rest[1] != found[7] {
		t.Errorf("lookup from the middle: %v, %v", rest, err)
	}
	l.mustStop(t)
	if _, err := l.Append(t.Context(), entry(t, time.Now(), record.TypeDecision, "", nil)); !errors.Is(err, ErrClosed) {
		t.Errorf("append after the end: %v", err)
	}
	r := mustFsck(t, cfg)
	if r.Payloads != n || r.Seals < 2 || r.Tiles < 3 {
		t.Errorf("fsck read %+v", r)
	}
	again := start(t, cfg)
	if st := again.Status(); !st.Writable || st.Size < n+3 {
		t.Errorf("reopened: %+v", st)
	}
	mustAppend(t, again.Log, entry(t, time.Now(), record.TypeDecision, "", nil))
	again.mustStop(t)
	mustFsck(t, cfg)
}

func slices2(p [][32]byte) (out [][]byte) {
	for i := range p {
		out = append(out, p[i][:])
	}
	return out
}

func TestOneOfManyWins(t *testing.T) {
	cfg := testConfig(t, newTPM())
	create(t, cfg)
	l := start(t, cfg)
	errTaken := errors.New("taken")
	var won, lost atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			e := entry(t, time.Now(), record.TypeIssue, "", nil,
				record.Mutation{Key: "first", Value: []byte("x")},
				record.Mutation{Key: "token", Value: []byte("used"), Pre: record.Precondition{Op: record.Absent, Err: errTaken}})
			_, err := l.Append(t.Context(), e)
			var pre *PreconditionError
			switch {
			case err == nil:
				won.Add(1)
			case errors.As(err, &pre) && pre.Key == "token" && errors.Is(err, errTaken):
				lost.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || lost.Load() != 63 {
		t.Errorf("%d won, %d lost", won.Load(), lost.Load())
	}
	issues := 0
	err := l.Entries(t.Context(), 0, l.Head().Size, func(s record.Stored) error {
		if env, err := record.Check(s.Envelope); err == nil && env.Type == record.TypeIssue {
			issues++
		}
		return nil
	})
	if err != nil || issues != 1 {
		t.Errorf("%d issue entries, %v", issues, err)
	}
	l.mustStop(t)
	mustFsck(t, cfg) // nothing of the rejected is in the tree either
}

func TestPreconditions(t *testing.T) {
	c := &clock{}
	cfg := testConfig(t, newTPM())
	cfg.Now = c.now
	create(t, cfg)
	l := start(t, cfg)
	put := func(m ...record.Mutation) error { return l.Put(t.Context(), m) }
	pre := func(op record.Op, v string) record.Precondition { return record.Precondition{Op: op, Value: []byte(v)} }
	for i, tc := range []struct {
		ok bool
		m  []record.Mutation
	}{
		{true, []record.Mutation{{Key: "a", Value: []byte("1"), Pre: pre(record.Absent, "")}}},
		{false, []record.Mutation{{Key: "b", Value: []byte("1")}, {Key: "a", CheckOnly: true, Pre: pre(record.Absent, "")}}},
		{true, []record.Mutation{{Key: "b", CheckOnly: true, Pre: pre(record.Absent, "")}}}, // nothing of the rejected one was written
		{false, []record.Mutation{{Key: "a", Value: []byte("2"), Pre: pre(record.Equal, "9")}}},
		{true, []record.Mutation{{Key: "a", Value: []byte("2"), Pre: pre(record.Equal, "1")}}},
		{true, []record.Mutation{{Key: "a", CheckOnly: true, Pre: pre(record.Present, "")}}},
		{true, []record.Mutation{{Key: "a", Delete: true}}},
		{false, []record.Mutation{{Key: "a", CheckOnly: true, Pre: pre(record.Present, "")}}},
		{true, []record.Mutation{{Key: "t", Value: []byte("x"), Expires: c.now().Add(time.Minute)}}},
		{false, []record.Mutation{{Key: "t", CheckOnly: true, Pre: pre(record.Absent, "")}}},
	} {
		err := put(tc.m...)
		if tc.ok != (err == nil) || err != nil && !errors.Is(err, ErrPrecondition) {
			t.Errorf("step %d: %v", i, err)
		}
	}
	c.move(2 * time.Minute)
	if _, ok, err := l.Get("t"); ok || err != nil {
		t.Errorf("an expired key is there: %v", err)
	}
	if err := put(record.Mutation{Key: "t", CheckOnly: true, Pre: pre(record.Absent, "")}); err != nil {
		t.Errorf("an expired key is present: %v", err)
	}
}

func TestTooLarge(t *testing.T) {
	cfg := testConfig(t, newTPM())
	create(t, cfg)
	l := start(t, cfg)
	big := func(n int) record.Entry {
		var m []record.Mutation
		for i := range n {
			m = append(m, record.Mutation{Key: fmt.Sprint("k", i), Value: make([]byte, record.MaxValue)})
		}
		return entry(t, time.Now(), record.TypeTask, "", nil, m...)
	}
	if _, err := l.Append(t.Context(), big(64)); !errors.Is(err, record.ErrTooLarge) {
		t.Errorf("16 MiB of mutations: %v", err)
	}
	// Each fits, together they do not: they must come in several transactions.
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() { mustAppend(t, l.Log, big(16)) })
	}
	wg.Wait()
	l.mustStop(t)
	mustFsck(t, cfg)
}

func TestClock(t *testing.T) {
	c := &clock{}
	cfg := testConfig(t, newTPM())
	cfg.Now = c.now
	create(t, cfg)
	l := start(t, cfg)
	mustAppend(t, l.Log, entry(t, c.now(), record.TypeTask, "", nil))
	if _, err := l.Append(t.Context(), entry(t, c.now().Add(time.Minute), record.TypeTask, "", nil)); !errors.Is(err, ErrClock) {
		t.Errorf("entry ahead of the clock: %v", err)
	}
	size := l.Head().Size
	c.move(-3 * time.Second)
	mustAppend(t, l.Log, entry(t, c.now(), record.TypeTask, "", nil))
	c.move(-time.Hour)
	if _, err := l.Append(t.Context(), entry(t, c.now(), record.TypeTask, "", nil)); !errors.Is(err, ErrClock) {
		t.Errorf("clock set back: %v", err)
	}
	wantReason(t, l.Log, "clock_behind")
	c.move(2 * time.Hour)
	mustAppend(t, l.Log, entry(t, c.now(), record.TypeTask, "", nil))
	if l.Head().Size < size+2 {
		t.Errorf("size %d after %d", l.Head().Size, size)
	}
}

func TestDiskWatermark(t *testing.T) {
	var free atomic.Uint64
	free.Store(50)
	cfg := testConfig(t, newTPM())
	cfg.hooks.space = func(string) (uint64, uint64, error) { return free.Load() << 20, 100 << 20, nil }
	create(t, cfg)
	l := start(t, cfg)
	mustAppend(t, l.Log, entry(t, time.Now(), record.TypeTask, "", nil))
	size := l.Head().Size
	free.Store(3)
	if _, err := l.Append(t.Context(), entry(t, time.Now(), record.TypeTask, "", nil)); !errors.Is(err, ErrDiskFull) {
		t.Errorf("below the watermark: %v", err)
	}
	if err := l.Put(t.Context(), []record.Mutation{{Key: "a"}}); !errors.Is(err, ErrDiskFull) {
		t.Errorf("put below the watermark: %v", err)
	}
	wantReason(t, l.Log, "disk_full")
	if l.Head().Size > size+1 { // a seal's leaf may have come before
		t.Error("something was written")
	}
	free.Store(50)
	mustAppend(t, l.Log, entry(t, time.Now(), record.TypeTask, "", nil))
}

func TestBallastIsGivenUp(t *testing.T) {
	var free atomic.Uint64
	free.Store(50)
	cfg := testConfig(t, newTPM())
	cfg.hooks.space = func(string) (uint64, uint64, error) { return free.Load() << 20, 100 << 20, nil }
	create(t, cfg)
	l, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if held, err := l.ballast.Held(); !held || err != nil {
		t.Fatalf("no ballast: %v", err)
	}
	free.Store(1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if held, err := l.ballast.Held(); held || err != nil {
		t.Errorf("the ballast is still there: %v", err)
	}
}

func TestInUseAndExists(t *testing.T) {
	cfg := testConfig(t, newTPM())
	create(t, cfg)
	start(t, cfg)
	if _, err := Open(t.Context(), cfg); !errors.Is(err, ErrInUse) {
		t.Errorf("second open: %v", err)
	}
	if _, err := Fsck(t.Context(), cfg); !errors.Is(err, ErrInUse) {
		t.Errorf("fsck of an open log: %v", err)
	}
	if err := Create(t.Context(), cfg, ceremony(t)); !errors.Is(err, ErrExists) {
		t.Errorf("second create: %v", err)
	}
	cfg.Dir = filepath.Join(t.TempDir(), "none")
	if _, err := Open(t.Context(), cfg); err == nil {
		t.Error("opened a log that was never created")
	}
}

func TestAppendWithoutRunHonoursContext(t *testing.T) {
	cfg := testConfig(t, newTPM())
	create(t, cfg)
	l, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := l.Append(ctx, entry(t, time.Now(), record.TypeTask, "", nil))
		done <- err
	}()
	for len(l.queue) == 0 {
		runtime.Gosched()
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnknown) {
		t.Errorf("cancelled in the queue: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again := start(t, cfg)
	if n := again.Head().Size; n > 2 {
		t.Errorf("the cancelled entry was written: size %d", n)
	}
}
