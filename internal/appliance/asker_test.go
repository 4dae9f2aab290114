package appliance

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/witness"
)

const testLog = "signet.test/log"

// forest is a log of a few leaves, with an Ed25519 key.
type forest struct {
	leaves []merkle.Hash
	signer note.Signer
	vkey   string
}

func newForest(t testing.TB, kind string) *forest {
	t.Helper()
	skey, vkey, err := note.GenerateKey(strings.NewReader(strings.Repeat("a key for tests ", 8)), testLog)
	must(t, err)
	f := &forest{vkey: vkey}
	f.signer, err = note.NewSigner(skey)
	must(t, err)
	for i := range 200 {
		f.leaves = append(f.leaves, merkle.LeafHash(fmt.Appendf(nil, "%s %d", kind, i)))
	}
	return f
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (f *forest) Tile(_ int, _ uint64, width int) ([]byte, error) {
	var out []byte
	for _, h := range f.leaves[:width] {
		out = append(out, h[:]...)
	}
	return out, nil
}

func (f *forest) head(size uint64) checkpoint.Checkpoint {
	return checkpoint.Checkpoint{Origin: testLog, Size: size, Root: merkle.Root(f.leaves[:size], 1)}
}

func (f *forest) proof(_ context.Context, from, to uint64) ([][32]byte, error) {
	return merkle.Consistency(f, from, to)
}

func (f *forest) note(t testing.TB, size uint64) []byte {
	t.Helper()
	signed, err := checkpoint.Sign(f.head(size), f.signer)
	must(t, err)
	return signed
}

// sealed is the seal of that number over a tree of ten times as many leaves.
func (f *forest) sealed(t testing.TB, number uint64) checkpoint.Sealed {
	t.Helper()
	c := f.head(10 * number)
	s := checkpoint.Seal{Origin: c.Origin, Size: c.Size, Root: c.Root, Number: number, Counter: 5, Time: time.Unix(1_772_355_600, 0).UTC()}
	if number > 1 {
		s.Previous = [32]byte{1}
	}
	return checkpoint.Sealed{Number: number, Text: s.Text(), Checkpoint: f.note(t, c.Size)}
}

func (f *forest) request(t testing.TB, from, to uint64) []byte {
	t.Helper()
	p, err := f.proof(t.Context(), from, to)
	must(t, err)
	return witness.Request{Old: from, Proof: p, Checkpoint: f.note(t, to)}.Marshal()
}

func keyOf(seed string) ed25519.PrivateKey {
	h := sha256.Sum256([]byte(seed))
	return ed25519.NewKeyFromSeed(h[:])
}

func newCosigner(t testing.TB, name, seed string) *witness.Signer {
	t.Helper()
	s, err := witness.NewSigner(name, keyOf(seed), func() time.Time { return time.Unix(1_772_355_600, 0) })
	must(t, err)
	return s
}

// asked is an asker with a real HTTPS server whose handler a test switches.
type asked struct {
	*asker
	t      testing.TB
	handle atomic.Pointer[http.HandlerFunc]
	calls  atomic.Int64
	logged bytes.Buffer

	mu     sync.Mutex
	kept   []string
	alarms []string
}

func newAsked(t testing.TB, f *forest, signer *witness.Signer) *asked {
	t.Helper()
	a := &asked{t: t}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.calls.Add(1)
		(*a.handle.Load())(w, r)
	}))
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	key, err := witness.ParseKey(signer.Key())
	must(t, err)
	a.asker = &asker{
		key: key, url: server.URL + "/prefix/", client: pullClient(roots), proof: f.proof, log: slog.New(slog.NewTextHandler(&a.logged, nil)),
		keep: func(_ context.Context, _ checkpoint.Sealed, _ witness.Key, line []byte) error {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.kept = append(a.kept, string(line))
			return nil
		},
		raise: func(_ context.Context, _ witness.Key, c *conflict) error {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.alarms = append(a.alarms, c.detail)
			return nil
		},
	}
	t.Cleanup(a.client.CloseIdleConnections)
	return a
}

