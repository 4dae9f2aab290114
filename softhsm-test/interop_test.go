package softhsmtest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
)

// peers are two agents of one appliance, on disk as stock software takes them: NAME.pem (leaf), NAME-chain.pem, NAME.key,
// issuing.pem and root.pem.
type peers struct {
	*lineage
	dir  string
	root *x509.Certificate
}

func newPeers(c *cast, l *lineage, applianceDir string) *peers {
	c.t.Helper()
	p := &peers{lineage: l, dir: c.t.TempDir()}
	root, err := os.ReadFile(filepath.Join(applianceDir, "pki", "root.pem"))
	must(c.t, err)
	p.root = certificate(c.t, string(root))
	p.write("root.pem", string(root))
	p.write("issuing.pem", l.child.issued.CertificateChain[1])
	p.save("parent", l.parent.cert)
	p.save("child", l.child.cert)
	return p
}

func (p *peers) path(name string) string { return filepath.Join(p.dir, name) }

// write replaces a file as one should: at once.
func (p *peers) write(name, text string) {
	p.c.t.Helper()
	must(p.c.t, os.WriteFile(p.path(name+".new"), []byte(text), 0o600))
	must(p.c.t, os.Rename(p.path(name+".new"), p.path(name)))
}

func (p *peers) save(name string, cert *tls.Certificate) {
	p.c.t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	must(p.c.t, err)
	leaf := pemOf("CERTIFICATE", cert.Certificate[0])
	p.write(name+".pem", leaf)
	p.write(name+"-chain.pem", leaf+pemOf("CERTIFICATE", cert.Certificate[1]))
	p.write(name+".key", pemOf("PRIVATE KEY", key))
}

// TestStockPeers: what knows X.509, TLS and SPIFFE and nothing of Signet takes an agent's certificate as it is; and where such
// software does not enforce what ours does, it is said here.
func TestStockPeers(t *testing.T) {
	dir := newDir(t)
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	p := newPeers(c, newLineage(c, stolenCA(t, dir)), dir)
	for name, test := range map[string]func(*testing.T, *peers){
		"trust bundle": trustBundle, "Workload API": workloadAPI, "enrolment": enrolsItself, "openssl verify": opensslVerifies, "openssl TLS": opensslSpeaks,
		"GnuTLS": gnutlsVerifies, "nginx": nginxAndClients, "not enforced": notEnforced,
	} {
		t.Run(name, func(t *testing.T) {
			own := *p
			own.lineage = p.on(t)
			test(t, &own)
		})
	}
	// Last, since it ends both agents: who trusts certificates alone does not see it before they end.
	t.Run("revoked", func(t *testing.T) { revokedStillConnects(t, p) })
}

// trustBundle reads the appliance's bundle as another SPIFFE implementation does.
func trustBundle(t *testing.T, p *peers) {
	td := spiffeid.RequireTrustDomainFromString(trustDomain)
	bundle, err := federation.FetchBundle(t.Context(), td, p.c.url+"/v1/trust-bundle", federation.WithWebPKIRoots(p.c.roots))
	must(t, err)
	if roots := bundle.X509Authorities(); len(roots) != 1 || !roots[0].Equal(p.root) {
		t.Errorf("%d roots", len(roots))
	}
	if hint, ok := bundle.RefreshHint(); !ok || hint != time.Hour {
		t.Errorf("refresh hint %v", hint)
	}
	if n, ok := bundle.SequenceNumber(); !ok || n == 0 {
		t.Errorf("sequence %v", n)
	}
	id, _, err := x509svid.Verify([]*x509.Certificate{p.child.cert.Leaf, certificate(t, p.child.issued.CertificateChain[1])}, bundle)
	if err != nil || id.String() != p.child.issued.SPIFFEID {
		t.Errorf("%s, %v", id, err)
	}
	if _, _, err := x509svid.Verify([]*x509.Certificate{p.child.cert.Leaf}, spiffebundle.New(td)); err == nil {
		t.Error("an empty bundle verifies it too")
	}
}

// workloadAPI runs `signet agent` beside an agent, and lets go-spiffe have it.
func workloadAPI(t *testing.T, p *peers) {
	p.save("served", p.parent.cert)
	sockets, err := os.MkdirTemp("", "sgw")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(sockets) })
	socket := filepath.Join(sockets, "agent", "api.sock")
	helper := background(t, program("signet"), "agent", "--root", p.path("root.pem"), "--cert", p.path("served-chain.pem"), "--key", p.path("served.key"),
		"--socket", socket, "--every", "50ms")
	helper.says("serving " + p.parent.issued.SPIFFEID)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+socket)))
	must(t, err)
	defer source.Close()
	svid, err := source.GetX509SVID()
	must(t, err)
	if svid.ID.String() != p.parent.issued.SPIFFEID {
		t.Fatalf("the source has %s", svid.ID)
	}
	p.save("served", p.child.cert)
	for svid.ID.String() != p.child.issued.SPIFFEID {
		must(t, source.WaitUntilUpdated(ctx))
		svid, err = source.GetX509SVID()
		must(t, err)
	}
	p.speakSPIFFE(ctx, t, source)
	must(t, helper.cmd.Process.Signal(os.Interrupt))
	if code := helper.wait(); code != 0 {
		t.Errorf("signet agent exits with %d\n%s", code, helper.out.String())
	}
}

