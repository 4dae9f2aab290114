package softhsmtest

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
)

// TestSpawns is spawning under retries and thieves, on a real appliance, and what an auditor makes of it afterwards.
func TestSpawns(t *testing.T) {
	dir := newDir(t)
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	grant, task := c.task(c.orchestrator)
	t.Run("every request three times", func(t *testing.T) { c.on(t).spawnsThrice(task) })
	t.Run("batch", func(t *testing.T) { c.on(t).batches(task) })
	t.Run("token in many hands", func(t *testing.T) { c.on(t).stolenToken(task) })
	var swapped [2]string
	t.Run("tokens and re-keys", func(t *testing.T) { swapped = c.on(t).lives(grant, task) })
	must(t, c.works(task))
	tar := exported(t, c)
	d.stop()
	fsck(t, dir)
	t.Run("audit", func(t *testing.T) { audited(t, tar, swapped) })
}

// issues are the agents' issue entries from there on: how many there are by TBS hash.
func (c *cast) issues(from uint64) map[string]int {
	c.t.Helper()
	out := map[string]int{}
	for _, e := range c.entries(from) {
		if e.Type == record.TypeIssue && e.Body.Kind == "agent" {
			out[e.Body.TBSHash]++
		}
	}
	return out
}

// spawnsThrice sends 1,000 spawns in a burst, each three times at once: 1,000 agents, each with one identity.
func (c *cast) spawnsThrice(task v1.Task) {
	const agents, copies = 1000, 3
	requests := make([]v1.SpawnRequest, agents)
	for i := range requests {
		_, csr := newKey(c.t)
		var err error
		requests[i], err = spawnRequest(task, csr)
		must(c.t, err)
	}
	from := c.size()
	g, ctx := errgroup.WithContext(c.t.Context())
	g.SetLimit(24) // times three
	for i := range requests {
		g.Go(func() error { return c.spawnCopies(ctx, requests[i], copies) })
	}
	must(c.t, g.Wait())
	got := c.issues(from)
	if len(got) != agents {
		c.t.Errorf("%d identities for %d agents", len(got), agents)
	}
	for tbs, n := range got {
		if n != 1 {
			c.t.Errorf("%s was issued %d times", tbs, n)
		}
	}
}

