package demo

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/internal/demo/browser"
)

// meet makes the orchestrator and the records service known.
func (s *story) meet(ctx context.Context) error {
	name := "research-" + s.run
	s.step("The operator registers the orchestrator %q and hands it a join token.", name)
	reg, err := s.operator.RegisterOrchestrator(ctx, v1.OrchestratorRegistration{Name: name, AgentTypes: []string{"research", "reader"}})
	if err != nil {
		return err
	}
	key, csr, err := newKey()
	if err != nil {
		return err
	}
	anonymous, err := s.connect(nil)
	if err != nil {
		return err
	}
	join := v1.Attestation{Method: v1.MethodJoinToken, Token: reg.JoinToken, CSR: csr}
	cert, err := anonymous.Attest(ctx, name, join)
	if err != nil {
		return err
	}
	if s.orchestratorCert, err = client.Certificate(cert.CertificateChain, key); err != nil {
		return err
	}
	if s.orchestrator, err = s.connect(s.orchestratorCert); err != nil {
		return err
	}
	s.checked("it proved itself with the token and holds a certificate for %s", cert.SPIFFEID)
	// With another key: the same request again would be a retry.
	if _, join.CSR, err = newKey(); err != nil {
		return err
	}
	if _, err := anonymous.Attest(ctx, name, join); !refusedWith(err, "join_token_used") {
		return fmt.Errorf("the join token worked twice: %w", orNone(err))
	}
	s.checked("the token works once: its use for another key is refused (join_token_used)")
	if s.origin, err = s.operator.Origin(ctx); err != nil {
		return err
	}
	return s.openRecords(ctx)
}

// oversee gives an auditor the right to read the log, which an operator has not.
func (s *story) oversee(ctx context.Context) error {
	s.step("The operator appoints an auditor; only auditors read the log's entries.")
	if _, err := s.operator.Entry(ctx, 0); !refusedWith(err, "role_not_allowed") {
		return fmt.Errorf("the operator may read entries: %w", orNone(err))
	}
	key, csr, err := newKey()
	if err != nil {
		return err
	}
	issued, err := s.operator.RegisterOperator(ctx, v1.OperatorRegistration{Name: "auditor-" + s.run, Role: "auditor", CSR: csr})
	if err != nil {
		return err
	}
	cert, err := client.Certificate(issued.CertificateChain, key)
	if err != nil {
		return err
	}
	s.auditor, err = s.connect(cert)
	s.checked("%s may; the operator is refused (role_not_allowed)", issued.SPIFFEID)
	return err
}

// consent is the physician's part.
func (s *story) consent(ctx context.Context) error {
	s.step("The orchestrator asks a physician to consent to one research task.")
	g, err := s.orchestrator.RequestGrant(ctx, v1.GrantRequest{
		Task: "Compare outcomes of two treatments", Scope: []string{patients, trials},
		NotAfter: time.Now().Add(time.Hour), MaxDepth: 3, AgentTypes: []string{"research", "reader"},
	})
	if err != nil {
		return err
	}
	if _, err := s.orchestrator.OpenTask(ctx, v1.TaskRequest{GrantID: g.GrantID}); !refusedWith(err, "grant_pending") {
		return fmt.Errorf("a task was opened before the consent: %w", orNone(err))
	}
	s.checked("before the consent nothing can be done with it (grant_pending)")
	if err := s.approve(ctx, g); err != nil {
		return err
	}
	if s.grant, err = s.orchestrator.Grant(ctx, g.GrantID); err != nil {
		return err
	}
	if s.grant.Status != "active" {
		return fmt.Errorf("the grant is %s after the consent", s.grant.Status)
	}
	s.checked("the physician read who asks, for what and until when, approved, and signed in again over exactly this grant")
	if s.task, err = s.orchestrator.OpenTask(ctx, v1.TaskRequest{GrantID: g.GrantID}); err != nil {
		return err
	}
	s.checked("task %s is open until %s", s.task.TaskID, s.task.NotAfter.Format(time.RFC3339))
	return nil
}

func (s *story) approve(ctx context.Context, g v1.Grant) error {
	b, err := browser.New(s.roots)
	if err != nil {
		return err
	}
	shown, err := b.Consent(ctx, g.ConsentURL, physician)
	if err != nil {
		return fmt.Errorf("consent: %w", err)
	}
	for _, want := range []string{g.Task, g.Orchestrator, patients} {
		if !strings.Contains(shown, want) {
			return fmt.Errorf("the consent page does not show %q", want)
		}
	}
	return nil
}

// spawn gives the research agent its identity.
func (s *story) spawn(ctx context.Context) (err error) {
	s.step("The orchestrator spawns a research agent, which gets its identity at that moment.")
	hash, err := client.ParentHash(s.orchestratorCert.Leaf, s.grant.GrantHash)
	if err != nil {
		return err
	}
	if s.agent, err = s.spawnWith(ctx, s.request("research", 300, 2, patients, trials), hash); err != nil {
		return err
	}
	d, err := chain.Extract(s.agent.cert.Leaf)
	if err != nil {
		return err
	}
	s.checked("%s, for %s", s.agent.issued.SPIFFEID, time.Until(s.agent.issued.NotAfter).Round(time.Minute))
	s.checked("the certificate says: on behalf of %s, task %s, scope %s, until %s", d.Grant.Subject, chain.FormatUUID(d.TaskID),
		d.Hops[len(d.Hops)-1].Scope, d.Hops[len(d.Hops)-1].NotAfter.Format(time.RFC3339))
	return s.savePath("agent.pem", s.agent)
}

