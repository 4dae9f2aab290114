package appliance

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/internal/testrig/swtpm"
	"github.com/signet-pki/signet/tpm"
	"github.com/signet-pki/signet/tpm/quote"
)

// anchored is an appliance's TPM behind its ceremony, and a log that it seals.
type anchored struct {
	t   *testing.T
	rig *swtpm.TPM
	cfg Config
	log audit.Config
	key *ecdsa.PrivateKey
}

func newAnchored(t *testing.T) *anchored {
	t.Helper()
	a := &anchored{t: t, rig: swtpm.New(t), cfg: Config{Dir: t.TempDir(), Development: true}}
	a.cfg.TPM.Path = a.rig.Path()
	a.cfg.defaults()
	must(t, os.MkdirAll(a.cfg.pkiDir(), 0o700))
	dev := a.open(quote.Binding{})
	must(t, dev.CreateAK(t.Context()))
	must(t, dev.CreateCounter(t.Context()))
	binding, err := dev.Activate(t.Context())
	must(t, err)
	must(t, a.cfg.writeBinding(binding))
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	a.log = audit.Config{
		Dir: filepath.Join(t.TempDir(), "log"), Origin: readersOrigin, Signer: a.key, Quoter: quoter{dev}, PCRs: a.cfg.TPM.selection().PCRs(),
		IndexKey: make([]byte, 32), Now: time.Now, Log: slog.New(slog.DiscardHandler), SealInterval: time.Millisecond, Heartbeat: time.Hour,
		MaxSealAge: time.Hour, DeviceTimeout: time.Minute, MinFree: 1, Ballast: 1 << 20,
	}
	must(t, audit.Create(t.Context(), a.log, []record.Entry{numberedEntry(t, record.TypeCeremony, 0)}))
	return a
}

func (a *anchored) open(ceremony quote.Binding) *tpm.Device {
	a.t.Helper()
	dev, err := a.cfg.openTPM(a.t.Context(), ceremony, slog.New(slog.DiscardHandler))
	must(a.t, err)
	a.t.Cleanup(func() { must(a.t, dev.Close()) })
	return dev
}

// starts is what an appliance finds out about its TPM when it starts.
func (a *anchored) starts() error {
	a.t.Helper()
	binding, err := a.cfg.readBinding()
	must(a.t, err)
	return a.cfg.checkTPM(a.t.Context(), a.open(binding), binding)
}

// tool runs one of tpm2-tools on the TPM, as whoever may open it can.
func (a *anchored) tool(name string, args ...string) {
	a.t.Helper()
	if out, err := a.command(name, args...).CombinedOutput(); err != nil {
		a.t.Fatalf("%s (apt-get install tpm2-tools): %v\n%s", name, err, out)
	}
}

func (a *anchored) command(name string, args ...string) *exec.Cmd {
	return exec.CommandContext(a.t.Context(), name, append([]string{"-T", a.rig.TCTI()}, args...)...) // #nosec G204 -- the test's own
}

// run opens the log and gives it back with what ends it.
func (a *anchored) run() (*audit.Log, func()) {
	a.t.Helper()
	l, err := audit.Open(a.t.Context(), a.log)
	must(a.t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(a.t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				a.t.Logf("the log ended: %v", err)
			}
			must(a.t, l.Close())
		})
	}
	a.t.Cleanup(stop)
	return l, stop
}

func (a *anchored) seal(l *audit.Log) uint64 {
	a.t.Helper()
	p, err := l.Append(a.t.Context(), numberedEntry(a.t, record.TypeAdmin, 1))
	must(a.t, err)
	n, err := l.WaitSealed(a.t.Context(), p.Index)
	must(a.t, err)
	return n
}

func wantWord(t *testing.T, what string, err error, word string) {
	t.Helper()
	if word == "" && err != nil || word != "" && (err == nil || !strings.HasPrefix(err.Error(), word+": ")) {
		t.Errorf("%s: %v, want %q", what, err, word)
	}
}

// What somebody with the TPM in hand does to it has a name of its own, while the appliance runs and when it starts.
func TestWhatHappenedToTheTPM(t *testing.T) {
	a := newAnchored(t)
	binding, err := a.cfg.readBinding()
	must(t, err)
	probe := &tpmProbe{dev: a.open(binding), ceremony: binding}
	helper := a.open(quote.Binding{})
	both := func(what, word string) {
		t.Helper()
		for range 2 { // the second answer is the remembered one
			wantWord(t, what+", running", probe.check(t.Context()), word)
		}
		wantWord(t, what+", starting", a.starts(), word)
	}
	both("at first", "")
	a.tool("tpm2_nvundefine", "0x01805347")
	both("counter deleted", "tpm_counter_missing")
	must(t, helper.CreateCounter(t.Context()))
	both("counter made anew", "")
	a.tool("tpm2_evictcontrol", "-c", "0x81020001")
	both("key removed", "tpm_ak_missing")
	must(t, helper.CreateAK(t.Context()))
	both("key made anew", "")
	a.tool("tpm2_clear")
	both("cleared", "tpm_cleared")
	a.tool("tpm2_nvdefine", "0x01805347", "-s", "8", "-a", "ownerread|ownerwrite|authread|authwrite|nt=counter")
	both("another counter in its place", "tpm_replaced")
	must(t, helper.CreateAK(t.Context()))
	a.tool("tpm2_nvincrement", "-C", "o", "0x01805347")
	both("another counter, and the key", "tpm_replaced")
	a.cfg.TPM.Path = swtpm.New(t).Path()
	wantWord(t, "a blank TPM instead, starting", a.starts(), "tpm_swapped")
	other := a.open(quote.Binding{})
	must(t, other.CreateAK(t.Context()))
	must(t, other.CreateCounter(t.Context()))
	wantWord(t, "a TPM with keys of its own instead, starting", a.starts(), "tpm_swapped")
	a.rig.Kill()
	if err := probe.check(t.Context()); err == nil || strings.Contains(err.Error(), "tpm_") {
		t.Errorf("a TPM that is away: %v", err)
	}
}

