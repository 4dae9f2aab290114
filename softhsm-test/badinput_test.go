package softhsmtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
)

// bad is one request that must be refused, for its own reason.
type bad struct {
	name   string
	status int
	code   string
	do     func(ctx context.Context) error
}

// refused makes the request and checks status, code and entry, and that it issued nothing.
func (c *cast) refused(row bad) {
	c.t.Helper()
	from := c.size()
	err := row.do(c.t.Context())
	var p *client.Problem
	if !errors.As(err, &p) || p.Code != row.code || p.Status != row.status {
		status := 0
		if p != nil {
			status = p.Status
		}
		c.t.Fatalf("want %d %s, got %d %v", row.status, row.code, status, orAllowed(err))
	}
	c.recorded(p, row.code)
	c.nothingIssuedBut(from, 0)
}

// send makes a request whose body no client of ours would make.
func (c *cast) send(ctx context.Context, cert *tls.Certificate, path, body string, header ...string) error {
	_, err := c.answer(ctx, cert, path, body, header...)
	return err
}

// answer is send, with the answer's header.
func (c *cast) answer(ctx context.Context, cert *tls.Certificate, path, body string, header ...string) (http.Header, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: c.roots}
	if cert != nil {
		conf.Certificates = []tls.Certificate{*cert}
	}
	// Not DisableKeepAlives: a server that closes at once cuts off who is still sending too much.
	tr := &http.Transport{TLSClientConfig: conf}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	for pair := range slices.Chunk(header, 2) {
		req.Header.Set(pair[0], pair[len(pair)-1])
	}
	resp, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp.Header, nil
	}
	var p client.Problem
	if err := json.Unmarshal(text, &p.Problem); err != nil {
		return resp.Header, fmt.Errorf("status %d is no problem: %s", resp.StatusCode, text)
	}
	return resp.Header, &p
}

// TestBadInput sends what a client must not, over the real API. Each row is right but for one thing.
func TestBadInput(t *testing.T) {
	dir := newDir(t)
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	grant, task := c.task(c.orchestrator)
	parent, err := spawn(t.Context(), c.orchestrator, task)
	must(t, err)
	for name, rows := range map[string][]bad{
		"CSR": c.badCSRs(task), "body": c.badBodies(task), "join token": c.badTokens(), "narrower": c.tooWide(grant, task, parent),
		"somebody else's": c.notTheirs(task), "certificate": c.badCertificates(parent),
	} {
		t.Run(name, func(t *testing.T) {
			for _, row := range rows {
				t.Run(row.name, func(t *testing.T) { c.on(t).refused(row) })
			}
		})
	}
	t.Run("names in a CSR", func(t *testing.T) { c.on(t).namesAreNotCopied(task) })
	t.Run("idempotency key", func(t *testing.T) { c.on(t).keyReused(task) })
	t.Run("malformed extension", func(t *testing.T) { malformedExtensions(t, c.on(t), dir, parent) })
	must(t, c.works(task))
	d.stop()
	fsck(t, dir)
}

// csrSpawn spawns with another CSR.
func (c *cast) csrSpawn(task v1.Task, csr string) func(context.Context) error {
	return func(ctx context.Context) error {
		q, err := spawnRequest(task, csr)
		if err != nil {
			return err
		}
		_, err = c.orchestrator.Spawn(ctx, q)
		return err
	}
}

