package appliance

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-pki/signet/api"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/witness"
	"github.com/signet-pki/signet/delegation"
)

// status says it over HTTP as the API does.
func status(w http.ResponseWriter, lines []byte, err error) {
	var other *api.SizeConflictError
	var e *delegation.Error
	switch {
	case errors.As(err, &other):
		w.Header().Set("Content-Type", witness.MediaSize)
		w.WriteHeader(http.StatusConflict)
		_, _ = w.Write((&witness.ConflictError{Size: other.Size}).Body())
	case errors.As(err, &e):
		w.WriteHeader(api.StatusOf(e))
	default:
		_, _ = w.Write(lines)
	}
}

// testCosigner is a witness of one log, with a key of software.
type testCosigner struct {
	*cosigner
	forks []record.WitnessAlarmBody
}

func newTestCosigner(t testing.TB, f *forest, dir string) *cosigner {
	t.Helper()
	return openTestCosigner(t, dir, Witness{Name: "witness.test/w", Logs: []WitnessedLog{{Key: f.vkey}}}).cosigner
}

func openTestCosigner(t testing.TB, dir string, cfg Witness) *testCosigner {
	t.Helper()
	out := &testCosigner{}
	fork := func(_ context.Context, body record.WitnessAlarmBody) error {
		out.forks = append(out.forks, body)
		return nil
	}
	c, err := openCosigner(dir, cfg, newCosigner(t, cfg.Name, "mine"), time.Now, fork, slog.New(slog.DiscardHandler))
	must(t, err)
	out.cosigner = c
	return out
}

// outcome is a status of tlog-witness, and the size that a 409 tells.
func outcome(t testing.TB, c *cosigner, body []byte) (int, uint64) {
	t.Helper()
	lines, err := c.addCheckpoint(t.Context(), body)
	var other *api.SizeConflictError
	var e *delegation.Error
	switch {
	case err == nil:
		q, err := witness.ParseRequest(body)
		must(t, err)
		l := c.logs[q.Origin()]
		head, _, err := l.log.Open(q.Checkpoint)
		must(t, err)
		key, err := witness.ParseKey(c.signer.Key())
		must(t, err)
		if _, err := key.Pick(head, lines); err != nil {
			t.Errorf("200 with %q: %v", lines, err)
		}
		return 200, 0
	case errors.As(err, &other):
		return 409, other.Size
	case errors.As(err, &e):
		return api.StatusOf(e), 0
	}
	t.Fatal(err)
	return 0, 0
}

func TestCosignerStatuses(t *testing.T) {
	good, fork := newForest(t, "good"), newForest(t, "fork")
	c := openTestCosigner(t, t.TempDir(), Witness{Name: "witness.test/w", Logs: []WitnessedLog{{Key: good.vkey}}})
	forked, err := good.proof(t.Context(), 20, 30)
	must(t, err)
	stranger := strings.Replace(string(good.request(t, 20, 30)), testLog, "signet.test/another", 1)
	forged := good.request(t, 20, 30)
	forged[len(forged)-10] ^= 1
	for _, row := range []struct {
		name   string
		body   []byte
		status int
		size   uint64
	}{
		{"first", good.request(t, 0, 10), 200, 0},
		{"next", good.request(t, 10, 20), 200, 0},
		{"again", good.request(t, 20, 20), 200, 0},
		{"from the start", good.request(t, 0, 30), 409, 20},
		{"behind", good.request(t, 10, 15), 409, 20},
		{"unknown", []byte(stranger), 404, 0},
		{"forged", forged, 403, 0},
		{"old above", bytes.Replace(good.request(t, 0, 10), []byte("old 0"), []byte("old 11"), 1), 400, 0},
		{"malformed", []byte("old 0\n"), 400, 0},
		{"no proof", bytes.Replace(good.request(t, 0, 30), []byte("old 0"), []byte("old 20"), 1), 422, 0},
		{"fork", fork.request(t, 20, 30), 422, 0},
		{"fork with the honest proof", witness.Request{Old: 20, Proof: forked, Checkpoint: fork.note(t, 30)}.Marshal(), 422, 0},
		{"fork at one size", fork.request(t, 20, 20), 409, 20},
		{"next, after all of that", good.request(t, 20, 30), 200, 0},
	} {
		if status, size := outcome(t, c.cosigner, row.body); status != row.status || size != row.size {
			t.Errorf("%s: %d, size %d", row.name, status, size)
		}
	}
	if len(c.forks) != 1 || c.forks[0].Log != testLog || c.forks[0].Size != 20 || c.forks[0].Checkpoint != string(fork.note(t, 20)) {
		t.Errorf("the proof of the fork: %+v", c.forks)
	}
}

