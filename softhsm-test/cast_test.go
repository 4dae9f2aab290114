package softhsmtest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/internal/demo/browser"
)

const (
	trustDomain = "dev.signet.example"
	patients    = "database:read:patients"
	trials      = "database:read:trials"
)

// person is an identity and its connection.
type person struct {
	*client.Client
	cert *tls.Certificate
}

// cast is everybody who talks to one appliance.
type cast struct {
	t       testing.TB
	url     string
	roots   *x509.CertPool
	rootPEM []byte
	origin  string

	operator, auditor, service, orchestrator *person
}

// newCast makes everybody known with the first operator's key.
func newCast(t testing.TB, dir, base string) *cast {
	t.Helper()
	c := newOperator(t, dir, base)
	note, err := c.operator.Checkpoint(t.Context())
	must(t, err)
	c.origin, _, _ = strings.Cut(string(note), "\n")
	c.auditor = c.named("auditor", func(name, csr string) (v1.Certificate, error) {
		return c.operator.RegisterOperator(t.Context(), v1.OperatorRegistration{Name: name, Role: "auditor", CSR: csr})
	})
	c.service = c.named("records", func(name, csr string) (v1.Certificate, error) {
		return c.operator.RegisterService(t.Context(), v1.ServiceRegistration{Name: name, CSR: csr})
	})
	c.orchestrator = c.join()
	return c
}

// newOperator knows the first operator alone, whose appliance need not run yet.
func newOperator(t testing.TB, dir, base string) *cast {
	t.Helper()
	c := &cast{t: t, url: base, roots: x509.NewCertPool()}
	root, err := os.ReadFile(filepath.Join(dir, "pki", "root.pem"))
	must(t, err)
	c.roots.AppendCertsFromPEM(root)
	c.rootPEM = root
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "pki", "operator.pem"), filepath.Join(dir, "operator.key"))
	must(t, err)
	c.operator = c.person(&cert)
	return c
}

// moved gives everybody connections to another port, as after a restart.
func (c *cast) moved(base string) *cast {
	out := &cast{t: c.t, url: base, roots: c.roots, rootPEM: c.rootPEM, origin: c.origin}
	out.operator, out.auditor = out.person(c.operator.cert), out.person(c.auditor.cert)
	out.service, out.orchestrator = out.person(c.service.cert), out.person(c.orchestrator.cert)
	return out
}

// on is the same cast in a subtest.
func (c *cast) on(t testing.TB) *cast {
	out := *c
	out.t = t
	return &out
}

func (c *cast) person(cert *tls.Certificate) *person {
	c.t.Helper()
	p, err := client.New(client.Config{URL: c.url, Roots: c.roots, Certificate: cert})
	must(c.t, err)
	c.t.Cleanup(p.Close)
	return &person{p, cert}
}

func (c *cast) named(prefix string, ask func(name, csr string) (v1.Certificate, error)) *person {
	c.t.Helper()
	key, csr := newKey(c.t)
	issued, err := ask(unique(c.t, prefix), csr)
	must(c.t, err)
	cert, err := client.Certificate(issued.CertificateChain, key)
	must(c.t, err)
	return c.person(cert)
}

// join makes one more orchestrator.
func (c *cast) join() *person {
	c.t.Helper()
	return c.named("research", func(name, csr string) (v1.Certificate, error) {
		reg, err := c.operator.RegisterOrchestrator(c.t.Context(), v1.OrchestratorRegistration{Name: name, AgentTypes: []string{"research", "reader"}})
		if err != nil {
			return v1.Certificate{}, err
		}
		return c.person(nil).Attest(c.t.Context(), name, v1.Attestation{Method: v1.MethodJoinToken, Token: reg.JoinToken, CSR: csr})
	})
}

func unique(t testing.TB, prefix string) string {
	t.Helper()
	var b [4]byte
	_, err := rand.Read(b[:])
	must(t, err)
	return prefix + "-" + hex.EncodeToString(b[:])
}

func newKey(t testing.TB) (crypto.Signer, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	csr, err := client.CSR(key)
	must(t, err)
	return key, csr
}

func grantRequest() v1.GrantRequest {
	return v1.GrantRequest{
		Task: "Compare outcomes", Scope: []string{patients, trials}, NotAfter: time.Now().Add(time.Hour), MaxDepth: 3,
		AgentTypes: []string{"research", "reader"},
	}
}

// task has a physician consent, and opens the task.
func (c *cast) task(o *person) (v1.Grant, v1.Task) {
	c.t.Helper()
	return c.taskOf(o, "physician")
}

// taskOf has a user of the provider consent.
func (c *cast) taskOf(o *person, user string) (v1.Grant, v1.Task) {
	c.t.Helper()
	g, err := o.RequestGrant(c.t.Context(), grantRequest())
	must(c.t, err)
	b, err := browser.New(c.roots)
	must(c.t, err)
	_, err = b.Consent(c.t.Context(), g.ConsentURL, user)
	must(c.t, err)
	g, err = o.Grant(c.t.Context(), g.GrantID)
	must(c.t, err)
	task, err := o.OpenTask(c.t.Context(), v1.TaskRequest{GrantID: g.GrantID})
	must(c.t, err)
	return g, task
}

// agent is a spawned agent.
type agent struct {
	id     string
	cert   *tls.Certificate
	issued v1.Spawned
}

