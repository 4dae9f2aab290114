package delegation_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

const recordsID = "spiffe://" + trustDomain + "/service/records"

// tokenRig is a rig with an agent and a service that tokens can be for.
func tokenRig(t *testing.T) (*rig, identity, delegation.Task) {
	t.Helper()
	r := newRig(t)
	r.service("records")
	orch := r.orchestrator("lab")
	task := r.task(orch)
	return r, r.spawn(orch, task), task
}

func tokenRequest(t *testing.T) delegation.TokenRequest {
	t.Helper()
	return delegation.TokenRequest{Audience: recordsID, Scope: scope(t, "database:read:patients"), TTL: time.Minute}
}

func payloadOf(t *testing.T, compact string) []byte {
	t.Helper()
	parts := strings.Split(compact, ".")
	if len(parts) != 3 {
		t.Fatalf("no compact JWS: %q", compact)
	}
	out, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestIssueToken(t *testing.T) {
	r, agent, task := tokenRig(t)
	got, err := r.s.IssueToken(t.Context(), r.auth(agent), tokenRequest(t))
	if err != nil {
		t.Fatal(err)
	}
	payload := payloadOf(t, got.Compact)
	env := r.log.last(t)
	body, err := record.DecodeBody[record.TokenBody](env)
	if err != nil || env.Type != record.TypeToken {
		t.Fatalf("%s %v", env.Type, err)
	}
	sum, bound := sha256.Sum256(payload), sha256.Sum256(agent.certs[0].Raw)
	if body.ClaimsHash != hex.EncodeToString(sum[:]) || body.CertificateHash != hex.EncodeToString(bound[:]) || env.Service != "records" ||
		env.Task != task.ID || env.Agent == "" || env.Orchestrator != "lab" || env.User == "" || env.Policy == "" || !body.NotAfter.Equal(r.clock.Add(time.Minute)) {
		t.Errorf("%+v %+v", env, body)
	}
	if strings.Contains(string(env.Body), "physician") {
		t.Errorf("the envelope names the user: %s", env.Body)
	}
	var claims struct {
		Iss, Aud, Scope, Jti string
		Exp, Iat             int64
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	if claims.Iss != trustDomain+"/log" || claims.Aud != recordsID || claims.Scope != "database:read:patients" || claims.Jti != body.JTI || claims.Exp-claims.Iat != 60 {
		t.Errorf("%s", payload)
	}
	// Without a life of its own, as long as allowed; the agent lives for exactly as long here.
	q := tokenRequest(t)
	q.TTL = 0
	if got, err = r.s.IssueToken(t.Context(), r.auth(agent), q); err != nil || !got.NotAfter.Equal(r.clock.Add(chain.MaxAccessTokenLife)) {
		t.Errorf("%v %v", got.NotAfter, err)
	}
	r.clock = agent.certs[0].NotAfter.Add(-time.Second)
	if got, err = r.s.IssueToken(t.Context(), r.auth(agent), q); err != nil || !got.NotAfter.Equal(agent.certs[0].NotAfter) {
		t.Errorf("%v %v", got.NotAfter, err)
	}
}

func TestIssueTokenRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(r *rig, by *delegation.Caller, q *delegation.TokenRequest)
		code   string
	}{
		"wider scope": {func(_ *rig, _ *delegation.Caller, q *delegation.TokenRequest) { q.Scope = scope(t, "database:read:*") }, chain.CodeScopeExceeds},
		"one of two": {func(_ *rig, _ *delegation.Caller, q *delegation.TokenRequest) {
			q.Scope = scope(t, "database:read:patients", "shell:run")
		}, chain.CodeScopeExceeds},
		"no scope": {func(_ *rig, _ *delegation.Caller, q *delegation.TokenRequest) { q.Scope = nil }, chain.CodeScopeExceeds},
		"too long": {func(_ *rig, _ *delegation.Caller, q *delegation.TokenRequest) { q.TTL = 5*time.Minute + time.Second }, chain.CodeDeadlineExceeds},
		"beyond the agent": {func(r *rig, _ *delegation.Caller, q *delegation.TokenRequest) {
			r.clock = r.clock.Add(4*time.Minute + 30*time.Second)
		}, chain.CodeDeadlineExceeds},
		"not a name": {func(_ *rig, _ *delegation.Caller, q *delegation.TokenRequest) { q.Audience = "records" }, "bad_audience"},
		"an agent":   {func(r *rig, by *delegation.Caller, q *delegation.TokenRequest) { q.Audience = by.ID.String() }, "bad_audience"},
		"another domain": {func(_ *rig, _ *delegation.Caller, q *delegation.TokenRequest) {
			q.Audience = "spiffe://a.example/service/records"
		}, "bad_audience"},
		"unknown service":    {func(_ *rig, _ *delegation.Caller, q *delegation.TokenRequest) { q.Audience = recordsID + "2" }, "audience_unknown"},
		"policy":             {func(r *rig, _ *delegation.Caller, _ *delegation.TokenRequest) { r.rules.deny = []string{"no"} }, "policy_denied"},
		"not ready":          {func(r *rig, _ *delegation.Caller, _ *delegation.TokenRequest) { r.ready = errors.New("no TPM") }, "not_ready"},
		"signing key busy":   {func(r *rig, _ *delegation.Caller, _ *delegation.TokenRequest) { r.signing = errors.New("hung") }, "signing_unavailable"},
		"by an orchestrator": {func(r *rig, by *delegation.Caller, _ *delegation.TokenRequest) { *by = r.auth(r.orchestrator("other")) }, "agent_required"},
		"by a service":       {func(r *rig, by *delegation.Caller, _ *delegation.TokenRequest) { *by = r.service("other") }, "agent_required"},
		"task revoked": {func(r *rig, by *delegation.Caller, _ *delegation.TokenRequest) {
			_, err := r.s.Revoke(t.Context(), r.operator, delegation.RevokeRequest{Kind: chain.RevAgent, ID: by.ID.AgentID()})
			if err != nil {
				t.Fatal(err)
			}
		}, chain.CodeAgentRevoked},
	} {
		t.Run(name, func(t *testing.T) {
			r, agent, _ := tokenRig(t)
			by, q := r.auth(agent), tokenRequest(t)
			c.change(r, &by, &q)
			got, err := r.s.IssueToken(t.Context(), by, q)
			if code(t, err) != c.code || got.Compact != "" || r.statements.tokens.Load() != 0 || r.log.count(record.TypeToken) != 0 {
				t.Errorf("%v, %d signed", err, r.statements.tokens.Load())
			}
			if env := r.log.last(t); env.Type != record.TypeDeny || env.Code != c.code {
				t.Errorf("the last entry is %s %s", env.Type, env.Code)
			}
		})
	}
}

