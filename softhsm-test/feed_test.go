package softhsmtest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/internal/demo/browser"
)

// heartbeat is the default of the feed.
const heartbeat = 5 * time.Second

// follow subscribes to the feed until the test ends.
func (c *cast) follow() *client.Feed {
	c.t.Helper()
	f, err := c.service.NewFeed(client.FeedConfig{Origin: c.origin, TrustDomain: trustDomain})
	must(c.t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.t.Context()))
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	c.t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			c.t.Errorf("the feed ends with %v", err)
		}
	})
	within(c.t, 20*time.Second, "the feed to be complete", func() error {
		if f.FreshAt().IsZero() {
			return errors.New("it is not fresh")
		}
		return nil
	})
	return f
}

// deepTask is a task whose agents may have three levels of agents below them.
func (c *cast) deepTask() (v1.Grant, v1.Task) {
	c.t.Helper()
	q := grantRequest()
	q.MaxDepth = 4
	g, err := c.orchestrator.RequestGrant(c.t.Context(), q)
	must(c.t, err)
	b, err := browser.New(c.roots)
	must(c.t, err)
	_, err = b.Consent(c.t.Context(), g.ConsentURL, "physician")
	must(c.t, err)
	g, err = c.orchestrator.Grant(c.t.Context(), g.GrantID)
	must(c.t, err)
	task, err := c.orchestrator.OpenTask(c.t.Context(), v1.TaskRequest{GrantID: g.GrantID})
	must(c.t, err)
	return g, task
}

// born gives a new key an identity: from the orchestrator, or from parent, who signs for it.
func (c *cast) born(ctx context.Context, by *client.Client, parent *agent, g v1.Grant, task v1.Task, depth int) (*agent, error) {
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
	q.TTL, q.MaxDepth = 0, depth
	out, err := c.issue(ctx, by, parent, g, q, key.Public())
	if err != nil {
		return nil, err
	}
	cert, err := client.Certificate(out.CertificateChain, key)
	return &agent{id: q.SpawnID, cert: cert, issued: out}, err
}

func (c *cast) issue(ctx context.Context, by *client.Client, parent *agent, g v1.Grant, q v1.SpawnRequest, key crypto.PublicKey) (v1.Spawned, error) {
	if parent == nil {
		return by.Spawn(ctx, q)
	}
	hash, err := client.ParentHash(parent.cert.Leaf, g.GrantHash)
	if err != nil {
		return v1.Spawned{}, err
	}
	q.Confirmation, err = client.SignSpawn(parent.cert, c.origin, hash, key, trustDomain, q, parent.issued.NotAfter)
	if err != nil {
		return v1.Spawned{}, err
	}
	return by.Delegate(ctx, parent.id, q)
}

// family spawns 10 + 90 + 300 + 600 agents in four levels.
func (c *cast) family(g v1.Grant, task v1.Task) [4][]*agent {
	c.t.Helper()
	var out [4][]*agent
	for n, size := range [4]int{10, 90, 300, 600} {
		out[n] = make([]*agent, size)
		parents := []*agent{nil}
		if n > 0 {
			parents = out[n-1]
		}
		errs := make([]error, len(parents))
		places := make(chan struct{}, 8)
		var wg sync.WaitGroup
		for i, p := range parents {
			wg.Go(func() {
				places <- struct{}{}
				defer func() { <-places }()
				errs[i] = c.children(p, g, task, 3-n, out[n], i, len(parents))
			})
		}
		wg.Wait()
		must(c.t, errors.Join(errs...))
	}
	return out
}

// children fills every step-th place from first on with a child of parent.
func (c *cast) children(parent *agent, g v1.Grant, task v1.Task, depth int, into []*agent, first, step int) error {
	by := c.orchestrator.Client
	if parent != nil {
		own, err := client.New(client.Config{URL: c.url, Roots: c.roots, Certificate: parent.cert})
		if err != nil {
			return err
		}
		defer own.Close()
		by = own
	}
	for i := first; i < len(into); i += step {
		var err error
		if into[i], err = c.born(c.t.Context(), by, parent, g, task, depth); err != nil {
			return fmt.Errorf("level %d, agent %d: %w", 4-depth, i, err)
		}
	}
	return nil
}