func (a *asked) answers(h http.HandlerFunc) { a.handle.Store(&h) }

// witnessed answers with a cosigner of ours.
func witnessed(t testing.TB, c *cosigner) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/prefix/add-checkpoint" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		body := new(bytes.Buffer)
		_, _ = body.ReadFrom(r.Body)
		lines, err := c.addCheckpoint(r.Context(), body.Bytes())
		status(w, lines, err)
	}
}

func TestAskWithOldSizes(t *testing.T) {
	f := newForest(t, "good")
	c := newTestCosigner(t, f, t.TempDir())
	a := newAsked(t, f, c.signer)
	a.answers(witnessed(t, c))
	for i, row := range []struct {
		seal  uint64
		calls int64
	}{{1, 1}, {3, 2}, {3, 3}} { // from nothing; from what it had; the same again
		if err := a.ask(t.Context(), f.sealed(t, row.seal)); err != nil || a.calls.Load() != row.calls || len(a.kept) != i+1 {
			t.Errorf("seal %d: %v, %d calls, %q", row.seal, err, a.calls.Load(), a.kept)
		}
	}
	a.known = 0 // as after a restart: 409 tells
	if err := a.ask(t.Context(), f.sealed(t, 4)); err != nil || a.calls.Load() != 5 || a.known != 40 {
		t.Errorf("after a restart: %v, %d calls, %d", err, a.calls.Load(), a.known)
	}
	if len(a.alarms) != 0 {
		t.Errorf("alarms %q", a.alarms)
	}
}

// What a witness can answer, other than a cosignature. Nothing of it is kept.
func TestHostileWitness(t *testing.T) {
	f, other := newForest(t, "good"), newForest(t, "fork")
	mine, thief := newCosigner(t, "witness.test/w", "mine"), newCosigner(t, "witness.test/w", "thief")
	line := func(s *witness.Signer, c checkpoint.Checkpoint) string {
		l, err := s.Cosign(c)
		must(t, err)
		return string(l)
	}
	good := line(mine, f.head(20))
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(good)) }))
	t.Cleanup(elsewhere.Close)
	says := func(status int, media, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", media)
			w.WriteHeader(status)
			_, _ = w.Write([]byte(text))
		}
	}
	for name, row := range map[string]struct {
		handle   http.HandlerFunc
		want     string
		conflict bool
	}{
		"no signature":   {says(200, "text/plain", ""), "not signed", false},
		"garbage":        {says(200, "text/plain", "\x00\xff— — —\n"), "not signed", false},
		"wrong key":      {says(200, "text/plain", line(thief, f.head(20))), "not signed", false},
		"another tree":   {says(200, "text/plain", line(mine, other.head(20))), "not signed", false},
		"a smaller tree": {says(200, "text/plain", line(mine, f.head(10))), "not signed", false},
		"more lines":     {says(200, "text/plain", "x\n\n"+good), "not signed", false},
		"huge":           {says(200, "text/plain", strings.Repeat(good, 1000)), "more than", false},
		"endless":        {func(w http.ResponseWriter, _ *http.Request) { endless(w) }, "more than", false},
		"short": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "500")
			_, _ = w.Write([]byte(good))
		}, "EOF", false},
		"encoded": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write([]byte(good))
		}, "encoded", false},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, "307", false},
		"unknown log":       {says(404, "text/plain", ""), "404", false},
		"busy":              {says(429, "text/plain", ""), "429", false},
		"fault":             {says(500, "text/plain", good), "500", false},
		"hangs up":          {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF", false},
		"409 without size":  {says(409, "text/plain", "20\n"), "without a size", false},
		"409, no number":    {says(409, witness.MediaSize, "twenty\n"), "without a size", false},
		"409, negative":     {says(409, witness.MediaSize, "-1\n"), "without a size", false},
		"409, what we sent": {says(409, witness.MediaSize, "0\n"), "asked from", false},
		"409, larger":       {says(409, witness.MediaSize, "21\n"), "it cosigned size 21", true},
		"409, two sizes":    {flip(says(409, witness.MediaSize, "7\n"), says(409, witness.MediaSize, "9\n")), "two sizes", false},
		"409, another root": {says(409, witness.MediaSize, "20\n"), "another root at size 20", true},
		"422":               {says(422, "text/plain", ""), "refuses the proof", true},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAsked(t, f, mine)
			a.answers(row.handle)
			err := a.ask(t.Context(), f.sealed(t, 2))
			var c *conflict
			if err == nil || !strings.Contains(err.Error(), row.want) || errors.As(err, &c) != row.conflict || len(a.kept) != 0 {
				t.Errorf("%v, kept %q", err, a.kept)
			}
			a.settle(t.Context(), err)
			if (len(a.alarms) == 1) != row.conflict || a.trouble.Load() == nil {
				t.Errorf("alarms %q", a.alarms)
			}
			if a.calls.Load() > 2 {
				t.Errorf("%d questions", a.calls.Load())
			}
			a.answers(says(200, "text/plain", good)) // and what is right is taken after all of that
			a.known = 0
			if err := a.ask(t.Context(), f.sealed(t, 2)); err != nil || len(a.kept) != 1 {
				t.Errorf("afterwards %v", err)
			}
		})
	}
}

