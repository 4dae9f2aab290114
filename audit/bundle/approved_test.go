package bundle_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/custody"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/rotation"
	"github.com/signet-pki/signet/internal/testrig/custodian"
)

// guarded is a log whose leaf 0 pins custodians.
type guarded struct {
	*world
	set    custody.Set
	people []custodian.Custodian
	acts   int
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	w := newWorld(t, newSoftTPM(t))
	set, people := custodian.Three(t)
	var body record.Ceremony
	env, err := record.Check(w.entries[0].Envelope)
	must(t, err)
	body, err = record.DecodeBody[record.Ceremony](env)
	must(t, err)
	body.Custodians, err = set.Marshal()
	must(t, err)
	w.entries, w.leaves = nil, nil
	w.add(record.TypeCeremony, record.Envelope{Policy: env.Policy}, body, nil)
	return &guarded{world: w, set: set, people: people}
}

// act is a new one, of the custodians in force.
func (g *guarded) act(kind custody.Kind, detail string) custody.Act {
	g.acts++
	at := g.now.Truncate(time.Second)
	return custody.Act{
		Kind: kind, ID: id(g.acts), Origin: origin, Custodians: g.set.ID(), Created: at, NotAfter: at.Add(time.Hour), Detail: json.RawMessage(detail),
	}
}

// agree appends an act with the signatures of some.
func (g *guarded) agree(a custody.Act, who ...custodian.Custodian) uint64 {
	g.t.Helper()
	text, err := a.Marshal()
	must(g.t, err)
	body := record.Act{Act: text}
	for _, c := range who {
		body.Signatures = append(body.Signatures, c.Sign(g.t, text))
	}
	return g.add(record.TypeAct, record.Envelope{}, body, nil)
}

// judged is what a verifier says of the log about its custodians: index and detail of each failure.
func (g *guarded) judged() string {
	g.t.Helper()
	g.seal()
	report := verify(g.t, written(g.t, g.world), bundle.Options{})
	var said []string
	for _, c := range report.Failed() {
		if c.Name != bundle.CheckCustodians || c.Index == nil {
			g.t.Errorf("%+v", c)
			continue
		}
		said = append(said, fmt.Sprintf("%d: %s", *c.Index, c.Detail))
	}
	if report.Valid != (len(said) == 0) {
		g.t.Errorf("valid is %t, and it says %q", report.Valid, said)
	}
	return strings.Join(said, "\n")
}

func TestCustodiansAgreed(t *testing.T) {
	g := newGuarded(t)
	g.agree(g.act(custody.Init, "{}"), g.people[:2]...)
	g.agree(g.act(custody.RevokeCA, "{}"), g.people[1:]...)
	next := custodian.New(t, "dora", "ed25519")
	change, err := custody.NewSet(2, []custody.Custodian{g.people[0].Custodian, next.Custodian})
	must(t, err)
	text, err := change.Marshal()
	must(t, err)
	g.agree(g.act(custody.ChangeCustodians, `{"custodians":`+string(text)+`}`), g.people...)
	g.set = change
	g.agree(g.act(custody.Replenish, "{}"), g.people[0], next)
	if said := g.judged(); said != "" {
		t.Error(said)
	}
}

// TestChangeOfKeyRestsOnAnAct: both keys sign for it, and that is not enough.
func TestChangeOfKeyRestsOnAnAct(t *testing.T) {
	for name, c := range map[string]struct {
		act  func(g *guarded) rotation.Act
		says string
	}{
		"agreed":                 {func(g *guarded) rotation.Act { return g.agreeTo(custody.RotateAuditKey) }, ""},
		"nothing":                {func(*guarded) rotation.Act { return rotation.Act{} }, "no custodians agreed to this change"},
		"an act of another kind": {func(g *guarded) rotation.Act { return g.agreeTo(custody.RevokeCA) }, "entry 2 is not their act"},
		"another act": {func(g *guarded) rotation.Act {
			a := g.agreeTo(custody.RotateAuditKey)
			a.Hash[0]++
			return a
		}, "entry 2 is not their act"},
		"one act for two changes": {func(g *guarded) rotation.Act {
			a := g.agreeTo(custody.RotateAuditKey)
			g.rotateOn(a)
			return a
		}, "entry 2 is not their act"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuarded(t)
			g.agree(g.act(custody.Init, "{}"), g.people[:2]...)
			g.rotateOn(c.act(g))
			g.decide(1)
			if said := g.judged(); (said == "") != (c.says == "") || !strings.Contains(said, c.says) {
				t.Errorf("%q, want %q", said, c.says)
			}
		})
	}
}

