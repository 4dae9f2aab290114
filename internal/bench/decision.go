package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/signet-pki/signet/audit/record"
)

// decision is an entry like the appliance's about an agent of an orchestrator, as long and as repetitive, with random ids and digests,
// but without the certificates: with them a million would fill a disk for minutes.
func decision() (record.Entry, error) {
	var random [384]byte
	if _, err := rand.Read(random[:]); err != nil {
		return record.Entry{}, err
	}
	rest := random[:]
	next := func(n int) []byte {
		b := rest[:n:n]
		rest = rest[n:]
		return b
	}
	id := func(n int) string { return hex.EncodeToString(next(n)) }
	now := time.Now().UTC()
	agent, task, salt := id(16), id(16), [32]byte(next(32))
	env := record.Envelope{
		Type: record.TypeDecision, Time: now, Task: task, Grant: grants[random[0]], Agent: agent, Orchestrator: "research", Service: "records", User: id(32), Policy: grants[0],
	}
	var hops []record.HopBody
	for depth, name := range []string{"orchestrator/research", "agent/research/" + agent} {
		hops = append(hops, record.HopBody{
			ID: "spiffe://" + trustDomain + "/" + name, SPKIHash: id(32), Scope: []string{patients, trials}, NotAfter: now.Truncate(time.Second), MaxDepth: 3 - depth,
		})
	}
	hops[1].Confirmation = id(32)
	body := record.DecisionBody{
		DecisionID: id(16), Allow: true, PolicyAllow: true, Checks: decisionChecks, ResourceType: "database", ResourceID: "patients", Action: "read",
		RequiredScope: []string{patients}, InputHash: id(32), TBSHash: id(32), Hops: hops,
	}
	var err error
	if env.Body, err = record.EncodeBody(body); err != nil {
		return record.Entry{}, err
	}
	input := bytes.ReplaceAll([]byte(decisionInput), []byte("AGENT"), []byte(agent))
	e, err := record.New(env, record.DecisionPayload{
		Input: bytes.ReplaceAll(input, []byte("TASK"), []byte(task)), Subject: hops[1].ID,
	}, salt)
	e.Terms = record.Terms(env, body)
	return e, err
}

// grants are the digests and grants that entries have in common.
var grants = func() (out [256]string) {
	for i := range out {
		sum := sha256.Sum256([]byte{byte(i)})
		out[i] = hex.EncodeToString(sum[:])
	}
	return out
}()

var decisionChecks = map[string]string{
	"attenuation": "pass", "binding": "pass", "confirmation": "not_evaluated", "deadline": "pass", "depth": "pass", "format": "pass",
	"freshness": "pass", "logged": "not_evaluated", "path": "pass", "principal": "not_evaluated", "revocation": "pass", "scope": "pass",
}

// decisionInput is what policy was asked, with placeholders.
const decisionInput = `{"point":"access","time":"2026-01-02T03:04:05.678Z","agent":{"id":"AGENT","type":"research","spiffe_id":"spiffe://dev.signet.example/agent/research/AGENT",` +
	`"scope":["database:read:patients","database:read:trials"],"not_after":"2026-01-02T03:13:04Z","depth":1},"hops":[{"id":"spiffe://dev.signet.example/orchestrator/research",` +
	`"scope":["database:read:patients","database:read:trials"],"not_after":"2026-01-02T04:03:04Z","max_depth":3,"confirmed":false},` +
	`{"id":"spiffe://dev.signet.example/agent/research/AGENT","scope":["database:read:patients","database:read:trials"],"not_after":"2026-01-02T03:13:04Z","max_depth":2,"confirmed":true}],` +
	`"user":{"issuer":"https://idp.hospital.example","subject":"physician-7f3a","roles":["physician","analyst"],"groups":["cardiology"],"acr":"mfa","amr":["user"],"auth_time":"2026-01-02T03:03:04Z"},` +
	`"consent":{"type":"oidc_nonce"},"task":{"id":"TASK","grant_id":"TASK","purpose":"Compare outcomes of two treatments","scope":["database:read:patients","database:read:trials"],` +
	`"not_after":"2026-01-02T04:03:04Z"},"orchestrator":{"id":"spiffe://dev.signet.example/orchestrator/research","attestation":"join_token"},` +
	`"revocation":{"as_of":"2026-01-02T03:04:05.678Z","epoch":1,"seq":0},"resource":{"type":"database","id":"patients","required_scope":["database:read:patients"]},"action":{"name":"read"}}`
