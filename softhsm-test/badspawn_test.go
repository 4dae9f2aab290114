package softhsmtest

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation/chain"
)

// TestBadSpawns is TestBadInput for tokens, re-keys and batches: on its own appliance, since an appliance records only the
// first twenty malformed requests of a minute one by one.
func TestBadSpawns(t *testing.T) {
	dir := newDir(t)
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	_, task := c.task(c.orchestrator)
	for name, rows := range map[string][]bad{"enrolment": c.badEnrolments(task), "re-key": c.badRekeys(task), "batch": c.badBatches(task)} {
		t.Run(name, func(t *testing.T) {
			for _, row := range rows {
				t.Run(row.name, func(t *testing.T) { c.on(t).refused(row) })
			}
		})
	}
	must(t, c.works(task))
	d.stop()
	fsck(t, dir)
}

// tokenSpawn is an agent that waits for its token to be redeemed.
func (c *cast) tokenSpawn(task v1.Task) v1.Spawned {
	c.t.Helper()
	q, err := spawnRequest(task, "")
	must(c.t, err)
	out, err := c.orchestrator.Spawn(c.t.Context(), q)
	must(c.t, err)
	return out
}

// badEnrolments are tokens that do not hold, and requests that could not get one.
func (c *cast) badEnrolments(task v1.Task) []bad {
	good, other := c.tokenSpawn(task), c.tokenSpawn(task)
	_, csr := newKey(c.t)
	hash := sha256.Sum256([]byte("token"))
	encoded := base64.RawURLEncoding.EncodeToString(hash[:])
	redeem := func(id, token, csr string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.person(nil).Enroll(ctx, id, token, csr)
			return err
		}
	}
	spawn := func(change func(*v1.SpawnRequest)) func(context.Context) error {
		return func(ctx context.Context) error {
			q, err := spawnRequest(task, "")
			must(c.t, err)
			change(&q)
			_, err = c.orchestrator.Spawn(ctx, q)
			return err
		}
	}
	raw := func(body string) func(context.Context) error {
		return func(ctx context.Context) error {
			return c.send(ctx, nil, "/v1/agents/"+good.AgentID+"/certificate", body)
		}
	}
	return []bad{
		{"wrong token", 401, "enrollment_token_unknown", redeem(good.AgentID, strings.Repeat("A", 43), csr)},
		{"token of another", 401, "enrollment_token_unknown", redeem(good.AgentID, other.EnrollmentToken, csr)},
		{"token with a blank more", 401, "enrollment_token_unknown", redeem(good.AgentID, good.EnrollmentToken+" ", csr)},
		{"its hash", 401, "enrollment_token_unknown", redeem(good.AgentID, encoded, csr)},
		{"endless token", 401, "enrollment_token_unknown", redeem(good.AgentID, strings.Repeat("A", 4096), csr)},
		{"no such agent", 401, "enrollment_token_unknown", redeem("01926f5e-8000-7000-8000-000000000001", good.EnrollmentToken, csr)},
		{"no CSR", 400, "bad_csr", redeem(good.AgentID, good.EnrollmentToken, "")},
		{"neither token nor link", 400, "bad_request", raw(`{"csr":"x"}`)},
		{"both", 400, "bad_request", raw(`{"csr":"x","enrollment_token":"t","link":"l"}`)},
		{"token twice", 400, "duplicate_field", raw(`{"csr":"x","enrollment_token":"t","enrollment_token":"u"}`)},
		{"hash of a token too short", 400, "bad_enrollment_hash", spawn(func(q *v1.SpawnRequest) { q.EnrollmentHash = encoded[:42] })},
		{"hash of a token beside a CSR", 400, "enrollment_hash_with_csr", spawn(func(q *v1.SpawnRequest) { q.CSR, q.EnrollmentHash = csr, encoded })},
		{"scope beyond the task", 403, "scope_exceeds_parent", spawn(func(q *v1.SpawnRequest) { q.Scope = []string{"database:read:billing"} })},
	}
}

