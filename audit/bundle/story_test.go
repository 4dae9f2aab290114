package bundle_test

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/evidence"
)

// physician is the story of a consent, an agent and a sub-agent.
type physician struct {
	grant    chain.Grant
	document []byte
	orchKey  *ecdsa.PrivateKey
	agentKey *ecdsa.PrivateKey
	first    uint64 // issue entry of the agent
	second   uint64 // of the sub-agent
	agent    chain.Delegation
}

func scope(t testing.TB, tokens ...string) chain.Scope {
	t.Helper()
	s, err := chain.ParseScope(tokens)
	must(t, err)
	return s
}

const orchestrator = "spiffe://" + domain + "/orchestrator/langgraph"

// play runs the story and returns what tests want to tamper with.
func (w *world) play(n int) *physician {
	t := w.t
	p := &physician{orchKey: newKey(t), agentKey: newKey(t)}
	w.issuePeer(&p.orchKey.PublicKey)
	document := chain.GrantDocument{
		GrantID: id(n), Random: sha256.Sum256([]byte(id(n))), Origin: origin, Issuer: issuer, ClientID: clientID, Subject: w.subject, TaskID: id(n + 1),
		Task: "Study of readmissions", Scope: scope(t, "database:read:*"), MaxDepth: 3, NotAfter: w.now.Add(time.Hour).Truncate(time.Second),
		AgentTypes: []string{"research"}, Orchestrator: orchestrator, OrchestratorKey: sha256.Sum256(spki(t, &p.orchKey.PublicKey)),
	}
	var err error
	p.document, err = document.Canonical()
	must(t, err)
	evidence := w.consent(p.document)
	w.evidence[id(n)] = evidence
	p.grant, err = document.Grant(chain.OIDCNonce, sha256.Sum256(evidence))
	must(t, err)
	grantHash := sha256.Sum256(p.document)
	w.add(record.TypeGrant, record.Envelope{Grant: id(n), Task: id(n + 1), User: w.user}, record.GrantBody{
		GrantID: id(n), TaskID: id(n + 1), Status: "active", ConsentType: "oidc_nonce", EvidenceHash: hex.EncodeToString(p.grant.EvidenceHash[:]),
		GrantHash: hex.EncodeToString(grantHash[:]), Scope: p.grant.Scope.Strings(), NotAfter: p.grant.NotAfter, MaxDepth: 3,
		AgentTypes: document.AgentTypes, OrchestratorID: orchestrator,
	}, record.GrantPayload{Issuer: issuer, Subject: w.subject})
	w.add(record.TypeTask, record.Envelope{Grant: id(n), Task: id(n + 1)}, record.TaskBody{TaskID: id(n + 1), GrantID: id(n), Status: "open"}, nil)
	start := chain.Delegation{TaskID: rawID(t, id(n+1)), Grant: p.grant, Hops: []chain.Hop{{
		ID: orchestrator, SPKIHash: document.OrchestratorKey, Scope: p.grant.Scope, NotAfter: p.grant.NotAfter, MaxDepth: 3,
	}}}
	p.first, p.agent = w.spawn(start, n+2, p.orchKey, p.agentKey, grantHash, "database:read:patients", 2)
	last := p.agent.Hops[1]
	p.second, _ = w.spawn(p.agent, n+3, p.agentKey, newKey(t), *last.Confirmation, "database:read:patients", 1)
	return p
}

// issuePeer gives the orchestrator its certificate.
func (w *world) issuePeer(key *ecdsa.PublicKey) {
	uri, err := url.Parse(orchestrator)
	must(w.t, err)
	der := w.leafFor(w.peerCA, key, &x509.Certificate{
		NotAfter: w.now.Add(time.Hour), URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	})
	cert, err := x509.ParseCertificate(der)
	must(w.t, err)
	index := w.add(record.TypeIssue, record.Envelope{Orchestrator: "langgraph"}, issueBody(cert, w.peerCA, "orchestrator", orchestrator), nil)
	w.issued[index] = pemOf("CERTIFICATE", der)
}

func issueBody(cert *x509.Certificate, by *authority, kind, spiffeID string) record.IssueBody {
	tbs, key, issuer := chain.TBSHash(cert), chain.SPKIHash(cert), chain.SPKIHash(by.cert)
	return record.IssueBody{
		Kind: kind, SPIFFEID: spiffeID, Serial: chain.Serial(cert), TBSHash: hex.EncodeToString(tbs[:]), SPKIHash: hex.EncodeToString(key[:]),
		IssuerSPKIHash: hex.EncodeToString(issuer[:]), NotBefore: cert.NotBefore, NotAfter: cert.NotAfter,
	}
}