func (c *cast) badCSRs(task v1.Task) []bad {
	made := func(key crypto.Signer, err error) string {
		must(c.t, err)
		csr, err := client.CSR(key)
		must(c.t, err)
		return csr
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	p224CSR := made(p224, err)
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	p521CSR := made(p521, err)
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	rsaCSR := made(small, err)
	_, good := newKey(c.t)
	block, _ := pem.Decode([]byte(good))
	forged := bytes.Clone(block.Bytes)
	forged[len(forged)-1] ^= 1
	return []bad{
		{"forged signature", 422, "bad_csr_signature", c.csrSpawn(task, pemOf("CERTIFICATE REQUEST", forged))},
		{"RSA", 422, "bad_csr_key", c.csrSpawn(task, rsaCSR)},
		{"P-224", 422, "bad_csr_key", c.csrSpawn(task, p224CSR)},
		{"P-521", 422, "bad_csr_key", c.csrSpawn(task, p521CSR)},
		{"blank", 400, "bad_csr", c.csrSpawn(task, " ")},
		{"trailing byte", 400, "bad_csr", c.csrSpawn(task, pemOf("CERTIFICATE REQUEST", append(bytes.Clone(block.Bytes), 0)))},
		{"long length", 400, "bad_csr", c.csrSpawn(task, pemOf("CERTIFICATE REQUEST", longLength(c.t, block.Bytes)))},
	}
}

// longLength encodes the outermost length with a byte too many, which BER allows and DER does not (X.690, 10.1).
func longLength(t testing.TB, der []byte) []byte {
	t.Helper()
	size := int(der[1])
	if size < 0x80 {
		return append([]byte{der[0], 0x81, der[1]}, der[2:]...)
	}
	n := size & 0x7f
	if n > 3 {
		t.Fatalf("a length of %d bytes", n)
	}
	return append([]byte{der[0], byte(0x80 | n + 1), 0}, der[2:]...)
}

func (c *cast) badBodies(task v1.Task) []bad {
	_, csr := newKey(c.t)
	q, err := spawnRequest(task, csr)
	must(c.t, err)
	text, err := json.Marshal(q)
	must(c.t, err)
	good := string(text)
	post := func(body string, header ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			return c.send(ctx, c.orchestrator.cert, "/v1/agents", body, header...)
		}
	}
	return []bad{
		{"unknown field", 400, "unknown_field", post(strings.Replace(good, "{", `{"admin":true,`, 1))},
		{"field twice", 400, "duplicate_field", post(strings.Replace(good, "{", `{"task_id":"x",`, 1))},
		{"too large", 413, "body_too_large", post(strings.Replace(good, "{", `{"agent_type":"`+strings.Repeat("a", 70<<10)+`",`, 1))},
		{"data after it", 400, "trailing_data", post(good + "{}")},
		{"another media type", 415, "unsupported_media_type", post(good, "Content-Type", "text/plain")},
		{"idempotency key", 400, "bad_idempotency_key", post(good, "Idempotency-Key", strings.Repeat("k", 300))},
	}
}

func (c *cast) badTokens() []bad {
	anonymous := c.person(nil)
	register := func() (name, token string) {
		name = unique(c.t, "joins")
		reg, err := c.operator.RegisterOrchestrator(c.t.Context(), v1.OrchestratorRegistration{Name: name})
		must(c.t, err)
		return name, reg.JoinToken
	}
	attest := func(name, token string) func(context.Context) error {
		_, csr := newKey(c.t)
		return func(ctx context.Context) error {
			_, err := anonymous.Attest(ctx, name, v1.Attestation{Method: v1.MethodJoinToken, Token: token, CSR: csr})
			return err
		}
	}
	name, token := register()
	other, _ := register()
	spentName, spent := register()
	redeem := attest(spentName, spent)
	must(c.t, redeem(c.t.Context()))
	return []bad{
		{"wrong", 401, "join_token_unknown", attest(name, strings.ToUpper(token)+"x")},
		{"of another orchestrator", 401, "join_token_unknown", attest(other, token)},
		{"replayed", 401, "join_token_used", attest(spentName, spent)},
		{"replayed for the same key", 401, "join_token_used", redeem},
		{"another method", 400, "bad_attestation_method", func(ctx context.Context) error {
			_, csr := newKey(c.t)
			_, err := anonymous.Attest(ctx, name, v1.Attestation{Method: "tpm", Token: token, CSR: csr})
			return err
		}},
	}
}

