package client

import "crypto/tls"

// ServerTLS is the TLS configuration of a service that verifies agents: TLS 1.3 alone, any client certificate is taken and
// judged by the middleware, so that a refusal has a code, and no session is resumed, so that each connection proves its key
// anew. certificate gives the service's own certificate for each connection, since it is renewed.
func ServerTLS(certificate func() (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate() },
	}
}