// enrolsItself gives `signet agent` a token and nothing else: it makes the agent's key, keeps it to itself, and replaces it before
// the certificate ends.
func enrolsItself(t *testing.T, p *peers) {
	q, err := spawnRequest(p.task, "")
	must(t, err)
	q.TTL = 24
	var token string
	token, q.EnrollmentHash, err = client.NewEnrollmentToken()
	must(t, err)
	hash, err := client.ParentHash(p.c.orchestrator.cert.Leaf, p.grant.GrantHash)
	must(t, err)
	// The orchestrator allows more than the first certificate's life.
	q.Confirmation, err = client.SignSpawn(p.c.orchestrator.cert, p.c.origin, hash, nil, trustDomain, q, time.Now().Add(5*time.Minute))
	must(t, err)
	spawned, err := p.c.orchestrator.Spawn(t.Context(), q)
	must(t, err)
	p.write("token", token+"\n")
	sockets, err := os.MkdirTemp("", "sgw")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(sockets) })
	socket := filepath.Join(sockets, "agent", "api.sock")
	helper := background(t, program("signet"), "agent", "--url", p.c.url, "--root", p.path("root.pem"), "--id", q.SpawnID, "--token-file", p.path("token"),
		"--socket", socket)
	helper.says("serving " + spawned.SPIFFEID)
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+socket)))
	must(t, err)
	defer source.Close()
	first, err := source.GetX509SVID()
	must(t, err)
	second := first
	for second.Certificates[0].Equal(first.Certificates[0]) {
		must(t, source.WaitUntilUpdated(ctx))
		second, err = source.GetX509SVID()
		must(t, err)
	}
	if second.ID != first.ID || second.ID.String() != spawned.SPIFFEID {
		t.Errorf("%s, then %s", first.ID, second.ID)
	}
	if bytes.Equal(second.Certificates[0].RawSubjectPublicKeyInfo, first.Certificates[0].RawSubjectPublicKeyInfo) {
		t.Error("the key is the same")
	}
	if !second.Certificates[0].NotAfter.After(first.Certificates[0].NotAfter) || time.Now().After(first.Certificates[0].NotAfter) {
		t.Errorf("until %s, then until %s", first.Certificates[0].NotAfter, second.Certificates[0].NotAfter)
	}
	// The token is spent: in another's hands it would end the agent.
	if files, err := filepath.Glob(filepath.Join(sockets, "*", "*")); err != nil || len(files) != 1 {
		t.Errorf("beside the socket: %v, %v", files, err)
	}
}

// speakSPIFFE has both ends of a spiffetls connection with the source's certificate, and refuses a wrong expectation.
func (p *peers) speakSPIFFE(ctx context.Context, t *testing.T, source *workloadapi.X509Source) {
	self := tlsconfig.AuthorizeID(spiffeid.RequireFromString(p.child.issued.SPIFFEID))
	ln, err := spiffetls.ListenWithMode(ctx, "tcp", "127.0.0.1:0", spiffetls.MTLSServerWithSource(self, source))
	must(t, err)
	served := make(chan error, 1)
	go func() { // joined by the deferred receive
		for {
			conn, err := ln.Accept()
			if err != nil {
				served <- err
				return
			}
			_, _ = io.WriteString(conn, "hello") // a client that refuses is gone
			_ = conn.Close()
		}
	}()
	defer func() {
		if err := <-served; err == nil { // the listener was closed
			t.Error("the server ended without a cause")
		}
	}()
	defer ln.Close()
	for id, want := range map[string]bool{p.child.issued.SPIFFEID: true, p.parent.issued.SPIFFEID: false} {
		mode := spiffetls.MTLSClientWithSource(tlsconfig.AuthorizeID(spiffeid.RequireFromString(id)), source)
		var heard []byte
		conn, err := spiffetls.DialWithMode(ctx, "tcp", ln.Addr().String(), mode)
		if err == nil {
			heard, err = io.ReadAll(conn)
			_ = conn.Close()
		}
		if want != (err == nil && string(heard) == "hello") {
			t.Errorf("%s: %q, %v", id, heard, err)
		}
	}
}