// The head outlives the process, and what is wrong with it stops the witness.
func TestCosignerRemembers(t *testing.T) {
	f, fork := newForest(t, "good"), newForest(t, "fork")
	dir := t.TempDir()
	cfg := Witness{Name: "witness.test/w", Logs: []WitnessedLog{{Key: f.vkey}}}
	c := openTestCosigner(t, dir, cfg)
	outcome(t, c.cosigner, f.request(t, 0, 50))
	again := openTestCosigner(t, dir, cfg)
	if status, size := outcome(t, again.cosigner, fork.request(t, 0, 50)); status != 409 || size != 50 || len(again.forks) != 1 {
		t.Errorf("a fork after a restart: %d, %d", status, size)
	}
	path := again.logs[testLog].path
	kept, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(kept, f.note(t, 50)) {
		t.Errorf("kept %q", kept)
	}
	open := func() error {
		_, err := openCosigner(dir, cfg, newCosigner(t, cfg.Name, "mine"), time.Now, nil, slog.New(slog.DiscardHandler))
		return err
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "cut": kept[:len(kept)-4], "another's": bytes.Replace(kept, []byte("50"), []byte("51"), 1), "more": append(bytes.Clone(kept), "— w AAAAAAAA\n"...),
	} {
		must(t, os.WriteFile(path, bad, 0o600))
		if open() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	must(t, os.WriteFile(path, kept, 0o600))
	must(t, open())
	if _, err := openCosigner(dir, cfg, newCosigner(t, cfg.Name, "another"), time.Now, nil, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("another key goes on with these heads")
	}
}

// Whoever dies between storing and signing has not signed, and goes on from there.
func TestCosignerDiesBetween(t *testing.T) {
	f, fork := newForest(t, "good"), newForest(t, "fork")
	dir := t.TempDir()
	cfg := Witness{Name: "witness.test/w", Logs: []WitnessedLog{{Key: f.vkey}}}
	c := openTestCosigner(t, dir, cfg)
	store := c.write
	died := errors.New("killed")
	c.write = func(path string, data []byte, perm fs.FileMode) error {
		must(t, store(path, data, perm))
		return died // after it is durable, before it is signed
	}
	if status, _ := outcome(t, c.cosigner, f.request(t, 0, 30)); status != 503 {
		t.Errorf("answered %d", status)
	}
	// What the disk has is not known to this process: it signs nothing of that log any more, and says so.
	c.write = store
	if status, _ := outcome(t, c.cosigner, f.request(t, 0, 30)); status != 503 || c.check() == nil {
		t.Errorf("goes on with %d", status)
	}
	again := openTestCosigner(t, dir, cfg)
	for _, row := range []struct {
		body   []byte
		status int
	}{{fork.request(t, 0, 30), 409}, {f.request(t, 0, 30), 409}, {f.request(t, 30, 30), 200}, {f.request(t, 30, 40), 200}} {
		if status, _ := outcome(t, again.cosigner, row.body); status != row.status {
			t.Errorf("after the restart %d, want %d", status, row.status)
		}
	}
	c2 := openTestCosigner(t, t.TempDir(), cfg)
	c2.write = func(string, []byte, fs.FileMode) error { return died } // nothing is stored: nothing is signed
	if status, _ := outcome(t, c2.cosigner, f.request(t, 0, 30)); status != 503 {
		t.Errorf("answered %d", status)
	}
}

// Of many requests from one size one advances the head; nobody gets a signature below it afterwards.
func TestCosignerIsAtomic(t *testing.T) {
	good, fork := newForest(t, "good"), newForest(t, "fork")
	c := newTestCosigner(t, good, t.TempDir())
	var mu sync.Mutex
	signed := map[uint64]map[[32]byte]bool{}
	var wg sync.WaitGroup
	for i := range 40 {
		f := []*forest{good, fork}[i%2]
		size := uint64(10 + i/2)
		body := f.request(t, 0, size)
		wg.Go(func() {
			if _, err := c.addCheckpoint(t.Context(), body); err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if signed[size] == nil {
				signed[size] = map[[32]byte]bool{}
			}
			signed[size][f.head(size).Root] = true
		})
	}
	wg.Wait()
	if len(signed) != 1 {
		t.Errorf("signed %d sizes from size 0", len(signed))
	}
	for size, roots := range signed {
		if len(roots) != 1 {
			t.Errorf("signed %d roots at size %d", len(roots), size)
		}
	}
}

func TestCosignerStart(t *testing.T) {
	f := newForest(t, "good")
	root := f.head(20).Root
	cfg := Witness{Name: "witness.test/w", Logs: []WitnessedLog{{Key: f.vkey, Start: &TreeHead{Size: 20, Root: base64.StdEncoding.EncodeToString(root[:])}}}}
	dir := t.TempDir()
	c := openTestCosigner(t, dir, cfg)
	if status, size := outcome(t, c.cosigner, f.request(t, 0, 30)); status != 409 || size != 20 {
		t.Errorf("%d, %d", status, size)
	}
	if status, _ := outcome(t, c.cosigner, f.request(t, 20, 30)); status != 200 {
		t.Errorf("%d", status)
	}
	if status, size := outcome(t, openTestCosigner(t, dir, cfg).cosigner, f.request(t, 20, 30)); status != 409 || size != 30 {
		t.Errorf("the start counts again: %d, %d", status, size)
	}
}

// One HSM call answers a head that is asked about again and again.
func TestCosignerAnswersAgain(t *testing.T) {
	f := newForest(t, "good")
	c := newTestCosigner(t, f, t.TempDir())
	now := time.Unix(1_772_355_600, 0)
	signer, err := witness.NewSigner("witness.test/w", keyOf("mine"), func() time.Time { return now })
	must(t, err)
	c.signer, c.now = signer, func() time.Time { return now }
	first, err := c.addCheckpoint(t.Context(), f.request(t, 0, 10))
	must(t, err)
	for after, same := range map[time.Duration]bool{time.Second: true, cosignAgain + time.Second: false} {
		now = time.Unix(1_772_355_600, 0).Add(after)
		line, err := c.addCheckpoint(t.Context(), f.request(t, 10, 10))
		must(t, err)
		if bytes.Equal(line, first) != same {
			t.Errorf("after %s: the same %v", after, !same)
		}
		if !same {
			break
		}
	}
}

func TestWitnessConfig(t *testing.T) {
	f := newForest(t, "good")
	key := newCosigner(t, "witness.test/w", "mine").Key()
	good := Witnesses{Quorum: 1, Servers: []WitnessServer{{URL: "https://witness.test/prefix/", Key: key}}}
	for name, row := range map[string]struct {
		change func(w *Witnesses)
		field  string
	}{
		"good":      {func(*Witnesses) {}, ""},
		"quorum":    {func(w *Witnesses) { w.Quorum = 2 }, "witnesses.quorum"},
		"no quorum": {func(w *Witnesses) { w.Quorum = 0 }, "witnesses.quorum"},
		"none":      {func(w *Witnesses) { w.Servers = nil }, "witnesses.servers"},
		"http":      {func(w *Witnesses) { w.Servers[0].URL = "http://witness.test" }, "servers[0].url"},
		"query":     {func(w *Witnesses) { w.Servers[0].URL += "?a=b" }, "servers[0].url"},
		"key":       {func(w *Witnesses) { w.Servers[0].Key = f.vkey }, "servers[0].key"},
		"twice":     {func(w *Witnesses) { w.Servers = append(w.Servers, w.Servers[0]) }, "servers[1].key"},
	} {
		w := good
		w.Servers = append([]WitnessServer(nil), good.Servers...)
		row.change(&w)
		var p problems
		w.check(&p)
		if err := errors.Join(p...); (err == nil) != (row.field == "") || err != nil && !strings.Contains(err.Error(), row.field) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, row := range map[string]struct {
		w     Witness
		field string
	}{
		"good":     {Witness{Name: "w", Logs: []WitnessedLog{{Key: f.vkey}}}, ""},
		"name":     {Witness{Name: "a b", Logs: []WitnessedLog{{Key: f.vkey}}}, "witness.name"},
		"no logs":  {Witness{Name: "w"}, "witness.logs"},
		"key":      {Witness{Name: "w", Logs: []WitnessedLog{{Key: key}}}, "logs[0].key"},
		"twice":    {Witness{Name: "w", Logs: []WitnessedLog{{Key: f.vkey}, {Key: f.vkey}}}, "logs[1].key"},
		"start":    {Witness{Name: "w", Logs: []WitnessedLog{{Key: f.vkey, Start: &TreeHead{Size: 1, Root: "x"}}}}, "logs[0].start"},
		"many":     {Witness{Name: "w", Logs: make([]WitnessedLog, maxWitnessedLogs+1)}, "witness.logs"},
		"no start": {Witness{Name: "w", Logs: []WitnessedLog{{Key: f.vkey, Start: &TreeHead{}}}}, "logs[0].start"},
	} {
		var p problems
		row.w.check(&p, "signet.test/this")
		if err := errors.Join(p...); (err == nil) != (row.field == "") || err != nil && !strings.Contains(err.Error(), row.field) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var p problems
	(&Witness{Name: "w", Logs: []WitnessedLog{{Key: f.vkey}}}).check(&p, testLog)
	if len(p) == 0 {
		t.Error("a witness of itself")
	}
}
