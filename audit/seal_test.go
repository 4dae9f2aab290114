package audit

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
)

func TestJudge(t *testing.T) {
	at := Anchor{Reset: 5, Restart: 1, Counter: 300}
	pending := &checkpoint.Seal{Reset: 5, Restart: 1, Counter: 301}
	for _, tc := range []struct {
		name    string
		pending *checkpoint.Seal
		found   Anchor
		want    verdict
	}{
		{"where it was", nil, Anchor{5, 1, 300}, proceed},
		{"resumed from sleep", nil, Anchor{5, 2, 300}, proceed},
		{"seal in flight, counter not moved", pending, Anchor{5, 1, 300}, proceed},
		{"seal in flight, counter moved", pending, Anchor{5, 1, 301}, finish},
		{"seal in flight, counter moved, other boot", pending, Anchor{5, 2, 301}, gap},
		{"counter moved by one, no seal in flight", nil, Anchor{5, 1, 301}, refuse},
		{"counter moved by two", pending, Anchor{5, 1, 302}, refuse},
		{"counter fell in one boot", nil, Anchor{5, 1, 299}, refuse},
		{"reset, same value", nil, Anchor{6, 0, 300}, reset},
		{"reset, orderly jump", pending, Anchor{6, 0, 511}, reset},
		{"reset, repeated values", nil, Anchor{6, 0, 255}, reset},
		{"reset, at the bound", nil, Anchor{9, 0, 556}, reset},
		{"reset, jump too far", nil, Anchor{6, 0, 557}, refuse},
		{"reset, fell too far", nil, Anchor{6, 0, 43}, refuse},
		{"resets fell", nil, Anchor{4, 0, 300}, refuse},
	} {
		if got := judge(at, tc.pending, tc.found, 256); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}

func TestSchedule(t *testing.T) {
	begin := time.Unix(1000, 0)
	s := schedule{cfg: Config{SealInterval: 5 * time.Second, Heartbeat: time.Minute}}
	if due := s.sealDue(false); begin.Before(due) {
		t.Errorf("first seal is due at %s", due)
	}
	s.sealedAt = begin
	s.seal.succeeded(begin)
	if due := s.sealDue(true); !due.Equal(begin.Add(5 * time.Second)) {
		t.Errorf("busy: due at %s", due)
	}
	if due := s.sealDue(false); !due.Equal(begin.Add(time.Minute)) {
		t.Errorf("idle: due at %s", due)
	}
	now := begin.Add(5 * time.Second)
	for _, want := range []time.Duration{100, 200, 400, 800} {
		s.seal.failed(now)
		if due := s.sealDue(true); !due.Equal(now.Add(want * time.Millisecond)) {
			t.Errorf("retry after %s, want %d ms", due.Sub(now), want)
		}
	}
	for range 30 {
		s.seal.failed(now)
	}
	if s.seal.backoff != maxBackoff {
		t.Errorf("backoff grows to %s", s.seal.backoff)
	}
}

// waitUntil waits for what the sealer does in the background.
func waitUntil(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("never: %s", what)
		}
	}
}