// spawnCopies sends a request several times at once, and wants the same identity each time.
func (c *cast) spawnCopies(ctx context.Context, q v1.SpawnRequest, copies int) error {
	got := make([][32]byte, copies)
	g, ctx := errgroup.WithContext(ctx)
	for i := range got {
		g.Go(func() error {
			out, err := c.insists(ctx, q)
			if err != nil {
				return err
			}
			got[i], err = identityOf(out.CertificateChain)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if len(slices.Compact(got)) != 1 {
		return errors.New("different certificates for " + q.SpawnID)
	}
	return nil
}

// insists retries a spawn that the appliance had no time for, as a client does under load: the same request again.
func (c *cast) insists(ctx context.Context, q v1.SpawnRequest) (v1.Spawned, error) {
	for {
		out, err := c.orchestrator.Spawn(ctx, q)
		var p *client.Problem
		if !errors.As(err, &p) || p.Status != 503 && !strings.Contains(p.Detail, "policy_timeout") || ctx.Err() != nil {
			return out, err
		}
	}
}

func identityOf(chainPEM []string) ([32]byte, error) {
	certs, err := chain.ParsePEM([]byte(strings.Join(chainPEM, "")), chain.MaxChain)
	if err != nil {
		return [32]byte{}, err
	}
	return chain.TBSHash(certs[0]), nil
}

// batches spawns many in one request, some of them wrong: each has its own result, and a retry the same.
func (c *cast) batches(task v1.Task) {
	t := c.t
	batch := make([]v1.SpawnRequest, v1.MaxSpawnBatch)
	want := make([]string, len(batch))
	for i := range batch {
		_, csr := newKey(t)
		q, err := spawnRequest(task, csr)
		must(t, err)
		switch i % 8 {
		case 1:
			q.Scope, want[i] = []string{"database:write:x"}, "scope_exceeds_parent"
		case 2:
			q.Scope, want[i] = []string{"a b"}, "bad_scope"
		case 3:
			q.CSR, want[i] = "x", "bad_csr"
		case 4:
			q.CSR = "" // a token
		}
		batch[i] = q
	}
	from := c.size()
	first, err := c.orchestrator.SpawnBatch(t.Context(), batch)
	must(t, err)
	again, err := c.orchestrator.SpawnBatch(t.Context(), batch)
	must(t, err)
	issued := 0
	for i, r := range first {
		switch {
		case want[i] != "":
			if r.Problem == nil || r.Problem.Code != want[i] || r.Agent != nil || r.Status != r.Problem.Status {
				t.Errorf("spawn %d: %d %+v; want %s", i, r.Status, r.Problem, want[i])
			}
		case r.Agent == nil || r.Status != 201 || r.Agent.AgentID != batch[i].SpawnID:
			t.Errorf("spawn %d: %d %+v", i, r.Status, r.Problem)
		case batch[i].CSR == "":
			if r.Agent.EnrollmentToken == "" || again[i].Agent == nil || again[i].Agent.EnrollmentToken != r.Agent.EnrollmentToken {
				t.Errorf("spawn %d has no token, or another one at the retry", i)
			}
		default:
			issued++
			a, err := identityOf(r.Agent.CertificateChain)
			must(t, err)
			b, err := identityOf(again[i].Agent.CertificateChain)
			must(t, err)
			if a != b {
				t.Errorf("spawn %d: another certificate at the retry", i)
			}
		}
	}
	if got := c.issues(from); len(got) != issued {
		t.Errorf("%d issued, %d in the log", issued, len(got))
	}
	_, err = c.orchestrator.SpawnBatch(t.Context(), append(batch, batch[0]))
	must(t, refusedWith(err, "bad_request"))
}

// stolenToken redeems one token with 50 different keys at once.
func (c *cast) stolenToken(task v1.Task) {
	t := c.t
	q, err := spawnRequest(task, "")
	must(t, err)
	spawned, err := c.orchestrator.Spawn(t.Context(), q)
	must(t, err)
	from := c.size()
	anonymous := c.person(nil)
	var mu sync.Mutex
	var won []*tls.Certificate
	codes := map[string]int{}
	var wait sync.WaitGroup
	for range 50 {
		key, csr := newKey(t)
		wait.Go(func() {
			out, err := anonymous.Enroll(t.Context(), spawned.AgentID, spawned.EnrollmentToken, csr)
			mu.Lock()
			defer mu.Unlock()
			var p *client.Problem
			switch {
			case err == nil:
				cert, err := client.Certificate(out.CertificateChain, key)
				if err != nil {
					t.Error(err)
				}
				won = append(won, cert)
			case errors.As(err, &p):
				codes[p.Code]++
			default:
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if len(won) != 1 || codes["enrollment_token_reused"] != 49 {
		t.Fatalf("%d succeeded; %v", len(won), codes)
	}
	alarms, revoked := 0, 0
	for _, e := range c.entries(from) {
		switch {
		case e.Type == record.TypeAlarm && e.Code == record.EventTokenReused:
			alarms++
		case e.Type == record.TypeRevoke:
			revoked++
		}
	}
	if alarms != 1 || revoked != 1 || len(c.issues(from)) != 1 {
		t.Errorf("%d alarms, %d revocations, %d certificates", alarms, revoked, len(c.issues(from)))
	}
	_, err = c.person(won[0]).AgentChain(t.Context(), spawned.AgentID)
	must(t, refusedWith(err, "agent_revoked"))
}

// lives is an agent that redeems a token which its orchestrator signed for, changes its key twice, and has children of
// its first and of its last key. It gives the statements about both children.
func (c *cast) lives(grant v1.Grant, task v1.Task) (statements [2]string) {
	t := c.t
	token, hash, err := client.NewEnrollmentToken()
	must(t, err)
	q, err := spawnRequest(task, "")
	must(t, err)
	q.TTL, q.EnrollmentHash = 60, hash
	parent, err := client.ParentHash(c.orchestrator.cert.Leaf, grant.GrantHash)
	must(t, err)
	end := time.Now().Add(8 * time.Minute)
	q.Confirmation, err = client.SignSpawn(c.orchestrator.cert, c.origin, parent, nil, trustDomain, q, end)
	must(t, err)
	spawned, err := c.orchestrator.Spawn(t.Context(), q)
	must(t, err)
	if spawned.EnrollmentToken != "" {
		t.Error("the appliance shows a token that it did not make")
	}
	key, csr := newKey(t)
	out, err := c.person(nil).Enroll(t.Context(), spawned.AgentID, token, csr)
	must(t, err)
	first, err := client.Certificate(out.CertificateChain, key)
	must(t, err)
	_, statements[0] = c.child(grant, task, &agent{id: q.SpawnID, cert: first})
	second := c.rekeyed(first, q.SpawnID)
	if got := second.Leaf.NotAfter; !got.After(first.Leaf.NotAfter) || got.After(end) {
		t.Errorf("until %s; the first was until %s, and %s was signed", got, first.Leaf.NotAfter, end)
	}
	third := c.rekeyed(second, q.SpawnID)
	child, second2 := c.child(grant, task, &agent{id: q.SpawnID, cert: third})
	statements[1] = second2
	c.offline(child, third, second2)
	late, err := c.delegation(grant, task, &agent{id: q.SpawnID, cert: first}, func(*v1.SpawnRequest) {})
	must(t, err)
	_, err = c.person(first).Delegate(t.Context(), q.SpawnID, late)
	must(t, refusedWith(err, "certificate_superseded"))
	return statements
}

// rekeyed changes an agent's key.
func (c *cast) rekeyed(cert *tls.Certificate, id string) *tls.Certificate {
	t := c.t
	t.Helper()
	next, csr := newKey(t)
	link, err := client.SignRekey(cert, c.origin, next.Public())
	must(t, err)
	out, err := c.person(cert).Rekey(t.Context(), id, link, csr)
	must(t, err)
	again, err := c.person(cert).Rekey(t.Context(), id, link, csr)
	must(t, err)
	a, err := identityOf(out.CertificateChain)
	must(t, err)
	b, err := identityOf(again.CertificateChain)
	must(t, err)
	if a != b {
		t.Error("another certificate at the retry")
	}
	renewed, err := client.Certificate(out.CertificateChain, next)
	must(t, err)
	return renewed
}

// child is a sub-agent with what its parent signed for it.
func (c *cast) child(grant v1.Grant, task v1.Task, parent *agent) (cert *tls.Certificate, statement string) {
	t := c.t
	t.Helper()
	var key crypto.Signer
	q, err := c.delegation(grant, task, parent, func(q *v1.SpawnRequest) {
		var csr string
		key, csr = newKey(t)
		q.CSR = csr
	})
	must(t, err)
	hash, err := client.ParentHash(parent.cert.Leaf, grant.GrantHash)
	must(t, err)
	q.TTL = 30
	q.Confirmation, err = client.SignSpawn(parent.cert, c.origin, hash, key.Public(), trustDomain, q, time.Now().Add(time.Minute))
	must(t, err)
	out, err := c.person(parent.cert).Delegate(t.Context(), parent.id, q)
	must(t, err)
	cert, err = client.Certificate(out.CertificateChain, key)
	must(t, err)
	return cert, q.Confirmation
}

// offline verifies a sub-agent of a re-keyed parent with what the appliance shows of it, every hop's signature included.
func (c *cast) offline(leaf, parent *tls.Certificate, statement string) {
	t := c.t
	t.Helper()
	d, err := chain.Extract(leaf.Leaf)
	must(t, err)
	id, err := chain.ParseID(d.Hops[2].ID)
	must(t, err)
	shown, err := c.auditor.AgentChain(t.Context(), id.AgentID())
	must(t, err)
	if len(shown.Delegation.Hops[1].Links) != 2 || shown.Delegation.Hops[2].Delegation != statement {
		t.Fatalf("%d links", len(shown.Delegation.Hops[1].Links))
	}
	certs, err := chain.ParseDER(leaf.Certificate, chain.MaxChain)
	must(t, err)
	root, err := chain.ParsePEM(c.rootPEM, 1)
	must(t, err)
	trust, err := chain.NewTrust(trustDomain, root, nil)
	must(t, err)
	in := chain.Input{
		Chain: certs, Trust: trust, Now: time.Now(), Skew: time.Minute, Origin: c.origin,
		Keys:  [][]byte{c.orchestrator.cert.Leaf.RawSubjectPublicKeyInfo, parent.Leaf.RawSubjectPublicKeyInfo},
		Links: make([][]chain.Link, 3), Require: []chain.CheckName{chain.CheckConfirmation},
	}
	for i, h := range shown.Delegation.Hops {
		in.Delegations = append(in.Delegations, h.Delegation)
		for _, l := range h.Links {
			in.Links[i] = append(in.Links[i], chain.Link{JWS: l.Link, Key: l.Key})
		}
	}
	if r := chain.Verify(in); !r.Valid {
		t.Errorf("%+v", r.Failed())
	}
	r, err := c.service.Verify(t.Context(), v1.VerifyRequest{
		CertificateChain: pemChain(leaf), Delegations: in.Delegations, Keys: in.Keys, Links: [][]v1.Link{{}, shown.Delegation.Hops[1].Links}, Require: []string{"confirmation"},
	})
	must(t, err)
	if !r.Valid {
		t.Errorf("the appliance says %+v", r.Checks)
	}
	in.Links[1] = in.Links[1][:1]
	if c := chain.Verify(in).Check(chain.CheckConfirmation); c.Code != chain.CodeRekeyBroken {
		t.Errorf("a link less: %+v", c)
	}
}

func pemChain(cert *tls.Certificate) []string {
	var out []string
	for _, der := range cert.Certificate {
		out = append(out, pemOf("CERTIFICATE", der))
	}
	return out
}

// audited verifies the evidence, and that it names a hop whose statement was swapped and a certificate that no entry knows.
func audited(t *testing.T, tar string, statements [2]string) {
	dir := t.TempDir()
	succeed(t, "tar", "-xf", tar, "-C", dir)
	good := copyBundle(t, dir)
	r, code := good.verdict()
	if code != 0 || !r.Valid || r.Hops == nil || r.Hops.Confirmed < 5 || r.Hops.Vouched < 1000 {
		t.Fatalf("exit %d, %+v: %+v", code, r.Hops, r.Failed())
	}
	files, err := filepath.Glob(filepath.Join(dir, "delegators", "*.jsonl"))
	must(t, err)
	swapped := copyBundle(t, dir)
	for _, f := range files {
		name := filepath.Join("delegators", filepath.Base(f))
		text := strings.NewReplacer(statements[0], statements[1], statements[1], statements[0]).Replace(string(swapped.read(name)))
		swapped.write(name, []byte(text))
	}
	swapped.remanifest()
	swapped.blames(bundle.CheckConfirmation, "hop 2 names another delegation")
	ghost := copyBundle(t, dir)
	issued, err := filepath.Glob(filepath.Join(dir, "certs", "issued", "*.pem"))
	must(t, err)
	ghost.write("certs/issued/0.pem", ghost.read(filepath.Join("certs", "issued", filepath.Base(issued[len(issued)-1]))))
	ghost.remanifest()
	ghost.blames(bundle.CheckCertificate, "a certificate without an issue entry")
}

// write replaces a file.
func (e evidence) write(name string, data []byte) {
	e.t.Helper()
	path := filepath.Join(e.dir, name)
	if err := os.Chmod(path, 0o600); err != nil && !errors.Is(err, os.ErrNotExist) {
		e.t.Fatal(err)
	}
	must(e.t, os.WriteFile(path, data, 0o600))
}

// blames wants a failure of a check that says so, with the entry's index.
func (e evidence) blames(check bundle.CheckName, detail string) {
	e.t.Helper()
	r, code := e.verdict()
	found := slices.ContainsFunc(r.Failed(), func(c bundle.Check) bool {
		return c.Name == check && c.Index != nil && strings.Contains(c.Detail, detail)
	})
	if code != 1 || !found {
		e.t.Errorf("exit %d, and nothing of %s says %q: %+v", code, check, detail, r.Failed())
	}
}
