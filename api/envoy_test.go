package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"

	"github.com/signet-pki/signet/api/extauthz"
	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/quota"
)

// These tests are protocol-level: a real gRPC client of the API that Envoy publishes asks over TLS, as an Envoy would, with
// what Envoy's documentation and source say that it sends. No Envoy runs.

// envoy is a gRPC connection with an identity.
func (w *world) envoy(p *person) *grpc.ClientConn {
	w.t.Helper()
	cfg := &tls.Config{RootCAs: w.roots, MinVersion: tls.VersionTLS13}
	if p.cert != nil {
		cfg.Certificates = []tls.Certificate{*p.cert}
	}
	conn, err := grpc.NewClient(strings.TrimPrefix(w.base, "https://"), grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	must(w.t, err)
	w.t.Cleanup(func() { must(w.t, conn.Close()) })
	return conn
}

func (w *world) ask(conn *grpc.ClientConn, q *auth.CheckRequest) *auth.CheckResponse {
	w.t.Helper()
	a, err := auth.NewAuthorizationClient(conn).Check(w.t.Context(), q)
	must(w.t, err)
	return a
}

// envoyEncoded is a certificate as Envoy passes it on: all but RFC 3986's unreserved bytes percent-encoded.
func envoyEncoded(der []byte) string {
	text := url.QueryEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return strings.ReplaceAll(text, "+", "%20")
}

// envoyAsks is what an Envoy asks about GET /patients on a route of type database.
func envoyAsks(leaf []byte, change ...func(*auth.AttributeContext)) *auth.CheckRequest {
	a := &auth.AttributeContext{
		Source: &auth.AttributeContext_Peer{
			Address:     &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{Address: "192.0.2.1"}}},
			Principal:   "spiffe://" + testDomain + "/agent/research/nobody",
			Certificate: envoyEncoded(leaf),
		},
		Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{
			Method: "GET", Path: "/patients", Host: "records", Protocol: "HTTP/2", Headers: map[string]string{":path": "/billing"},
		}},
		ContextExtensions: map[string]string{"resource_type": "database"},
	}
	for _, f := range change {
		f(a)
	}
	return &auth.CheckRequest{Attributes: a}
}

func path(p string) func(*auth.AttributeContext) {
	return func(a *auth.AttributeContext) { a.Request.Http.Path = p }
}

func extension(name, value string) func(*auth.AttributeContext) {
	return func(a *auth.AttributeContext) { a.ContextExtensions[name] = value }
}

func certificateText(text string) func(*auth.AttributeContext) {
	return func(a *auth.AttributeContext) { a.Source.Certificate = text }
}

// deniedWith checks a denial's form, and gives what the client is told.
func (w *world) deniedWith(a *auth.CheckResponse, httpStatus int32, code grpccodes.Code) v1.EnvoyDenial {
	w.t.Helper()
	d := a.GetDeniedResponse()
	if a.GetStatus().GetCode() != int32(code) || int32(d.GetStatus().GetCode()) != httpStatus || a.GetOkResponse() != nil {
		w.t.Fatalf("want %s and %d: %v", code, httpStatus, a)
	}
	var out v1.EnvoyDenial
	must(w.t, json.Unmarshal([]byte(d.GetBody()), &out))
	if out.AuditID == nil || len(out.Reasons) == 0 {
		w.t.Fatalf("denial without entry or reason: %s", d.GetBody())
	}
	return out
}

