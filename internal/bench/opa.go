package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/policy/opa"
)

const opaCommand = "github.com/open-policy-agent/opa"

// opaDecider is OPA's own server, which is asked the very documents that the appliance asked its policy for these decisions,
// under the same policy. It sees no certificate of an agent and records nothing.
func (b *bench) opaDecider(ctx context.Context, w *world, decisions [][]byte) (decider, error) {
	d := decider{what: "Decision, OPA's own server, no chain, no record", yes: `"allow":true`}
	engine, err := opa.New(ctx, opa.Options{})
	if err != nil {
		return d, err
	}
	if d.bodies, err = w.questions(ctx, decisions, engine.Digest()); err != nil {
		return d, err
	}
	dir := filepath.Join(b.tmp, "opa")
	if err := writePolicy(filepath.Join(dir, "bundle")); err != nil {
		return d, err
	}
	if d.tls, err = writeCertificates(dir); err != nil {
		return d, err
	}
	program, err := b.goBuild(ctx, opaCommand)
	if err != nil {
		return d, err
	}
	if d.server, err = startOPA(ctx, program, dir, d.tls); err != nil {
		return d, err
	}
	d.url = d.server.url + "/v1/data/signet/access"
	return d, nil
}

// questions has the appliance make these decisions, and gives what its log says that policy was asked, as requests to OPA.
func (w *world) questions(ctx context.Context, decisions [][]byte, digest string) ([][]byte, error) {
	service, err := w.connect(w.service)
	if err != nil {
		return nil, err
	}
	defer service.Close()
	out := make([][]byte, len(decisions))
	for i, d := range decisions {
		var q v1.EvaluationRequest
		if err := json.Unmarshal(d, &q); err != nil {
			return nil, err
		}
		answer, err := service.Evaluate(ctx, q)
		if err != nil {
			return nil, err
		}
		if answer.Context.AuditID == nil {
			return nil, fmt.Errorf("not recorded: %+v", answer)
		}
		if out[i], err = w.question(ctx, *answer.Context.AuditID, digest); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// question is what policy was asked for the decision in this entry, which must be under the bundle of that digest.
func (w *world) question(ctx context.Context, index uint64, digest string) ([]byte, error) {
	e, err := w.auditor.Entry(ctx, index)
	if err != nil {
		return nil, err
	}
	env, err := record.Check(e.Entry)
	if err != nil {
		return nil, err
	}
	if env.Policy != digest {
		return nil, fmt.Errorf("the appliance decides under bundle %s, not under the default bundle %s", env.Policy, digest)
	}
	var payload record.DecisionPayload
	if err := json.Unmarshal(e.Payload, &payload); err != nil {
		return nil, err
	}
	return json.Marshal(map[string]json.RawMessage{"input": payload.Input})
}

// writePolicy leaves the default bundle there, without its tests, which do not decide in the appliance either.
func writePolicy(dir string) error {
	files, err := opa.Default()
	if err != nil {
		return err
	}
	if err := os.CopyFS(dir, files); err != nil {
		return err
	}
	tests, err := filepath.Glob(filepath.Join(dir, "*_test.rego"))
	for _, t := range tests {
		err = errors.Join(err, os.Remove(t))
	}
	return err
}

// writeCertificates makes a certificate for the server, with its key, and one for the callers, which it trusts alone. It gives
// the callers' side.
func writeCertificates(dir string) (*tls.Config, error) {
	server, serverErr := selfSigned()
	caller, callerErr := selfSigned()
	if err := errors.Join(serverErr, callerErr); err != nil {
		return nil, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(server.PrivateKey)
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name, label string
		der         []byte
	}{
		{"server.pem", "CERTIFICATE", server.Certificate[0]}, {"server.key", "PRIVATE KEY", key}, {"callers.pem", "CERTIFICATE", caller.Certificate[0]},
	} {
		if err := os.WriteFile(filepath.Join(dir, f.name), pem.EncodeToMemory(&pem.Block{Type: f.label, Bytes: f.der}), 0o600); err != nil {
			return nil, err
		}
	}
	leaf, err := x509.ParseCertificate(server.Certificate[0])
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{caller}}, nil
}

// startOPA runs the server on a free port, over TLS as the appliance's, and as fast as it can be: it logs neither requests nor
// decisions. It would also ask the network for a newer version of itself.
func startOPA(ctx context.Context, program, dir string, conf *tls.Config) (*child, error) {
	addr, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	c := &child{url: "https://" + addr, log: filepath.Join(dir, "log"), done: make(chan error, 1)}
	out, err := os.Create(c.log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }() // the child has its own
	//nolint:gosec,noctx // what this benchmark built; stop ends it in good order
	c.cmd = exec.Command(program, "run", "--server", "--addr", addr,
		"--authentication", "tls", "--min-tls-version", "1.3", "--tls-cert-file", filepath.Join(dir, "server.pem"),
		"--tls-private-key-file", filepath.Join(dir, "server.key"), "--tls-ca-cert-file", filepath.Join(dir, "callers.pem"),
		"--log-level", "error", "--skip-version-check", "--optimize-store-for-read-speed", "--bundle", filepath.Join(dir, "bundle"))
	c.cmd.Stdout, c.cmd.Stderr = out, out
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { c.done <- c.cmd.Wait() }()
	return c, c.healthy(ctx, conf)
}

// freeAddress is one that nobody listens at. OPA does not tell which port it was given, so it is not asked for any.
func freeAddress(ctx context.Context) (string, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

// healthy waits until the server says that it is; one that does not is ended.
func (c *child) healthy(ctx context.Context, conf *tls.Config) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	p := newPosters(1, conf, false)
	defer closePosters(p)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := p[0].get(ctx, c.url+"/health")
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case ended := <-c.done:
			return fmt.Errorf("%s ended: %w: %s", filepath.Base(c.cmd.Path), ended, c.lastWords())
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s is not healthy: %w", filepath.Base(c.cmd.Path), err), c.stop())
		}
	}
}

// get wants 200.
func (p *poster) get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = unexpected(resp.StatusCode, text)
	}
	return err
}
