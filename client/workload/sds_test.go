package workload

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The tests speak the protocol by Envoy's published API, without the header that Envoy does not send. They run no Envoy.

const spiffeDomain = "spiffe://" + domain

func envoyAPI(t *testing.T, s *Server) secret.SecretDiscoveryServiceClient {
	t.Helper()
	return secret.NewSecretDiscoveryServiceClient(dial(t, serve(t, s)))
}

// proxy is one subscription as Envoy holds it.
type proxy struct {
	t       *testing.T
	stream  secret.SecretDiscoveryService_StreamSecretsClient
	version string // accepted last
	nonce   string // received last
}

func subscribe(t *testing.T, api secret.SecretDiscoveryServiceClient, names ...string) *proxy {
	t.Helper()
	stream, err := api.StreamSecrets(within(t))
	must(t, err)
	p := &proxy{t: t, stream: stream}
	p.ask(names...)
	return p
}

// ask sends a request that accepts what came last, or rejects it if that was not accepted.
func (p *proxy) ask(names ...string) {
	p.t.Helper()
	must(p.t, p.stream.Send(&discovery.DiscoveryRequest{
		TypeUrl: secretType, ResourceNames: names, VersionInfo: p.version, ResponseNonce: p.nonce,
	}))
}

func (p *proxy) reject(names ...string) {
	p.t.Helper()
	must(p.t, p.stream.Send(&discovery.DiscoveryRequest{
		TypeUrl: secretType, ResourceNames: names, VersionInfo: p.version, ResponseNonce: p.nonce,
		ErrorDetail: &rpc.Status{Code: int32(codes.InvalidArgument), Message: "no"},
	}))
}

// receives is the next answer, which must have that nonce and these secrets: answers are counted by their nonces.
func (p *proxy) receives(nonce string, names ...string) *discovery.DiscoveryResponse {
	p.t.Helper()
	r, err := p.stream.Recv()
	must(p.t, err)
	p.nonce = r.GetNonce()
	if got := named(p.t, r); p.nonce != nonce || r.GetTypeUrl() != secretType || !slices.Equal(got, names) {
		p.t.Fatalf("answer %s of %s has %q; want %s, %q", r.GetNonce(), r.GetTypeUrl(), got, nonce, names)
	}
	return r
}

// ends is how the stream is over.
func (p *proxy) ends() codes.Code {
	for {
		if _, err := p.stream.Recv(); err != nil {
			return status.Code(err)
		}
	}
}

func secrets(t *testing.T, r *discovery.DiscoveryResponse) []*tlsv3.Secret {
	t.Helper()
	var out []*tlsv3.Secret
	for _, packed := range r.GetResources() {
		var s tlsv3.Secret
		must(t, packed.UnmarshalTo(&s))
		must(t, s.ValidateAll())
		out = append(out, &s)
	}
	return out
}

// named are the secrets' names, sorted.
func named(t *testing.T, r *discovery.DiscoveryResponse) []string {
	t.Helper()
	var out []string
	for _, s := range secrets(t, r) {
		out = append(out, s.GetName())
	}
	slices.Sort(out)
	return out
}

// has demands that the answer has the certificate with its key, and the root that it leads to, and nothing else.
func (a *authority) has(r *discovery.DiscoveryResponse, want *tls.Certificate) {
	a.t.Helper()
	var own *tlsv3.TlsCertificate
	var roots []byte
	for _, s := range secrets(a.t, r) {
		if c := s.GetTlsCertificate(); c != nil {
			own = c
		} else {
			roots = append(roots, s.GetValidationContext().GetTrustedCa().GetInlineBytes()...)
		}
	}
	cert, err := tls.X509KeyPair(own.GetCertificateChain().GetInlineBytes(), own.GetPrivateKey().GetInlineBytes())
	must(a.t, err)
	if !slices.EqualFunc(cert.Certificate, want.Certificate, bytes.Equal) {
		a.t.Error("another certificate")
	}
	if !bytes.Equal(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.root.Raw})) {
		a.t.Errorf("other roots: %s", roots)
	}
}

func (a *authority) checked(cert *tls.Certificate) Identity {
	a.t.Helper()
	i, err := NewIdentity(cert, []*x509.Certificate{a.root}, time.Now())
	must(a.t, err)
	return i
}

// Every name has its secret, and all of them have when none is named.
func TestSecretNames(t *testing.T) {
	a, s := newAuthority(t), New()
	cert := a.issue(agent1)
	s.Set(a.checked(cert))
	api := envoyAPI(t, s)
	for _, tc := range []struct{ ask, want []string }{
		{nil, []string{spiffeDomain, agent1}},
		{[]string{agent1, spiffeDomain}, []string{spiffeDomain, agent1}},
		{[]string{"default", "ROOTCA"}, []string{"ROOTCA", "default"}},
		{[]string{"default", spiffeDomain, "default"}, []string{"default", spiffeDomain}},
	} {
		r, err := api.FetchSecrets(within(t), &discovery.DiscoveryRequest{TypeUrl: secretType, ResourceNames: tc.ask})
		must(t, err)
		if got := named(t, r); !slices.Equal(got, tc.want) || r.GetVersionInfo() == "" {
			t.Errorf("%q has %q at %q", tc.ask, got, r.GetVersionInfo())
		}
		a.has(r, cert)
		a.has(subscribe(t, api, tc.ask...).receives("1", tc.want...), cert)
	}
}

