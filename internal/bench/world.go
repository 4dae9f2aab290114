package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/internal/demo/browser"
)

const (
	trustDomain = "dev.signet.example"
	patients    = "database:read:patients"
	trials      = "database:read:trials"
)

// world is who talks to the appliance.
type world struct {
	url    string
	roots  *x509.CertPool
	origin string

	operator     *client.Client
	auditor      *client.Client
	orchestrator *tls.Certificate
	service      *tls.Certificate
	grant        v1.Grant
	task         v1.Task
}

// newWorld registers an orchestrator, a service and an auditor, and has a physician consent to a task.
func newWorld(ctx context.Context, url, dir string) (*world, error) {
	w := &world{url: url, roots: x509.NewCertPool()}
	rootPEM, err := os.ReadFile(filepath.Join(dir, "pki", "root.pem"))
	if err != nil {
		return nil, err
	}
	w.roots.AppendCertsFromPEM(rootPEM)
	operator, err := tls.LoadX509KeyPair(filepath.Join(dir, "pki", "operator.pem"), filepath.Join(dir, "operator.key"))
	if err != nil {
		return nil, err
	}
	if w.operator, err = w.connect(&operator); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{w.register, w.attest, w.consent} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *world) connect(cert *tls.Certificate) (*client.Client, error) {
	return client.New(client.Config{URL: w.url, Roots: w.roots, Certificate: cert, Timeout: time.Minute})
}

func newKey() (*ecdsa.PrivateKey, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	csr, err := client.CSR(key)
	return key, csr, err
}

// register makes the service and the auditor.
func (w *world) register(ctx context.Context) error {
	key, csr, err := newKey()
	if err != nil {
		return err
	}
	issued, err := w.operator.RegisterService(ctx, v1.ServiceRegistration{Name: "records", CSR: csr})
	if err != nil {
		return err
	}
	if w.service, err = client.Certificate(issued.CertificateChain, key); err != nil {
		return err
	}
	if key, csr, err = newKey(); err != nil {
		return err
	}
	if issued, err = w.operator.RegisterOperator(ctx, v1.OperatorRegistration{Name: "auditor", Role: "auditor", CSR: csr}); err != nil {
		return err
	}
	cert, err := client.Certificate(issued.CertificateChain, key)
	if err != nil {
		return err
	}
	if w.auditor, err = w.connect(cert); err != nil {
		return err
	}
	note, err := w.operator.Checkpoint(ctx)
	w.origin, _, _ = strings.Cut(string(note), "\n")
	return err
}

// attest makes the orchestrator.
func (w *world) attest(ctx context.Context) error {
	reg, err := w.operator.RegisterOrchestrator(ctx, v1.OrchestratorRegistration{Name: "research", AgentTypes: []string{"research"}})
	if err != nil {
		return err
	}
	key, csr, err := newKey()
	if err != nil {
		return err
	}
	anonymous, err := w.connect(nil)
	if err != nil {
		return err
	}
	defer anonymous.Close()
	issued, err := anonymous.Attest(ctx, "research", v1.Attestation{Method: v1.MethodJoinToken, Token: reg.JoinToken, CSR: csr})
	if err != nil {
		return err
	}
	w.orchestrator, err = client.Certificate(issued.CertificateChain, key)
	return err
}

// consent opens a task that a physician consented to.
func (w *world) consent(ctx context.Context) error {
	c, err := w.connect(w.orchestrator)
	if err != nil {
		return err
	}
	defer c.Close()
	g, err := c.RequestGrant(ctx, v1.GrantRequest{
		Task: "Compare outcomes of two treatments", Scope: []string{patients, trials},
		NotAfter: time.Now().Add(time.Hour), MaxDepth: 3, AgentTypes: []string{"research"},
	})
	if err != nil {
		return err
	}
	b, err := browser.New(w.roots)
	if err != nil {
		return err
	}
	if _, err := b.Consent(ctx, g.ConsentURL, "physician"); err != nil {
		return err
	}
	if w.grant, err = c.Grant(ctx, g.GrantID); err != nil {
		return err
	}
	w.task, err = c.OpenTask(ctx, v1.TaskRequest{GrantID: g.GrantID})
	return err
}

// spawnRequest is a request for an agent with a new key; with confirm the orchestrator signs for it.
func (w *world) spawnRequest(confirm bool) (*ecdsa.PrivateKey, v1.SpawnRequest, error) {
	key, csr, err := newKey()
	if err != nil {
		return nil, v1.SpawnRequest{}, err
	}
	id, err := client.NewSpawnID()
	if err != nil {
		return nil, v1.SpawnRequest{}, err
	}
	q := v1.SpawnRequest{TaskID: w.task.TaskID, SpawnID: id, AgentType: "research", Scope: []string{patients, trials}, TTL: 540, MaxDepth: 2, CSR: csr}
	if !confirm {
		return key, q, nil
	}
	parent, err := client.ParentHash(w.orchestrator.Leaf, w.grant.GrantHash)
	if err != nil {
		return nil, q, err
	}
	q.Confirmation, err = client.SignSpawn(w.orchestrator, w.origin, parent, key.Public(), trustDomain, q, w.task.NotAfter)
	return key, q, err
}

// spawnBodies makes the bodies of n requests.
func (w *world) spawnBodies(ctx context.Context, n int, confirm bool) ([][]byte, error) {
	out := make([][]byte, n)
	_, err := load(ctx, 2, n, self{}, func(_ context.Context, _, i int) error {
		_, q, err := w.spawnRequest(confirm)
		if err != nil {
			return err
		}
		out[i], err = json.Marshal(q)
		return err
	})
	return out, err
}

// tls is the client side of a connection as cert.
func (w *world) tls(cert *tls.Certificate) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: w.roots, Certificates: []tls.Certificate{*cert}}
}

func joined(err, other error) error { return errors.Join(err, other) }
