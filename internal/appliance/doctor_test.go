package appliance

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-pki/signet/internal/testrig/softhsm"
	"github.com/signet-pki/signet/internal/testrig/swtpm"
)

// fault is one thing that is wrong with an appliance, and how the doctor calls it.
type fault struct {
	name string
	seed func(w *ward, c *Config)
	want string // the ids of the checks that fail
	says string // within what, why and fix of the first
	pins int    // how often the issuing token is given a PIN
}

// otherKey puts a key of somebody's own in the place of the first agent CA's.
func otherKey(k softhsm.Key) func(w *ward, c *Config) {
	return func(w *ward, _ *Config) {
		k.Label = "agent-ca-1"
		w.hsm.DeleteKeys("issuing", wardPIN, k.Label)
		w.hsm.MakeKey("issuing", wardPIN, k)
	}
}

func tell(faults ...string) func(w *ward, c *Config) {
	return func(w *ward, _ *Config) { w.faulty.Tell(faults...) }
}

func tokenFaults() []fault {
	return []fault{
		{"wrong module path", func(_ *ward, c *Config) { c.Tokens.Issuing.Module = "/nonexistent/vendor.so" }, idModule, "no such file", 0},
		{"module that is none", func(w *ward, c *Config) { c.Tokens.Issuing.Module = w.file("vendor.so", "text") }, idModule, "no PKCS#11 library", 0},
		{"wrong token label", func(_ *ward, c *Config) { c.Tokens.Issuing.Label = "elsewhere" }, idToken, "no slot holds it", 0},
		{"two tokens of a label", func(w *ward, _ *Config) { w.hsm.InitToken("issuing", wardPIN) }, idToken, "2 tokens", 0},
		{"wrong PIN", func(w *ward, c *Config) { c.Tokens.Issuing.PINFile = w.hsm.WritePIN("issuing", "wrong", 0o600) }, idPIN, "CKR_PIN_INCORRECT", 1},
		{"PIN entered wrongly before", tell("C_GetTokenInfo flags 0x10000"), idPIN, "CKF_USER_PIN_COUNT_LOW", 0},
		{"last try of the PIN", tell("C_GetTokenInfo flags 0x20000"), idPIN, "one try is left", 0},
		{"PIN locked", tell("C_GetTokenInfo flags 0x40000"), idPIN, "security officer", 0},
		{"PIN locked without a flag", tell("C_Login error 0xa4"), idPIN, "CKR_PIN_LOCKED", 1},
		{"missing mechanism", tell("C_GetMechanismList empty"), idMechanisms, "CKM_ECDSA", 1},
		{"module that hangs", func(w *ward, c *Config) {
			c.Tokens.Issuing.Timeout = 6 * time.Second // the rest must make it
			w.faulty.Tell("C_Login hang")
		}, idPIN, "the module hangs", 1},
		{"module that crashes", tell("C_FindObjectsInit segv"), idKeys, "process has ended", 1},
		{"key gone", func(w *ward, _ *Config) { w.hsm.DeleteKeys("issuing", wardPIN, "jwt") }, idKeyExists, "key jwt", 1},
		{"two keys of a label", func(w *ward, _ *Config) { w.hsm.MakeKey("issuing", wardPIN, softhsm.Key{Label: "jwt"}) }, idKeyUnique, "several private keys", 1},
		{"extractable key", otherKey(softhsm.Key{Extractable: true}), idKeyKept, "extractable=true", 1},
		{"key of the wrong curve", otherKey(softhsm.Key{P384: true}), idKeyCurve, "P-384", 1},
		{"key that can do more", otherKey(softhsm.Key{Derives: true}), idKeyUsage, "derive", 1},
		{"certificate of another key", otherKey(softhsm.Key{}), idKeyCertPair, "agent-ca-1.pem", 1},
		{"certificates exchanged", func(w *ward, c *Config) {
			copyFile(w.t, filepath.Join(c.pkiDir(), "agent-ca-2.pem"), filepath.Join(c.pkiDir(), "agent-ca-1.pem"))
		}, idKeyCertPair, "verifies nowhere", 1},
		{"PIN for all to read", func(w *ward, c *Config) { c.Tokens.Issuing.PINFile = w.hsm.WritePIN("issuing", wardPIN, 0o644) }, idPINFile, "mode 0644", 0},
		{"PIN behind a link", func(w *ward, c *Config) {
			link := filepath.Join(w.t.TempDir(), "pin")
			must(w.t, os.Symlink(c.Tokens.Issuing.PINFile, link))
			c.Tokens.Issuing.PINFile = link
		}, idPINFile, "symbolic link", 1},
	}
}