func sealNow(t testing.TB, l *Log) uint64 {
	t.Helper()
	pos := mustAppend(t, l, entry(t, time.Now(), record.TypeTask, "", nil))
	n, err := l.WaitSealed(t.Context(), pos.Index)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Nobody waits longer for a seal than the log issues without one.
func TestWaitForASealEnds(t *testing.T) {
	q := newTPM()
	cfg := testConfig(t, q)
	cfg.Heartbeat, cfg.MaxSealAge = 50*time.Millisecond, 50*time.Millisecond
	create(t, cfg)
	q.set(func(q *tpm) { q.failQuote = true })
	l := start(t, cfg)
	pos := mustAppend(t, l.Log, entry(t, time.Now(), record.TypeTask, "", nil))
	if _, err := l.WaitSealed(context.WithoutCancel(t.Context()), pos.Index); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	q.set(func(q *tpm) { q.failQuote = false })
	ended, cancel := context.WithCancel(t.Context())
	sealed := func() bool { _, err := l.WaitSealed(t.Context(), pos.Index); return err == nil }
	waitUntil(t, "a seal", sealed)
	cancel()
	if n, err := l.WaitSealed(ended, pos.Index); err != nil || n == 0 {
		t.Errorf("what is sealed already: %d, %v", n, err)
	}
}

func TestSealsFollowEachOther(t *testing.T) {
	q := newTPM()
	cfg := testConfig(t, q)
	create(t, cfg)
	l := start(t, cfg)
	for range 5 {
		sealNow(t, l.Log)
	}
	l.mustStop(t)
	again := start(t, cfg)
	n := sealNow(t, again.Log)
	var before checkpoint.Seal
	for i := uint64(1); i <= n; i++ {
		sealed, err := again.Seal(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		s, err := checkpoint.ParseSeal(sealed.Text)
		if err != nil || s.Number != i || i > 1 && (s.Previous != before.Digest() || s.Counter != before.Counter+1) {
			t.Fatalf("seal %d: %v\n%s", i, err, sealed.Text)
		}
		before = s
	}
	if _, err := again.Seal(t.Context(), n+1000); !errors.Is(err, ErrNotFound) {
		t.Errorf("a seal of the future: %v", err)
	}
	if err := again.Fresh(); err != nil {
		t.Error(err)
	}
	again.mustStop(t)
	mustFsck(t, cfg)
}

func TestSealsLeafMakesNotBusy(t *testing.T) {
	cfg := testConfig(t, newTPM())
	create(t, cfg)
	l := start(t, cfg)
	sealNow(t, l.Log)
	waitUntil(t, "idle", func() bool { return !l.busy() })
	_, err := l.WaitSealed(t.Context(), l.Head().Size+7)
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("waiting for an entry that does not exist: %v", err)
	}
	st := l.Status()
	if st.LastSeal == 0 || l.busy() {
		t.Errorf("a seal's leaf made the log busy: %+v", st)
	}
}

func TestSealerSurvivesTheTPM(t *testing.T) {
	for name, break1 := range map[string]func(*tpm, bool){
		"state fails":      func(q *tpm, on bool) { q.failState = on },
		"fails before":     func(q *tpm, on bool) { q.failBefore = on },
		"fails after":      func(q *tpm, on bool) { q.failAfter = on },
		"quote fails":      func(q *tpm, on bool) { q.failQuote = on },
		"hangs":            func(q *tpm, on bool) { q.hang = on },
		"hangs and resets": func(q *tpm, on bool) { q.hang = on; q.at.Reset++ },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := newTPM()
			cfg := testConfig(t, q)
			cfg.DeviceTimeout = 20 * time.Millisecond
			create(t, cfg)
			l := start(t, cfg)
			sealNow(t, l.Log)
			q.set(func(q *tpm) { break1(q, true) })
			pos := mustAppend(t, l.Log, entry(t, time.Now(), record.TypeTask, "", nil))
			waitUntil(t, "trouble is reported", func() bool { return l.Status().Sealing != nil })
			mustAppend(t, l.Log, entry(t, time.Now(), record.TypeTask, "", nil)) // appends go on
			q.set(func(q *tpm) { break1(q, false) })
			if _, err := l.WaitSealed(t.Context(), pos.Index); err != nil {
				t.Fatal(err)
			}
			waitUntil(t, "trouble is over", func() bool { return l.Status().Sealing == nil })
			l.mustStop(t)
			mustFsck(t, cfg)
		})
	}
}

func TestStaleSealRefusesFreshness(t *testing.T) {
	c := &clock{}
	q := newTPM()
	cfg := testConfig(t, q)
	cfg.Now = c.now
	create(t, cfg)
	l := start(t, cfg)
	sealNow(t, l.Log)
	q.set(func(q *tpm) { q.failState = true })
	c.move(cfg.MaxSealAge + time.Minute)
	if err := l.Fresh(); !errors.Is(err, ErrSealTooOld) || !l.Status().SealTooOld {
		t.Errorf("old seal: %v", err)
	}
}

func TestForeignIncrementIsReadOnly(t *testing.T) {
	q := newTPM()
	cfg := testConfig(t, q)
	create(t, cfg)
	l := start(t, cfg)
	sealNow(t, l.Log)
	q.set(func(q *tpm) { q.at.Counter += 3 })
	mustAppend(t, l.Log, entry(t, time.Now(), record.TypeTask, "", nil))
	waitUntil(t, "read-only", func() bool { return l.state.isBroken() })
	wantReason(t, l.Log, "tpm_counter")
	if _, err := l.Append(t.Context(), entry(t, time.Now(), record.TypeTask, "", nil)); !errors.Is(err, ErrReadOnly) {
		t.Errorf("append to a read-only log: %v", err)
	}
	if _, err := l.Read(t.Context(), 0); err != nil {
		t.Errorf("a read-only log must be readable: %v", err)
	}
}