// verified is what a service finds that follows the feed and asks nobody.
func (c *cast) verified(trust *chain.Trust, f *client.Feed, a *agent) chain.Report {
	c.t.Helper()
	var path []*x509.Certificate
	for _, der := range a.cert.Certificate {
		cert, err := x509.ParseCertificate(der)
		must(c.t, err)
		path = append(path, cert)
	}
	return chain.Verify(chain.Input{
		Chain: path, Trust: trust, Now: time.Now(), Skew: time.Second, Revocation: f, MaxStaleness: 4 * heartbeat,
		Require: []chain.CheckName{chain.CheckRevocation, chain.CheckFreshness},
	})
}

// ended checks that nobody of a family is let in or can have children, each by the task's revocation.
func (c *cast) ended(family [4][]*agent, g v1.Grant, task v1.Task) {
	c.t.Helper()
	fastest := time.Hour
	for n, level := range family {
		for _, a := range []*agent{level[0], level[len(level)/2], level[len(level)-1]} {
			asked := time.Now()
			d, err := decide(c.t.Context(), c.service, a)
			fastest = min(fastest, time.Since(asked))
			must(c.t, err)
			if d.Decision || d.Context.Checks["revocation"].Code != chain.CodeTaskRevoked {
				c.t.Errorf("level %d: allowed %v for %v", n+1, d.Decision, d.Context.Reasons)
			}
		}
		if n == len(family)-1 {
			break // these may have no children
		}
		a := level[0]
		_, err := c.born(c.t.Context(), c.person(a.cert).Client, a, g, task, 0)
		if err := refusedWith(err, chain.CodeTaskRevoked); err != nil {
			c.t.Errorf("level %d: %v", n+1, err)
		}
	}
	_, err := c.born(c.t.Context(), c.orchestrator.Client, nil, g, task, 0)
	if err := refusedWith(err, chain.CodeTaskRevoked); err != nil {
		c.t.Errorf("the orchestrator: %v", err)
	}
	// The first that was asked was refused already; this is how long the answer takes.
	if fastest >= 50*time.Millisecond {
		c.t.Errorf("a refusal takes %s", fastest)
	}
	c.t.Logf("a refusal takes %s", fastest)
}

// TestRevokedTaskOfAThousandAgents: one revocation ends them all, at once, for those who ask the appliance and for those who
// follow its feed, and for good.
func TestRevokedTaskOfAThousandAgents(t *testing.T) {
	dir := newDir(t)
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	g, task := c.deepTask()
	family := c.family(g, task)
	feed := c.follow()
	trust, err := chain.NewTrust(trustDomain, c.anchors(dir, "root"), c.anchors(dir, "agent-ca-1"))
	must(t, err)
	last := family[3][599]
	if r := c.verified(trust, feed, last); !r.Valid {
		t.Fatalf("before: %+v", r.Failed())
	}
	if got, err := decide(t.Context(), c.service, last); err != nil || !got.Decision {
		t.Fatalf("before: %v %v", got.Context.Reasons, err)
	}

	_, err = c.operator.Revoke(t.Context(), v1.RevocationRequest{Kind: "task", ID: task.TaskID})
	must(t, err)
	answered := time.Now()
	c.ended(family, g, task)
	within(t, heartbeat, "the follower to refuse", func() error {
		if r := c.verified(trust, feed, last); r.Check(chain.CheckRevocation).Code != chain.CodeTaskRevoked {
			return fmt.Errorf("it finds %v", r.Failed())
		}
		return nil
	})
	t.Logf("the follower refuses within %s of the answer", time.Since(answered))

	d.stop()
	d = start(t, dir)
	c = c.moved(d.url)
	c.ended(family, g, task)
	if r := c.verified(trust, c.follow(), last); r.Check(chain.CheckRevocation).Code != chain.CodeTaskRevoked {
		t.Errorf("after the restart a new follower finds %v", r.Failed())
	}
}

// anchors reads a certificate of the ceremony.
func (c *cast) anchors(dir, name string) []*x509.Certificate {
	c.t.Helper()
	return []*x509.Certificate{readCertificate(c.t, dir, name)}
}

func readCertificate(t testing.TB, dir, name string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "pki", name+".pem"))
	must(t, err)
	block, _ := pem.Decode(b)
	if block == nil {
		t.Fatalf("%s is no PEM", name)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	return cert
}