func endless(w http.ResponseWriter) {
	for {
		if _, err := w.Write(make([]byte, 4096)); err != nil {
			return
		}
	}
}

// flip answers by turns.
func flip(one, two http.HandlerFunc) http.HandlerFunc {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1)%2 == 1 {
			one(w, r)
		} else {
			two(w, r)
		}
	}
}

// A slow witness is given up, and one that is not who it should be is told nothing.
func TestSlowAndFalseWitness(t *testing.T) {
	f := newForest(t, "good")
	a := newAsked(t, f, newCosigner(t, "witness.test/w", "mine"))
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	a.answers(func(http.ResponseWriter, *http.Request) { <-release })
	a.client.Timeout = 50 * time.Millisecond
	if err := a.ask(t.Context(), f.sealed(t, 1)); err == nil || plain(err) != "no answer in time" {
		t.Error(err)
	}
	a.client = pullClient(x509.NewCertPool())
	before := a.calls.Load()
	if err := a.ask(t.Context(), f.sealed(t, 1)); err == nil || a.calls.Load() != before || !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
}

// stubborn fails a number of times, without a network.
type stubborn struct {
	fails atomic.Int64
	times []time.Duration
	began time.Time
}

func (s *stubborn) RoundTrip(*http.Request) (*http.Response, error) {
	s.times = append(s.times, time.Since(s.began))
	if s.fails.Add(-1) >= 0 {
		return nil, errors.New("away")
	}
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}, nil
}

// A witness that is away is asked less and less, at least once a minute, always about the newest seal.
func TestAskerBacksOff(t *testing.T) {
	f := newForest(t, "good")
	synctest.Test(t, func(t *testing.T) {
		key, err := witness.ParseKey(newCosigner(t, "witness.test/w", "mine").Key())
		must(t, err)
		away := &stubborn{began: time.Now()}
		away.fails.Store(1 << 20)
		a := &asker{key: key, url: "https://witness.test", client: &http.Client{Transport: away}, proof: f.proof, log: slog.New(slog.DiscardHandler)}
		var asked []uint64
		n := uint64(0)
		next := func(_ context.Context, after uint64) (checkpoint.Sealed, error) {
			n = min(n+1, 15)
			asked = append(asked, after)
			return f.sealed(t, n), nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx, next, 0) }()
		time.Sleep(10 * time.Minute) // of the bubble's clock
		synctest.Wait()
		cancel()
		must(t, <-done)
		for i := range away.times {
			var gap time.Duration
			if i > 0 {
				gap = away.times[i] - away.times[i-1]
			}
			if gap > maxAskAgain || i > 6 && gap < maxAskAgain/2-time.Second {
				t.Errorf("question %d after %s", i, gap)
			}
		}
		if len(away.times) < 12 || len(away.times) > 40 || asked[len(asked)-1] != 0 {
			t.Errorf("%d questions, after %v", len(away.times), asked)
		}
	})
}
