package appliance

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-pki/signet/ca"
	"github.com/signet-pki/signet/ca/ceremony"
	"github.com/signet-pki/signet/ca/lint"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

const certifierDomain = "signet.test"

// softKeys makes keys in memory.
type softKeys map[string]*ecdsa.PrivateKey

func (k softKeys) Generate(_ context.Context, _ ceremony.Role, label string) (crypto.Signer, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	k[label] = key
	return key, "memory:" + label, err
}

// series is what a ceremony made: three service CAs, each valid for ninety days, the next one after fifty.
type series struct {
	*certifier
	root  *x509.Certificate
	certs []*x509.Certificate
	begun time.Time
	ahead atomic.Int64
}

func (s *series) clock() time.Time { return s.begun.Add(time.Duration(s.ahead.Load())) }

func newSeries(t *testing.T) *series {
	t.Helper()
	s := &series{begun: time.Now().Add(time.Minute).Truncate(time.Second)}
	keys := softKeys{}
	person, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	spki, err := x509.MarshalPKIXPublicKey(person.Public())
	must(t, err)
	plan, err := ceremony.ParsePlan(ceremony.Config{
		TrustDomain: certifierDomain, Origin: certifierDomain + "/log", Root: ceremony.RootConfig{CommonName: "Root", ValidityDays: 3650},
		AgentCAs:   ceremony.SeriesConfig{Count: 1, ValidityDays: 90, OverlapDays: 40},
		ServiceCAs: ceremony.ServiceCAsConfig{SeriesConfig: ceremony.SeriesConfig{Count: 3, ValidityDays: 90, OverlapDays: 40}},
		Operator:   ceremony.OperatorConfig{Name: "admin", ValidityDays: 30, PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))},
	})
	must(t, err)
	ak, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	r, err := ceremony.Run(t.Context(), plan, keys, ak.Public(), s.begun)
	must(t, err)
	s.root = r.Root.Leaf
	s.certifier = &certifier{now: s.clock}
	for n, made := range r.ServiceCAs {
		s.certs = append(s.certs, made.Leaf)
		i, err := ca.NewIssuer(made.Leaf, keys["service-ca-"+string(rune('1'+n))], []*x509.Certificate{s.root}, ca.Profile{
			Issues: lint.Service, TrustDomain: certifierDomain, MaxLifetime: operatorTTL + time.Minute, CRLURL: "https://signet.test/crl/service-ca.crl",
		})
		must(t, err)
		s.services = append(s.services, i)
	}
	return s
}

// issue gives a certificate of the longest life, and when it was asked for.
func (s *series) issue(ctx context.Context, id chain.ID, spki []byte) (leaf, by *x509.Certificate, asked time.Time, err error) {
	asked = s.clock()
	p, err := s.Prepare(delegation.Template{ID: id, SPKI: spki, NotAfter: asked.Add(operatorTTL)})
	if err != nil {
		return nil, nil, asked, err
	}
	der, err := s.Issue(ctx, p)
	if err != nil {
		return nil, nil, asked, err
	}
	if leaf, err = x509.ParseCertificate(der[0]); err == nil {
		by, err = x509.ParseCertificate(der[1])
	}
	return leaf, by, asked, err
}

func (s *series) verifies(leaf, by *x509.Certificate, at time.Time) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(s.root)
	between.AddCert(by)
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err
}

// TestNextCA: 32 clients have certificates issued while the clock passes from one CA to the next and to the one after it. Nobody is refused, no
// certificate is cut short, and each verifies from its first to its last second.
func TestNextCA(t *testing.T) {
	s := newSeries(t)
	id, err := chain.NamedID(certifierDomain, chain.Service, "records")
	must(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	var stopped atomic.Bool
	var wg sync.WaitGroup
	var mu sync.Mutex
	signed := map[string]int{}
	var total atomic.Int64
	for range 32 {
		wg.Go(func() {
			for !stopped.Load() {
				leaf, by, asked, err := s.issue(t.Context(), id, spki)
				if err != nil {
					t.Errorf("refused: %v", err)
					return
				}
				if life := leaf.NotAfter.Sub(asked); life < operatorTTL-time.Second {
					t.Errorf("cut short: %s of %s", life, operatorTTL)
				}
				for _, at := range []time.Time{leaf.NotBefore.Add(31 * time.Second), leaf.NotAfter} { // the clock may have moved since it was asked for
					if err := s.verifies(leaf, by, at); err != nil {
						t.Errorf("at %s: %v", at, err)
					}
				}
				mu.Lock()
				signed[by.Subject.CommonName]++
				mu.Unlock()
				total.Add(1)
			}
		})
	}
	const day = 24 * time.Hour
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ahead := time.Duration(0); ahead < 130*day; ahead += 2 * day { // the last one ends after 190 days
		s.ahead.Store(int64(ahead))
		for until := total.Load() + 40; total.Load() < until && !t.Failed(); {
			<-tick.C
		}
	}
	stopped.Store(true)
	wg.Wait()
	t.Log(signed)
	if len(signed) != 3 {
		t.Errorf("%d of the three CAs signed", len(signed))
	}
	for n, cert := range s.certs {
		s.ahead.Store(int64(cert.NotBefore.Sub(s.begun)))
		if i, err := s.current(chain.Service); err != nil || i != s.services[n] {
			t.Errorf("when CA %d begins another one issues: %v", n+1, err)
		}
		s.ahead.Add(-int64(time.Second))
		if i, err := s.current(chain.Service); n > 0 && (err != nil || i != s.services[n-1]) {
			t.Errorf("a second before CA %d begins it issues: %v", n+1, err)
		}
	}
}

func TestOverlap(t *testing.T) {
	s := newSeries(t)
	const overlap = 40 * 24 * time.Hour
	if err := checkOverlap("service-ca", s.certs, overlap); err != nil {
		t.Error(err)
	}
	if err := checkOverlap("service-ca", s.certs, overlap+time.Second); err == nil || !strings.Contains(err.Error(), "service-ca-2") {
		t.Errorf("certificates that outlive their CA: %v", err)
	}
	if err := checkOverlap("service-ca", []*x509.Certificate{s.certs[1], s.certs[0]}, 0); err == nil {
		t.Error("CAs in another order")
	}
	if err := checkOverlap("service-ca", []*x509.Certificate{s.certs[0], s.certs[2]}, time.Second); err == nil {
		t.Error("a gap between CAs")
	}
}

// TestFewCAsLeft: the warning comes when two are left, not before.
func TestFewCAsLeft(t *testing.T) {
	s := newSeries(t)
	s.agents = slices.Concat(s.services, s.services) // enough agent CAs
	if err := checkStock(s.certifier, s.begun.Add(-24*time.Hour)); err != nil {
		t.Errorf("three are left: %v", err)
	}
	if err := checkStock(s.certifier, s.begun); err == nil || !strings.Contains(err.Error(), "2 pre-signed service CAs") {
		t.Errorf("two are left: %v", err)
	}
}
