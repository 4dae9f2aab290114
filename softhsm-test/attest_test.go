package softhsmtest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/client/devid"
	"github.com/signet-pki/signet/internal/appliance"
	"github.com/signet-pki/signet/internal/testrig/swtpm"
	"github.com/signet-pki/signet/tpm"
)

const keyHandle = "tpm:handle=0x81020010"

// machine is a machine with a TPM of its own, as its owner (devid) and as somebody hostile (device) uses it.
type machine struct {
	t      testing.TB
	rig    *swtpm.TPM
	device *tpm.Device
	owner  *devid.Machine
	key    *tpm.Key
	ek     tpm.EK
	ak     []byte
	name   string // of the endorsement key, as registrations have it
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	m := &machine{t: t, rig: swtpm.New(t)}
	log := slog.New(slog.DiscardHandler)
	var err error
	m.owner, err = devid.Open(t.Context(), m.rig.Path(), log)
	must(t, err)
	t.Cleanup(func() { must(t, m.owner.Close()) })
	_, err = m.owner.MakeKey(t.Context(), keyHandle)
	must(t, err)
	m.name, err = m.owner.EK(t.Context())
	must(t, err)
	m.device, err = tpm.Open(t.Context(), tpm.Config{Path: m.rig.Path()}, log)
	must(t, err)
	t.Cleanup(func() { must(t, m.device.Close()) })
	m.key, err = m.device.Signer(t.Context(), keyHandle)
	must(t, err)
	m.ek, err = m.device.EK(t.Context())
	must(t, err)
	ak, err := m.device.EnsureAK(t.Context())
	must(t, err)
	m.ak = ak.Marshal()
	return m
}

func (m *machine) csr(key crypto.Signer) string {
	m.t.Helper()
	csr, err := client.CSR(key)
	must(m.t, err)
	return csr
}

// request is what an honest machine sends, before somebody changes it.
func (m *machine) request(change ...func(*v1.ChallengeRequest)) v1.ChallengeRequest {
	m.t.Helper()
	q := v1.ChallengeRequest{EKCertificate: m.ek.Certificate.Raw, EKPublic: m.ek.Public, AKPublic: m.ak, CSR: m.csr(m.key)}
	for _, f := range change {
		f(&q)
	}
	return q
}

// answer is an honest answer to a challenge.
func (m *machine) answer(q v1.Challenge, change ...func(*v1.Attestation)) v1.Attestation {
	m.t.Helper()
	secret, err := m.device.AnswerChallenge(m.t.Context(), q.CredentialBlob, q.EncryptedSecret)
	must(m.t, err)
	a := v1.Attestation{Method: v1.MethodTPM, Challenge: q.Challenge, Secret: secret, CSR: m.csr(m.key)}
	m.certify(&a, q)
	for _, f := range change {
		f(&a)
	}
	return a
}

func (m *machine) certify(a *v1.Attestation, q v1.Challenge) {
	m.t.Helper()
	qualifying := sha256.Sum256([]byte(q.Challenge))
	s, public, err := m.device.Certify(m.t.Context(), m.key, qualifying[:])
	must(m.t, err)
	a.KeyPublic, a.CertifyInfo, a.CertifySignature = public, s.Attest, s.Signature
}

// makersFile has the makers of these machines' TPMs.
func makersFile(t testing.TB, machines ...*machine) string {
	t.Helper()
	var all []byte
	for _, m := range machines {
		root, intermediate := m.rig.ManufacturerPEM()
		all = append(append(all, root...), intermediate...)
	}
	path := filepath.Join(t.TempDir(), "makers.pem")
	must(t, os.WriteFile(path, all, 0o600))
	return path
}

