package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
)

// pruneConfig keeps state below p/ private, of which p/copy/ is in archives too.
func pruneConfig(t testing.TB, q Quoter) Config {
	cfg := privateConfig(t, q)
	cfg.Archived = func(key string) bool { return strings.HasPrefix(key, "p/copy/") }
	return cfg
}

// fillTo appends entries with a payload until the log has n.
func fillTo(t testing.TB, l *Log, n uint64) {
	t.Helper()
	for l.Head().Size < n {
		size := l.Head().Size
		batch := make(chan error)
		count := min(n-size, 100)
		for range count {
			go func() {
				_, err := l.Append(t.Context(), entry(t, time.Now(), record.TypeTask, "a", map[string]string{"subject": person}))
				batch <- err
			}()
		}
		for range count {
			if err := <-batch; err != nil {
				t.Fatal(err)
			}
		}
	}
	sealNow(t, l)
}

func pruning(t testing.TB, from, to uint64, previous *uint64) record.Entry {
	t.Helper()
	body, err := json.Marshal(record.PruneBody{
		Reason: "old", From: from, To: to, Archive: fmt.Sprintf("entries-%d-%d.tar", from, to), SHA256: strings.Repeat("ab", 32), Previous: previous,
	})
	if err != nil {
		t.Fatal(err)
	}
	e, err := record.New(record.Envelope{Type: record.TypePrune, Time: time.Now(), Body: body}, nil, [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// mustPrune prunes and waits until all of it is gone.
func mustPrune(t testing.TB, l *Log, from, to uint64, previous *uint64) Position {
	t.Helper()
	pos, err := l.Prune(t.Context(), pruning(t, from, to, previous))
	if err != nil {
		t.Fatal(err)
	}
	waitPruned(t, l, to)
	return pos
}

func waitPruned(t testing.TB, l *Log, to uint64) {
	t.Helper()
	waitUntil(t, "what is pruned is gone", func() bool {
		p := l.pruned.Load()
		e, _, err := readErasures(l.db)
		return err == nil && p.Minimum == to && p.Next == 0 && l.vault.tree.Load().Generation() == e.Generation
	})
}

// wantPruned wants a log whose entries up to minimum are gone, and everything else as it was.
func wantPruned(t testing.TB, l *Log, minimum uint64) {
	t.Helper()
	snap := l.snap.Load()
	size := snap.tree.Size()
	for _, index := range []uint64{chunk, minimum - 1} {
		if _, err := l.Read(t.Context(), index); !errors.Is(err, ErrPruned) {
			t.Errorf("read %d: %v", index, err)
		}
		path, err := l.Inclusion(t.Context(), index, size)
		if err != nil {
			t.Fatal(err)
		}
		tile, err := l.Tile(t.Context(), 0, index/chunk, chunk)
		if err != nil {
			t.Fatal(err)
		}
		leaf := [32]byte(tile[index%chunk*merkle.HashSize:])
		if err := merkle.VerifyInclusion(path, index, size, leaf, snap.tree.Root()); err != nil {
			t.Errorf("proof of %d: %v", index, err)
		}
	}
	for _, r := range [][2]uint64{{0, minimum + 1}, {chunk - 1, chunk + 1}, {minimum - 1, size}} {
		none := func(record.Stored) error { return nil }
		if err := l.Entries(t.Context(), r[0], r[1], none); !errors.Is(err, ErrPruned) {
			t.Errorf("entries %v: %v", r, err)
		}
		if err := l.EnvelopeRange(t.Context(), r[0], r[1], func(uint64, []byte) error { return nil }); !errors.Is(err, ErrPruned) {
			t.Errorf("envelopes %v: %v", r, err)
		}
	}
	if s, err := l.Read(t.Context(), 1); err != nil || len(s.Envelope) == 0 || s.Payload != nil {
		t.Errorf("entry 1: %v, payload %q", err, s.Payload)
	}
	if s, err := l.Read(t.Context(), minimum); err != nil || len(s.Envelope) == 0 {
		t.Errorf("entry %d: %v", minimum, err)
	}
	seen := uint64(0)
	if err := l.Envelopes(t.Context(), func(index uint64, _ []byte) error {
		if l.isPruned(index) {
			t.Errorf("envelope %d", index)
		}
		seen++
		return nil
	}); err != nil || seen < size-minimum+chunk || seen > l.Head().Size-minimum+chunk {
		t.Errorf("%d envelopes: %v", seen, err)
	}
	found, err := l.Lookup(t.Context(), record.Term{Kind: "task", ID: "a"}, 200, 1000)
	if err != nil || len(found) == 0 {
		t.Fatal(found, err)
	}
	for _, index := range found {
		if l.isPruned(index) {
			t.Errorf("the index has %d", index)
		}
	}
}

func TestPrune(t *testing.T) {
	cfg := pruneConfig(t, newTPM())
	create(t, cfg)
	l := start(t, cfg)
	kept := mustAppend(t, l.Log, entry(t, time.Now(), record.TypeIssue, "", nil, record.Mutation{Key: "p/copy/1", Value: []byte(person)},
		record.Mutation{Key: "open", Value: []byte("x")})).Index
	fillTo(t, l.Log, 800)
	root := l.snap.Load().tree.Root()
	size := l.Head().Size
	one := mustPrune(t, l.Log, 0, 512, nil)
	wantPruned(t, l.Log, 512)
	if err := checkRoot(l.db, l.Head(), size, root); err != nil {
		t.Error(err)
	}
	if _, ok, err := l.Get("p/copy/1"); ok || err != nil {
		t.Errorf("state of entry %d: %v %v", kept, ok, err)
	}
	if _, ok, err := l.Get("open"); !ok || err != nil {
		t.Errorf("state that is nobody's: %v %v", ok, err)
	}
	if _, ok := l.vault.tree.Load().Key(511); ok {
		t.Error("the keys are still there")
	}
	if s, err := l.Read(t.Context(), 600); err != nil || !bytes.Contains(s.Payload, []byte(person)) {
		t.Errorf("entry 600: %v, payload %q", err, s.Payload)
	}
	l.mustStop(t)
	if r := mustFsck(t, cfg); r.Pruned != 256 || r.Entries != l.Head().Size-256 {
		t.Errorf("%+v", r)
	}

	again := start(t, cfg)
	wantPruned(t, again.Log, 512)
	if !again.Status().Writable {
		t.Error(again.Status().Reasons)
	}
	// The next range takes the first one's entry with it, which the archive holds then.
	fillTo(t, again.Log, 1100)
	if one.Index >= 1024 {
		t.Fatalf("the first prune entry is %d", one.Index)
	}
	mustPrune(t, again.Log, 512, 1024, &one.Index)
	wantPruned(t, again.Log, 1024)
	again.mustStop(t)
	mustFsck(t, cfg)
	if r, err := Repair(t.Context(), cfg); err != nil || !r.OK() {
		t.Errorf("%+v %v", r.Findings, err)
	}
	last := start(t, cfg)
	wantPruned(t, last.Log, 1024)
	if !last.Status().Writable {
		t.Error(last.Status().Reasons)
	}
}

// Nothing is deleted before a seal covers the entry, and what a crash leaves is deleted at the next start.
func TestPruneIsFinished(t *testing.T) {
	for _, point := range []string{"prune", "pruning", "pruned"} {
		t.Run(point, func(t *testing.T) {
			cfg := pruneConfig(t, newTPM())
			create(t, cfg)
			reached := make(chan bool, 1)
			dying := cfg
			dying.hooks.at = func(at string) error {
				if at != point {
					return nil
				}
				select {
				case reached <- true:
				default:
				}
				return errors.New("died")
			}
			l := start(t, dying)
			fillTo(t, l.Log, 600)
			pos, err := l.Prune(t.Context(), pruning(t, 0, 512, nil))
			if err != nil {
				t.Fatal(err)
			}
			<-reached
			if _, err := l.WaitSealed(t.Context(), pos.Index); err != nil {
				t.Error(err)
			}
			if _, err := l.Read(t.Context(), 300); (err == nil) != (point == "prune") {
				t.Errorf("entry 300: %v", err)
			}
			if point != "pruned" {
				if _, err := l.Prune(t.Context(), pruning(t, 512, 768, &pos.Index)); !errors.Is(err, ErrNotPrunable) && !errors.Is(err, record.ErrMalformed) {
					t.Errorf("another one: %v", err)
				}
			}
			l.mustStop(t)
			mustFsck(t, cfg)
			again := start(t, cfg)
			waitPruned(t, again.Log, 512)
			wantPruned(t, again.Log, 512)
			again.mustStop(t)
			mustFsck(t, cfg)
		})
	}
}

// Without a TPM there is no seal, and without a seal nothing goes.
func TestPruneWaitsForTheSeal(t *testing.T) {
	q := newTPM()
	cfg := pruneConfig(t, q)
	create(t, cfg)
	var early atomic.Bool
	cfg.hooks.at = func(point string) error {
		if point == "prune" {
			q.set(func(q *tpm) { early.Store(early.Load() || q.failQuote) })
		}
		return nil
	}
	l := start(t, cfg)
	fillTo(t, l.Log, 600)
	q.set(func(q *tpm) { q.failQuote = true })
	if _, err := l.Prune(t.Context(), pruning(t, 0, 512, nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Read(t.Context(), 300); err != nil || l.Minimum() != 0 {
		t.Errorf("entry 300: %v, minimum %d", err, l.Minimum())
	}
	waitUntil(t, "a seal that fails", func() bool { return l.Status().Sealing != nil })
	q.set(func(q *tpm) { q.failQuote = false })
	waitPruned(t, l.Log, 512)
	if early.Load() {
		t.Error("pruned before a seal covered the entry that says so")
	}
	wantPruned(t, l.Log, 512)
}

func TestPruneRefuses(t *testing.T) {
	cfg := pruneConfig(t, newTPM())
	create(t, cfg)
	l := start(t, cfg)
	fillTo(t, l.Log, 600)
	five := uint64(590)
	for name, c := range map[string]struct {
		from, to uint64
		previous *uint64
		want     error
	}{
		"a part of a bundle":        {0, 500, nil, record.ErrMalformed},
		"the first bundle alone":    {0, 256, nil, record.ErrMalformed},
		"nothing":                   {512, 512, &five, record.ErrMalformed},
		"itself":                    {0, 1024, nil, record.ErrMalformed},
		"with a gap before it":      {256, 512, &five, ErrNotPrunable},
		"a first one with a former": {0, 512, &five, record.ErrMalformed},
		"a later one without":       {256, 512, nil, record.ErrMalformed},
	} {
		if _, err := l.Prune(t.Context(), pruning(t, c.from, c.to, c.previous)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := l.Prune(t.Context(), personal(t, "p/1")); !errors.Is(err, record.ErrMalformed) {
		t.Error(err)
	}
	if _, err := l.Append(t.Context(), pruning(t, 0, 512, nil)); !errors.Is(err, record.ErrMalformed) {
		t.Error(err)
	}
	if _, err := l.Read(t.Context(), 300); err != nil || l.Minimum() != 0 {
		t.Errorf("%v %d", err, l.Minimum())
	}
}

// What is in force keeps its entry, until it has moved to a later one or has expired.
func TestPruneKeepsWhatIsInForce(t *testing.T) {
	clk := &clock{}
	cfg := pruneConfig(t, newTPM())
	cfg.Now = clk.now
	create(t, cfg)
	l := start(t, cfg)
	for _, key := range []string{"p/moved", "p/expires"} {
		m := record.Mutation{Key: key, Value: []byte(person)}
		if key == "p/expires" {
			m.Expires = time.Now().Add(time.Hour)
		}
		mustAppend(t, l.Log, entry(t, clk.now(), record.TypeGrant, "", nil, m))
	}
	fillTo(t, l.Log, 600)
	holding := func(want ...string) {
		t.Helper()
		held, err := l.Holding(t.Context(), 512, 10)
		if err != nil || len(held) != len(want) {
			t.Fatalf("%+v %v", held, err)
		}
		for i, key := range want {
			if held[i].Key != key || held[i].Index > 10 {
				t.Errorf("%+v", held[i])
			}
		}
		if _, err := l.Prune(t.Context(), pruning(t, 0, 512, nil)); len(want) > 0 && !errors.Is(err, ErrNotPrunable) {
			t.Error(err)
		}
	}
	holding("p/expires", "p/moved")
	mustAppend(t, l.Log, entry(t, clk.now(), record.TypeAdmin, "", nil, record.Mutation{Key: "p/moved", Value: []byte(person)}))
	holding("p/expires")
	clk.move(2 * time.Hour)
	holding()
	waitPruned(t, l.Log, 512)
	if v, ok, err := l.Get("p/moved"); !ok || err != nil || string(v) != person {
		t.Errorf("%q %v %v", v, ok, err)
	}
}
