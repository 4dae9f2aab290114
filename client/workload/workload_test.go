package workload

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// socket is a path short enough for a Unix socket.
func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sgw")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "own", "api.sock")
}

// serve runs a server until the test ends and gives its address.
func serve(t *testing.T, s *Server) string {
	t.Helper()
	path := socket(t)
	ln, err := Listen(t.Context(), path)
	must(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, ln) }() // joined by the cleanup
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the server ends with %v", err)
		}
		if _, err := os.Lstat(path); err == nil {
			t.Error("the socket is still there")
		}
	})
	return "unix://" + path
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func source(t *testing.T, address string) *workloadapi.X509Source {
	t.Helper()
	out, err := workloadapi.NewX509Source(within(t), workloadapi.WithClientOptions(workloadapi.WithAddr(address)))
	must(t, err)
	t.Cleanup(func() { _ = out.Close() })
	return out
}

// go-spiffe takes what is served, sees the next certificate, and speaks TLS with it.
func TestGoSPIFFE(t *testing.T) {
	a, s := newAuthority(t), New()
	s.Set(a.identity(agent1))
	address := serve(t, s)
	src := source(t, address)
	svid, err := src.GetX509SVID()
	must(t, err)
	if svid.ID.String() != agent1 || len(svid.Certificates) != 2 {
		t.Fatalf("%s with %d certificates", svid.ID, len(svid.Certificates))
	}
	bundles, err := workloadapi.FetchX509Bundles(within(t), workloadapi.WithAddr(address))
	must(t, err)
	bundle, err := bundles.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString(domain))
	must(t, err)
	if roots := bundle.X509Authorities(); len(roots) != 1 || !roots[0].Equal(a.root) {
		t.Errorf("%d roots", len(roots))
	}

	s.Set(a.identity(agent2))
	for ctx := within(t); svid.ID.String() != agent2; {
		must(t, src.WaitUntilUpdated(ctx))
		svid, err = src.GetX509SVID()
		must(t, err)
	}
	greet(t, src, agent2)
}

// greet has two ends with one source, one of which expects the other to be id.
func greet(t *testing.T, src *workloadapi.X509Source, id string) {
	t.Helper()
	expected := tlsconfig.AuthorizeID(spiffeid.RequireFromString(id))
	ln, err := spiffetls.ListenWithMode(within(t), "tcp", "127.0.0.1:0", spiffetls.MTLSServerWithSource(expected, src))
	must(t, err)
	defer ln.Close()
	said := make(chan error, 1)
	go func() { // joined by said
		conn, err := ln.Accept()
		if err == nil {
			_, err = io.WriteString(conn, "hello")
			err = errors.Join(err, conn.Close())
		}
		said <- err
	}()
	conn, err := spiffetls.DialWithMode(within(t), "tcp", ln.Addr().String(), spiffetls.MTLSClientWithSource(expected, src))
	must(t, err)
	defer conn.Close()
	heard, err := io.ReadAll(conn)
	must(t, errors.Join(err, <-said))
	if string(heard) != "hello" {
		t.Errorf("%q", heard)
	}
}

// raw is the API as the wire has it, without what go-spiffe adds.
func raw(t *testing.T, address string) workload.SpiffeWorkloadAPIClient {
	t.Helper()
	return workload.NewSpiffeWorkloadAPIClient(dial(t, address))
}