// request is a spawn without its key.
func (s *story) request(agentType string, ttl int64, depth int, scope ...string) v1.SpawnRequest {
	return v1.SpawnRequest{TaskID: s.task.TaskID, AgentType: agentType, Scope: scope, TTL: ttl, MaxDepth: depth}
}

// spawnWith has the orchestrator sign for a new key and spawn it.
func (s *story) spawnWith(ctx context.Context, q v1.SpawnRequest, parent [32]byte) (*actor, error) {
	return s.born(q, func(q v1.SpawnRequest, child *x509.Certificate) (v1.Spawned, error) {
		jws, err := client.SignSpawn(s.orchestratorCert, s.origin, parent, child.PublicKey, trustDomain, q, s.task.NotAfter)
		if err != nil {
			return v1.Spawned{}, err
		}
		q.Confirmation = jws
		return s.orchestrator.Spawn(ctx, q)
	})
}

// born makes a key and id, and connects as what ask gets for them.
func (s *story) born(q v1.SpawnRequest, ask func(v1.SpawnRequest, *x509.Certificate) (v1.Spawned, error)) (*actor, error) {
	key, csr, err := newKey()
	if err != nil {
		return nil, err
	}
	id, err := client.NewSpawnID()
	if err != nil {
		return nil, err
	}
	q.CSR, q.SpawnID = csr, id
	out, err := ask(q, &x509.Certificate{PublicKey: key.Public()})
	if err != nil {
		return nil, err
	}
	cert, err := client.Certificate(out.CertificateChain, key)
	if err != nil {
		return nil, err
	}
	c, err := s.connect(cert)
	return &actor{id: id, cert: cert, issued: out, client: c}, err
}

// delegate has the agent spawn a narrower sub-agent, and try a wider one.
func (s *story) delegate(ctx context.Context) (err error) {
	s.step("The agent spawns a sub-agent that may do less: patients only, one minute, no children.")
	if s.subAgent, err = s.subAgentWith(ctx, s.request("reader", 60, 0, patients)); err != nil {
		return err
	}
	s.checked("%s, signed for by its parent's own key", s.subAgent.issued.SPIFFEID)
	if err := s.savePath("subagent.pem", s.subAgent); err != nil {
		return err
	}
	s.step("The agent asks for a sub-agent that may do more than itself.")
	_, err = s.subAgentWith(ctx, s.request("reader", 60, 0, "database:read:billing"))
	return s.refusal(ctx, err, "scope_exceeds_parent")
}

func (s *story) subAgentWith(ctx context.Context, q v1.SpawnRequest) (*actor, error) {
	parent, err := client.ParentHash(s.agent.cert.Leaf, s.grant.GrantHash)
	if err != nil {
		return nil, err
	}
	return s.born(q, func(q v1.SpawnRequest, child *x509.Certificate) (v1.Spawned, error) {
		jws, err := client.SignSpawn(s.agent.cert, s.origin, parent, child.PublicKey, trustDomain, q, s.agent.issued.NotAfter)
		if err != nil {
			return v1.Spawned{}, err
		}
		q.Confirmation = jws
		return s.agent.client.Delegate(ctx, s.agent.id, q)
	})
}

// refusal checks that err is the refusal expected, and that its entry in the log says so.
func (s *story) refusal(ctx context.Context, err error, code string) error {
	var p *client.Problem
	if !errors.As(err, &p) || p.Code != code {
		return fmt.Errorf("want the refusal %s, got: %w", code, orNone(err))
	}
	if p.AuditID == nil {
		return fmt.Errorf("the refusal %s has no entry", code)
	}
	return s.recorded(ctx, *p.AuditID, code)
}

// recorded checks that an entry of the log holds a code.
func (s *story) recorded(ctx context.Context, index uint64, code string) error {
	e, err := s.auditor.Entry(ctx, index)
	if err != nil {
		return err
	}
	if !strings.Contains(string(e.Envelope), `"`+code+`"`) {
		return fmt.Errorf("entry %d does not say %s: %s", index, code, e.Envelope)
	}
	s.checked("refused: %s, as entry %d of the log says too", code, index)
	return nil
}

// savePath leaves the certificate, and the CAs that openssl needs to verify it.
func (s *story) savePath(name string, a *actor) error {
	ca, err := x509.ParseCertificate(a.cert.Certificate[1])
	if err != nil {
		return err
	}
	root, err := os.ReadFile(filepath.Join(s.cfg.Dir, "pki", "root.pem"))
	if err != nil {
		return err
	}
	block, _ := pem.Decode(root)
	if block == nil {
		return errors.New("root.pem is not PEM")
	}
	rootCert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	return errors.Join(s.save(name, a.cert.Leaf), s.save("issuing.pem", ca), s.save("root.pem", rootCert))
}

func refusedWith(err error, code string) bool {
	var p *client.Problem
	return errors.As(err, &p) && p.Code == code
}

var errAllowed = errors.New("it was allowed")

func orNone(err error) error {
	if err == nil {
		return errAllowed
	}
	return err
}
