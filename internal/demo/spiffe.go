package demo

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// spiffeTLS trusts a peer with one SPIFFE ID, whatever its address.
func spiffeTLS(roots *x509.CertPool, own *tls.Certificate, peer string) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{*own},
		// The name check of the web does not apply to SPIFFE; VerifyConnection does all of the verification instead.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(cs tls.ConnectionState) error {
			return verifySPIFFE(cs.PeerCertificates, roots, peer)
		},
	}
}

func verifySPIFFE(certs []*x509.Certificate, roots *x509.CertPool, want string) error {
	if len(certs) == 0 {
		return errors.New("no server certificate")
	}
	inter := x509.NewCertPool()
	for _, c := range certs[1:] {
		inter.AddCert(c)
	}
	if _, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter}); err != nil {
		return err
	}
	if len(certs[0].URIs) != 1 || certs[0].URIs[0].String() != want {
		return fmt.Errorf("the server is not %s", want)
	}
	return nil
}