func opensslVerifies(t *testing.T, p *peers) {
	verify := func(more ...string) (string, int) {
		return command(t, p.dir, nil, "openssl", append([]string{"verify", "-x509_strict", "-no-CAfile", "-no-CApath"}, more...)...)
	}
	for _, name := range []string{"parent", "child"} {
		for _, purpose := range []string{"sslclient", "sslserver"} {
			if out, code := verify("-purpose", purpose, "-CAfile", "root.pem", "-untrusted", "issuing.pem", name+".pem"); code != 0 {
				t.Errorf("%s as %s: %s", name, purpose, out)
			}
		}
	}
	if out, code := verify("-untrusted", "issuing.pem", "child.pem"); code == 0 {
		t.Errorf("without the root: %s", out)
	}
}

// opensslSpeaks has s_client and s_server talk, each with an agent's certificate, each verifying the other's.
func opensslSpeaks(t *testing.T, p *peers) {
	end := func(name string) []string {
		return []string{
			"-cert", p.path(name + ".pem"), "-cert_chain", p.path("issuing.pem"), "-key", p.path(name + ".key"), "-CAfile", p.path("root.pem"),
			"-verify_return_error", "-tls1_3", "-no-CApath",
		}
	}
	server := background(t, "openssl", append([]string{"s_server", "-accept", "127.0.0.1:0", "-Verify", "2", "-rev", "-naccept", "1"}, end("parent")...)...)
	server.says("ACCEPT 127.0.0.1:")
	_, rest, _ := strings.Cut(server.out.String(), "ACCEPT ")
	address, _, _ := strings.Cut(rest, "\n")
	client := background(t, "openssl", append([]string{"s_client", "-connect", address, "-verify", "2", "-brief"}, end("child")...)...)
	_, err := io.WriteString(client.in, "hello\n")
	must(t, err)
	client.says("olleh")
	client.says("Verification: OK")
	client.says(p.parent.id) // the subject of the server's certificate
	must(t, client.in.Close())
	server.says(p.child.id)
}

func gnutlsVerifies(t *testing.T, p *peers) {
	for _, name := range []string{"parent", "child"} {
		for _, purpose := range []string{"1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"} {
			out, code := command(t, p.dir, nil, "certtool", "--verify", "--load-ca-certificate", "root.pem", "--verify-purpose", purpose, "--infile", name+"-chain.pem")
			if code != 0 || !strings.Contains(out, "The certificate is trusted") {
				t.Errorf("%s for %s: exit %d: %s", name, purpose, code, out)
			}
		}
	}
	if out, code := command(t, p.dir, nil, "certtool", "--verify", "--load-ca-certificate", "issuing.pem", "--infile", "root.pem"); code == 0 {
		t.Errorf("the wrong way round: %s", out)
	}
}

// notEnforced documents what stock peers accept that Signet's verifier refuses. Each row is a forgery by the CA's own key.
func notEnforced(t *testing.T, p *peers) {
	foreign := func(domain string) func(f *forgery) {
		return func(f *forgery) {
			uri := strings.Replace(f.l.child.issued.SPIFFEID, trustDomain, domain, 1)
			body := append([]byte{0x86, byte(len(uri))}, uri...)
			f.replace([]int{2, 5, 29, 17}, append([]byte{0x30, byte(len(body))}, body...))
		}
	}
	for _, row := range []struct {
		name                    string
		change                  func(f *forgery)
		code                    string // of the check that refuses
		openssl, gnutls, stdlib bool
	}{
		{"nothing wrong", func(*forgery) {}, "", true, true, true},
		{"delegation malformed", func(f *forgery) { f.ext = func(b []byte) []byte { return append(b, 0) } }, chain.CodeDERTrailing, true, true, true},
		{"delegation absent", func(f *forgery) { f.ext = nil }, chain.CodeExtensionMissing, true, true, true},
		{"delegation critical", func(f *forgery) { f.crit = true }, chain.CodeExtensionCritical, false, false, false},
		{"scope wider than the parent's", func(f *forgery) {
			f.d.Hops[2].Scope = append(slices.Clone(f.d.Hops[2].Scope), token(t, "database:write:x"))
		}, chain.CodeHopScope, true, true, true},
		{"another trust domain", foreign("clinic.example"), chain.CodeTrustDomain, false, true, false},
		{"a subdomain of the trust domain", foreign("a." + trustDomain), chain.CodeTrustDomain, false, true, true},
		{"a DNS name too", func(f *forgery) {
			f.leaf.ExtraExtensions = slices.DeleteFunc(f.leaf.ExtraExtensions, func(e pkix.Extension) bool { return e.Id.Equal([]int{2, 5, 29, 17}) })
			f.leaf.URIs, f.leaf.DNSNames = f.l.child.cert.Leaf.URIs, []string{"records.example"}
		}, chain.CodeSANOther, true, true, true},
	} {
		q := p.question()
		p.forged(&q, row.change)
		p.write("forged.pem", pems(q.certs)[0])
		p.write("forged-chain.pem", strings.Join(pems(q.certs), ""))
		report, err := p.c.service.Verify(t.Context(), v1.VerifyRequest{CertificateChain: pems(q.certs)})
		must(t, err)
		if refuses := slices.ContainsFunc(slices.Collect(maps.Values(report.Checks)), func(c v1.Check) bool { return c.Code == row.code && c.Status == "fail" }); refuses == (row.code == "") {
			t.Errorf("%s: Signet says %+v", row.name, report.Checks)
		}
		out, code := command(t, p.dir, nil, "openssl", "verify", "-CAfile", "root.pem", "-untrusted", "issuing.pem", "forged.pem")
		if (code == 0) != row.openssl {
			t.Errorf("%s: openssl: %s", row.name, out)
		}
		out, code = command(t, p.dir, nil, "certtool", "--verify", "--load-ca-certificate", "root.pem", "--infile", "forged-chain.pem")
		if (code == 0) != row.gnutls {
			t.Errorf("%s: certtool: %s", row.name, out)
		}
		roots, inter := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(p.root)
		inter.AddCert(q.certs[1])
		_, err = q.certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		if (err == nil) != row.stdlib {
			t.Errorf("%s: crypto/x509: %v", row.name, err)
		}
	}
}

