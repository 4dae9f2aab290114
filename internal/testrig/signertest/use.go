package signertest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"
)

func testConcurrent(t *testing.T, signer crypto.Signer) {
	h := nativeHash(t, signer)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range signsEach {
				d := digest(h, fmt.Appendf(nil, "goroutine %d signature %d", g, i))
				sig, err := signer.Sign(rand.Reader, d, h)
				if err != nil {
					t.Errorf("goroutine %d: %v", g, err)
					return
				}
				verify(t, signer.Public(), d, sig)
			}
		})
	}
	wg.Wait()
}

const serverName = "signer.test"

func selfSigned(t *testing.T, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: serverName},
		DNSNames:              []string{serverName},
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		t.Fatalf("create certificate: %v", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("parse certificate: %v", err)
	}
	return cert
}

func testCertificate(t *testing.T, signer crypto.Signer) {
	cert := selfSigned(t, signer)
	if err := cert.CheckSignatureFrom(cert); err != nil {
		t.Fatalf("signature of the certificate: %v", err)
	}
}

// testTLS makes one TLS 1.3 handshake, where the server signs the transcript (RFC 8446 §4.4.3), and sends bytes.
func testTLS(t *testing.T, signer crypto.Signer) {
	cert := selfSigned(t, signer)
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	clientEnd, serverEnd := net.Pipe()
	server := tls.Server(serverEnd, &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: signer}},
	})
	client := tls.Client(clientEnd, &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: serverName})

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	served := make(chan error, 1)
	go func() {
		// Closing the pipe on failure keeps the client from waiting for a server that has given up.
		defer serverEnd.Close()
		served <- serve(ctx, server)
	}()
	got := make([]byte, len(greeting))
	err := client.HandshakeContext(ctx)
	if err == nil {
		_, err = client.Read(got)
	}
	_ = clientEnd.Close()
	if serveErr := <-served; serveErr != nil {
		t.Fatalf("server: %v", serveErr)
	}
	if err != nil {
		t.Fatalf("client: %v", err)
	}
	if !bytes.Equal(got, []byte(greeting)) {
		t.Fatalf("read %q", got)
	}
}

const greeting = "signed"

func serve(ctx context.Context, server *tls.Conn) error {
	if err := server.HandshakeContext(ctx); err != nil {
		return err
	}
	_, err := server.Write([]byte(greeting))
	return err
}
