// Package swtpm gives a test its own software TPM, freshly manufactured with EK certificates, that can be killed, restarted,
// slowed down to the pace of a real chip, hung, put back to an older state, and made to lie. It refuses nothing and skips nothing: a missing swtpm fails the
// test. All methods are safe for concurrent use, but Kill, Stop and Restart fail the test and so belong on its own goroutine.
package swtpm

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/signet-pki/signet/internal/swtpmd"
)

// TPM is a software TPM behind a proxy that injects faults.
type TPM struct {
	t       testing.TB
	dir     string
	process *swtpmd.Process
	proxy   *proxy
}

// New manufactures and starts a TPM that ends with the test.
func New(t testing.TB) *TPM {
	t.Helper()
	// Not t.TempDir: its long names do not fit into a socket's address.
	dir, err := os.MkdirTemp("", "sg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := swtpmd.Provision(t.Context(), dir); err != nil {
		if errors.Is(err, swtpmd.ErrMissing) {
			t.Fatalf("%v (this test needs: apt-get install swtpm swtpm-tools)", err)
		}
		t.Fatal(err)
	}
	r := &TPM{t: t, dir: dir}
	r.start()
	t.Cleanup(func() { r.process.Kill() })
	r.proxy = newProxy(t, filepath.Join(dir, "proxy"), r.process.Socket())
	return r
}

// Path is the device path for tpm.Config, through the proxy. It stays the same across restarts.
func (r *TPM) Path() string { return "unix:" + r.proxy.path }

// TCTI names the TPM for tpm2-tools, without the proxy: TPM2TOOLS_TCTI or `-T`.
func (r *TPM) TCTI() string { return "swtpm:path=" + r.process.Socket() }

// ManufacturerCA gives the roots and intermediates that the TPM's EK certificates verify against.
func (r *TPM) ManufacturerCA() (roots, intermediates *x509.CertPool) {
	r.t.Helper()
	roots, intermediates, err := swtpmd.ManufacturerCA(r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	return roots, intermediates
}

// ManufacturerPEM gives the same certificates as PEM.
func (r *TPM) ManufacturerPEM() (root, intermediate []byte) {
	r.t.Helper()
	root, intermediate, err := swtpmd.ManufacturerPEM(r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	return root, intermediate
}

// Kill ends the TPM like a power loss.
func (r *TPM) Kill() { r.process.Kill() }

// Stop ends the TPM after an orderly TPM2_Shutdown.
func (r *TPM) Stop() {
	r.t.Helper()
	if err := r.process.Stop(); err != nil {
		r.t.Fatal(err)
	}
}

// Restart starts the TPM again on the same state: a new boot. A running one is killed first.
func (r *TPM) Restart() {
	r.t.Helper()
	r.process.Kill()
	r.start()
}

// Snapshot copies the memory of a TPM that does not run, as whoever owns a software TPM can. The function that it returns puts the copy back: the
// next Restart begins where the TPM was then.
func (r *TPM) Snapshot() (restore func()) {
	r.t.Helper()
	state := filepath.Join(r.dir, "state")
	saved := r.t.TempDir()
	if err := os.CopyFS(saved, os.DirFS(state)); err != nil {
		r.t.Fatal(err)
	}
	return func() {
		r.t.Helper()
		r.process.Kill()
		if err := errors.Join(os.RemoveAll(state), os.Mkdir(state, 0o700), os.CopyFS(state, os.DirFS(saved))); err != nil {
			r.t.Fatal(err)
		}
	}
}

// SetLatency makes each response arrive d later. Published medians of real chips are about 200 ms for a P-256 signature.
func (r *TPM) SetLatency(d time.Duration) { r.proxy.latency.Store(int64(d)) }

// Hang makes every command wait, unexecuted, until the returned function is called.
func (r *TPM) Hang() (release func()) { return r.proxy.hang() }

// DropResponses lets the TPM execute the next n commands and loses their responses.
func (r *TPM) DropResponses(n int) { r.proxy.drops.Store(int64(n)) }

// Intercept passes every command and its response through f, which returns the response that the caller gets: none at all, but the
// end of the connection, if it is empty. A nil f ends the interception. f must not keep or change its arguments and may be called from several goroutines.
func (r *TPM) Intercept(f func(command, response []byte) []byte) { r.proxy.filter.Store(&f) }

func (r *TPM) start() {
	r.t.Helper()
	process, err := swtpmd.Start(r.t.Context(), r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	r.process = process
}