func TestEnvoyAllowed(t *testing.T) {
	w := newWorld(t)
	p, conn := w.as(agent), w.envoy(w.as(service))
	leaf := p.cert.Certificate[0]
	for name, q := range map[string]*auth.CheckRequest{
		"path and method":  envoyAsks(leaf),
		"head":             envoyAsks(leaf, func(a *auth.AttributeContext) { a.Request.Http.Method = "HEAD" }),
		"older encoding":   envoyAsks(leaf, certificateText(strings.NewReplacer("\n", "%0A", " ", "%20", "+", "%2B", "/", "%2F", "=", "%3D").Replace(pemChain([][]byte{leaf})[0]))),
		"by the route":     envoyAsks(leaf, path("/a//..?x=%2e"), extension("resource_id", "patients"), extension("action", "read"), func(a *auth.AttributeContext) { a.Request.Http.Method = "POST" }),
		"nothing but path": envoyAsks(leaf, extension("action", "read"), func(a *auth.AttributeContext) { a.Request.Http.Method = "BREW" }),
	} {
		a := w.ask(conn, q)
		headers := map[string]string{}
		for _, h := range a.GetOkResponse().GetHeaders() {
			headers[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
			if h.GetAppendAction() != core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD || h.Append != nil { //nolint:staticcheck // that the old field is unset is the point
				t.Errorf("%s: %s does not replace what the client sent", name, h.GetHeader().GetKey())
			}
		}
		if a.GetStatus().GetCode() != 0 || len(headers) != 2 || !strings.HasSuffix(headers[extauthz.HeaderAgent], p.name) {
			t.Fatalf("%s: %v", name, a)
		}
		found := decodeAs[v1.EntryPage](w, w.do(auditor, "GET", "/v1/audit/entries?decision="+headers[extauthz.HeaderDecision], nil), 200)
		if len(found.Entries) != 1 {
			t.Fatalf("%s: %d entries of the decision", name, len(found.Entries))
		}
		var kept record.DecisionPayload
		must(t, json.Unmarshal(w.log.payload(found.Entries[0].Index), &kept))
		if len(kept.Chain) != 2 || !bytes.Equal(kept.Chain[1], p.cert.Certificate[1]) {
			t.Errorf("%s: the entry has no whole chain", name)
		}
	}
}

// What can be asked is decided and recorded as any decision.
func TestEnvoyDenied(t *testing.T) {
	w := newWorld(t)
	p, conn := w.as(agent), w.envoy(w.as(service))
	leaf := p.cert.Certificate[0]
	_, stranger := selfSigned(t, func(*x509.Certificate) {})
	for name, c := range map[string]struct {
		q      *auth.CheckRequest
		reason string
	}{
		"scope":           {envoyAsks(leaf, path("/billing")), "scope_not_covered"},
		"resource":        {envoyAsks(leaf, path("/other")), "resource_unknown"},
		"type":            {envoyAsks(leaf, extension("resource_type", "fhir")), "resource_unknown"},
		"wildcard":        {envoyAsks(leaf, extension("resource_id", "*")), "resource_unknown"},
		"case":            {envoyAsks(leaf, path("/Patients")), "resource_unknown"},
		"not ASCII":       {envoyAsks(leaf, path("/pätients")), "resource_unknown"},
		"action":          {envoyAsks(leaf, func(a *auth.AttributeContext) { a.Request.Http.Method = "DELETE" }), "resource_unknown"},
		"another CA":      {envoyAsks(stranger), "san_missing"},
		"the Envoy's own": {envoyAsks(w.as(service).cert.Certificate[0]), "extension_missing"},
		"an orchestrator": {envoyAsks(w.as(orchestrator).cert.Certificate[0]), "extension_missing"},
		"the issuing CA":  {envoyAsks(p.cert.Certificate[1]), "san_missing"},
	} {
		d := w.deniedWith(w.ask(conn, c.q), http.StatusForbidden, grpccodes.PermissionDenied)
		if !slices.Contains(d.Reasons, c.reason) || d.DecisionID == "" {
			t.Errorf("%s: %+v, want %s", name, d, c.reason)
		}
		if env := w.log.at(t, *d.AuditID); env.Type != record.TypeDecision || env.Service != "records" {
			t.Errorf("%s: entry %+v", name, env)
		}
	}
	w.ready = errors.New("no seal")
	if d := w.deniedWith(w.ask(conn, envoyAsks(leaf)), http.StatusForbidden, grpccodes.PermissionDenied); !slices.Equal(d.Reasons, []string{"not_ready"}) {
		t.Errorf("not ready: %+v", d)
	}
	w.ready = nil
	w.do(operator, "POST", "/v1/revocations", v1.RevocationRequest{Kind: "agent", ID: p.name})
	if d := w.deniedWith(w.ask(conn, envoyAsks(leaf)), http.StatusForbidden, grpccodes.PermissionDenied); !slices.Contains(d.Reasons, "agent_revoked") {
		t.Errorf("revoked: %+v", d)
	}
}

// What cannot be asked is denied, and recorded, too: an error would leave it to the Envoy's failure mode.
func TestEnvoyUnaskable(t *testing.T) {
	w := newWorld(t)
	conn := w.envoy(w.as(service))
	leaf := w.as(agent).cert.Certificate[0]
	one := envoyEncoded(leaf)
	const cert, ext, in = "attributes.source.certificate", "attributes.context_extensions", "attributes.request.http."
	type bad struct {
		q           *auth.CheckRequest
		code, field string
	}
	cases := map[string]bad{
		"empty":          {&auth.CheckRequest{}, codeCertificateRequired, cert},
		"no certificate": {envoyAsks(leaf, certificateText("")), codeCertificateRequired, cert},
		"principal alone": {envoyAsks(leaf, func(a *auth.AttributeContext) {
			a.Source = &auth.AttributeContext_Peer{Principal: "spiffe://" + testDomain + "/agent/research/" + w.as(agent).name}
		}), codeCertificateRequired, cert},
		"forwarded header": {envoyAsks(leaf, certificateText(""), func(a *auth.AttributeContext) {
			a.Request.Http.Headers["x-forwarded-client-cert"] = `Cert="` + one + `"`
		}), codeCertificateRequired, cert},
		"two certificates":  {envoyAsks(leaf, certificateText(one+one)), codeBadCertificate, cert},
		"garbage":           {envoyAsks(leaf, certificateText("garbage")), codeBadCertificate, cert},
		"half":              {envoyAsks(leaf, certificateText(one[:len(one)/2])), codeBadCertificate, cert},
		"wrong encoding":    {envoyAsks(leaf, certificateText("%zz"+one)), codeBadCertificate, cert},
		"encoded twice":     {envoyAsks(leaf, certificateText(url.PathEscape(one))), codeBadCertificate, cert},
		"form encoding":     {envoyAsks(leaf, certificateText(strings.ReplaceAll(one, "%20", "+"))), codeBadCertificate, cert},
		"unknown route":     {envoyAsks(leaf, func(a *auth.AttributeContext) { a.ContextExtensions = nil }), codeBadResource, ext + ".resource_type"},
		"no type":           {envoyAsks(leaf, extension("resource_type", ""), extension("resource_id", "patients")), codeBadResource, ext + ".resource_type"},
		"empty id":          {envoyAsks(leaf, extension("resource_id", "")), codeBadResource, ext + ".resource_id"},
		"empty action":      {envoyAsks(leaf, extension("action", "")), codeBadResource, ext + ".action"},
		"mistyped":          {envoyAsks(leaf, extension("resource-id", "billing")), codeBadResource, ext},
		"unknown method":    {envoyAsks(leaf, func(a *auth.AttributeContext) { a.Request.Http.Method = "get" }), codeBadResource, in + "method"},
		"no HTTP":           {envoyAsks(leaf, func(a *auth.AttributeContext) { a.Request = nil }), codeBadResource, in + "path"},
		"query beside path": {envoyAsks(leaf, func(a *auth.AttributeContext) { a.Request.Http.Query = "x=1" }), codeBadResource, in + "path"},
		"long id":           {envoyAsks(leaf, path("/"+strings.Repeat("a", 300))), "bad_request", "resource"},
	}
	for _, p := range []string{
		"", "patients", "/", "//patients", "/patients/", "/./patients", "/x/../patients", "/..", "/%70atients", "/patients?x=1", "/patients?", "/patients#x",
		"/patients;x=1", `/x\..\patients`, "/a:b", "/a/*", "/p!tients", "*", "https://records/patients",
	} {
		cases["path "+p] = bad{envoyAsks(leaf, path(p)), codeBadResource, in + "path"}
	}
	for name, c := range cases {
		httpStatus, code := int32(http.StatusForbidden), grpccodes.PermissionDenied
		if c.code == codeCertificateRequired {
			httpStatus, code = http.StatusUnauthorized, grpccodes.Unauthenticated
		}
		d := w.deniedWith(w.ask(conn, c.q), httpStatus, code)
		if !slices.Equal(d.Reasons, []string{c.code}) || d.Field != c.field {
			t.Errorf("%s: %+v, want %s in %s", name, d, c.code, c.field)
		}
		if env := w.log.at(t, *d.AuditID); env.Code != c.code {
			t.Errorf("%s: entry %+v", name, env)
		}
	}
}

// Who may not ask, and what is no question, gets gRPC's own errors.
func TestEnvoyRefused(t *testing.T) {
	w := newWorld(t)
	leaf := w.as(agent).cert.Certificate[0]
	for r, want := range map[role]grpccodes.Code{
		anyone: grpccodes.Unauthenticated, agent: grpccodes.PermissionDenied, orchestrator: grpccodes.PermissionDenied, operator: grpccodes.PermissionDenied, auditor: grpccodes.PermissionDenied,
	} {
		if _, err := auth.NewAuthorizationClient(w.envoy(w.as(r))).Check(t.Context(), envoyAsks(leaf)); status.Code(err) != want {
			t.Errorf("%s: %v, want %s", r, err, want)
		}
	}
	conn := w.envoy(w.as(service))
	huge := envoyAsks(leaf, func(a *auth.AttributeContext) { a.Request.Http.Headers["x"] = strings.Repeat("x", 1<<20) })
	_, err := auth.NewAuthorizationClient(conn).Check(t.Context(), huge)
	if status.Code(err) != grpccodes.ResourceExhausted || !strings.Contains(err.Error(), codeBodyTooLarge) {
		t.Errorf("1 MB of headers: %v", err)
	}
	_, err = auth.NewAuthorizationClient(conn).Check(t.Context(), envoyAsks(leaf), grpc.UseCompressor(gzip.Name))
	if status.Code(err) != grpccodes.InvalidArgument || !strings.Contains(err.Error(), codeBadMessage) {
		t.Errorf("compressed: %v", err)
	}
	var out auth.CheckResponse
	if err := conn.Invoke(t.Context(), "/envoy.service.auth.v3.Authorization/Other", envoyAsks(leaf), &out); status.Code(err) != grpccodes.Unimplemented {
		t.Errorf("another method: %v", err)
	}
	if err := twice(t.Context(), conn, envoyAsks(leaf)); status.Code(err) != grpccodes.InvalidArgument || !strings.Contains(err.Error(), codeBadMessage) {
		t.Errorf("two messages: %v", err)
	}
	if a := w.ask(conn, envoyAsks(leaf)); a.GetOkResponse() == nil {
		t.Errorf("after all that: %v", a)
	}
}

// twice sends two messages to a method that takes one.
func twice(ctx context.Context, conn *grpc.ClientConn, q *auth.CheckRequest) error {
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, extauthz.Path)
	if err != nil {
		return err
	}
	if err := errors.Join(s.SendMsg(q), s.SendMsg(q), s.CloseSend()); err != nil {
		return err
	}
	return s.RecvMsg(new(auth.CheckResponse))
}