func TestResetWhileDown(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Anchor)
		reason string // why the log is read-only; "": it is not
	}{
		"orderly":  {func(a *Anchor) { a.Reset++ }, ""},
		"jump":     {func(a *Anchor) { a.Reset++; a.Counter += 255 }, ""},
		"repeat":   {func(a *Anchor) { a.Reset += 2; a.Counter -= 256 }, ""},
		"too far":  {func(a *Anchor) { a.Reset++; a.Counter += 257 }, "tpm_counter"},
		"too low":  {func(a *Anchor) { a.Reset++; a.Counter -= 257 }, "tpm_rolled_back"},
		"went on":  {func(a *Anchor) { a.Counter++ }, "tpm_counter"},
		"fell":     {func(a *Anchor) { a.Counter-- }, "tpm_rolled_back"},
		"resets -": {func(a *Anchor) { a.Reset-- }, "tpm_rolled_back"},
		"cleared":  {func(a *Anchor) { *a = Anchor{Counter: 1} }, "tpm_rolled_back"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := newTPM()
			cfg := testConfig(t, q)
			create(t, cfg)
			l := start(t, cfg)
			sealNow(t, l.Log)
			l.mustStop(t)
			q.set(func(q *tpm) { tc.change(&q.at) })
			before := q.now()
			again := start(t, cfg)
			if tc.reason != "" {
				wantReason(t, again.Log, tc.reason)
				again.mustStop(t)
				if q.now() != before {
					t.Error("a read-only log moved the counter")
				}
				return
			}
			index := again.Head().Size - 1
			if n := countDevices(t, again.Log, record.EventTPMReset); n != 1 {
				t.Errorf("%d device entries below %d", n, index)
			}
			sealNow(t, again.Log)
			again.mustStop(t)
			mustFsck(t, cfg)
		})
	}
}

func countDevices(t testing.TB, l *Log, event string) (n int) {
	t.Helper()
	err := l.Entries(t.Context(), 0, l.Head().Size, func(s record.Stored) error {
		env, err := record.Check(s.Envelope)
		if err != nil || env.Type != record.TypeDevice {
			return err
		}
		body, err := record.DecodeBody[record.DeviceBody](env)
		if err == nil && body.Event == event && body.Expected != nil && body.Found != nil {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestUnreachableTPM(t *testing.T) {
	q := newTPM()
	cfg := testConfig(t, q)
	create(t, cfg)
	q.set(func(q *tpm) { q.failState = true })
	l := start(t, cfg)
	wantReason(t, l.Log, "tpm_unreachable")
	if _, err := l.Append(t.Context(), entry(t, time.Now(), record.TypeTask, "", nil)); !errors.Is(err, ErrReadOnly) {
		t.Errorf("append before the TPM was seen: %v", err)
	}
	if l.SignedCheckpoint() != nil {
		t.Error("signed before the TPM was seen")
	}
	q.set(func(q *tpm) { q.failState = false })
	waitUntil(t, "writable", func() bool { return l.Status().Writable })
	sealNow(t, l.Log)
}

// TestGap: the machine slept between the counter and the quote, so the seal in flight names a boot that cannot be quoted.
func TestGap(t *testing.T) {
	q := newTPM()
	cfg := testConfig(t, q)
	create(t, cfg)
	l := start(t, cfg)
	sealNow(t, l.Log)
	q.set(func(q *tpm) { q.failQuote = true })
	mustAppend(t, l.Log, entry(t, time.Now(), record.TypeTask, "", nil))
	waitUntil(t, "trouble", func() bool { return l.Status().Sealing != nil })
	if err := l.stop(); err == nil {
		t.Error("stopped without its last seal and said nothing")
	}
	q.set(func(q *tpm) { q.failQuote = false; q.at.Restart++ })
	again := start(t, cfg)
	if n := countDevices(t, again.Log, record.EventCounterGap); n != 1 {
		t.Errorf("%d gap entries", n)
	}
	sealNow(t, again.Log)
	again.mustStop(t)
	mustFsck(t, cfg)
}

func TestCheckpointIsSignedBetweenSeals(t *testing.T) {
	q := newTPM()
	cfg := testConfig(t, q)
	cfg.SealInterval, cfg.Heartbeat, cfg.CheckpointInterval = time.Hour, time.Hour, time.Millisecond
	create(t, cfg)
	l := start(t, cfg)
	pos := mustAppend(t, l.Log, entry(t, time.Now(), record.TypeTask, "", nil))
	verifier, err := checkpoint.NewVerifier(testOrigin, &testKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "signed", func() bool {
		c, err := checkpoint.Open(l.SignedCheckpoint(), verifier)
		return err == nil && c.Size > pos.Index
	})
}

func TestAnchorIsStored(t *testing.T) {
	b, err := json.Marshal(Anchor{Reset: 1, Restart: 2, Counter: 3})
	if err != nil || string(b) != `{"reset":1,"restart":2,"counter":3}` {
		t.Errorf("the stored form changed: %s, %v", b, err)
	}
}

func TestCreateNeedsTheTPM(t *testing.T) {
	q := newTPM()
	cfg := testConfig(t, q)
	q.failState = true
	if err := Create(t.Context(), cfg, ceremony(t)); !errors.Is(err, errTPM) {
		t.Errorf("create without a TPM: %v", err)
	}
	if _, err := os.Stat(cfg.Dir); err == nil {
		t.Error("something was created")
	}
}