// tooWide asks for more than the parent has: the task of its grant, the agent of its task, the sub-agent of its parent.
func (c *cast) tooWide(grant v1.Grant, task v1.Task, parent *agent) []bad {
	agents := c.person(parent.cert)
	spawned := func(change func(*v1.SpawnRequest)) func(context.Context) error {
		return func(ctx context.Context) error {
			_, csr := newKey(c.t)
			q, err := spawnRequest(task, csr)
			must(c.t, err)
			change(&q)
			_, err = c.orchestrator.Spawn(ctx, q)
			return err
		}
	}
	delegated := func(change func(*v1.SpawnRequest)) func(context.Context) error {
		return func(ctx context.Context) error {
			q, err := c.delegation(grant, task, parent, change)
			if err != nil {
				return err
			}
			_, err = agents.Delegate(ctx, parent.id, q)
			return err
		}
	}
	billing := []string{"database:read:billing"}
	return []bad{
		{"agent: scope", 403, "scope_exceeds_parent", spawned(func(q *v1.SpawnRequest) { q.Scope = billing })},
		{"agent: wildcard", 403, "scope_exceeds_parent", spawned(func(q *v1.SpawnRequest) { q.Scope = []string{"database:read:*"} })},
		{"agent: life", 403, "ttl_exceeds_limit", spawned(func(q *v1.SpawnRequest) { q.TTL = 1800 })},
		{"agent: deadline", 403, "deadline_exceeds_parent", spawned(func(q *v1.SpawnRequest) { q.TTL = 7200 })},
		{"agent: depth", 403, "depth_exceeded", spawned(func(q *v1.SpawnRequest) { q.MaxDepth = 3 })},
		{"agent: type", 403, "agent_type_not_allowed", spawned(func(q *v1.SpawnRequest) { q.AgentType = "writer" })},
		{"sub-agent: scope", 403, "scope_exceeds_parent", delegated(func(q *v1.SpawnRequest) { q.Scope = billing })},
		{"sub-agent: deadline", 403, "deadline_exceeds_parent", delegated(func(q *v1.SpawnRequest) { q.TTL = 400 })},
		{"sub-agent: depth", 403, "depth_exceeded", delegated(func(q *v1.SpawnRequest) { q.MaxDepth = 2 })},
		{"sub-agent: unsigned", 400, "confirmation_required", func(ctx context.Context) error {
			q, err := c.delegation(grant, task, parent, func(*v1.SpawnRequest) {})
			q.Confirmation = ""
			must(c.t, err)
			_, err = agents.Delegate(ctx, parent.id, q)
			return err
		}},
	}
}

// delegation is a sub-agent's request, whole and signed by the parent for exactly what is asked.
func (c *cast) delegation(grant v1.Grant, task v1.Task, parent *agent, change func(*v1.SpawnRequest)) (v1.SpawnRequest, error) {
	key, csr := newKey(c.t)
	q, err := spawnRequest(task, csr)
	if err != nil {
		return q, err
	}
	q.AgentType, q.Scope, q.TTL, q.MaxDepth = "reader", []string{patients}, 60, 1
	change(&q)
	hash, err := client.ParentHash(parent.cert.Leaf, grant.GrantHash)
	if err != nil {
		return q, err
	}
	q.Confirmation, err = client.SignSpawn(parent.cert, c.origin, hash, key.Public(), trustDomain, q, time.Now().Add(time.Hour))
	return q, err
}

func (c *cast) notTheirs(task v1.Task) []bad {
	other := c.join()
	_, csr := newKey(c.t)
	return []bad{
		{"task", 403, "task_not_yours", func(ctx context.Context) error {
			q, err := spawnRequest(task, csr)
			must(c.t, err)
			_, err = other.Spawn(ctx, q)
			return err
		}},
		{"grant", 403, "grant_not_yours", func(ctx context.Context) error {
			_, err := other.OpenTask(ctx, v1.TaskRequest{GrantID: task.GrantID})
			return err
		}},
		{"endpoint", 403, "role_not_allowed", func(ctx context.Context) error {
			_, err := other.RegisterService(ctx, v1.ServiceRegistration{Name: "mine", CSR: csr})
			return err
		}},
	}
}

