package api

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"strings"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// refreshHint is how often a relying party looks for new roots, in seconds.
const refreshHint = 3600

// bundles are the trust bundle's forms and the key set, made once.
type bundles struct{ jwks, roots, issuing, keys []byte }

func newBundles(t Trust) (bundles, error) {
	doc := v1.Bundle{Sequence: max(t.Sequence, 1), RefreshHint: refreshHint}
	for _, root := range t.Roots {
		k, err := jwk(root)
		if err != nil {
			return bundles{}, err
		}
		doc.Keys = append(doc.Keys, k)
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return bundles{}, fmt.Errorf("api: trust bundle: %w", err)
	}
	keys, err := keySet(t.JWT)
	return bundles{jwks: raw, roots: pemFile(t.Roots), issuing: pemFile(t.Issuing), keys: keys}, err
}

// keySet shows the keys of statements with the certificates that tie them to a root.
func keySet(certs []*x509.Certificate) ([]byte, error) {
	doc := v1.KeySet{}
	for _, c := range certs {
		k, err := jwk(c)
		if err != nil {
			return nil, err
		}
		kid, err := chain.KeyID(c.PublicKey)
		if err != nil {
			return nil, fmt.Errorf("api: jwks: %w", err)
		}
		k.Use, k.Kid, k.Alg = "sig", kid, "ES256"
		doc.Keys = append(doc.Keys, k)
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("api: jwks: %w", err)
	}
	return raw, nil
}

func (s *Server) keys(c *call) (reply, error) {
	return reply{status: http.StatusOK, raw: s.bundle.keys, media: c.route.produces, cache: "public, max-age=300"}, nil
}

func pemFile(certs []*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range certs {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return out.Bytes()
}

// jwk is a root as SPIFFE bundles have it: RFC 7517 with the certificate in x5c.
func jwk(c *x509.Certificate) (v1.Key, error) {
	k := v1.Key{Use: "x509-svid", X5C: []string{base64.StdEncoding.EncodeToString(c.Raw)}}
	switch pub := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		point, err := pub.Bytes()
		if err != nil {
			return k, fmt.Errorf("api: trust bundle: %w", err)
		}
		half := len(point) / 2 // behind the byte that says uncompressed
		k.Kty, k.Crv, k.X, k.Y = "EC", pub.Params().Name, b64url(point[1:1+half]), b64url(point[1+half:])
	case ed25519.PublicKey:
		k.Kty, k.Crv, k.X = "OKP", "Ed25519", b64url(pub)
	case *rsa.PublicKey:
		k.Kty, k.N, k.E = "RSA", b64url(pub.N.Bytes()), b64url(big.NewInt(int64(pub.E)).Bytes())
	default:
		return k, fmt.Errorf("api: trust bundle: a root has a key of type %T", pub)
	}
	return k, nil
}

func b64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (s *Server) trustBundle(c *call) (reply, error) {
	out := reply{status: http.StatusOK, cache: "public, max-age=60"}
	switch c.query.Get("format") {
	case "", "jwks":
		out.raw, out.media = s.bundle.jwks, mediaJSON
	case "pem":
		out.raw, out.media = s.bundle.roots, mediaPEM
	case "issuing-pem":
		out.raw, out.media = s.bundle.issuing, mediaPEM
	default:
		return reply{}, invalid(codeBadParameter, "format", "one of jwks, pem, issuing-pem")
	}
	return out, nil
}

func (s *Server) crl(c *call) (reply, error) {
	name, ok := strings.CutSuffix(c.param("file"), ".crl")
	if !ok || !printable(name, 64) {
		return reply{}, ErrNotFound
	}
	der, err := s.cfg.Trust.CRL(name)
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, raw: der, media: c.route.produces, cache: "public, max-age=60"}, nil
}

// consent serves the pages for people, which have their own ways to refuse.
func (s *Server) consent(c *call) (reply, error) {
	if s.cfg.Consent == nil {
		return reply{}, ErrNotFound
	}
	return c.hand(s.cfg.Consent)
}

func (s *Server) live(*call) (v1.Live, error) { return v1.Live{Status: "alive"}, nil }

// ready tells everybody whether, and staff why not: reasons name devices and files.
func (s *Server) ready(c *call) (reply, error) {
	conditions := s.cfg.Health(c.ctx)
	status, out := http.StatusOK, v1.Ready{Status: "ready"}
	for _, k := range conditions {
		if !k.OK && k.Severity != Warning {
			status, out.Status = http.StatusServiceUnavailable, "not_ready"
		}
	}
	if s.visitor(c)&staff != 0 {
		for _, k := range conditions {
			out.Conditions = append(out.Conditions, v1.Condition{Name: k.Name, OK: k.OK, Severity: k.Severity.String(), Reason: k.Reason})
		}
	}
	if after := retryAfter(&delegation.Error{}, status); after != "" {
		c.echo.Response().Header().Set("Retry-After", after)
	}
	return reply{status: status, body: out}, nil
}

func (s *Server) openAPI(*call) (reply, error) {
	return reply{status: http.StatusOK, raw: s.openapi, media: mediaJSON, cache: "public, max-age=300"}, nil
}

func (s *Server) docs(c *call) (reply, error) {
	c.echo.Response().Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'")
	return reply{status: http.StatusOK, raw: s.page, media: mediaHTML, cache: "public, max-age=300"}, nil
}