// TestTPMAttestation attests a machine by a TPM of its own, and then everything that is not quite that.
func TestTPMAttestation(t *testing.T) {
	dir := made(t)
	own, other, stranger := newMachine(t), newMachine(t), newMachine(t)
	i := runInside(t, dir, func(c *appliance.Config) { c.Attestation.EKRootsFile = makersFile(t, own, other) })
	c := newCast(t, dir, i.url)
	ctx, anonymous := t.Context(), c.person(nil).Client
	name, twin := unique(t, "machine"), unique(t, "machine")
	for _, n := range []string{name, twin} {
		_, err := c.operator.RegisterOrchestrator(ctx, v1.OrchestratorRegistration{
			Name: n, AgentTypes: []string{"research", "reader"}, Methods: []string{v1.MethodTPM}, TPMEKs: []string{own.name},
		})
		must(t, err)
	}
	key, err := own.owner.Key(ctx, keyHandle)
	must(t, err)
	issued, err := own.owner.Attest(ctx, anonymous, name, key)
	must(t, err)
	cert, err := client.Certificate(issued.CertificateChain, key)
	must(t, err)

	// The key in the TPM makes the connection, and the orchestrator works like any other.
	orchestrator := c.person(cert)
	_, task := c.task(orchestrator)
	_, err = spawn(ctx, orchestrator, task)
	must(t, err)
	renewed, err := orchestrator.RenewOrchestrator(ctx, name, own.csr(key))
	must(t, err)
	if renewed.CertificateChain[0] == issued.CertificateChain[0] {
		t.Error("renewed to the same certificate")
	}

	c.commandWithTPM(dir, twin, own)

	from := c.size()
	c.refuse("renewal with a key outside", 403, "renewal_key_changed", func() error {
		_, csr := newKey(t)
		_, err := orchestrator.RenewOrchestrator(ctx, name, csr)
		return err
	})
	challenge := func(n string, q v1.ChallengeRequest) (v1.Challenge, error) { return anonymous.Challenge(ctx, n, q) }
	c.hostileChallenges(name, own, other, stranger, challenge)
	i.skew.Store(int64(time.Minute)) // another minute, and another twenty refusals with entries of their own
	c.hostileAnswers(name, twin, own, other, challenge)
	c.nothingIssuedBut(from, 1) // the answer that is then replayed
	q, err := challenge(name, own.request())
	must(t, err)
	a := own.answer(q)
	i.skew.Store(int64(2*time.Minute + time.Second))
	c.refuse("a minute late", 401, "challenge_expired", func() error { _, err := anonymous.Attest(ctx, name, a); return err })
}

// commandWithTPM does the same as people do: with the command, and a new key at another handle.
func (c *cast) commandWithTPM(dir, name string, m *machine) {
	c.t.Helper()
	const key = "tpm:handle=0x81020011"
	cert := filepath.Join(c.t.TempDir(), "cert.pem")
	global := []string{"--url", c.url, "--root", filepath.Join(dir, "pki", "root.pem"), "--tpm", m.rig.Path()}
	signet := func(args ...string) string {
		return succeed(c.t, program("signet"), append(slices.Clone(global), args...)...)
	}
	if out := signet("orchestrator", "tpm"); !strings.Contains(out, m.name) {
		c.t.Errorf("the endorsement key is %s, the command says %s", m.name, out)
	}
	signet("orchestrator", "attest", name, "--devid", "--key-out", key, "--cert-out", cert)
	signet("--cert", cert, "--key", key, "orchestrator", "renew", name, "--key-in", key, "--cert-out", cert+".next")
	signet("--cert", cert+".next", "--key", key, "grant", "request", "--purpose", "look", "--scope", patients, "--not-after", "+1h", "--max-depth", "1", "--type", "research")
}

// refuse demands a refusal with its code, and its entry.
func (c *cast) refuse(what string, status int, code string, try func() error) {
	c.t.Helper()
	var p *client.Problem
	if err := try(); !errors.As(err, &p) || p.Code != code || p.Status != status {
		c.t.Errorf("%s: want %d %s, got %v", what, status, code, orAllowed(err))
		return
	}
	c.recorded(p, code)
}

