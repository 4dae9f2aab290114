package bundle_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// accessToken records a token of p's agent, after change; the claims say what they said before it.
func (w *world) accessToken(p *physician, change func(env *record.Envelope, body *record.TokenBody, claims *[]byte)) uint64 {
	t := w.t
	block, _ := pem.Decode(w.issued[p.first])
	cert, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	audience, err := chain.NamedID(domain, chain.Service, "records")
	must(t, err)
	token := chain.AccessToken{
		Issuer: origin, Audience: audience, JTI: id(0x130), IssuedAt: w.now.Truncate(time.Second), Expiry: w.now.Add(time.Minute).UTC().Truncate(time.Second),
		User: chain.User{Issuer: issuer, Subject: subject}, Scope: scope(t, "database:read:patients"), TaskID: p.agent.TaskID, GrantID: p.agent.Grant.GrantID,
		Serial: chain.Serial(cert), CertificateHash: sha256.Sum256(cert.Raw),
	}
	for _, h := range p.agent.Hops {
		hop, err := chain.ParseID(h.ID)
		must(t, err)
		token.Actors = append(token.Actors, hop)
	}
	claims, err := token.Claims()
	must(t, err)
	env := record.Envelope{Task: chain.FormatUUID(token.TaskID), Grant: chain.FormatUUID(token.GrantID), Agent: token.Agent().AgentID(), Service: "records"}
	sum := sha256.Sum256(claims)
	body := record.TokenBody{
		JTI: token.JTI, Audience: audience.String(), Scope: token.Scope.Strings(), NotAfter: token.Expiry, Serial: token.Serial,
		CertificateHash: hex.EncodeToString(token.CertificateHash[:]), ClaimsHash: hex.EncodeToString(sum[:]),
	}
	change(&env, &body, &claims)
	return w.add(record.TypeToken, env, body, record.TokenPayload{Claims: claims})
}

// An access token gives no more than the certificate that it is bound to, and says what its entry says.
func TestAccessTokens(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(env *record.Envelope, body *record.TokenBody, claims *[]byte)
		file   string
		want   string
	}{
		"as it should be": {func(*record.Envelope, *record.TokenBody, *[]byte) {}, "", ""},
		"more scope": {func(_ *record.Envelope, b *record.TokenBody, _ *[]byte) {
			b.Scope = []string{"database:read:*"}
		}, "entries/0.jsonl", "more scope"},
		"longer": {func(_ *record.Envelope, b *record.TokenBody, _ *[]byte) {
			b.NotAfter = b.NotAfter.Add(6 * time.Minute)
		}, "entries/0.jsonl", "outlives"},
		"another agent's": {func(env *record.Envelope, _ *record.TokenBody, _ *[]byte) { env.Agent = id(0x103) }, "entries/0.jsonl", "of another"},
		"no certificate": {func(_ *record.Envelope, b *record.TokenBody, _ *[]byte) {
			b.Serial = "0102"
		}, "entries/0.jsonl", "no earlier entry"},
		"other claims": {func(_ *record.Envelope, _ *record.TokenBody, claims *[]byte) {
			*claims = []byte(strings.Replace(string(*claims), "database:read:patients", "database:read:*", 1))
		}, "payloads/0.jsonl", "has the hash of"},
		"claims of another service": {func(_ *record.Envelope, b *record.TokenBody, _ *[]byte) {
			b.Audience = strings.Replace(b.Audience, "records", "ledger", 1)
		}, "payloads/0.jsonl", "something else"},
		"no claims": {func(_ *record.Envelope, b *record.TokenBody, claims *[]byte) {
			*claims = []byte(`{}`)
			sum := sha256.Sum256(*claims)
			b.ClaimsHash = hex.EncodeToString(sum[:])
		}, "payloads/0.jsonl", "claims"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, newSoftTPM(t))
			index := w.accessToken(w.play(0x100), tc.change)
			w.seal()
			r := verify(t, written(t, w), bundle.Options{})
			if tc.want == "" {
				if !r.Valid {
					show(t, r)
					t.Error("a good log is not valid")
				}
				return
			}
			wantFinding(t, r, expected{bundle.CheckDelegation, int64(index), tc.file, ""})
			told := func(c bundle.Check) bool { return strings.Contains(c.Detail, tc.want) }
			if r.Valid || !slices.ContainsFunc(r.Failed(), told) {
				show(t, r)
				t.Error("valid, or another finding")
			}
		})
	}
}

// A token that was not signed is said not to have been once, after its own entry.
func TestUnsignedAccessTokens(t *testing.T) {
	keep := func(*record.Envelope, *record.TokenBody, *[]byte) {}
	for name, tc := range map[string]struct {
		failed func(w *world, p *physician) uint64
		good   bool
	}{
		"after its entry": {func(w *world, p *physician) uint64 {
			return w.unsigned(p, w.accessToken(p, keep), id(0x130))
		}, true},
		"unrecorded": {func(w *world, p *physician) uint64 { return w.unsigned(p, p.first, id(0x130)) }, false},
		"another": {func(w *world, p *physician) uint64 {
			return w.unsigned(p, w.accessToken(p, keep), id(0x131))
		}, false},
		"a later one": {func(w *world, p *physician) uint64 {
			failed := w.unsigned(p, uint64(len(w.entries))+1, id(0x130))
			w.accessToken(p, keep)
			return failed
		}, false},
		"twice": {func(w *world, p *physician) uint64 {
			token := w.accessToken(p, keep)
			w.unsigned(p, token, id(0x130))
			return w.unsigned(p, token, id(0x130))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, newSoftTPM(t))
			failed := tc.failed(w, w.play(0x100))
			w.seal()
			r := verify(t, written(t, w), bundle.Options{})
			if !tc.good {
				wantFinding(t, r, expected{bundle.CheckDelegation, int64(failed), "entries/0.jsonl", ""})
			}
			if r.Valid != tc.good {
				show(t, r)
				t.Errorf("valid is %v", r.Valid)
			}
		})
	}
}

// unsigned records that p's agent did not get the token of that entry.
func (w *world) unsigned(p *physician, token uint64, jti string) uint64 {
	agent, err := chain.ParseID(p.agent.Hops[len(p.agent.Hops)-1].ID)
	must(w.t, err)
	env := record.Envelope{Code: "signing_failed", Task: chain.FormatUUID(p.agent.TaskID), Agent: agent.AgentID(), Service: "records"}
	return w.add(record.TypeTokenFailed, env, record.TokenFailBody{Index: token, JTI: jti}, nil)
}