// A cleared TPM gets the same key and, under the same name, a counter that begins anew (measured: at 1). The log is not deceived.
func TestClearedAndMadeAnewIsBehindTheLog(t *testing.T) {
	a := newAnchored(t)
	l, stop := a.run()
	a.seal(l)
	a.seal(l)
	stop()
	a.tool("tpm2_clear")
	dev := a.open(quote.Binding{})
	must(t, dev.CreateAK(t.Context()))
	must(t, dev.CreateCounter(t.Context()))
	must(t, a.starts()) // the names are the same
	wantReadOnly(t, a, "tpm_rolled_back")
}

// A TPM whose state was put back is behind the log, whether it was reset in between or not.
func TestTPMPutBackIsBehindTheLog(t *testing.T) {
	a := newAnchored(t)
	l, stop := a.run()
	a.seal(l)
	stop()
	a.rig.Stop()
	restore := a.rig.Snapshot()
	for range 2 {
		a.rig.Restart()
		l, stop = a.run()
		a.seal(l)
		stop()
	}
	restore()
	a.rig.Restart() // the third boot, counted as the second
	wantReadOnly(t, a, "tpm_rolled_back")
}

// A database put back behind its last seal is behind the TPM.
func TestLogPutBackIsBehindTheTPM(t *testing.T) {
	a := newAnchored(t)
	l, stop := a.run()
	a.seal(l)
	stop()
	older := t.TempDir()
	must(t, os.CopyFS(older, os.DirFS(a.log.Dir)))
	l, stop = a.run()
	a.seal(l)
	stop()
	must(t, os.RemoveAll(a.log.Dir))
	must(t, os.Mkdir(a.log.Dir, 0o700))
	must(t, os.CopyFS(a.log.Dir, os.DirFS(older)))
	wantReadOnly(t, a, "tpm_counter")
}

func wantReadOnly(t *testing.T, a *anchored, word string) {
	t.Helper()
	l, stop := a.run()
	defer stop()
	s := l.Status()
	if s.Writable || len(s.Reasons) != 1 || !strings.HasPrefix(s.Reasons[0], word+": ") {
		t.Errorf("reasons %q, want %s", s.Reasons, word)
	}
}

// The registers of a real TPM: extended while it runs, and as they were after a reset.
func TestChangedRegistersOfATPM(t *testing.T) {
	a := newAnchored(t)
	values, err := a.open(quote.Binding{}).PCRs(t.Context())
	must(t, err)
	a.cfg.TPM.PCRValues = map[string][]string{"7": {hex.EncodeToString(values[7])}}
	dev := a.open(quote.Binding{})
	must(t, a.cfg.TPM.checkPCRs(t.Context(), dev))
	l, stop := a.run()
	a.seal(l)
	a.tool("tpm2_pcrextend", "7:sha256="+strings.Repeat("ab", 32))
	wantWord(t, "an extended register", a.cfg.TPM.checkPCRs(t.Context(), dev), "pcrs_changed")
	inBoot := a.seal(l)
	stop()
	a.rig.Kill()
	a.rig.Restart()
	must(t, a.cfg.TPM.checkPCRs(t.Context(), dev))
	l, stop = a.run()
	defer stop()
	a.seal(l)
	a.seal(l)
	var events []string
	must(t, l.Entries(t.Context(), 0, l.Head().Size, func(s record.Stored) error {
		var e struct {
			Body record.DeviceBody `json:"body"`
		}
		must(t, json.Unmarshal(s.Envelope, &e))
		if e.Body.Event != "" {
			events = append(events, e.Body.Event)
		}
		if e.Body.Event == record.EventPCRsChangedInBoot && e.Body.Seal > inBoot {
			t.Errorf("recorded with seal %d, shown by seal %d", e.Body.Seal, inBoot)
		}
		for _, c := range e.Body.PCRs {
			if want := hex.EncodeToString(values[7]); c.PCR != 7 || (c.Before == want) == (c.After == want) {
				t.Errorf("%+v", c)
			}
		}
		return nil
	}))
	if got, want := strings.Join(events, " "), "pcrs_changed_in_boot tpm_reset pcrs_changed"; got != want {
		t.Errorf("events %q, want %q", got, want)
	}
}