func token(t *testing.T, text string) chain.Token {
	t.Helper()
	out, err := chain.ParseToken(text)
	must(t, err)
	return out
}

// revokedStillConnects: revocation is authorisation, which a TLS peer does not see.
func revokedStillConnects(t *testing.T, p *peers) {
	n := startNginx(t, p)
	_, err := p.c.operator.Revoke(t.Context(), v1.RevocationRequest{Kind: "task", ID: p.task.TaskID})
	must(t, err)
	report, err := p.c.service.Verify(t.Context(), v1.VerifyRequest{CertificateChain: p.child.issued.CertificateChain})
	must(t, err)
	if report.Valid || report.Checks["revocation"].Code != chain.CodeTaskRevoked {
		t.Errorf("Signet says %+v", report.Checks["revocation"])
	}
	if out, code := n.curl(t, p, "child"); code != 0 || !strings.HasPrefix(out, "SUCCESS ") {
		t.Errorf("nginx: exit %d: %s", code, out)
	}
	if _, code := command(t, p.dir, nil, "openssl", "verify", "-CAfile", "root.pem", "-untrusted", "issuing.pem", "child.pem"); code != 0 {
		t.Error("openssl sees a revocation")
	}
}

// through reads what nginx says it passed on, as the program behind it would.
func through(t *testing.T, answer string, want *x509.Certificate) {
	t.Helper()
	fields := strings.Fields(answer)
	if len(fields) != 3 {
		t.Fatalf("nginx answers %q", answer)
	}
	text, err := url.PathUnescape(fields[2])
	must(t, err)
	if got := certificate(t, text); !bytes.Equal(got.Raw, want.Raw) {
		t.Error("the certificate behind nginx is another")
	}
}

// goThroughNginx is a client of go-spiffe that expects the agent's SPIFFE ID of nginx.
func (n *nginx) goThroughNginx(t *testing.T, p *peers) {
	svid := &x509svid.SVID{
		ID: spiffeid.RequireFromString(p.child.issued.SPIFFEID), PrivateKey: signerOf(t, p.child.cert),
		Certificates: []*x509.Certificate{p.child.cert.Leaf, certificate(t, p.child.issued.CertificateChain[1])},
	}
	bundle := spiffebundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString(trustDomain), []*x509.Certificate{p.root})
	for id, want := range map[string]bool{p.parent.issued.SPIFFEID: true, p.child.issued.SPIFFEID: false} {
		transport := &http.Transport{TLSClientConfig: tlsconfig.MTLSClientConfig(svid, bundle.X509Bundle(), tlsconfig.AuthorizeID(spiffeid.RequireFromString(id)))}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+n.address, nil)
		must(t, err)
		response, err := transport.RoundTrip(request)
		if (err == nil) != want {
			t.Errorf("nginx as %s: %v", id, err)
		}
		if err == nil {
			body, err := io.ReadAll(response.Body)
			must(t, err)
			response.Body.Close()
			through(t, string(body), p.child.cert.Leaf)
		}
		transport.CloseIdleConnections()
	}
}