func dial(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(strings.Replace(address, "unix://", "unix:", 1), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestRefusals(t *testing.T) {
	a, s := newAuthority(t), New()
	api := raw(t, serve(t, s))
	marked := metadata.AppendToOutgoingContext(within(t), "workload.spiffe.io", "true")
	first := func(ctx context.Context) error {
		stream, err := api.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	check := func(name string, want codes.Code, err error) {
		t.Helper()
		if status.Code(err) != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	check("nothing to serve", codes.PermissionDenied, first(marked))
	s.Set(a.identity(agent1))
	check("served", codes.OK, first(marked))
	check("no header", codes.InvalidArgument, first(within(t)))
	check("false", codes.InvalidArgument, first(metadata.AppendToOutgoingContext(within(t), "workload.spiffe.io", "false")))
	check("twice", codes.InvalidArgument, first(metadata.AppendToOutgoingContext(marked, "workload.spiffe.io", "true")))
	_, err := api.FetchJWTSVID(marked, &workload.JWTSVIDRequest{Audience: []string{"x"}})
	check("JWT", codes.Unimplemented, err)
	_, err = api.FetchJWTSVID(within(t), &workload.JWTSVIDRequest{Audience: []string{"x"}})
	check("JWT without header", codes.InvalidArgument, err)
	_, err = api.ValidateJWTSVID(marked, &workload.ValidateJWTSVIDRequest{Audience: strings.Repeat("x", maxRequest)})
	check("too large", codes.ResourceExhausted, err)
}

// When the certificate ends without a next one, so do the streams, and nothing is handed out any more.
func TestExpiry(t *testing.T) {
	a, s := newAuthority(t), New()
	s.Set(a.identity(agent1, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(2 * time.Second) }))
	api := raw(t, serve(t, s))
	marked := metadata.AppendToOutgoingContext(within(t), "workload.spiffe.io", "true")
	stream, err := api.FetchX509SVID(marked, &workload.X509SVIDRequest{})
	must(t, err)
	for err == nil { // the first answer, if it came in time
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("the stream ends with %v", err)
	}
}

func TestIdentityRefusals(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	good := a.issue(agent1)
	uri, err := url.Parse(agent2)
	must(t, err)
	for name, tc := range map[string]struct {
		cert  *tls.Certificate
		roots []*x509.Certificate
		want  string
	}{
		"another key":  {&tls.Certificate{Certificate: good.Certificate, PrivateKey: newKey(t)}, []*x509.Certificate{a.root}, "another key"},
		"no key":       {&tls.Certificate{Certificate: good.Certificate}, []*x509.Certificate{a.root}, "no private key"},
		"nothing":      {&tls.Certificate{}, []*x509.Certificate{a.root}, "0 certificates"},
		"no root":      {good, nil, "no root"},
		"another root": {good, []*x509.Certificate{other.root}, "path_untrusted"},
		"two URIs": {
			a.issue(agent1, func(c *x509.Certificate) { c.URIs = append(c.URIs, uri) }),
			[]*x509.Certificate{a.root},
			"2 URIs",
		},
		"expired": {
			a.issue(agent1, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }),
			[]*x509.Certificate{a.root},
			"certificate_expired",
		},
		"not ours": {a.issue("spiffe://hospital.example/somebody"), []*x509.Certificate{a.root}, "SPIFFE ID"},
	} {
		i, err := NewIdentity(tc.cert, tc.roots, time.Now())
		if !errors.Is(err, ErrIdentity) || !strings.Contains(err.Error(), tc.want) || i.ID().String() != "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestListen(t *testing.T) {
	path := socket(t)
	ln, err := Listen(t.Context(), path)
	must(t, err)
	for p, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", p, info, err)
		}
	}
	refused := func(p, want string) {
		t.Helper()
		if _, err := Listen(t.Context(), p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", p, err, want)
		}
	}
	refused(path, "served by another process")
	ln.(*net.UnixListener).SetUnlinkOnClose(false) //nolint:errcheck // Listen makes nothing else
	must(t, ln.Close())
	ln, err = Listen(t.Context(), path) // a killed server's
	must(t, err)
	must(t, ln.Close())

	must(t, os.WriteFile(path, nil, 0o600))
	refused(path, "no socket")
	link := filepath.Join(filepath.Dir(filepath.Dir(path)), "link")
	must(t, os.Symlink(filepath.Dir(path), link))
	refused(filepath.Join(link, "api.sock"), "no directory")
	must(t, os.Chmod(filepath.Dir(path), 0o711))
	refused(path, "others can enter it")
	refused(filepath.Join(filepath.Dir(path), "deeper", "still", "api.sock"), "no such file")
}

// What somebody else renews is served without being told; half a renewal is not.
func TestFollow(t *testing.T) {
	a, s := newAuthority(t), New()
	dir := t.TempDir()
	first, second := a.issue(agent1), a.issue(agent2)
	files := a.files(dir, first)
	ctx, cancel := context.WithCancel(t.Context())
	warned := make(chan error, 100)
	done := make(chan error, 1)
	go func() { done <- files.Follow(ctx, s, time.Millisecond, func(err error) { warned <- err }) }() // joined below
	becomes := func(id string) {
		t.Helper()
		deadline := within(t)
		for {
			i, changed := s.get()
			if i.ID().String() == id {
				return
			}
			select {
			case <-changed:
			case <-deadline.Done():
				t.Fatalf("%s is served, not %s", i.ID(), id)
			}
		}
	}
	becomes(agent1)
	key, err := os.ReadFile(files.Key)
	must(t, err)
	a.files(dir, second)
	becomes(agent2)
	for len(warned) > 0 { // of files half written
		if err := <-warned; err == nil {
			t.Error("a warning without a cause")
		}
	}
	must(t, os.WriteFile(files.Key, key, 0o600)) // the first one's
	select {
	case err := <-warned:
		if !errors.Is(err, ErrIdentity) || bytes.Contains([]byte(err.Error()), []byte("PRIVATE")) {
			t.Errorf("warned of %v", err)
		}
	case <-within(t).Done():
		t.Error("nobody was warned")
	}
	becomes(agent2)
	a.files(dir, first)
	becomes(agent1)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("it ends with %v", err)
	}
}
