package appliance

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/policy"
)

// bundleServer is a real HTTPS server with a handler that a test switches.
type bundleServer struct {
	t      *testing.T
	http   *httptest.Server
	puller *puller
	logged bytes.Buffer

	mu     sync.Mutex
	handle http.HandlerFunc
	taken  [][]byte
	refuse error
}

func newBundleServer(t *testing.T) *bundleServer {
	t.Helper()
	s := &bundleServer{t: t}
	s.http = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		h := s.handle
		s.mu.Unlock()
		h(w, r)
	}))
	t.Cleanup(s.http.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.http.Certificate())
	s.puller = &puller{
		cfg: PolicyPull{URL: s.http.URL + "/bundle.tar.gz", Interval: time.Minute}, client: pullClient(roots), receive: s.receive,
		log: slog.New(slog.NewTextHandler(&s.logged, nil)),
	}
	t.Cleanup(s.puller.client.CloseIdleConnections)
	return s
}

func (s *bundleServer) receive(_ context.Context, archive []byte) (delegation.BundleStatus, error) {
	s.taken = append(s.taken, archive)
	return delegation.BundleStatus{Digest: "d", Revision: 1}, s.refuse
}

func (s *bundleServer) answers(h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handle = h
}

// polls asks once; want is part of the error, "" for none, and took how many bundles arrived by then.
func (s *bundleServer) polls(want string, took int) {
	s.t.Helper()
	err := s.puller.poll(s.t.Context())
	if (err != nil) != (want != "") || err != nil && !strings.Contains(plain(err), want) {
		s.t.Errorf("%v, want %q", err, want)
	}
	if len(s.taken) != took {
		s.t.Errorf("%d bundles were handed on, want %d", len(s.taken), took)
	}
}

func says(text, etag string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if etag != "" && r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("Etag", etag)
		_, _ = w.Write([]byte(text))
	}
}

func TestPullTakesWhatIsNew(t *testing.T) {
	s := newBundleServer(t)
	s.answers(says("one", `"1"`))
	s.polls("", 1)
	s.polls("", 1) // 304
	s.answers(says("two", `"2"`))
	s.polls("", 2)
	s.answers(says("two", "")) // a server without ETags sends it again
	s.polls("", 2)
	if string(s.taken[0]) != "one" || string(s.taken[1]) != "two" {
		t.Errorf("%q", s.taken)
	}
}

// A refused bundle is not handed on again until the server has another; one that could not be recorded is.
func TestPullAfterARefusal(t *testing.T) {
	s := newBundleServer(t)
	s.answers(says("bad", `"1"`))
	s.refuse = &delegation.Error{Kind: delegation.Unavailable, Code: "audit_unavailable"}
	s.polls("audit_unavailable", 1)
	s.polls("audit_unavailable", 2)
	s.refuse = &delegation.Error{Kind: delegation.Conflict, Code: policy.BundleTooMany}
	s.polls(policy.BundleTooMany, 3)
	s.refuse = &delegation.Error{Kind: delegation.Conflict, Code: policy.BundleDowngrade}
	s.polls("", 4)
	s.polls("", 4)
	s.refuse = nil
	s.answers(says("good", `"2"`))
	s.polls("", 5)
}

func TestPullFromABrokenServer(t *testing.T) {
	s := newBundleServer(t)
	s.puller.client.Timeout = time.Second
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	for name, c := range map[string]struct {
		handle http.HandlerFunc
		want   string
	}{
		"hangs": {func(_ http.ResponseWriter, r *http.Request) { wait(r, hang) }, "no answer in time"},
		"half": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("half"))
		}, "EOF"},
		"trickles": {func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("x")); flush(w); wait(r, hang) }, "deadline"},
		"100 MB":   {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "104857600"); flush(w) }, "more than"},
		"endless": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}, "more than"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.example/", http.StatusFound)
		}, "answered 302"},
		"error": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, "answered 500"},
		"304":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }, "answered 304"},
		"empty": {func(http.ResponseWriter, *http.Request) {}, "empty"},
		"encoded": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write([]byte("x"))
		}, "encoded"},
	} {
		s.answers(c.handle)
		if name == "endless" {
			s.puller.client.Timeout = time.Minute
		}
		err := s.puller.poll(t.Context())
		if err == nil || !strings.Contains(err.Error()+plain(err), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		s.puller.client.Timeout = time.Second
	}
	s.http.CloseClientConnections()
	s.http.Close()
	if err := s.puller.poll(t.Context()); err == nil || strings.Contains(plain(err), "127.0.0.1") {
		t.Errorf("down: %v", plain(err))
	}
	if len(s.taken) != 0 {
		t.Errorf("%d bundles were handed on", len(s.taken))
	}
}