// agreeTo has the custodians agree to an act.
func (g *guarded) agreeTo(kind custody.Kind) rotation.Act {
	g.t.Helper()
	index := g.agree(g.act(kind, "{}"), g.people[:2]...)
	env, err := record.Check(g.entries[index].Envelope)
	must(g.t, err)
	body, err := record.DecodeBody[record.Act](env)
	must(g.t, err)
	return rotation.Act{Index: index, Hash: sha256.Sum256(body.Act)}
}

func TestCustodiansDidNotAgree(t *testing.T) {
	for name, c := range map[string]struct {
		write func(g *guarded)
		says  string
	}{
		"no act at all": {func(g *guarded) { g.add(record.TypeAdmin, record.Envelope{}, nil, nil) }, "1: not the act"},
		"one alone":     {func(g *guarded) { g.agree(g.act(custody.Init, "{}"), g.people[0]) }, "1: custody: too few"},
		"one twice":     {func(g *guarded) { g.agree(g.act(custody.Init, "{}"), g.people[0], g.people[0]) }, "1: custody: too few"},
		"a stranger": {func(g *guarded) {
			g.agree(g.act(custody.Init, "{}"), g.people[0], custodian.New(g.t, "mallory", "ed25519"))
		}, "1: custody: signature refused"},
		"another act": {func(g *guarded) { g.agree(g.act(custody.RevokeCA, "{}"), g.people...) }, "1: an act of kind revoke_ca"},
		"too late": {func(g *guarded) {
			g.agree(g.act(custody.Init, "{}"), g.people...)
			a := g.act(custody.RevokeCA, "{}")
			a.Created, a.NotAfter = a.Created.Add(-2*time.Hour), a.NotAfter.Add(-2*time.Hour)
			g.agree(a, g.people...)
		}, "2: custody: the act is not valid"},
		"again": {func(g *guarded) {
			g.agree(g.act(custody.Init, "{}"), g.people...)
			a := g.act(custody.RevokeCA, "{}")
			g.agree(a, g.people...)
			g.agree(a, g.people...)
		}, "3: the act of entry 2 again"},
		"another log": {func(g *guarded) {
			g.agree(g.act(custody.Init, "{}"), g.people...)
			a := g.act(custody.RevokeCA, "{}")
			a.Origin = "other.example/log"
			g.agree(a, g.people...)
		}, "2: custody: invalid: the act is of the log"},
		"a second ceremony": {func(g *guarded) {
			g.agree(g.act(custody.Init, "{}"), g.people...)
			g.agree(g.act(custody.Init, "{}"), g.people...)
		}, "2: an act of kind init"},
		"those who are no longer": {func(g *guarded) {
			g.agree(g.act(custody.Init, "{}"), g.people...)
			old := g.act(custody.RevokeCA, "{}")
			next, err := custody.NewSet(2, []custody.Custodian{g.people[0].Custodian, custodian.New(g.t, "dora", "ed25519").Custodian})
			must(g.t, err)
			text, err := next.Marshal()
			must(g.t, err)
			g.agree(g.act(custody.ChangeCustodians, `{"custodians":`+string(text)+`}`), g.people...)
			g.agree(old, g.people...)
		}, "3: custody: the act asks other custodians"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuarded(t)
			c.write(g)
			if said := g.judged(); !strings.HasPrefix(said, c.says) {
				t.Errorf("%q, wanted %q", said, c.says)
			}
		})
	}
}

func TestActWithoutCustodians(t *testing.T) {
	g := newGuarded(t)
	g.world = newWorld(t, newSoftTPM(t))
	g.agree(g.act(custody.RevokeCA, "{}"), g.people...)
	if said := g.judged(); !strings.HasPrefix(said, "1: an act, although") {
		t.Error(said)
	}
}