// What is revoked between the question and the commit is not signed for, and neither is what the log does not take.
func TestIssueTokenLoggedBeforeSigned(t *testing.T) {
	r, agent, task := tokenRig(t)
	h := r.hooked()
	by := r.auth(agent)
	h.beforeAppend = func(e record.Entry) {
		h.beforeAppend = nil
		if _, err := r.s.Revoke(t.Context(), r.operator, delegation.RevokeRequest{Kind: chain.RevTask, ID: task.ID}); err != nil {
			t.Error(err)
		}
	}
	if _, err := r.s.IssueToken(t.Context(), by, tokenRequest(t)); code(t, err) != chain.CodeTaskRevoked || r.statements.tokens.Load() != 0 || r.log.count(record.TypeToken) != 0 {
		t.Errorf("%v", err)
	}
	r, agent, _ = tokenRig(t)
	by = r.auth(agent)
	r.log.fail = errors.New("disk")
	if _, err := r.s.IssueToken(t.Context(), by, tokenRequest(t)); code(t, err) != "audit_unavailable" || r.statements.tokens.Load() != 0 {
		t.Errorf("%v", err)
	}
}

func TestIssueTokenKeyGone(t *testing.T) {
	r, agent, _ := tokenRig(t)
	gone := errors.New("the token is gone")
	r.statements.failing.Store(&gone)
	got, err := r.s.IssueToken(t.Context(), r.auth(agent), tokenRequest(t))
	if code(t, err) != "signing_failed" || got.Compact != "" {
		t.Errorf("%v", err)
	}
	r.wantTokenFailed(err)
}

// wantTokenFailed wants one token, which the last entry says was not signed.
func (r *rig) wantTokenFailed(err error) {
	r.t.Helper()
	env := r.log.last(r.t)
	body, decoded := record.DecodeBody[record.TokenFailBody](env)
	e := delegation.AsError(err)
	if env.Type != record.TypeTokenFailed || env.Code != "signing_failed" || env.Agent == "" || env.Service != "records" || decoded != nil ||
		r.log.count(record.TypeToken) != 1 || e.AuditIndex == nil || body.Index != *e.AuditIndex || body.Index != uint64(len(r.log.entries)-2) {
		r.t.Fatalf("the last entry is %s %s %+v, after %v", env.Type, env.Code, body, e.AuditIndex)
	}
	token, err := record.DecodeBody[record.TokenBody](r.log.entry(r.t, body.Index))
	if err != nil || token.JTI != body.JTI {
		r.t.Errorf("it is about %s, not %s: %v", body.JTI, token.JTI, err)
	}
}

// A caller that hangs up while its token is signed leaves the same entry.
func TestIssueTokenAbandoned(t *testing.T) {
	r, agent, _ := tokenRig(t)
	h := r.hooked()
	by := r.auth(agent)
	ctx, cancel := context.WithCancel(t.Context())
	h.afterAppend = func(record.Entry) error { cancel(); return nil }
	_, err := r.s.IssueToken(ctx, by, tokenRequest(t))
	if code(t, err) != "signing_failed" {
		t.Errorf("%v", err)
	}
	r.wantTokenFailed(err)
}