// Bodies and media types that no gRPC client sends.
func TestEnvoyFrames(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct{ media, body, code string }{
		"JSON":            {mediaJSON, "{}", codeMediaType},
		"grpc-web":        {"application/grpc-web", "\x00\x00\x00\x00\x00", codeMediaType},
		"grpc+json":       {"application/grpc+json", "\x00\x00\x00\x00\x02{}", codeMediaType},
		"short":           {extauthz.Media, "\x00\x00\x00", codeBadMessage},
		"compressed":      {extauthz.Media, "\x01\x00\x00\x00\x00", codeBadMessage},
		"length too much": {extauthz.Media, "\x00\xff\xff\xff\xff", codeBadMessage},
		"length too less": {extauthz.Media, "\x00\x00\x00\x00\x00\x00", codeBadMessage},
		"no protobuf":     {extauthz.Media + "+proto", "\x00\x00\x00\x00\x02\xff\xff", codeBadMessage},
	} {
		a := w.do(service, "POST", extauthz.Path, c.body, "Content-Type", c.media)
		if got := a.header.Get("Grpc-Message"); a.status != 200 || a.header.Get("Grpc-Status") != "3" || !strings.HasPrefix(got, c.code) || len(a.body) != 0 {
			t.Errorf("%s: %d %q", name, a.status, got)
		}
	}
}

