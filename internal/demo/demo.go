// Package demo tells the appliance's main job as a story, over its public API alone, and checks every step: a physician
// consents to a research task, an orchestrator spawns an agent for it, the agent spawns a narrower sub-agent, a records
// service decides what they may read, and an auditor verifies the whole record offline.
//
// It runs against a development appliance and leaves what it made below DIR/demo. A step that does not hold is an error.
package demo

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
)

// Config says which appliance.
type Config struct {
	Dir string // of the development appliance
	URL string
	Out io.Writer
}

// The people and names of the story.
const (
	physician   = "physician" // login at the development provider
	trustDomain = "dev.signet.example"
	patients    = "database:read:patients"
	trials      = "database:read:trials"
)

// story is the run so far.
type story struct {
	cfg   Config
	dir   string // DIR/demo
	run   string // makes names unique over runs
	roots *x509.CertPool
	steps int

	operator, auditor, orchestrator *client.Client
	orchestratorCert                *tls.Certificate
	origin                          string
	records                         *recordsService
	grant                           v1.Grant
	task                            v1.Task
	agent, subAgent                 *actor
}

// actor is an agent with its identity.
type actor struct {
	id     string
	cert   *tls.Certificate
	issued v1.Spawned
	client *client.Client
}

// Run tells the story.
func Run(ctx context.Context, c Config) (err error) {
	s, err := begin(c)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer s.end()
	for _, chapter := range []func(context.Context) error{
		s.meet, s.oversee, s.consent, s.spawn, s.delegate, s.access, s.refusals, s.revoke, s.audit,
	} {
		if err := chapter(ctx); err != nil {
			return fmt.Errorf("demo: step %d: %w", s.steps, err)
		}
	}
	s.tell("\nEvery step held. Artefacts: %s\n\n", s.dir)
	return nil
}

func begin(c Config) (*story, error) {
	s := &story{cfg: c, dir: filepath.Join(c.Dir, "demo")}
	var id [4]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	s.run = hex.EncodeToString(id[:])
	// A demonstration's artefacts are its own: the last run's go.
	if err := errors.Join(os.RemoveAll(s.dir), os.Mkdir(s.dir, 0o750)); err != nil {
		return nil, err
	}
	rootPEM, err := os.ReadFile(filepath.Join(c.Dir, "pki", "root.pem"))
	if err != nil {
		return nil, err
	}
	s.roots = x509.NewCertPool()
	s.roots.AppendCertsFromPEM(rootPEM)
	cert, err := tls.LoadX509KeyPair(filepath.Join(c.Dir, "pki", "operator.pem"), filepath.Join(c.Dir, "operator.key"))
	if err != nil {
		return nil, err
	}
	s.operator, err = s.connect(&cert)
	return s, err
}

func (s *story) connect(cert *tls.Certificate) (*client.Client, error) {
	return client.New(client.Config{URL: s.cfg.URL, Roots: s.roots, Certificate: cert})
}

func (s *story) end() {
	if s.records != nil {
		s.records.close()
	}
}

// tell writes to the terminal; one that is gone changes nothing about what is checked.
func (s *story) tell(format string, args ...any) { _, _ = fmt.Fprintf(s.cfg.Out, format, args...) }

// step begins a numbered step.
func (s *story) step(format string, args ...any) {
	s.steps++
	s.tell("\n%2d. %s\n", s.steps, fmt.Sprintf(format, args...))
}

// checked tells what was checked and held.
func (s *story) checked(format string, args ...any) {
	s.tell("    ✓ %s\n", fmt.Sprintf(format, args...))
}

func newKey() (*ecdsa.PrivateKey, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	csr, err := client.CSR(key)
	return key, csr, err
}

// save leaves an artefact.
func (s *story) save(name string, certs ...*x509.Certificate) error {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return os.WriteFile(filepath.Join(s.dir, name), out, 0o600)
}