// badRekeys are links that do not lead from the agent's present key to the one in the CSR.
func (c *cast) badRekeys(task v1.Task) []bad {
	a, err := spawn(c.t.Context(), c.orchestrator, task)
	must(c.t, err)
	stranger, err := spawn(c.t.Context(), c.orchestrator, task)
	must(c.t, err)
	next, csr := newKey(c.t)
	_, otherCSR := newKey(c.t)
	link := func(by *agent, change func(*chain.Rekey)) string {
		jkt, err := chain.Thumbprint(next.Public())
		must(c.t, err)
		now := time.Now().Truncate(time.Second)
		r := chain.Rekey{Agent: a.issued.SPIFFEID, Audience: c.origin, TaskID: task.TaskID, IssuedAt: now, Expiry: now.Add(time.Minute), NewKey: jkt}
		change(&r)
		signer, ok := by.cert.PrivateKey.(crypto.Signer)
		if !ok {
			c.t.Fatal("no signer")
		}
		out, err := chain.SignRekey(signer, r)
		must(c.t, err)
		return out
	}
	same := func(*chain.Rekey) {}
	rekey := func(by *agent, id, link, csr string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.person(by.cert).Rekey(ctx, id, link, csr)
			return err
		}
	}
	good := link(a, same)
	header, rest, _ := strings.Cut(good, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"agent-rekey+jwt"}`))
	return []bad{
		{"of another agent", 403, "agent_required", rekey(stranger, a.id, good, csr)},
		{"by the orchestrator", 403, "agent_required", func(ctx context.Context) error {
			_, err := c.orchestrator.Rekey(ctx, a.id, good, csr)
			return err
		}},
		{"by nobody", 401, "client_certificate_required", func(ctx context.Context) error {
			_, err := c.person(nil).Rekey(ctx, a.id, good, csr)
			return err
		}},
		{"signed by another agent", 403, "rekey_link_invalid", rekey(a, a.id, link(stranger, same), csr)},
		{"alg none", 403, "rekey_link_invalid", rekey(a, a.id, none+"."+rest, csr)},
		{"no payload", 403, "rekey_link_invalid", rekey(a, a.id, header+"..", csr)},
		{"a delegation instead", 403, "rekey_link_invalid", rekey(a, a.id, strings.Replace(good, header, base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","typ":"agent-delegation+jwt"}`)), 1), csr)},
		{"for another key", 403, "rekey_link_mismatch", rekey(a, a.id, good, otherCSR)},
		{"for another task", 403, "rekey_link_mismatch", rekey(a, a.id, link(a, func(r *chain.Rekey) { r.TaskID = a.id }), csr)},
		{"for another log", 403, "rekey_link_mismatch", rekey(a, a.id, link(a, func(r *chain.Rekey) { r.Audience = "other.example/log" }), csr)},
		{"five minutes old", 403, "rekey_link_expired", rekey(a, a.id, link(a, func(r *chain.Rekey) {
			r.IssuedAt, r.Expiry = r.IssuedAt.Add(-6*time.Minute), r.IssuedAt.Add(-5*time.Minute)
		}), csr)},
		{"of the future", 403, "rekey_link_expired", rekey(a, a.id, link(a, func(r *chain.Rekey) {
			r.IssuedAt, r.Expiry = r.IssuedAt.Add(5*time.Minute), r.IssuedAt.Add(6*time.Minute)
		}), csr)},
		{"forged CSR", 400, "bad_csr", rekey(a, a.id, good, "x")},
	}
}

// badBatches are refused as a whole: what is wrong with one spawn alone is its own result.
func (c *cast) badBatches(task v1.Task) []bad {
	q, err := spawnRequest(task, "x")
	must(c.t, err)
	one, err := json.Marshal(q)
	must(c.t, err)
	post := func(body string) func(context.Context) error {
		return func(ctx context.Context) error {
			return c.send(ctx, c.orchestrator.cert, "/v1/agents:batch", body)
		}
	}
	many := strings.Repeat(string(one)+",", v1.MaxSpawnBatch) + string(one)
	return []bad{
		{"empty", 400, "bad_request", post(`{"spawns":[]}`)},
		{"too many", 400, "bad_request", post(`{"spawns":[` + many + `]}`)},
		{"too large", 413, "body_too_large", post(`{"spawns":[` + strings.Repeat(" ", 600<<10) + `]}`)},
		{"unknown field in one", 400, "unknown_field", post(`{"spawns":[` + strings.Replace(string(one), "{", `{"admin":true,`, 1) + `]}`)},
		{"no list", 400, "wrong_type", post(`{"spawns":` + string(one) + `}`)},
		{"null in the list", 400, "wrong_type", post(`{"spawns":[null]}`)},
	}
}
