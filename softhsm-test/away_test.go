package softhsmtest

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/internal/appliance"
)

const (
	// loadClients of the soak, at a time.
	loadClients = 32
	// briefSealAge is the configuration's max_seal_age there.
	briefSealAge = 3 * time.Second
	// healsWithin is how soon certificates are issued after a device is back, in the median: a machine with other work has its pauses.
	healsWithin = 2 * time.Second
)

// TestSoakDevicesTakenAway takes the tokens, the TPM, and both away from a running appliance and brings them back, under load; twice
// each in an ordinary run, 50 times in a long one.
func TestSoakDevicesTakenAway(t *testing.T) {
	rounds, long := 2, os.Getenv("SIGNET_SOAK") != ""
	if long {
		rounds = 50
	}
	p := plant(t, func(cfg *appliance.Config) {
		cfg.Audit.SealInterval, cfg.Audit.Heartbeat, cfg.Audit.MaxSealAge = time.Second, time.Second, briefSealAge
	})
	d := p.serve(t)
	l := startLoad(t, p.c, p.task, loadClients)
	l.signs(t)
	sizes := []size{sizeOf(t, d)}
	healed := map[string][]time.Duration{}
	for round := range rounds {
		if round == rounds/4 || round == rounds/2 {
			sizes = append(sizes, sizeOf(t, d))
		}
		for name, take := range map[string]func() func(){
			"tokens": func() func() { return takeTokens(t, p.dir) },
			"TPM":    func() func() { return takeTPM(t, p.dir, "tpm") },
			"both": func() func() {
				tokens, tpm := takeTokens(t, p.dir), takeTPM(t, p.dir, "tpm")
				return func() { tpm(); tokens() }
			},
		} {
			l.signs(t)
			bring := take()
			l.onlyFails(t)
			bring()
			back := time.Now()
			l.signs(t)
			healed[name] = append(healed[name], time.Since(back).Round(time.Millisecond))
		}
	}
	half, after := sizes[len(sizes)-1], sizeOf(t, d)
	t.Logf("%d rounds each; KiB and threads: %v, at last %v", rounds, sizes, after)
	for name, took := range healed {
		slices.Sort(took)
		median := took[len(took)/2]
		t.Logf("%s: issuing again %v after they were back, at most %v", name, median, took[len(took)-1])
		if long && median > healsWithin {
			t.Errorf("%s: issued again %v after they were back", name, median)
		}
	}
	// Caches fill in the first half.
	if after.memory > half.memory+128<<10 || after.threads > half.threads+32 {
		t.Errorf("the daemon grew: %+v → %+v", half, after)
	}
	l.stop(t)
	if l.codes["signing_unavailable"]+l.codes["not_ready"] == 0 {
		t.Error("every refusal came after an entry")
	}
	p.c.becomes(20 * time.Second)
	must(t, p.c.works(p.task))
	l.agreesWithLog(t)
	l.underFreshSeals(t)
	p.verifies(t, d)
}

// takeTokens takes SoftHSM's away, and gives what brings them back.
func takeTokens(t *testing.T, dir string) (bring func()) {
	t.Helper()
	tokens := filepath.Join(dir, "devices", "tokens")
	must(t, os.Rename(tokens, tokens+".away"))
	return func() { must(t, os.Rename(tokens+".away", tokens)) }
}

// size is what a process takes, without what it maps of files.
type size struct{ memory, threads int } // KiB

func sizeOf(t *testing.T, d *daemon) size {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	must(t, err)
	field := func(name string) int {
		_, rest, _ := strings.Cut(string(text), "\n"+name+":")
		n, err := strconv.Atoi(strings.Fields(rest)[0])
		must(t, err)
		return n
	}
	return size{memory: field("RssAnon"), threads: field("Threads")}
}

// underFreshSeals checks that nothing was issued when the last seal was older than the configuration allows.
func (l *load) underFreshSeals(t *testing.T) {
	t.Helper()
	seals := sealTimes(t, exported(t, l.c))
	issued := 0
	for _, e := range l.c.entries(l.from) {
		if e.Type != record.TypeIssue {
			continue
		}
		issued++
		var last time.Time
		for _, at := range seals {
			if !at.After(e.Time) && at.After(last) {
				last = at
			}
		}
		// A seal's time has whole seconds, and the entry's is a moment after the decision.
		if age := e.Time.Sub(last); age > briefSealAge+2*time.Second {
			t.Errorf("entry %d was issued %v after the last seal", e.index, age)
		}
	}
	if issued == 0 || len(seals) < 2 {
		t.Errorf("%d entries, %d seals: nothing was compared", issued, len(seals))
	}
}

// sealTimes are the last lines of a bundle's seals.
func sealTimes(t *testing.T, bundle string) (times []time.Time) {
	t.Helper()
	f, err := os.Open(bundle) // #nosec G304 -- the test's own file
	must(t, err)
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return times
		}
		must(t, err)
		if !strings.HasPrefix(h.Name, "seals/") || !strings.HasSuffix(h.Name, ".txt") {
			continue
		}
		text, err := io.ReadAll(r)
		must(t, err)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		at, err := time.Parse(time.RFC3339, lines[len(lines)-1])
		must(t, err)
		times = append(times, at)
	}
}

// TestQueueIsBounded: the token signs more slowly than the clients ask. As many wait as may; the others are told when to come again, most
// of them before anything is logged, and nothing piles up.
func TestQueueIsBounded(t *testing.T) {
	p := plantModule(t, func(tokens *appliance.Tokens, module string) {
		tokens.Issuing.Module, tokens.Issuing.Isolate, tokens.Issuing.Sessions, tokens.Issuing.Queue = module, true, 2, 4
	})
	d := p.serve(t)
	must(t, p.c.works(p.task))
	p.module.Tell("C_Sign slow 250")
	before := sizeOf(t, d)
	l := startLoad(t, p.c, p.task, loadClients)
	within(t, 60*time.Second, "refusals and certificates", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.codes["signing_unavailable"] < 5*loadClients || len(l.issued) < 16 {
			return fmt.Errorf("%d certificates, refusals: %v", len(l.issued), l.codes)
		}
		return nil
	})
	within(t, 20*time.Second, "Retry-After", func() error { return toldWhen(t, p) })
	if after := sizeOf(t, d); after.memory > before.memory+128<<10 || after.threads > before.threads+32 {
		t.Errorf("the daemon grew: %+v → %+v", before, after)
	}
	p.module.Behave()
	l.stop(t)
	must(t, p.c.works(p.task))
	p.verifies(t, d)
}

// toldWhen spawns until the queue is met full.
func toldWhen(t *testing.T, p planted) error {
	_, csr := newKey(t)
	q, err := spawnRequest(p.task, csr)
	must(t, err)
	body, err := json.Marshal(q)
	must(t, err)
	header, err := p.c.answer(t.Context(), p.c.orchestrator.cert, "/v1/agents", string(body), "Idempotency-Key", q.SpawnID)
	if err := refusedWith(err, "signing_unavailable"); err != nil {
		return err
	}
	if got := header.Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After is %q", got)
	}
	return nil
}