func spawnRequest(task v1.Task, csr string) (v1.SpawnRequest, error) {
	id, err := client.NewSpawnID()
	return v1.SpawnRequest{
		TaskID: task.TaskID, SpawnID: id, AgentType: "research", Scope: []string{patients, trials}, TTL: 300, MaxDepth: 2, CSR: csr,
	}, err
}

// spawn gives an agent its identity. It may run in any goroutine.
func spawn(ctx context.Context, o *person, task v1.Task) (*agent, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := client.CSR(key)
	if err != nil {
		return nil, err
	}
	q, err := spawnRequest(task, csr)
	if err != nil {
		return nil, err
	}
	out, err := o.Spawn(ctx, q)
	if err != nil {
		return nil, err
	}
	cert, err := client.Certificate(out.CertificateChain, key)
	return &agent{id: q.SpawnID, cert: cert, issued: out}, err
}

// decide asks, as the service, whether the agent may read the patients' records.
func decide(ctx context.Context, service *person, a *agent) (v1.EvaluationResponse, error) {
	return service.Evaluate(ctx, evaluation(a.issued.SPIFFEID, a.issued.CertificateChain))
}

func evaluation(id string, chain []string) v1.EvaluationRequest {
	return v1.EvaluationRequest{
		Subject: v1.Subject{Type: "agent", ID: id}, Action: v1.Action{Name: "read"},
		Resource: v1.Resource{Type: "database", ID: "patients"}, Context: v1.EvaluationContext{CertificateChain: chain},
	}
}

// works checks the whole way: spawn, decision, receipt under a seal.
func (c *cast) works(task v1.Task) error {
	a, err := spawn(c.t.Context(), c.orchestrator, task)
	if err != nil {
		return err
	}
	d, err := decide(c.t.Context(), c.service, a)
	if err != nil {
		return err
	}
	if !d.Decision || d.Context.AuditID == nil {
		return fmt.Errorf("denied: %v", d.Context.Reasons)
	}
	_, err = c.auditor.Receipt(c.t.Context(), *d.Context.AuditID, true)
	return err
}

// logged is an entry as the tests look at it.
type logged struct {
	index uint64
	raw   []byte
	Type  record.Type `json:"type"`
	Time  time.Time   `json:"time"`
	Code  string      `json:"code"`
	Body  struct {
		Kind     string `json:"kind"`
		SPIFFEID string `json:"spiffe_id"`
		TBSHash  string `json:"tbs_hash"`
		Index    uint64 `json:"index"`
	} `json:"body"`
}

// entries reads the log from an index on.
func (c *cast) entries(from uint64) []logged {
	c.t.Helper()
	var out []logged
	cursor := strconv.FormatUint(from, 10)
	for {
		page, err := c.auditor.Entries(c.t.Context(), url.Values{"cursor": {cursor}, "limit": {"1000"}})
		must(c.t, err)
		for _, e := range page.Entries {
			l := logged{index: e.Index, raw: e.Entry}
			must(c.t, json.Unmarshal(e.Entry, &l))
			out = append(out, l)
		}
		if page.NextCursor == "" {
			return out
		}
		cursor = page.NextCursor
	}
}

// size is the number of entries.
func (c *cast) size() uint64 {
	c.t.Helper()
	all := c.entries(0)
	return all[len(all)-1].index + 1
}

// nothingIssued checks that each agent's certificate that was logged from there on is logged as failed too.
func (c *cast) nothingIssued(from uint64) {
	c.t.Helper()
	open := map[uint64]string{}
	for _, e := range c.entries(from) {
		switch e.Type { //nolint:exhaustive // the others issue nothing
		case record.TypeIssue:
			open[e.index] = e.Body.SPIFFEID
		case record.TypeIssueFailed:
			delete(open, e.Body.Index)
		}
	}
	for index, id := range open {
		c.t.Errorf("entry %d issues %s", index, id)
	}
}

// refusedWith wants a problem with one of the codes.
func refusedWith(err error, codes ...string) error {
	var p *client.Problem
	if !errors.As(err, &p) {
		return fmt.Errorf("want a refusal with one of %v, got: %w", codes, orAllowed(err))
	}
	for _, code := range codes {
		if p.Code == code {
			return nil
		}
	}
	return fmt.Errorf("want a refusal with one of %v, got: %w", codes, err)
}

var errAllowed = errors.New("it was allowed")

func orAllowed(err error) error {
	if err == nil {
		return errAllowed
	}
	return err
}

// unwell gives the reasons of the conditions that staff are told about, by name.
func unwell(t testing.TB, p *person) map[string]string {
	t.Helper()
	r, err := p.Ready(t.Context())
	must(t, err)
	out := map[string]string{}
	for _, c := range r.Conditions {
		if !c.OK && c.Severity == "error" {
			out[c.Name] = c.Reason
		}
	}
	if (r.Status == "ready") != (len(out) == 0) {
		t.Errorf("status %s with %v", r.Status, out)
	}
	return out
}

// becomes waits until readyz names exactly these conditions.
func (c *cast) becomes(limit time.Duration, names ...string) {
	c.t.Helper()
	within(c.t, limit, fmt.Sprintf("readyz to name %v", names), func() error {
		got := unwell(c.t, c.auditor)
		for _, n := range names {
			if got[n] == "" {
				return fmt.Errorf("it names %v", got)
			}
		}
		if len(names) == 0 && len(got) > 0 {
			return fmt.Errorf("it names %v", got)
		}
		return nil
	})
}

func pemOf(label string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}))
}