func tpmFaults(other *swtpm.TPM) []fault {
	tool := func(name string, args ...string) func(w *ward, c *Config) {
		return func(w *ward, _ *Config) { w.tool(name, args...) }
	}
	return []fault{
		{"no TPM", func(_ *ward, c *Config) { c.TPM.Path = "unix:/nonexistent/tpm" }, idTPMAccess, "no such file", 1},
		{"TPM that hangs", func(w *ward, c *Config) {
			c.TPM.Timeout = 200 * time.Millisecond
			w.t.Cleanup(w.rig.Hang())
		}, idTPM, "the TPM hangs", 1},
		{"TPM cleared", tool("tpm2_clear"), idTPMCleared, "keep DIR as evidence", 1},
		{"TPM replaced", func(_ *ward, c *Config) { c.TPM.Path, c.TPM.EKRootsFile = other.Path(), "" }, idTPMEK, "tpm_swapped", 1},
		{"counter gone", tool("tpm2_nvundefine", "0x01805347"), idTPMCounter, "tpm_counter_missing", 1},
		{"attestation key gone", tool("tpm2_evictcontrol", "-c", "0x81020001"), idTPMAK, "tpm_ak_missing", 1},
		{"counter replaced", func(w *ward, _ *Config) {
			w.tool("tpm2_nvundefine", "0x01805347")
			w.tool("tpm2_nvdefine", "0x01805347", "-s", "8", "-a", "ownerread|ownerwrite|authread|authwrite|nt=counter")
		}, idTPMCounter, "tpm_replaced", 1},
		{"unknown maker", func(w *ward, c *Config) {
			root, intermediate := other.ManufacturerPEM()
			c.TPM.EKRootsFile = w.file("maker.pem", string(root)+string(intermediate))
		}, idTPMEKChain, "unknown authority", 1},
		{"locked out", func(w *ward, _ *Config) {
			w.tool("tpm2_dictionarylockout", "--setup-parameters", "--max-tries=1", "--recovery-time=3600", "--lockout-recovery-time=3600")
			w.tool("tpm2_nvdefine", "0x01800001", "-s", "8", "-a", "authread|authwrite", "-p", "secret")
			w.misuse("tpm2_nvread", "0x01800001", "-C", "0x01800001", "-P", "guess")
		}, idTPMLockout, "1 of 1 failed", 1},
		{"registers of another boot", func(_ *ward, c *Config) { c.TPM.PCRValues = map[string][]string{"7": {strings.Repeat("ab", 32)}} }, idTPMPCRs, "pcrs_changed", 1},
	}
}

func hostFaults() []fault {
	return []fault{
		{"directory for the group to write", func(w *ward, c *Config) { must(w.t, os.Chmod(c.Dir, 0o770)) }, idDir, "mode 0770", 1},
		{"log for all to read", func(w *ward, c *Config) { must(w.t, os.Chmod(c.logDir(), 0o755)) }, idDir, "mode 0755", 1},
		{"index key for all to read", func(w *ward, c *Config) { must(w.t, os.Chmod(c.indexKey(), 0o644)) }, idSecret, "index.key has mode 0644", 1},
		{"clock behind the log", func(w *ward, c *Config) {
			later := time.Now().Add(time.Hour)
			must(w.t, os.Chtimes(filepath.Join(c.logDir(), "heads.log"), later, later))
		}, idClockLog, "clock_behind", 1},
		{"disk below the watermark", func(_ *ward, c *Config) { c.Audit.MinFree = 1 << 60 }, idSpace, "watermark", 1},
		{"certificate of another root", func(w *ward, c *Config) {
			copyFile(w.t, filepath.Join(c.pkiDir(), "agent-ca-1.pem"), filepath.Join(c.pkiDir(), "root.pem"))
		}, idCertificates, "not signed by root.pem", 1},
		{"binding gone", func(w *ward, c *Config) { must(w.t, os.Remove(filepath.Join(c.pkiDir(), bindingFile))) }, idCeremony, "signetd init", 1},
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, b, 0o600))
}

// Each fault, seeded alone on real parts, fails its own check and no other; every failure says why and what to do.
func TestDoctorNamesEachFault(t *testing.T) {
	w := newWard(t)
	for _, f := range slices.Concat(tokenFaults(), tpmFaults(swtpm.New(t)), hostFaults()) {
		t.Run(f.name, func(t *testing.T) {
			w.t = t
			c := w.cfg
			f.seed(w, &c)
			before := w.faulty.Calls("C_Login")
			d := Doctor(t.Context(), c, slog.New(slog.DiscardHandler))
			if n := w.faulty.Calls("C_Login") - before; n != f.pins {
				t.Errorf("the token was given a PIN %d times, want %d", n, f.pins)
			}
			wantFailures(t, d, f)
			// Of what cannot be looked at, the failure is named.
			for _, s := range d.Checks {
				if because, ok := strings.CutPrefix(s.What, "not looked at, because of "); s.Status == Skip && (!ok || because != f.want) {
					t.Errorf("skipped: %+v", s)
				}
			}
		})
		w.t = t
		w.healthy()
	}
	if d := Doctor(t.Context(), w.cfg, slog.New(slog.DiscardHandler)); !d.OK {
		t.Errorf("without a fault: %+v", failures(d))
	}
}

func failures(d Diagnosis) []Finding {
	return slices.DeleteFunc(slices.Clone(d.Checks), func(f Finding) bool { return f.Status != Fail })
}

