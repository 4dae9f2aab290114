package softhsmtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/internal/appliance"
	"github.com/signet-pki/signet/internal/devkit"
	"github.com/signet-pki/signet/internal/devkit/idp"
	"github.com/signet-pki/signet/internal/durable"
)

// inside is an appliance in this process, for what cannot be done to another: its clock, its limits.
type inside struct {
	url  string
	skew atomic.Int64 // nanoseconds added to the clock
	stop func()
}

func (i *inside) now() time.Time { return time.Now().Add(time.Duration(i.skew.Load())) }

// made is the directory of a development appliance that ran once and stopped.
func made(t *testing.T) string {
	t.Helper()
	dir := newDir(t)
	d := start(t, dir)
	d.stop()
	return dir
}

// runInside runs the appliance of dir with a changed configuration until the test ends or stop is called.
func runInside(t *testing.T, dir string, change func(*appliance.Config)) *inside {
	t.Helper()
	t.Setenv("SOFTHSM2_CONF", "") // devkit sets it; the test puts it back
	devices, err := devkit.Start(t.Context(), filepath.Join(dir, "devices"))
	must(t, err)
	cfg, err := appliance.LoadConfig(filepath.Join(dir, "signet.yaml"))
	must(t, err)
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	i := &inside{url: "https://" + ln.Addr().String()}
	cfg.Listen, cfg.PublicURL = ln.Addr().String(), i.url
	idp0 := &cfg.IdentityProviders[0]
	idp0.Issuer = i.url + "/idp"
	change(&cfg)
	provider, err := idp.New(idp.Config{
		Issuer: i.url + "/idp", ClientID: idp0.ClientID, RedirectURIs: []string{i.url + "/v1/grants/callback/" + idp0.Name}, Now: time.Now,
	})
	must(t, err)
	var said output
	log := slog.New(slog.NewTextHandler(&said, nil))
	a, err := appliance.New(t.Context(), cfg, appliance.Options{Mounts: map[string]http.Handler{"/idp/": provider}, Now: i.now, Log: log})
	must(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, ln) }() // joined by stop
	stopped := false
	i.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := errors.Join(<-done, devices.Stop()); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the appliance ends with %v\n%s", err, said.String())
		}
	}
	t.Cleanup(i.stop)
	ready, cancelReady := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancelReady()
	must(t, a.WaitReady(ready))
	return i
}

// keptAll checks that the log begins with the entries that it had, byte for byte.
func keptAll(t *testing.T, c *cast, had []logged) {
	t.Helper()
	now := c.entries(0)
	if len(now) < len(had) {
		t.Fatalf("%d entries of %d are left", len(now), len(had))
	}
	for i := range had {
		if !bytes.Equal(had[i].raw, now[i].raw) {
			t.Errorf("entry %d changed", i)
		}
	}
}

// fill takes disk space in one piece until release is called.
func fill(t *testing.T, dir string, size int64) (release func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	must(t, err)
	must(t, syscall.Fallocate(int(f.Fd()), 0, 0, size))
	must(t, f.Close())
	return func() { must(t, os.Remove(path)) }
}

// TestDiskFull lets the free space fall below what is configured to stay free.
func TestDiskFull(t *testing.T) {
	dir := made(t)
	free, err := durable.FreeBytes(dir)
	must(t, err)
	const margin = 1 << 30 // others use this disk too: compilers that run beside the tests, for one
	if free < 4*margin {
		t.Fatalf("this test needs %d MiB of free disk space", 4*margin>>20)
	}
	i := runInside(t, dir, func(c *appliance.Config) { c.Audit.MinFree = free - margin })
	c := newCast(t, dir, i.url)
	_, task := c.task(c.orchestrator)
	a, err := spawn(t.Context(), c.orchestrator, task)
	must(t, err)
	must(t, c.works(task))
	had := c.entries(0)

	release := fill(t, dir, 2*margin)
	// Before the appliance has noticed, the log itself refuses.
	_, err = spawn(t.Context(), c.orchestrator, task)
	if err := refusedWith(err, "audit_unavailable", "not_ready"); err != nil {
		t.Errorf("at once: %v", err)
	}
	c.becomes(5*time.Second, "log")
	if reason := unwell(t, c.auditor)["log"]; !strings.Contains(reason, "disk_full") {
		t.Errorf("readyz says %q", reason)
	}
	c.nothingGoes(t, task, a)
	if n := len(c.entries(0)); n > len(had)+3 { // seals and their like come from a reserve
		t.Errorf("%d entries were written", n-len(had))
	}
	c.nothingIssued(uint64(len(had)))
	keptAll(t, c, had)
	release()
	within(t, 10*time.Second, "working again", func() error { return c.works(task) })
	keptAll(t, c, had)
	i.stop()
	fsck(t, dir)
}

