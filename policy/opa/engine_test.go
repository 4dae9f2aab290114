package opa_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/signet-pki/signet/policy"
	"github.com/signet-pki/signet/policy/opa"
)

// evalTimeout is for tests that are about the answer: they run beside others on busy processors.
const evalTimeout = 10 * time.Second

func now() time.Time { return time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC) }

func base(point policy.Point) policy.Input {
	return policy.Input{
		Point: point, Time: now(),
		Agent: policy.Agent{
			ID: "018f", Type: "research", SPIFFEID: "spiffe://hospital/agent/research/018f",
			Scope: []string{"database:read:patients"}, NotAfter: now().Add(time.Minute), Depth: 1,
		},
		Hops: []policy.Hop{
			{ID: "spiffe://hospital/orchestrator/lab", Scope: []string{"database:read:*"}, NotAfter: now().Add(time.Hour), MaxDepth: 3},
			{ID: "spiffe://hospital/agent/research/018f", Scope: []string{"database:read:patients"}, NotAfter: now().Add(time.Minute), MaxDepth: 2},
		},
		User: policy.User{
			Issuer: "https://idp.example", Subject: "physician-7f3a", Roles: []string{"physician", "analyst"},
			ACR: "1", AMR: []string{"pwd"}, AuthTime: now().Add(-time.Minute),
		},
		Consent:      policy.Consent{Type: "oidc_nonce"},
		Task:         policy.Task{ID: "t", GrantID: "g", Purpose: "study", Scope: []string{"database:read:*"}, NotAfter: now().Add(time.Hour)},
		Orchestrator: policy.Orchestrator{ID: "spiffe://hospital/orchestrator/lab", Attestation: "join_token"},
		Revocation:   policy.Revocation{AsOf: now(), Epoch: 1, Seq: 7, Changed: now().Add(-time.Hour)},
	}
}

func access() policy.Input {
	in := base(policy.PointAccess)
	in.Resource = &policy.Resource{Type: "database", ID: "patients", RequiredScope: []string{"database:read:patients"}}
	in.Action = &policy.Action{Name: "read"}
	return in
}

func spawn() policy.Input {
	in := base(policy.PointSpawn)
	in.Request = &policy.Request{Scope: []string{"database:read:patients"}, TTLSeconds: 300, MaxDepth: 2}
	return in
}

func spawnOf(scopes ...string) policy.Input {
	in := spawn()
	in.Request.Scope = scopes
	return in
}

func token() policy.Input {
	in := base(policy.PointToken)
	in.Request = &policy.Request{Scope: []string{"database:read:patients"}, TTLSeconds: 60}
	in.Resource = &policy.Resource{Type: "service", ID: "spiffe://hospital/service/records"}
	return in
}