// unrecorded is a domain whose log takes nothing, or which has a fault.
type unrecorded struct {
	Domain
	err error
}

func (u unrecorded) Decide(context.Context, delegation.Caller, delegation.DecisionRequest) (delegation.Decision, error) {
	return delegation.Decision{ID: "x", Allow: true}, u.err
}

// Nothing opens because something of ours fails.
func TestEnvoyFailsClosed(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int32
	}{{nil, http.StatusForbidden}, {errors.New("fault"), http.StatusInternalServerError}, {context.DeadlineExceeded, http.StatusServiceUnavailable}} {
		w := newWorld(t, func(cfg *Config) { cfg.Domain = unrecorded{cfg.Domain, c.err} })
		a := w.ask(w.envoy(w.as(service)), envoyAsks(w.as(agent).cert.Certificate[0]))
		if a.GetStatus().GetCode() != int32(grpccodes.PermissionDenied) || int32(a.GetDeniedResponse().GetStatus().GetCode()) != c.want {
			t.Errorf("%v: %v", c.err, a)
		}
	}
}

// gRPC has its status in trailers, which HTTP/1.1 may lose.
func TestEnvoyNeedsHTTP2(t *testing.T) {
	w := newWorld(t)
	w.http1 = true
	a := w.do(service, "POST", extauthz.Path, "\x00\x00\x00\x00\x00", "Content-Type", extauthz.Media)
	if a.header.Get("Grpc-Status") != "3" || !strings.HasPrefix(a.header.Get("Grpc-Message"), codeMediaType) {
		t.Errorf("%d %v", a.status, a.header)
	}
}