// TestClockSetBack: an appliance whose clock is behind its own log does nothing, says so, and loses nothing.
func TestClockSetBack(t *testing.T) {
	dir := made(t)
	i := runInside(t, dir, func(*appliance.Config) {})
	c := newCast(t, dir, i.url)
	_, task := c.task(c.orchestrator)
	a, err := spawn(t.Context(), c.orchestrator, task)
	must(t, err)
	must(t, c.works(task))
	had := c.entries(0)

	// Not so far that the callers' certificates are not valid yet.
	i.skew.Store(int64(-20 * time.Second))
	_, err = spawn(t.Context(), c.orchestrator, task)
	if err := refusedWith(err, "audit_unavailable", "not_ready"); err != nil {
		t.Errorf("at once: %v", err)
	}
	c.becomes(5*time.Second, "log")
	if reason := unwell(t, c.auditor)["log"]; !strings.Contains(reason, "clock_behind") {
		t.Errorf("readyz says %q", reason)
	}
	c.nothingGoes(t, task, a)
	c.nothingIssued(uint64(len(had)))

	i.skew.Store(int64(-24 * time.Hour))
	_, err = spawn(t.Context(), c.orchestrator, task)
	if err := refusedWith(err, "client_certificate_expired", "client_certificate_untrusted", "not_ready"); err != nil {
		t.Errorf("a day back: %v", err)
	}
	i.skew.Store(0)
	within(t, 10*time.Second, "working again", func() error { return c.works(task) })
	c.nothingIssuedBut(uint64(len(had)), 1)
	keptAll(t, c, had)
	i.stop()
	fsck(t, dir)
}

// TestExpired lets things expire that cannot be waited for.
func TestExpired(t *testing.T) {
	dir := made(t)
	i := runInside(t, dir, func(*appliance.Config) {})
	c := newCast(t, dir, i.url)
	name := unique(t, "late")
	reg, err := c.operator.RegisterOrchestrator(t.Context(), v1.OrchestratorRegistration{Name: name})
	must(t, err)
	_, csr := newKey(t)
	from := c.size()
	i.skew.Store(int64(time.Until(reg.JoinTokenExpires) + time.Second))
	_, err = c.person(nil).Attest(t.Context(), name, v1.Attestation{Method: v1.MethodJoinToken, Token: reg.JoinToken, CSR: csr})
	var p *client.Problem
	if !errors.As(err, &p) || p.Code != "join_token_expired" || p.Status != 401 {
		t.Fatalf("want join_token_expired, got %v", orAllowed(err))
	}
	c.recorded(p, "join_token_expired")
	c.nothingIssued(from)
}

// nothingIssuedBut allows for n certificates.
func (c *cast) nothingIssuedBut(from uint64, n int) {
	c.t.Helper()
	count := 0
	for _, e := range c.entries(from) {
		if e.Type == "issue" {
			count++
		}
	}
	if count != n {
		c.t.Errorf("%d certificates instead of %d", count, n)
	}
}

// recorded checks that a refusal names its entry, and that the entry says the same: a deny, or of callers whom nobody knows
// a malformed, which are counted together when there are many.
func (c *cast) recorded(p *client.Problem, code string) {
	c.t.Helper()
	if p.AuditID == nil {
		c.t.Errorf("%s names no entry", code)
		return
	}
	e, err := c.auditor.Entry(c.t.Context(), *p.AuditID)
	must(c.t, err)
	var l logged
	must(c.t, json.Unmarshal(e.Entry, &l))
	if (l.Type != record.TypeDeny && l.Type != record.TypeMalformed) || l.Code != code {
		c.t.Errorf("entry %d does not record %s: %s", *p.AuditID, code, e.Entry)
	}
}