func engine(t testing.TB, o opa.Options) *opa.Engine {
	t.Helper()
	e, err := opa.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Each condition of the mission's rule, and of the rule for spawning, turns allow into deny by itself.
func TestDefaultBundle(t *testing.T) {
	e := engine(t, opa.Options{Timeout: 5 * time.Second})
	for name, c := range map[string]struct {
		in     policy.Input
		change func(*policy.Input)
		want   []string
	}{
		"access":         {access(), func(*policy.Input) {}, nil},
		"wildcard":       {access(), func(in *policy.Input) { in.Agent.Scope = []string{"fhir:read:x", "database:*"} }, nil},
		"not an analyst": {access(), func(in *policy.Input) { in.User.Roles = []string{"physician"} }, []string{"user_not_analyst"}},
		"no roles":       {access(), func(in *policy.Input) { in.User.Roles = nil }, []string{"user_not_analyst"}},
		"other database": {access(), func(in *policy.Input) { in.Resource.RequiredScope[0] = "database:read:billing" }, []string{"scope_missing"}},
		"no scope":       {access(), func(in *policy.Input) { in.Agent.Scope = nil }, []string{"scope_missing"}},
		"nothing needed": {access(), func(in *policy.Input) { in.Resource.RequiredScope = nil }, []string{"scope_missing"}},
		"write":          {access(), func(in *policy.Input) { in.Action.Name = "write" }, []string{"action_not_permitted"}},
		"no task":        {access(), func(in *policy.Input) { in.Task = policy.Task{} }, []string{"task_missing"}},
		"printer":        {access(), func(in *policy.Input) { in.Resource.Type = "printer" }, []string{"resource_type_unknown"}},
		"both": {
			access(), func(in *policy.Input) { in.User.Roles, in.Agent.Scope = nil, nil },
			[]string{"scope_missing", "user_not_analyst"},
		},

		"spawn":          {spawn(), func(*policy.Input) {}, nil},
		"stranger":       {spawn(), func(in *policy.Input) { in.User.Roles = []string{"x"} }, []string{"scope_not_permitted", "user_role_unknown"}},
		"beyond role":    {spawn(), func(in *policy.Input) { in.Request.Scope = append(in.Request.Scope, "shell:run") }, []string{"scope_not_permitted"}},
		"weak consent":   {spawn(), func(in *policy.Input) { in.Consent.Type = "token_exchange" }, []string{"consent_not_accepted"}},
		"no consent":     {spawn(), func(in *policy.Input) { in.Consent.Type = "" }, []string{"consent_not_accepted"}},
		"too long":       {spawn(), func(in *policy.Input) { in.Request.TTLSeconds = 3601 }, []string{"ttl_not_permitted"}},
		"clerk":          {spawn(), func(in *policy.Input) { in.User.Roles = []string{"clerk"} }, nil},
		"token":          {token(), func(*policy.Input) {}, nil},
		"token, scope":   {token(), func(in *policy.Input) { in.Request.Scope = []string{"shell:run"} }, []string{"scope_not_permitted"}},
		"token, consent": {token(), func(in *policy.Input) { in.Consent.Type = "token_exchange" }, []string{"consent_not_accepted"}},
		"token, nobody":  {token(), func(in *policy.Input) { in.Resource.ID = "" }, []string{"audience_missing"}},
		"zero input":     {policy.Input{}, func(*policy.Input) {}, []string{policy.ReasonInput}},
		"spawn, nothing": {spawn(), func(in *policy.Input) { in.Request = nil }, []string{policy.ReasonInput}},
	} {
		c.change(&c.in)
		d := e.Decide(t.Context(), c.in)
		if d.Allow != (c.want == nil) || !slices.Equal(d.Reasons, c.want) {
			t.Errorf("%s: allow=%v reasons=%v fault=%v, want %v", name, d.Allow, d.Reasons, d.Fault, c.want)
		}
		if d.Digest != e.Digest() || d.Revision != "signet-default-1" {
			t.Errorf("%s: bundle %q %q", name, d.Digest, d.Revision)
		}
	}
}

func TestDigestNamesTheArchive(t *testing.T) {
	e := engine(t, opa.Options{})
	sum := sha256.Sum256(e.Archive())
	if e.Digest() != hex.EncodeToString(sum[:]) {
		t.Fatal("the digest is not the archive's")
	}
	again := e.Archive()
	again[0] ^= 1
	if e.Archive()[0] == again[0] {
		t.Fatal("a caller can change the engine's archive")
	}
	files, err := opa.OpenArchive(e.Archive())
	if err != nil {
		t.Fatal(err)
	}
	if other := engine(t, opa.Options{Bundle: files}); other.Digest() != e.Digest() {
		t.Fatal("the archive loaded again has another digest")
	}
}

func TestConcurrentDecisions(t *testing.T) {
	e := engine(t, opa.Options{Timeout: 10 * time.Second, Concurrency: 2})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			in := access()
			if i%2 == 1 {
				in.User.Roles = nil
			}
			for range 50 {
				if d := e.Decide(context.Background(), in); d.Allow != (i%2 == 0) {
					t.Errorf("allow=%v %v", d.Allow, d.Reasons)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkDecide(b *testing.B) {
	e := engine(b, opa.Options{})
	for name, in := range map[string]policy.Input{"access": access(), "spawn": spawn(), "spawn of two scopes": spawnOf("database:read:patients", "database:read:trials")} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !e.Decide(b.Context(), in).Allow {
					b.Fatal("denied")
				}
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		engine(b, opa.Options{})
	}
}