// An Envoy acts on no obligation, so it gets no permission under one.
func TestEnvoyObligations(t *testing.T) {
	w := newWorld(t)
	w.obliges = true
	a := w.ask(w.envoy(w.as(service)), envoyAsks(w.as(agent).cert.Certificate[0]))
	if d := w.deniedWith(a, http.StatusForbidden, grpccodes.PermissionDenied); !slices.Equal(d.Reasons, []string{"obligations_unsupported"}) || d.DecisionID == "" {
		t.Errorf("%+v", d)
	}
}

// Whoever is over a quota is told so, and not that the agent may not.
func TestEnvoyOverItsQuota(t *testing.T) {
	none := quota.Limit{Unlimited: true}
	w := &world{t: t, quotas: &quota.Limits{Task: none, User: none, Orchestrator: none, Service: quota.Limit{Rate: 0.001, Burst: 1}}}
	w.start(newListener(t))
	p, conn := w.as(agent), w.envoy(w.as(service))
	if a := w.ask(conn, envoyAsks(p.cert.Certificate[0])); a.GetStatus().GetCode() != 0 {
		t.Fatalf("the first: %v", a)
	}
	if d := w.deniedWith(w.ask(conn, envoyAsks(p.cert.Certificate[0])), http.StatusTooManyRequests, grpccodes.PermissionDenied); d.Reasons[0] != "rate_limited" {
		t.Errorf("reasons %v", d.Reasons)
	}
}