// cutOff is a transport whose answer ends well, and only because the client hung up: a server can be as fast as that.
type cutOff struct{}

func (cutOff) RoundTrip(r *http.Request) (*http.Response, error) {
	body, w := io.Pipe()
	go func() {
		_, _ = w.Write([]byte("half"))
		<-r.Context().Done()
		_ = w.Close()
	}()
	return &http.Response{StatusCode: http.StatusOK, ContentLength: -1, Header: http.Header{"Etag": {`"1"`}}, Body: body, Request: r}, nil
}

// What was cut off is no bundle, however it ended: its ETag would keep the whole one from being asked for.
func TestPullOfACutOffAnswer(t *testing.T) {
	s := newBundleServer(t)
	s.puller.client = &http.Client{Transport: cutOff{}, Timeout: 10 * time.Millisecond}
	s.polls("no answer in time", 0)
	if s.puller.etag != "" {
		t.Errorf("the ETag %s was kept", s.puller.etag)
	}
}

func wait(r *http.Request, hang <-chan struct{}) {
	select {
	case <-r.Context().Done():
	case <-hang:
	}
}

func flush(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }

// A server of another authority is not asked, and the token goes to nobody else.
func TestPullVerifiesTheServer(t *testing.T) {
	s := newBundleServer(t)
	s.answers(says("x", ""))
	s.puller.client = pullClient(x509.NewCertPool())
	s.polls("certificate", 0)
	roots := x509.NewCertPool()
	roots.AddCert(s.http.Certificate())
	s.puller.client = pullClient(roots)
	s.puller.token = filepath.Join(t.TempDir(), "token")
	s.polls("token_file", 0)
	if err := os.WriteFile(s.puller.token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.answers(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte("x"))
	})
	s.polls("", 1)
	if strings.Contains(s.logged.String(), "secret") {
		t.Error("the token is in the log")
	}
}

// failing is a network that is down, with another address in each error.
type failing struct{ asked []time.Time }

func (f *failing) RoundTrip(*http.Request) (*http.Response, error) {
	f.asked = append(f.asked, time.Now())
	return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{Port: len(f.asked)}, Err: errors.New("refused")}
}

// A server that is down for an hour is asked less and less, and is one line in the log.
func TestPullBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		f := &failing{}
		p := &puller{cfg: PolicyPull{URL: "https://bundles.example", Interval: time.Minute}, client: &http.Client{Transport: f}, log: slog.New(slog.NewTextHandler(&logged, nil))}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := p.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if n := len(f.asked); n < 8 || n > 30 {
			t.Errorf("asked %d times in an hour", n)
		}
		if n := strings.Count(logged.String(), "\n"); n != 1 {
			t.Errorf("%d lines:\n%s", n, logged.String())
		}
	})
}

func TestPullDelay(t *testing.T) {
	for _, c := range []struct {
		failures int
		part     float64
		want     time.Duration
	}{
		{0, 0, time.Minute}, {0, 0.5, 45 * time.Second}, {1, 0, 2 * time.Second}, {4, 0, 16 * time.Second}, {20, 0, 10 * time.Minute}, {1 << 40, 0.999, 5 * time.Minute},
	} {
		got := pullDelay(time.Minute, c.failures, c.part).Round(time.Second)
		if got != c.want {
			t.Errorf("%d failures, %v: %v, want %v", c.failures, c.part, got, c.want)
		}
	}
	for range 1000 {
		if f := fraction(); f < 0 || f >= 1 {
			t.Fatal(f)
		}
	}
}