func (c *cast) hostileChallenges(name string, own, other, stranger *machine, challenge func(string, v1.ChallengeRequest) (v1.Challenge, error)) {
	c.t.Helper()
	_, unrestricted, err := own.device.Certify(c.t.Context(), own.key, []byte("x"))
	must(c.t, err)
	for what, tc := range map[string]struct {
		q      v1.ChallengeRequest
		status int
		code   string
	}{
		"another TPM of a known maker": {other.request(), 401, "ek_not_registered"},
		"another maker's TPM":          {stranger.request(), 401, "ek_untrusted"},
		"a certificate for another EK": {own.request(func(q *v1.ChallengeRequest) { q.EKPublic = other.ek.Public }), 401, "ek_untrusted"},
		"a CA's certificate": {own.request(func(q *v1.ChallengeRequest) {
			root, _ := own.rig.ManufacturerPEM()
			block, _ := pem.Decode(root)
			q.EKCertificate = block.Bytes
		}), 401, "ek_untrusted"},
		"an AK for an EK":     {own.request(func(q *v1.ChallengeRequest) { q.EKPublic = own.ak }), 400, "ek_malformed"},
		"no certificate":      {own.request(func(q *v1.ChallengeRequest) { q.EKCertificate = []byte{} }), 400, "ek_malformed"},
		"an unrestricted key": {own.request(func(q *v1.ChallengeRequest) { q.AKPublic = unrestricted }), 401, "ak_unsuitable"},
		"an EK for an AK":     {own.request(func(q *v1.ChallengeRequest) { q.AKPublic = own.ek.Public }), 401, "ak_unsuitable"},
	} {
		c.refuse(what, tc.status, tc.code, func() error { _, err := challenge(name, tc.q); return err })
	}
	c.refuse("an orchestrator without the method", 403, "attestation_not_allowed", func() error {
		joined := unique(c.t, "joins")
		_, err := c.operator.RegisterOrchestrator(c.t.Context(), v1.OrchestratorRegistration{Name: joined})
		must(c.t, err)
		_, err = challenge(joined, own.request())
		return err
	})
	// The endorsement of one TPM and the attestation key of another: neither can read the secret.
	mixed, err := challenge(name, own.request(func(q *v1.ChallengeRequest) { q.AKPublic = other.ak }))
	must(c.t, err)
	for _, m := range []*machine{own, other} {
		if _, err := m.device.AnswerChallenge(c.t.Context(), mixed.CredentialBlob, mixed.EncryptedSecret); err == nil {
			c.t.Error("a TPM found the secret for another's attestation key")
		}
	}
}

func (c *cast) hostileAnswers(name, twin string, own, other *machine, challenge func(string, v1.ChallengeRequest) (v1.Challenge, error)) {
	c.t.Helper()
	ctx, anonymous := c.t.Context(), c.person(nil)
	q, err := challenge(name, own.request())
	must(c.t, err)
	second, err := challenge(name, own.request())
	must(c.t, err)
	soft, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(c.t, err)
	forSoft, err := challenge(name, own.request(func(q *v1.ChallengeRequest) { q.CSR = own.csr(soft) }))
	must(c.t, err)
	try := func(n string, a v1.Attestation) func() error {
		return func() error { _, err := anonymous.Attest(ctx, n, a); return err }
	}
	for what, tc := range map[string]struct {
		code string
		try  func() error
	}{
		"another name":             {"challenge_mismatch", try(twin, own.answer(q))},
		"another key":              {"challenge_mismatch", try(name, own.answer(q, func(a *v1.Attestation) { a.CSR = own.csr(soft) }))},
		"a key outside the TPM":    {"tpm_key_mismatch", try(name, own.answer(forSoft, func(a *v1.Attestation) { a.CSR = own.csr(soft) }))},
		"another secret":           {"challenge_failed", try(name, own.answer(q, func(a *v1.Attestation) { a.Secret = make([]byte, 32) }))},
		"another's secret":         {"challenge_failed", try(name, own.answer(q, func(a *v1.Attestation) { a.Secret = own.answer(second).Secret }))},
		"no secret":                {"challenge_failed", try(name, own.answer(q, func(a *v1.Attestation) { a.Secret = nil }))},
		"certified by another AK":  {"certification_invalid", try(name, own.answer(q, func(a *v1.Attestation) { other.certify(a, q) }))},
		"certified for another":    {"certification_invalid", try(name, own.answer(q, func(a *v1.Attestation) { own.certify(a, second) }))},
		"not certified":            {"certification_invalid", try(name, own.answer(q, func(a *v1.Attestation) { a.KeyPublic, a.CertifyInfo = nil, nil }))},
		"a challenge made at home": {"challenge_unknown", try(name, own.answer(q, func(a *v1.Attestation) { a.Challenge = "A" + a.Challenge[1:] + "A" }))},
	} {
		c.refuse(what, 401, tc.code, tc.try)
	}
	answer := own.answer(q)
	must(c.t, try(name, answer)())
	c.refuse("replayed", 401, "challenge_used", try(name, answer))
}