// badCertificates are answered, not just cut off in the handshake.
func (c *cast) badCertificates(a *agent) []bad {
	id, err := url.Parse(c.orchestrator.cert.Leaf.URIs[0].String())
	must(c.t, err)
	key, _ := newKey(c.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{id},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(c.t, err)
	foreign := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	leaf := a.cert.Certificate[0]
	verify := func(der []byte) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.service.Verify(ctx, v1.VerifyRequest{CertificateChain: append([]string{pemOf("CERTIFICATE", der)}, a.issued.CertificateChain[1:]...)})
			return err
		}
	}
	return []bad{
		{"of another CA", 401, "client_certificate_untrusted", func(ctx context.Context) error {
			_, err := c.person(foreign).RequestGrant(ctx, grantRequest())
			return err
		}},
		{"none", 401, "client_certificate_required", func(ctx context.Context) error {
			_, err := c.person(nil).RequestGrant(ctx, grantRequest())
			return err
		}},
		{"trailing byte", 400, "bad_certificate", verify(append(bytes.Clone(leaf), 0))},
		{"long length", 400, "bad_certificate", verify(longLength(c.t, leaf))},
	}
}

// namesAreNotCopied asks for the world in a CSR and gets the identity that was due.
func (c *cast) namesAreNotCopied(task v1.Task) {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(c.t, err)
	uri, err := url.Parse("spiffe://" + trustDomain + "/operator/admin")
	must(c.t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "admin", Organization: []string{"Evil"}}, DNSNames: []string{"evil.example"}, EmailAddresses: []string{"a@evil.example"},
		IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)}, URIs: []*url.URL{uri},
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}, {Id: []int{1, 3, 6, 1, 4, 1, 99999, 1}, Value: []byte{5, 0}}},
	}, key)
	must(c.t, err)
	q, err := spawnRequest(task, pemOf("CERTIFICATE REQUEST", der))
	must(c.t, err)
	out, err := c.orchestrator.Spawn(c.t.Context(), q)
	must(c.t, err)
	cert, err := client.Certificate(out.CertificateChain, key)
	must(c.t, err)
	got := cert.Leaf
	if got.Subject.String() != "CN="+q.SpawnID || len(got.URIs) != 1 || got.URIs[0].String() != "spiffe://"+trustDomain+"/agent/research/"+q.SpawnID ||
		len(got.DNSNames)+len(got.EmailAddresses)+len(got.IPAddresses) > 0 || got.IsCA {
		c.t.Errorf("%s %v %v %v %v CA %v", got.Subject, got.URIs, got.DNSNames, got.EmailAddresses, got.IPAddresses, got.IsCA)
	}
	other, err := spawn(c.t.Context(), c.orchestrator, task)
	must(c.t, err)
	if len(got.Extensions) != len(other.cert.Leaf.Extensions) {
		c.t.Errorf("%d extensions instead of %d", len(got.Extensions), len(other.cert.Leaf.Extensions))
	}
}

// keyReused uses an idempotency key for a second request.
func (c *cast) keyReused(task v1.Task) {
	c.t.Helper()
	_, csr := newKey(c.t)
	q, err := spawnRequest(task, csr)
	must(c.t, err)
	first, err := c.orchestrator.Spawn(c.t.Context(), q, client.Idempotent("once"))
	must(c.t, err)
	again, err := c.orchestrator.Spawn(c.t.Context(), q, client.Idempotent("once"))
	if err != nil || again.AgentID != first.AgentID || !again.NotAfter.Equal(first.NotAfter) {
		c.t.Errorf("the retry of the same request: %+v, %v", again, err)
	}
	_, csr = newKey(c.t)
	other, err := spawnRequest(task, csr)
	must(c.t, err)
	c.refused(bad{"", 422, "idempotency_key_reused", func(ctx context.Context) error {
		_, err := c.orchestrator.Spawn(ctx, other, client.Idempotent("once"))
		return err
	}})
}
