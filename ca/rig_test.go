package ca_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"net"
	"testing"
	"time"

	"github.com/signet-pki/signet/ca"
	"github.com/signet-pki/signet/ca/ceremony"
	"github.com/signet-pki/signet/ca/lint"
)

const (
	trustDomain = "hospital.example"
	agentUUID   = "01890a5d-ac96-774b-bcce-b302099a8057"
	agentID     = "spiffe://hospital.example/agent/research/" + agentUUID
	crlURL      = "http://signet.example/crl/agent-ca-1.crl"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func delegationOID() asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{1, 2, 840, 113556, 1, 8000, 2554, 1, 2}
}

// memoryKeys is a software token.
type memoryKeys map[string]*ecdsa.PrivateKey

func (k memoryKeys) Generate(_ context.Context, _ ceremony.Role, label string) (crypto.Signer, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	k[label] = key
	return key, "memory:" + label, err
}

// fixedKeys is the same token in every process, for fuzzing: the seeds of one are input to another.
type fixedKeys struct{ memoryKeys }

func (k fixedKeys) Generate(_ context.Context, _ ceremony.Role, label string) (crypto.Signer, string, error) {
	scalar := sha256.Sum256([]byte(label))
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar[:])
	k.memoryKeys[label] = key
	return key, "fixed:" + label, err
}

// rig is a deployment: what a ceremony made, and its keys.
type rig struct {
	keys   memoryKeys
	result ceremony.Result
	leaf   *ecdsa.PrivateKey
	spki   []byte
}

func newRig(t testing.TB) *rig {
	t.Helper()
	keys := memoryKeys{}
	return newRigWith(t, keys, keys)
}

func newRigWith(t testing.TB, token ceremony.Keys, keys memoryKeys) *rig {
	t.Helper()
	r := &rig{keys: keys, leaf: newKey(t)}
	r.spki = marshalKey(t, r.leaf.Public())
	plan, err := ceremony.ParsePlan(ceremony.Config{
		TrustDomain: trustDomain, Origin: "hospital.example/log",
		Root:     ceremony.RootConfig{CommonName: "Hospital Root", ValidityDays: 3650},
		AgentCAs: ceremony.SeriesConfig{Count: 2, ValidityDays: 365, OverlapDays: 30},
		ServiceCAs: ceremony.ServiceCAsConfig{
			SeriesConfig: ceremony.SeriesConfig{Count: 1, ValidityDays: 365, OverlapDays: 30},
			DNS:          []string{"signet.example"}, IPs: []string{"10.0.0.0/8", "::1"},
		},
		Operator: ceremony.OperatorConfig{
			Name: "first", ValidityDays: 30,
			PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: r.spki})),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.result, err = ceremony.Run(t.Context(), plan, token, newKey(t).Public(), start)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func marshalKey(t testing.TB, key crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func agentProfile() ca.Profile {
	return ca.Profile{
		Issues: lint.Agent, TrustDomain: trustDomain, DelegationOID: delegationOID(), MaxLifetime: 24 * time.Hour, CRLURL: crlURL,
	}
}

func serviceProfile() ca.Profile {
	return ca.Profile{Issues: lint.Service, TrustDomain: trustDomain, MaxLifetime: 30 * 24 * time.Hour}
}

func (r *rig) roots() []*x509.Certificate { return []*x509.Certificate{r.result.Root.Leaf} }

func (r *rig) agents(t testing.TB) *ca.Issuer {
	t.Helper()
	return r.agentsBy(t, r.keys["agent-ca-1"])
}

func (r *rig) agentsBy(t testing.TB, signer crypto.Signer) *ca.Issuer {
	t.Helper()
	i, err := ca.NewIssuer(r.result.AgentCAs[0].Leaf, signer, r.roots(), agentProfile())
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func (r *rig) services(t testing.TB) *ca.Issuer {
	t.Helper()
	i, err := ca.NewIssuer(r.result.ServiceCAs[0].Leaf, r.keys["service-ca-1"], r.roots(), serviceProfile())
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// delegationDER stands for a chain of two hops: its size, not its meaning, matters here.
func delegationDER(t testing.TB) []byte {
	t.Helper()
	der, err := asn1.Marshal([][]byte{make([]byte, 300), make([]byte, 300)})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (r *rig) agentRequest(t testing.TB) ca.AgentRequest {
	t.Helper()
	return ca.AgentRequest{
		SPIFFEID: agentID, CommonName: agentUUID, SPKI: r.spki, NotAfter: start.Add(5 * time.Minute), Delegation: delegationDER(t),
	}
}

func (r *rig) serviceRequest() ca.ServiceRequest {
	return ca.ServiceRequest{
		SPIFFEID: "spiffe://hospital.example/service/records", CommonName: "records", SPKI: r.spki,
		DNSNames: []string{"records.signet.example"}, IPs: []net.IP{net.IPv4(10, 1, 2, 3), net.IPv6loopback},
		NotAfter: start.Add(24 * time.Hour), CRLURL: "http://signet.example/crl/service-ca-1.crl",
	}
}

func (r *rig) verify(cert *ca.Certificate, issuing *x509.Certificate) error {
	roots, middle := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(r.result.Root.Leaf)
	middle.AddCert(issuing)
	_, err := cert.Leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: middle, CurrentTime: start, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err
}

func ed25519SPKI(t testing.TB) []byte {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return marshalKey(t, pub)
}
