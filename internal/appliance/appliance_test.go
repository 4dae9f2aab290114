package appliance

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-pki/signet/ca/ceremony"
)

func example(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "deploy", "signet.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestShippedExampleIsValid(t *testing.T) {
	c, err := ParseConfig([]byte(example(t)))
	if err != nil {
		t.Fatal(err)
	}
	if c.Development {
		t.Error("the example is for development")
	}
	c.Ceremony.TrustDomain, c.Ceremony.Origin = c.TrustDomain, c.Origin
	if _, err := ceremony.ParsePlan(c.Ceremony); err != nil {
		t.Error(err)
	}
	if c.Tokens.Issuing.Timeout != 5*time.Second || c.Audit.Heartbeat != time.Minute {
		t.Error("durations were not read")
	}
}

func TestConfigNamesEveryProblem(t *testing.T) {
	text := example(t)
	for from, to := range map[string]string{
		"trust_domain: signet.hospital.example": "trust_domain: Not A Domain",
		"dir: /var/lib/signet":                  "dir: relative",
		"listen: 0.0.0.0:8443":                  "listen: nowhere",
		"public_url: https:":                    "public_url: http:",
		"path: /dev/tpmrm0":                     "path: \"\"",
		"pcrs: sha256:0,1,2,3,4,5,6,7":          "pcrs: md5:1",
		"max_seal_age: 3m":                      "max_seal_age: 1s",
		"heartbeat: 1m":                         "heartbeat: 6m",
		"- database:read:patients":              "- database:**",
		"label: signet-audit":                   "label: \"\"",
		"url: https://bundles.":                 "url: http://bundles.",
		"interval: 1m":                          "interval: 1s",
		"file: /etc/signet/policy-2026.pem":     "file: \"\"",
	} {
		if !strings.Contains(text, from) {
			t.Fatalf("the example has no %q", from)
		}
		text = strings.Replace(text, from, to, 1)
	}
	_, err := ParseConfig([]byte(text))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, field := range []string{
		"trust_domain", "dir", "listen", "public_url", "tpm.path", "tpm.pcrs", "audit:", "audit.heartbeat", "resources[0]", "tokens.audit.label",
		"policy.keys[0]", "policy.pull.url", "policy.pull.interval",
	} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("the error does not name %s:\n%v", field, err)
		}
	}
}

// The public URL is what others are built of: what may not follow it is refused where it is written.
func TestConfigPublicURL(t *testing.T) {
	for url, ok := range map[string]bool{
		"https://signet.example": true, "https://signet.example:8443/signet": true,
		"https://signet.example/": false, "https://signet.example/signet/": false, "https://signet.example?a=b": false, "https://signet.example?": false,
		"https://signet.example#a": false, "https://me@signet.example": false, "https:signet.example": false, "https://": false,
	} {
		_, err := ParseConfig([]byte(strings.Replace(example(t), "public_url: https://signet.hospital.example:8443", "public_url: \""+url+"\"", 1)))
		if (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "public_url") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestConfigRefusesUnknownKeys(t *testing.T) {
	for _, extra := range []string{"\nsurprise: 1\n", "\ntpm:\n  path: /dev/tpm0\n"} {
		if _, err := ParseConfig([]byte(example(t) + extra)); err == nil {
			t.Errorf("accepted %q", extra)
		}
	}
}

// switchable is a probe whose answer a test sets.
type switchable struct{ err atomic.Pointer[error] }

func (s *switchable) set(err error) { s.err.Store(&err) }

func (s *switchable) check(context.Context) error { return *s.err.Load() }

func TestMonitor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var device, stock switchable
		device.set(errors.New("gone"))
		stock.set(nil)
		hung := probe{name: "hung", warn: true, check: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
		m := newMonitor(slog.New(slog.DiscardHandler),
			probe{name: "device", check: device.check}, probe{name: "stock", warn: true, check: stock.check}, hung)
		if m.ready() == nil {
			t.Fatal("ready before anything was asked")
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		synctest.Wait()
		if err := m.ready(); err == nil || !strings.Contains(err.Error(), "device: gone") {
			t.Errorf("a missing device: %v", err)
		}
		device.set(nil)
		stock.set(errors.New("few"))
		time.Sleep(checkEvery) // of the bubble's clock
		synctest.Wait()
		if err := m.ready(); err != nil {
			t.Errorf("a warning stops the appliance: %v", err)
		}
		time.Sleep(checkWithin)
		synctest.Wait()
		if c := m.conditions()[2]; !strings.Contains(c.reason, "deadline") {
			t.Errorf("a hung probe says %q", c.reason)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