// spawn issues an agent below d.
func (w *world) spawn(d chain.Delegation, n int, by, key *ecdsa.PrivateKey, parent [32]byte, token string, depth int) (uint64, chain.Delegation) {
	t := w.t
	spiffeID, err := chain.AgentID(domain, "research", id(n))
	must(t, err)
	end := w.now.Add(5 * time.Minute).Truncate(time.Second)
	jkt, err := chain.Thumbprint(&key.PublicKey)
	must(t, err)
	jws, err := chain.SignDelegation(by, chain.Claims{
		Issuer: d.Hops[len(d.Hops)-1].ID, Subject: spiffeID.String(), Audience: origin, JTI: id(n), TaskID: chain.FormatUUID(d.TaskID), Scope: scope(t, token),
		Expiry: end, IssuedAt: w.now.Truncate(time.Second), MaxDepth: depth, ParentHash: parent, KeyHash: jkt,
	})
	must(t, err)
	confirmation := chain.DelegationHash(jws)
	if last := d.Hops[len(d.Hops)-1].NotAfter; end.After(last) {
		end = last
	}
	d, err = d.Extend(chain.Hop{
		ID: spiffeID.String(), SPKIHash: sha256.Sum256(spki(t, &key.PublicKey)), Scope: scope(t, token), NotAfter: end, MaxDepth: depth, Confirmation: &confirmation,
	})
	must(t, err)
	return w.issueAgent(d, &key.PublicKey, jws), d
}

func hopBodies(d chain.Delegation) (out []record.HopBody) {
	for _, h := range d.Hops {
		hop := record.HopBody{ID: h.ID, SPKIHash: hex.EncodeToString(h.SPKIHash[:]), Scope: h.Scope.Strings(), NotAfter: h.NotAfter, MaxDepth: h.MaxDepth}
		if h.Confirmation != nil {
			hop.Confirmation = hex.EncodeToString(h.Confirmation[:])
		}
		out = append(out, hop)
	}
	return out
}

func (w *world) issueAgent(d chain.Delegation, key *ecdsa.PublicKey, jws string) uint64 {
	return w.issueAs(d, key, jws, "", func(*record.IssueBody) {})
}

// issueAs is issueAgent with the link of a re-key, and with a say in the entry.
func (w *world) issueAs(d chain.Delegation, key *ecdsa.PublicKey, jws, link string, change func(*record.IssueBody)) uint64 {
	t := w.t
	last := d.Hops[len(d.Hops)-1]
	extension, err := d.Marshal()
	must(t, err)
	uri, err := url.Parse(last.ID)
	must(t, err)
	der := w.leafFor(w.agentCA, key, &x509.Certificate{
		NotAfter: last.NotAfter, URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		ExtraExtensions: []pkix.Extension{{Id: chain.OID(), Value: extension}},
	})
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	body := issueBody(cert, w.agentCA, "agent", last.ID)
	body.ConsentType, body.EvidenceHash = d.Grant.Consent.String(), hex.EncodeToString(d.Grant.EvidenceHash[:])
	body.Hops = hopBodies(d)
	change(&body)
	index := w.add(record.TypeIssue, record.Envelope{Grant: chain.FormatUUID(d.Grant.GrantID), Task: chain.FormatUUID(d.TaskID)}, body,
		record.IssuePayload{Delegation: extension, JWS: jws, Link: link, Issuer: issuer, Subject: w.subject})
	w.issued[index], w.jws[index], w.links[index] = pemOf("CERTIFICATE", der), jws, link
	return index
}

// consent is the identity provider's part.
func (w *world) consent(document []byte) []byte {
	t := w.t
	key := newKey(t)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "idp-1"}}, nil)
	must(t, err)
	nonce := sha256.Sum256(document)
	claims, err := json.Marshal(map[string]any{
		"iss": issuer, "sub": w.subject, "aud": clientID, "nonce": base64.RawURLEncoding.EncodeToString(nonce[:]), "iat": w.now.Unix(), "exp": w.now.Unix() + 60,
	})
	must(t, err)
	signed, err := signer.Sign(claims)
	must(t, err)
	token, err := signed.CompactSerialize()
	must(t, err)
	jwk, err := json.Marshal(jose.JSONWebKey{Key: &key.PublicKey, KeyID: "idp-1", Algorithm: "ES256", Use: "sig"})
	must(t, err)
	data, err := json.Marshal(evidence.Evidence{
		Version: 1, ConsentType: "oidc_nonce", Grant: base64.RawURLEncoding.EncodeToString(document), IDToken: token, JWKS: &evidence.JWKS{Keys: []json.RawMessage{jwk}},
	})
	must(t, err)
	return data
}

// decide appends decisions, with payloads.
func (w *world) decide(count int) {
	for range count {
		w.add(record.TypeDecision, record.Envelope{Service: "records"}, record.DecisionBody{
			DecisionID: id(len(w.entries)), Allow: true, ResourceType: "database", ResourceID: "patients", Action: "read", RequiredScope: []string{"database:read:patients"},
		}, record.DecisionPayload{Input: json.RawMessage(`{"n":` + fmt.Sprint(len(w.entries)) + `}`)})
	}
}
