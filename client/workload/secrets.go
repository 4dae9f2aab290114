package workload

import (
	"crypto/x509"
	"encoding/pem"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

const secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// Names that stand for the identity that is served, whatever it is: SPIRE's defaults (SPIRE agent, SDS configuration).
const (
	defaultName = "default"
	rootsName   = "ROOTCA"
)

// response has the named secrets, or all when there are no names. A name that is not this identity's is refused as SPIRE refuses
// it, with the whole request: a proxy that waits for it should say so, and not wait in silence.
func (i Identity) response(names []string) (*discovery.DiscoveryResponse, error) {
	own, domain := i.id.String(), "spiffe://"+i.id.TrustDomain()
	if len(names) == 0 {
		names = []string{own, domain}
	}
	out := &discovery.DiscoveryResponse{TypeUrl: secretType, VersionInfo: i.version()}
	for _, name := range names {
		s := &tlsv3.Secret{Name: name}
		switch name {
		case own, defaultName:
			s.Type = &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
				CertificateChain: inline(certificates(i.certs)),
				PrivateKey:       inline(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: i.key})),
			}}
		case domain, rootsName:
			s.Type = &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa: inline(certificates(i.roots)),
			}}
		default: // not repeated: it may be long
			return nil, status.Errorf(codes.InvalidArgument, "resource_names: only %s, %s, %s and %s are served", own, defaultName, domain, rootsName)
		}
		packed, err := anypb.New(s)
		if err != nil {
			return nil, status.Error(codes.Internal, "a secret cannot be encoded") // the cause may tell of its bytes
		}
		out.Resources = append(out.Resources, packed)
	}
	return out, nil
}

func inline(data []byte) *core.DataSource {
	return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: data}}
}

func certificates(certs []*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}
