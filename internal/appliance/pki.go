package appliance

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/ca"
	"github.com/signet-pki/signet/ca/lint"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/tpm/quote"
)

// maxCAs bounds how many pre-signed CAs of a kind are looked for.
const maxCAs = 64

// loadTrust reads the certificates that the ceremony made.
func (c *Config) loadTrust() (t trust, err error) {
	root, err := readCertificates(filepath.Join(c.pkiDir(), "root.pem"))
	if err != nil {
		return t, fmt.Errorf("pki: %w (was there a ceremony? signetd init)", err)
	}
	t.root = root[0]
	if t.jwt, err = c.loadJWT(); err != nil {
		return t, err
	}
	if t.agents, err = c.loadSeries("agent-ca"); err != nil {
		return t, err
	}
	t.services, err = c.loadSeries("service-ca")
	return t, err
}

// loadJWT reads the certificate of the key that signs statements.
func (c *Config) loadJWT() (*x509.Certificate, error) {
	certs, err := readCertificates(filepath.Join(c.pkiDir(), "jwt.pem"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("pki: %s has no jwt.pem: this appliance was made before appliances had a key for signed events and access tokens, "+
			"and its log cannot take one up. Keep the directory as evidence, and hold a new ceremony in an empty one with fresh tokens (signetd init, or signetd dev --dir)", c.pkiDir())
	}
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	return certs[0], nil
}

// loadSeries reads name-1.pem, name-2.pem and so on.
func (c *Config) loadSeries(name string) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for n := 1; n <= maxCAs; n++ {
		path := filepath.Join(c.pkiDir(), name+"-"+strconv.Itoa(n)+".pem")
		if _, err := os.Stat(path); err != nil {
			break
		}
		certs, err := readCertificates(path)
		if err != nil {
			return nil, fmt.Errorf("pki: %w", err)
		}
		out = append(out, certs[0])
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("pki: no %s-1.pem in %s", name, c.pkiDir())
	}
	return out, nil
}

// newCertifier finds the key of each issuing CA, once.
func (c *Config) newCertifier(ctx context.Context, t trust, issuing keyring, now func() time.Time) (*certifier, error) {
	if err := checkOverlap("agent-ca", t.agents, c.Limits.AgentTTL); err != nil {
		return nil, err
	}
	if err := checkOverlap("service-ca", t.services, operatorTTL); err != nil {
		return nil, err
	}
	out := &certifier{now: now}
	for n, cert := range t.agents {
		i, err := c.newIssuer(ctx, cert, t.root, issuing, "agent-ca-"+strconv.Itoa(n+1), ca.Profile{
			Issues: lint.Agent, TrustDomain: c.TrustDomain, DelegationOID: chain.OID(), MaxLifetime: c.Limits.AgentTTL + time.Minute,
		})
		if err != nil {
			return nil, err
		}
		out.agents = append(out.agents, i)
	}
	for n, cert := range t.services {
		i, err := c.newIssuer(ctx, cert, t.root, issuing, "service-ca-"+strconv.Itoa(n+1), ca.Profile{
			Issues: lint.Service, TrustDomain: c.TrustDomain, MaxLifetime: operatorTTL + time.Minute,
			CRLURL: c.PublicURL + "/crl/service-ca-" + strconv.Itoa(n+1) + ".crl",
		})
		if err != nil {
			return nil, err
		}
		out.services = append(out.services, i)
	}
	return out, nil
}

// checkOverlap refuses CAs that follow each other so late that a certificate would outlive the one that signs it, and be cut short:
// each begins when the one before it is still valid for the longest life of a certificate.
func checkOverlap(name string, series []*x509.Certificate, life time.Duration) error {
	for n := 1; n < len(series); n++ {
		before, next := series[n-1], series[n]
		if next.NotBefore.Before(before.NotBefore) {
			return fmt.Errorf("pki: %s-%d begins before %s-%d", name, n+1, name, n)
		}
		if overlap := before.NotAfter.Sub(next.NotBefore); overlap < life {
			return fmt.Errorf("pki: %s-%d begins %s before %s-%d ends, and certificates live for %s", name, n+1, overlap, name, n, life)
		}
	}
	return nil
}

// operatorTTL is the life of the longest-lived certificate of the service CAs.
const operatorTTL = 30 * 24 * time.Hour

func (c *Config) newIssuer(ctx context.Context, cert, root *x509.Certificate, keys keyring, label string, p ca.Profile) (*ca.Issuer, error) {
	key, err := keys.key(ctx, label)
	if err != nil {
		return nil, fmt.Errorf("pki: key of %s: %w", label, err)
	}
	i, err := ca.NewIssuer(cert, key, []*x509.Certificate{root}, p)
	if err != nil {
		return nil, fmt.Errorf("pki: %s: %w", label, err)
	}
	return i, nil
}

// ceremonyOf reads leaf 0.
func ceremonyOf(ctx context.Context, log *audit.Log) (record.Ceremony, error) {
	first, err := log.Read(ctx, 0)
	if err != nil {
		return record.Ceremony{}, fmt.Errorf("leaf 0: %w", err)
	}
	env, err := record.Check(first.Envelope)
	if err != nil {
		return record.Ceremony{}, fmt.Errorf("leaf 0: %w", err)
	}
	body, err := record.DecodeBody[record.Ceremony](env)
	if err != nil {
		return body, fmt.Errorf("leaf 0: %w", err)
	}
	return body, nil
}

// checkCeremony compares the certificates on disk with those that leaf 0 pins: a swapped root would decide who is who.
func (c *Config) checkCeremony(ctx context.Context, log *audit.Log, t trust, tpm quote.Binding) error {
	pinned, err := ceremonyOf(ctx, log)
	if err != nil {
		return err
	}
	if b64(t.root.Raw) != pinned.Root {
		return errors.New("pki: root.pem is not the root of the ceremony that began this log")
	}
	if b64(t.jwt.RawSubjectPublicKeyInfo) != pinned.JWTKey {
		return errors.New("pki: jwt.pem is not for the JWT key of the ceremony that began this log")
	}
	if hex.EncodeToString(tpm.AKName) != pinned.AKName || hex.EncodeToString(tpm.NVName) != pinned.NVName {
		return fmt.Errorf("pki: %s is not about the TPM of the ceremony that began this log", bindingFile)
	}
	if sel, err := quote.ParseSelection(pinned.PCRs); err != nil || sel != c.TPM.selection() {
		return fmt.Errorf("tpm.pcrs: the ceremony that began this log chose %s, for good", pinned.PCRs)
	}
	known := slices.Concat(pinned.AgentCAs, pinned.ServiceCAs)
	for _, c := range slices.Concat(t.agents, t.services) {
		if !slices.Contains(known, b64(c.Raw)) {
			return fmt.Errorf("pki: the CA %q is not one of the ceremony that began this log", c.Subject.CommonName)
		}
	}
	return nil
}