// TestPodAttestation attests a pod by its projected token, over the API, renews, and tries the token elsewhere.
func TestPodAttestation(t *testing.T) {
	dir := made(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	jwks, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Use: "sig", Algorithm: "ES256"}}})
	must(t, err)
	path := filepath.Join(t.TempDir(), "jwks.json")
	must(t, os.WriteFile(path, jwks, 0o600))
	const audience, subject = "https://signet.example", "system:serviceaccount:research:lab"
	i := runInside(t, dir, func(c *appliance.Config) {
		c.Attestation.Issuers = []appliance.WorkloadIssuer{{
			Name: "cluster-a", Issuer: "https://cluster.local", Audience: audience, KeysFile: path, MaxTokenLife: time.Hour, Skew: 30 * time.Second,
		}}
	})
	c := newCast(t, dir, i.url)
	ctx, name := t.Context(), unique(t, "pod")
	_, err = c.operator.RegisterOrchestrator(ctx, v1.OrchestratorRegistration{
		Name: name, AgentTypes: []string{"research", "reader"}, OIDCIssuer: "cluster-a", OIDCSubject: subject, Methods: []string{v1.MethodOIDC},
	})
	must(t, err)
	token := podToken(t, key, map[string]any{
		"iss": "https://cluster.local", "sub": subject, "aud": []string{audience}, "iat": time.Now().Unix(), "exp": time.Now().Add(10 * time.Minute).Unix(),
		"kubernetes.io": map[string]any{
			"namespace": "research", "serviceaccount": map[string]any{"name": "lab"}, "pod": map[string]any{"name": "lab-0", "uid": "5b0c1d52-5a64-4f9e-9d53-0f2b6b4d3c11"},
		},
	})
	own := c.attestWith(ctx, name, token)
	_, task := c.task(own)
	must(t, c.spawns(own, task))
	renewedKey, csr := newKey(t)
	out, err := own.RenewOrchestrator(ctx, name, csr)
	must(t, err)
	cert, err := client.Certificate(out.CertificateChain, renewedKey)
	must(t, err)
	must(t, c.spawns(c.person(cert), task))

	from := c.size()
	_, thief := newKey(t)
	c.refuse("a stolen token", 401, "token_replayed", func() error {
		_, err := c.person(nil).Attest(ctx, name, v1.Attestation{Method: v1.MethodOIDC, Token: token, CSR: thief})
		return err
	})
	c.refuse("a changed token", 401, "token_signature", func() error {
		_, err := c.person(nil).Attest(ctx, name, v1.Attestation{Method: v1.MethodOIDC, Token: token[:len(token)-4] + "AAAA", CSR: thief})
		return err
	})
	c.refuse("a join token", 403, "attestation_not_allowed", func() error {
		_, err := c.person(nil).Attest(ctx, name, v1.Attestation{Method: v1.MethodJoinToken, Token: "x", CSR: thief})
		return err
	})
	c.nothingIssued(from)
}

func (c *cast) attestWith(ctx context.Context, name, token string) *person {
	c.t.Helper()
	key, csr := newKey(c.t)
	out, err := c.person(nil).Attest(ctx, name, v1.Attestation{Method: v1.MethodOIDC, Token: token, CSR: csr})
	must(c.t, err)
	cert, err := client.Certificate(out.CertificateChain, key)
	must(c.t, err)
	return c.person(cert)
}

func (c *cast) spawns(o *person, task v1.Task) error {
	_, err := spawn(c.t.Context(), o, task)
	return err
}

func podToken(t testing.TB, key crypto.Signer, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	must(t, err)
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k1"}}, nil)
	must(t, err)
	jws, err := s.Sign(payload)
	must(t, err)
	out, err := jws.CompactSerialize()
	must(t, err)
	return out
}