func wantFailures(t *testing.T, d Diagnosis, f fault) {
	t.Helper()
	got := failures(d)
	if len(got) != 1 || got[0].ID != f.want || d.OK || d.Err() == nil {
		t.Fatalf("failures %+v, want %s", got, f.want)
	}
	if g := got[0]; g.What == "" || g.Why == "" || g.Fix == "" || g.Subject == "" {
		t.Errorf("says too little: %+v", g)
	}
	if g := got[0]; !strings.Contains(strings.Join([]string{g.Subject, g.What, g.Why, g.Fix}, "\n"), f.says) {
		t.Errorf("does not say %q: %+v", f.says, g)
	}
}

// misuse runs a tool that the TPM refuses.
func (w *ward) misuse(name string, args ...string) {
	w.t.Helper()
	if err := w.command(name, args...).Run(); err == nil {
		w.t.Fatalf("%s was not refused", name)
	}
}

// A healthy appliance passes every check, before and after, and nothing of it changes.
func TestDoctorChangesNothing(t *testing.T) {
	w := newWard(t)
	data, keys := fingerprint(t, w.cfg.Dir), keyFiles(t, w.hsm.TokenDir())
	d := Doctor(t.Context(), w.cfg, slog.New(slog.DiscardHandler))
	if !d.OK || d.Err() != nil {
		t.Errorf("failures %+v", failures(d))
	}
	if fingerprint(t, w.cfg.Dir) != data {
		t.Error("the data directory changed")
	}
	if keyFiles(t, w.hsm.TokenDir()) != keys {
		t.Error("the tokens changed")
	}
	for _, id := range []string{
		idModule, idToken, idGenuine, idMechanisms, idPINFile, idPIN, idKeyExists, idKeyUnique, idKeyKept, idKeyCurve, idKeyCertPair, idKeyUsage,
		idTPM, idTPMAccess, idTPMGenuine, idTPMEK, idTPMEKChain, idTPMCleared, idTPMAK, idTPMCounter, idTPMClear, idTPMAuth, idTPMLockout, idTPMNV, idTPMClock, idTPMPCRs,
		idCertificates, idDir, idSecret, idSpace, idSync, idClockLog, idClockNTP,
	} {
		if !slices.ContainsFunc(d.Checks, func(f Finding) bool { return f.ID == id && f.Status != Skip }) {
			t.Errorf("no check %s", id)
		}
	}
	var text, doc bytes.Buffer
	must(t, d.Text(&text))
	must(t, d.JSON(&doc))
	var again Diagnosis
	must(t, json.Unmarshal(doc.Bytes(), &again))
	if !slices.Equal(again.Checks, d.Checks) || strings.Count(text.String(), "\n") != len(d.Checks) {
		t.Errorf("text and document differ:\n%s\n%s", text.String(), doc.String())
	}
	c := w.cfg
	c.Development = false
	var ids []string
	for _, f := range failures(Doctor(t.Context(), c, slog.New(slog.DiscardHandler))) {
		if f.ID != idSync { // where tests have their files in memory
			ids = append(ids, f.ID)
		}
	}
	if want := []string{idGenuine, idGenuine, idTPMGenuine}; !slices.Equal(ids, want) {
		t.Errorf("in production: %q, want %q", ids, want)
	}
}

// What a device says of itself cannot write to the terminal.
func TestDoctorPrintsPlainText(t *testing.T) {
	var b bytes.Buffer
	d := Diagnosis{Checks: []Finding{bad("id", "token\x1b[2J", "two\nlines\u202e", "why", "fix")}}
	must(t, d.Text(&b))
	if got, want := b.String(), "FAIL  id               token?[2J: two; lines?. Why: why. Fix: fix\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestDoctorKnowsDisksThatKeepNothing(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "signet")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	c := Config{Dir: dir}
	must(t, os.Mkdir(c.logDir(), 0o700))
	if f := c.examineSync(); f.Status != Fail || f.ID != idSync || f.What != "tmpfs keeps nothing" {
		t.Errorf("%+v", f)
	}
	c.Development = true
	if f := c.examineSync(); f.Status != Warn {
		t.Errorf("in development: %+v", f)
	}
}

// One whole missing directory is one failure.
func TestDoctorWithoutADirectory(t *testing.T) {
	c := Config{Dir: filepath.Join(t.TempDir(), "none")}
	d := c.examineFiles(time.Now())
	if len(d) != 5 || d[0].Status != Fail || d[0].ID != idDir {
		t.Errorf("%+v", d)
	}
	for _, f := range d[1:] {
		if f.Status != Skip {
			t.Errorf("%+v", f)
		}
	}
}

func TestDoctorGivesUpOnWhatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		l := looking{idDir, "/stale/nfs", func(context.Context) []Finding { <-release; return nil }}
		start := time.Now()
		f := l.bounded(t.Context())
		if len(f) != 1 || f[0].ID != idDir || f[0].Status != Fail || f[0].Fix == "" {
			t.Errorf("%+v", f)
		}
		if took := time.Since(start); took != lookWithin+patience {
			t.Errorf("took %v", took)
		}
		close(release)
	})
}
