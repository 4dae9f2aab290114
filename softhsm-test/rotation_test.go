package softhsmtest

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/custody"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/internal/appliance"
	"github.com/signet-pki/signet/internal/testrig/custodian"
	"github.com/signet-pki/signet/store"
)

// publicKey is a key that signs nothing: a new log's first leaves are not signed yet.
type publicKey struct {
	crypto.Signer

	key crypto.PublicKey
}

func (k publicKey) Public() crypto.PublicKey { return k.key }

// where is a TPM that says where it is, and nothing more.
type where struct {
	audit.Quoter

	at audit.Anchor
}

func (w where) State(context.Context) (audit.Anchor, error) { return w.at, nil }

// withCustodians begins the log of a stopped appliance anew, with custodians in leaf 0.
func withCustodians(t *testing.T, dir string, set custody.Set, people []custodian.Custodian) {
	t.Helper()
	var first []byte
	var at audit.Anchor
	db, err := store.Open(filepath.Join(dir, "log", "db"), store.Options{Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	must(t, errors.Join(db.View(func(tx *store.Txn) (err error) {
		if first, err = tx.Get(append([]byte("e/"), make([]byte, 8)...)); err != nil {
			return err
		}
		anchor, err := tx.Get([]byte("m/anchor"))
		return errors.Join(err, json.Unmarshal(anchor, &at))
	}), db.Close()))
	env, err := record.Check(first)
	must(t, err)
	body, err := record.DecodeBody[record.Ceremony](env)
	must(t, err)
	body.Custodians, err = set.Marshal()
	must(t, err)
	env.Body, err = record.EncodeBody(body)
	must(t, err)
	zero, err := record.New(env, nil, [record.SaltSize]byte{})
	must(t, err)
	zero.Mutations = []record.Mutation{delegation.KnownPolicy(body.PolicyDigest)}
	operator, err := delegation.FirstOperator(readCertificate(t, dir, "operator"), readCertificate(t, dir, "service-ca-1"), env.Time)
	must(t, err)
	indexKey, err := os.ReadFile(filepath.Join(dir, "index.key"))
	must(t, err)
	must(t, os.RemoveAll(filepath.Join(dir, "log")))
	must(t, audit.Create(t.Context(), audit.Config{
		Dir: filepath.Join(dir, "log"), Origin: body.Origin, Signer: publicKey{key: readCertificate(t, dir, "audit").PublicKey}, Quoter: where{at: at},
		IndexKey: indexKey, PCRs: []int{0}, Private: delegation.Private, Now: time.Now, Log: slog.New(slog.DiscardHandler), MinFree: 1 << 20,
	}, []record.Entry{zero, held(t, body.Origin, set, people), operator}))
}

// held is the act of a ceremony.
func held(t *testing.T, origin string, set custody.Set, people []custodian.Custodian) record.Entry {
	t.Helper()
	at := time.Now().UTC().Truncate(time.Second)
	text, err := custody.Act{
		Kind: custody.Init, ID: "00112233445566778899aabbccddeeff", Origin: origin, Custodians: set.ID(), Created: at, NotAfter: at.Add(time.Hour),
		Detail: json.RawMessage("{}"),
	}.Marshal()
	must(t, err)
	body, err := record.EncodeBody(record.Act{Act: text, Signatures: [][]byte{people[0].Sign(t, text), people[1].Sign(t, text)}})
	must(t, err)
	e, err := record.New(record.Envelope{Type: record.TypeAct, Time: at, Body: body}, nil, [record.SaltSize]byte{})
	must(t, err)
	return e
}

// act writes an act as signet act new does.
func (c *cast) act(kind custody.Kind, detail string, change ...func(*custody.Act)) []byte {
	c.t.Helper()
	who, err := c.operator.Custodians(c.t.Context())
	must(c.t, err)
	now := time.Now().UTC().Truncate(time.Second)
	a := custody.Act{
		Kind: kind, ID: strings.TrimPrefix(unique(c.t, "0000000000"), "-"), Origin: c.origin, Custodians: who.ID, Created: now, NotAfter: now.Add(time.Hour), Detail: json.RawMessage(detail),
	}
	for _, f := range change {
		f(&a)
	}
	text, err := a.Marshal()
	must(c.t, err)
	return text
}

func (c *cast) submit(act []byte, by ...custodian.Custodian) (v1.ActDone, error) {
	c.t.Helper()
	q := v1.ActRequest{Act: act, Signatures: []string{}}
	for _, p := range by {
		q.Signatures = append(q.Signatures, string(p.Sign(c.t, act)))
	}
	return c.operator.SubmitAct(c.t.Context(), q)
}

func (c *cast) mustSubmit(act []byte, by ...custodian.Custodian) v1.ActDone {
	c.t.Helper()
	done, err := c.submit(act, by...)
	must(c.t, err)
	return done
}

// clients issue all the time; each answer is looked at by relying services' own means.
type clients struct {
	stopped atomic.Bool
	wg      sync.WaitGroup
	issued  atomic.Int64
}

func (c *cast) issuing(n int, dir string, task v1.Task) *clients {
	c.t.Helper()
	trust, err := chain.NewTrust(trustDomain, c.anchors(dir, "root"), c.anchors(dir, "agent-ca-1"))
	must(c.t, err)
	feed := c.follow()
	out := &clients{}
	for range n {
		out.wg.Go(func() {
			for !out.stopped.Load() {
				// A request that is under way when the test stops is answered all the same.
				a, err := spawn(c.t.Context(), c.orchestrator, task)
				if tooBusy(err) {
					continue
				}
				if err != nil {
					c.t.Errorf("a client was refused: %v", err)
					return
				}
				if r := c.verified(trust, feed, a); !r.Valid {
					c.t.Errorf("a certificate does not verify: %+v", r)
				}
				out.issued.Add(1)
			}
		})
	}
	return out
}

// more waits until so many more were issued.
func (x *clients) more(t *testing.T, n int64) {
	t.Helper()
	until := x.issued.Load() + n
	within(t, time.Minute, "issuing", func() error {
		if x.issued.Load() < until {
			return errors.New("the clients wait")
		}
		return nil
	})
}

// TestRotationUnderLoad: 32 clients issue while custodians have the audit key rotated, twice, and change themselves. Nobody is refused, every
// certificate verifies, and an auditor who knows the first key alone follows.
func TestRotationUnderLoad(t *testing.T) {
	dir := made(t)
	set, people := custodian.Three(t)
	withCustodians(t, dir, set, people)
	run := func() (*inside, *cast) {
		i := runInside(t, dir, func(*appliance.Config) {})
		return i, newCast(t, dir, i.url)
	}
	i, c := run()
	_, task := c.task(c.orchestrator)
	early, err := c.auditor.Receipt(t.Context(), 0, true)
	must(t, err)
	noted := trustFile(t, early) // by an auditor, when the log began
	load := c.issuing(32, dir, task)
	load.more(t, 64)
	alice, bob, carol := people[0], people[1], people[2]
	done := c.mustSubmit(c.act(custody.RotateAuditKey, `{"label": "audit-2"}`), alice, bob)
	if done.Result["label"] != "audit-2" || len(done.Agreed) != 2 {
		t.Errorf("%+v", done)
	}
	load.more(t, 64)
	dora := custodian.New(t, "dora", "ecdsa")
	next, err := custody.NewSet(2, []custody.Custodian{bob.Custodian, dora.Custodian})
	must(t, err)
	text, err := next.Marshal()
	must(t, err)
	c.mustSubmit(c.act(custody.ChangeCustodians, `{"custodians": `+string(text)+`}`), alice, carol)
	c.mustSubmit(c.act(custody.RotateAuditKey, `{"label": "audit-3"}`), bob, dora)
	load.more(t, 64)
	load.stopped.Store(true)
	load.wg.Wait()
	t.Logf("%d certificates were issued meanwhile", load.issued.Load())
	// Relying services go on: what was issued before and what was issued after the change.
	a, err := spawn(t.Context(), c.orchestrator, task)
	must(t, err)
	if d, err := decide(t.Context(), c.service, a); err != nil || !d.Decision {
		t.Errorf("%+v %v", d, err)
	}
	receipt, err := c.auditor.Receipt(t.Context(), a.issued.AuditReceipt.Index, true)
	must(t, err)
	path := exported(t, c)
	at := t.TempDir()
	trust := filepath.Join(at, "trust.yaml")
	must(t, os.WriteFile(trust, noted, 0o600))
	if out, code := command(t, "", nil, program("signet-verify"), "bundle", "--trust", trust, path); code != 0 {
		t.Errorf("the bundle: exit %d\n%s", code, out)
	}
	file := filepath.Join(at, "receipt.json")
	must(t, os.WriteFile(file, receipt, 0o600))
	if out, code := command(t, "", nil, program("signet-verify"), "receipt", "--trust", trust, file); code != 0 {
		t.Errorf("the receipt: exit %d\n%s", code, out)
	}
	i.stop()
	fsck(t, dir)
	i, c = run()
	_, task = c.task(c.orchestrator)
	must(t, c.works(task))
	i.stop()
	fsck(t, dir)
}

// TestActsRefused: each reason has its code, and nothing changes.
func TestActsRefused(t *testing.T) {
	dir := made(t)
	i := runInside(t, dir, func(*appliance.Config) {})
	c := newCast(t, dir, i.url)
	_, err := c.operator.SubmitAct(t.Context(), v1.ActRequest{Act: []byte("{}"), Signatures: []string{"x"}})
	if err := refusedWith(err, "no_custodians"); err != nil {
		t.Error(err)
	}
	i.stop()
	set, people := custodian.Three(t)
	withCustodians(t, dir, set, people)
	i = runInside(t, dir, func(*appliance.Config) {})
	c = newCast(t, dir, i.url)
	alice, bob := people[0], people[1]
	mallory := custodian.New(t, "mallory", "ed25519")
	const detail = `{"label": "audit-2"}`
	rotate := func(change ...func(*custody.Act)) []byte { return c.act(custody.RotateAuditKey, detail, change...) }
	for name, try := range map[string]struct {
		act  []byte
		by   []custodian.Custodian
		code string
	}{
		"nobody":             {rotate(), nil, "too_few_approvals"},
		"one":                {rotate(), people[:1], "too_few_approvals"},
		"one twice":          {rotate(), []custodian.Custodian{alice, alice}, "too_few_approvals"},
		"a stranger":         {rotate(), []custodian.Custodian{alice, bob, mallory}, "bad_approval"},
		"another log":        {rotate(func(a *custody.Act) { a.Origin = "other.example/log" }), people, "act_other_origin"},
		"over":               {rotate(func(a *custody.Act) { a.Created, a.NotAfter = a.Created.Add(-2*time.Hour), a.Created.Add(-time.Hour) }), people, "act_expired"},
		"not begun":          {rotate(func(a *custody.Act) { a.Created, a.NotAfter = a.Created.Add(2*time.Hour), a.Created.Add(3*time.Hour) }), people, "act_expired"},
		"others":             {rotate(func(a *custody.Act) { a.Custodians = strings.Repeat("ab", 32) }), people, "custodians_changed"},
		"a restore":          {c.act(custody.Restore, `{}`), people, "act_unknown"},
		"not the next label": {c.act(custody.RotateAuditKey, `{"label": "audit-7"}`), people, "bad_detail"},
		"no detail":          {c.act(custody.RotateAuditKey, `{}`), people, "bad_detail"},
		"a key not made":     {c.act(custody.RotateAuditKey, `{"label": "audit-2", "key": "AAAA"}`), people, "key_missing"},
		"no act":             {[]byte(`{"kind": "rotate_audit_key"}`), nil, "bad_act"},
		"too few successors": {c.act(custody.ChangeCustodians, `{"custodians": {"threshold":1,"custodians":[]}}`), people, "bad_detail"},
	} {
		_, err := c.submit(try.act, try.by...)
		if err := refusedWith(err, try.code); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var p *client.Problem
		if try.code == "too_few_approvals" && len(try.by) > 0 && errors.As(err, &p) && !strings.Contains(p.Detail, "alice") {
			t.Errorf("%s: who agreed is not told: %q", name, p.Detail)
		}
	}
	if _, err := c.auditor.SubmitAct(t.Context(), v1.ActRequest{Act: rotate(), Signatures: []string{}}); err == nil {
		t.Error("an auditor submitted an act")
	}
	used := rotate()
	c.mustSubmit(used, alice, bob)
	// The label is checked first; an act that is fit in all else is taken once.
	if err := refusedOnce(c, used, alice, bob); err != nil {
		t.Error(err)
	}
	same := c.act(custody.ChangeCustodians, `{"custodians": `+string(mustSet(t, set))+`}`)
	c.mustSubmit(same, alice, bob)
	_, err = c.submit(same, alice, bob)
	if err := refusedWith(err, "act_used"); err != nil {
		t.Error(err)
	}
	i.stop()
	fsck(t, dir)
}

func refusedOnce(c *cast, act []byte, by ...custodian.Custodian) error {
	_, err := c.submit(act, by...)
	return refusedWith(err, "bad_detail", "act_used")
}

func mustSet(t *testing.T, set custody.Set) []byte {
	t.Helper()
	text, err := set.Marshal()
	must(t, err)
	return text
}