// What was accepted, and what was rejected, is not sent again; what comes next is, and so is what is asked for besides.
func TestSecretStream(t *testing.T) {
	a, s := newAuthority(t), New()
	first, second := a.issue(agent1), a.issue(agent1)
	s.Set(a.checked(first))
	p := subscribe(t, envoyAPI(t, s), agent1, spiffeDomain)
	r := p.receives("1", spiffeDomain, agent1)
	a.has(r, first)

	p.version = r.GetVersionInfo()
	p.ask(agent1, spiffeDomain) // accepted
	p.ask(spiffeDomain, agent1) // the same
	s.Set(a.checked(first))     // no news
	p.ask("default")
	p.receives("2", "default")

	s.Set(a.checked(second))
	r = p.receives("3", "default")
	if r.GetVersionInfo() == p.version {
		t.Error("two certificates have one version")
	}
	p.reject("default") // twice, and the answer to what follows is the next one all the same
	p.reject("default")
	p.ask("ROOTCA")
	p.receives("4", "ROOTCA")

	p.nonce = "3"
	p.ask("nobody's") // made before the fourth answer arrived
	p.nonce = "4"
	p.ask(agent1, spiffeDomain)
	a.has(p.receives("5", spiffeDomain, agent1), second)

	p.reject(agent1, spiffeDomain) // and the next certificate comes all the same
	s.Set(a.checked(first))
	a.has(p.receives("6", spiffeDomain, agent1), first)
	must(t, p.stream.CloseSend())
	if _, err := p.stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ends with %v", err)
	}
}

// A version is the same on every stream: a proxy that comes back knows what it has.
func TestSecretVersion(t *testing.T) {
	a := newAuthority(t)
	cert := a.issue(agent1)
	var versions []string
	for range 2 {
		s := New()
		s.Set(a.checked(cert))
		r, err := envoyAPI(t, s).FetchSecrets(within(t), &discovery.DiscoveryRequest{})
		must(t, err)
		versions = append(versions, r.GetVersionInfo())
	}
	if versions[0] != versions[1] {
		t.Errorf("%q", versions)
	}
}

func TestSecretRefusals(t *testing.T) {
	a, s := newAuthority(t), New()
	api := envoyAPI(t, s)
	fetch := func(r *discovery.DiscoveryRequest) codes.Code {
		_, err := api.FetchSecrets(within(t), r)
		return status.Code(err)
	}
	check := func(name string, want, got codes.Code) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	check("nothing to serve", codes.PermissionDenied, fetch(&discovery.DiscoveryRequest{}))
	check("nothing to stream", codes.PermissionDenied, subscribe(t, api).ends())
	s.Set(a.identity(agent1))
	check("served", codes.OK, fetch(&discovery.DiscoveryRequest{}))
	for _, name := range []string{agent2, "ALL", "", "spiffe://other.example", spiffeDomain + "/", "Default", strings.Repeat("x", 1<<16)} {
		check("named "+name[:min(len(name), 99)], codes.InvalidArgument, fetch(&discovery.DiscoveryRequest{ResourceNames: []string{"default", name}}))
		check("streamed", codes.InvalidArgument, subscribe(t, api, "default", name).ends())
	}
	other := &discovery.DiscoveryRequest{TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster"}
	check("another type", codes.InvalidArgument, fetch(other))
	p := subscribe(t, api, agent1)
	p.receives("1", agent1)
	other.ResponseNonce = "1"
	must(t, p.stream.Send(other))
	check("another type later", codes.InvalidArgument, p.ends())

	extension := &core.Extension{Name: strings.Repeat("x", 100), Category: strings.Repeat("y", 100)}
	large := &discovery.DiscoveryRequest{Node: &core.Node{Id: "envoy", Extensions: slices.Repeat([]*core.Extension{extension}, 2000)}}
	check("a node with many extensions", codes.OK, fetch(large))
	large.Node.Extensions = slices.Repeat(large.GetNode().GetExtensions(), 2)
	check("too large", codes.ResourceExhausted, fetch(large))
	p = subscribe(t, api, agent1)
	must(t, p.stream.Send(large))
	check("too large to stream", codes.ResourceExhausted, p.ends())

	delta, err := api.DeltaSecrets(within(t))
	must(t, err)
	_, err = delta.Recv()
	check("increments", codes.Unimplemented, status.Code(err))
}

// Who asked for an agent by its name does not get another.
func TestSecretOfAnother(t *testing.T) {
	a, s := newAuthority(t), New()
	s.Set(a.identity(agent1))
	api := envoyAPI(t, s)
	byID, byDefault := subscribe(t, api, agent1), subscribe(t, api, "default")
	byID.receives("1", agent1)
	byDefault.receives("1", "default")
	s.Set(a.identity(agent2))
	byDefault.receives("2", "default")
	if code := byID.ends(); code != codes.InvalidArgument {
		t.Errorf("the stream ends with %s", code)
	}
}

// When the certificate ends without a next one, so do the streams, even those that asked for nothing yet.
func TestSecretExpiry(t *testing.T) {
	a, s := newAuthority(t), New()
	s.Set(a.identity(agent1, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(2 * time.Second) }))
	api := envoyAPI(t, s)
	silent, err := api.StreamSecrets(within(t))
	must(t, err)
	for name, p := range map[string]*proxy{"asked": subscribe(t, api, "default"), "silent": {t: t, stream: silent}} {
		if code := p.ends(); code != codes.PermissionDenied {
			t.Errorf("%s: the stream ends with %s", name, code)
		}
	}
	if _, err := api.FetchSecrets(within(t), &discovery.DiscoveryRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("afterwards: %v", err)
	}
}
