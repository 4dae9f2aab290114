package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
)

const (
	verifyDomain = "bench.example"
	verifyAgents = 4000
)

// service is a relying service's verifier with the agents that come to it, each with a chain of four hops, below a P-384
// root whose CA the service knows.
type service struct {
	cfg    client.VerifierConfig
	chains [][][]byte // DER, leaf first
	demand client.Demand
}

// verifyRows are verifications by a service itself: of agents that it meets for the first time, with parsing, and of one
// that it met before.
func (b *bench) verifyRows(ctx context.Context) error {
	s, err := newService(verifyAgents / b.scale)
	if err != nil {
		return err
	}
	f := &b.floors
	cold, err := b.repeat("Verification by a service, 4 hops, first time", func() (sample, error) { return s.meet(ctx) })
	if err != nil {
		return err
	}
	b.table.add(row{what: "Verification by a service, 4 hops, first time", at: "1", samples: cold, floor: floor{"one P-256 verification", f.verify, false}})
	cached, err := b.repeat("Verification by a service, 4 hops, again", func() (sample, error) { return s.again(ctx, 200_000/b.scale) })
	if err != nil {
		return err
	}
	b.table.add(row{what: "Verification by a service, 4 hops, again", at: "1", samples: cached, floor: floor{"SHA-256 of 2 KiB", 2 * f.hash, false}})
	return nil
}

func (s *service) meet(ctx context.Context) (sample, error) {
	v, err := client.NewVerifier(s.cfg)
	if err != nil {
		return sample{}, err
	}
	return load(ctx, 1, len(s.chains), self{}, func(_ context.Context, _, op int) error {
		certs, err := chain.ParseDER(s.chains[op], 0)
		if err != nil {
			return err
		}
		_, err = v.Verify(client.Credentials{Certificates: certs}, s.demand)
		return err
	})
}

func (s *service) again(ctx context.Context, ops int) (sample, error) {
	v, err := client.NewVerifier(s.cfg)
	if err != nil {
		return sample{}, err
	}
	certs, err := chain.ParseDER(s.chains[0], 0)
	if err != nil {
		return sample{}, err
	}
	return load(ctx, 1, ops, self{}, func(context.Context, int, int) error {
		_, err := v.Verify(client.Credentials{Certificates: certs}, s.demand)
		return err
	})
}

// quiet is a feed in which nothing is revoked.
type quiet struct{}

func (quiet) Revoked(chain.RevKind, string) bool { return false }
func (quiet) FreshAt() time.Time                 { return time.Now() }

func newService(agents int) (*service, error) {
	rootKey, rootErr := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	key, keyErr := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err := errors.Join(rootErr, keyErr); err != nil {
		return nil, err
	}
	root, err := certify(authority("root", 1), nil, rootKey.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	ca, err := certify(authority("agents", 0), root, key.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	scope, err := chain.ParseScope([]string{"database:read:patients"})
	if err != nil {
		return nil, err
	}
	s := &service{demand: client.Demand{Scope: scope}, cfg: client.VerifierConfig{
		TrustDomain: verifyDomain, Roots: []*x509.Certificate{root}, Intermediates: []*x509.Certificate{ca}, Revocations: quiet{}, MaxStaleness: time.Minute,
	}}
	for range agents {
		leaf, err := agentOf(ca, key, scope)
		if err != nil {
			return nil, err
		}
		s.chains = append(s.chains, [][]byte{leaf.Raw, ca.Raw})
	}
	return s, nil
}

func authority(name string, pathLen int) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, MaxPathLen: pathLen, MaxPathLenZero: pathLen == 0,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
}

func certify(template, parent *x509.Certificate, public crypto.PublicKey, by crypto.Signer) (*x509.Certificate, error) {
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// agentOf is an agent three levels below its orchestrator.
func agentOf(ca *x509.Certificate, key *ecdsa.PrivateKey, scope chain.Scope) (*x509.Certificate, error) {
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	hash, err := chain.KeyHash(own.Public())
	if err != nil {
		return nil, err
	}
	end := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	d := chain.Delegation{TaskID: [16]byte{1}, Grant: chain.Grant{
		Issuer: "https://idp.bench.example", Subject: "physician", GrantID: [16]byte{2}, Consent: chain.OIDCNonce, EvidenceHash: [32]byte{1},
		Scope: scope, NotAfter: end, MaxDepth: 4,
	}}
	id := "spiffe://" + verifyDomain + "/orchestrator/research"
	for i := range 4 {
		if i > 0 {
			name, err := client.NewSpawnID()
			if err != nil {
				return nil, err
			}
			id = fmt.Sprintf("spiffe://%s/agent/research/%s", verifyDomain, name)
		}
		d.Hops = append(d.Hops, chain.Hop{ID: id, SPKIHash: [32]byte{byte(i + 1)}, Scope: scope, NotAfter: end, MaxDepth: 4 - i})
	}
	d.Hops[3].SPKIHash = hash
	extension, err := d.Marshal()
	if err != nil {
		return nil, err
	}
	name, err := url.Parse(id)
	if err != nil {
		return nil, err
	}
	return certify(&x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(hash[:16]), URIs: []*url.URL{name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, NotBefore: time.Now().Add(-30 * time.Second), NotAfter: end,
		ExtraExtensions: []pkix.Extension{{Id: chain.OID(), Value: extension}},
	}, ca, own.Public(), key)
}
