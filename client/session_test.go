package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/internal/testrig/hospital"
)

// ward is a service of the hospital over real connections.
type ward struct {
	*httptest.Server
	h        *hospital.Hospital
	verifier *client.Verifier
	ended    chan error   // what ended the context of a stream
	ahead    atomic.Int64 // of the verifier's clock
}

// stream does not look at its context: it writes until it cannot.
func (w *ward) stream(rw http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(rw)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := io.WriteString(rw, "beat\n"); err != nil {
			break
		}
		if err := rc.Flush(); err != nil {
			break
		}
	}
	w.ended <- context.Cause(r.Context())
}

func (w *ward) wait(rw http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(rw).Flush()
	<-r.Context().Done()
	w.ended <- context.Cause(r.Context())
}

func openWard(t *testing.T, h *hospital.Hospital, http2 bool, conf func(*tls.Config)) *ward {
	t.Helper()
	w := &ward{h: h, ended: make(chan error, 1)}
	mux := http.NewServeMux()
	mux.HandleFunc("/who", func(rw http.ResponseWriter, r *http.Request) {
		p, ok := client.FromContext(r.Context())
		if !ok {
			t.Error("no principal")
		}
		_, _ = io.WriteString(rw, p.User.Subject)
	})
	mux.HandleFunc("/stream", w.stream)
	mux.HandleFunc("/wait", w.wait)
	demand := func(*http.Request) (client.Demand, error) { return reads(t), nil }
	cfg := h.Config()
	cfg.Now = func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }
	w.verifier = verifier(t, cfg)
	w.Server = httptest.NewUnstartedServer(client.RequireDelegation(w.verifier, demand, mux))
	own := h.Listener(t)
	w.TLS = client.ServerTLS(func() (*tls.Certificate, error) { return own, nil })
	if conf != nil {
		conf(w.TLS)
	}
	w.EnableHTTP2 = http2
	w.StartTLS()
	t.Cleanup(w.Close)
	return w
}

// as is a client with a certificate, whose connection stays open between requests.
func (w *ward) as(t *testing.T, cert *tls.Certificate, sessions tls.ClientSessionCache) *http.Client {
	t.Helper()
	conf := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, ClientSessionCache: sessions} //nolint:gosec // the server is not what is tested
	if cert != nil {
		conf.Certificates = []tls.Certificate{*cert}
	}
	transport := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: w.EnableHTTP2}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (w *ward) ask(t *testing.T, c *http.Client, path string, header http.Header) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	return c.Do(req)
}

// answers wants a status and, for a refusal, its first reason; it gives the header.
func (w *ward) answers(t *testing.T, c *http.Client, header http.Header, status int, reason string) http.Header {
	t.Helper()
	resp, err := w.ask(t, c, "/who", header)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status {
		t.Fatalf("status %d, want %d: %s %v", resp.StatusCode, status, body, err)
	}
	if status == http.StatusOK {
		if string(body) != hospital.User().Subject {
			t.Errorf("the handler saw %q", body)
		}
		return resp.Header
	}
	var out v1.DecisionContext
	if err := json.Unmarshal(body, &out); err != nil || len(out.Reasons) == 0 || out.Reasons[0] != reason {
		t.Errorf("%s, want %s", body, reason)
	}
	return resp.Header
}

// One connection, many requests: each is judged by what holds at its time.
func TestRequireDelegationAtEveryRequest(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		w := openWard(t, hospital.New(t), http2, nil)
		c := w.as(t, w.h.Agent(t, time.Hour), nil)
		w.answers(t, c, nil, 200, "")
		w.h.Feed.Revoke(chain.RevTask, hospital.Task)
		w.answers(t, c, nil, 403, chain.CodeTaskRevoked)
		w.h.Feed.Forget()
		w.answers(t, c, nil, 200, "")
		w.h.Feed.Stop(time.Now().Add(-time.Hour))
		if h := w.answers(t, c, nil, 503, chain.CodeRevocationsStale); h.Get("Retry-After") == "" {
			t.Error("503 without Retry-After")
		}
		w.h.Feed.Stop(time.Time{})
		w.answers(t, c, nil, 200, "")
		if h := w.answers(t, w.as(t, nil, nil), nil, 401, "client_certificate_required"); h.Get("WWW-Authenticate") != "Bearer" {
			t.Errorf("401 with %q", h.Get("WWW-Authenticate"))
		}
		w.answers(t, w.as(t, hospital.New(t).Agent(t, time.Hour), nil), nil, 403, chain.CodePathUntrusted)
	}
}

// A stream ends with its caller's identity, for whatever reason that ends, even if its handler does not care.
func TestRequireDelegationEndsStreams(t *testing.T) {
	for name, c := range map[string]struct {
		path  string
		http2 bool
		end   func(*ward)
		code  string
	}{
		"revoked, ignored":         {"/stream", false, func(w *ward) { w.h.Feed.Revoke(chain.RevAgent, hospital.Parent) }, chain.CodeParentRevoked},
		"revoked, ignored, HTTP/2": {"/stream", true, func(w *ward) { w.h.Feed.Revoke(chain.RevAgent, hospital.Parent) }, chain.CodeParentRevoked},
		"stale, waiting":           {"/wait", false, func(w *ward) { w.h.Feed.Stop(time.Now().Add(-time.Hour)) }, chain.CodeRevocationsStale},
		"stale, waiting, HTTP/2":   {"/wait", true, func(w *ward) { w.h.Feed.Stop(time.Now().Add(-time.Hour)) }, chain.CodeRevocationsStale},
		"deadline, ignored":        {"/stream", false, func(w *ward) { w.ahead.Store(int64(time.Hour)) }, chain.CodeDeadlinePassed},
		"deadline, waiting":        {"/wait", true, func(w *ward) { w.ahead.Store(int64(time.Hour)) }, chain.CodeDeadlinePassed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := openWard(t, hospital.New(t), c.http2, nil)
			resp, err := w.ask(t, w.as(t, w.h.Agent(t, time.Minute), nil), c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Fatal(resp.Status)
			}
			c.end(w)
			refused, ok := errors.AsType[*client.Refusal](<-w.ended)
			if !ok || refused.Reasons[0] != c.code {
				t.Errorf("ended by %v", refused)
			}
			if _, err := io.Copy(io.Discard, resp.Body); c.path == "/stream" && err == nil {
				t.Error("the client sees a whole answer")
			}
		})
	}
}

// The deadline ends a session to the second; what else ends it does within the next.
func TestSessionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hospital.New(t)
		v := verifier(t, h.Config())
		open := func(life time.Duration) (*client.Session, time.Time) {
			agent := h.Agent(t, life)
			s, err := v.Open(t.Context(), presented(t, agent), reads(t))
			if err != nil {
				t.Fatal(err)
			}
			return s, agent.Leaf.NotAfter
		}
		s, end := open(1500 * time.Millisecond)
		<-s.Context().Done()
		if late := time.Since(end); late < 0 || late > time.Millisecond {
			t.Errorf("%s after the deadline", late)
		}
		refusedFor(t, context.Cause(s.Context()), 403, chain.CodeDeadlinePassed)
		s.Close()
		s, _ = open(time.Hour)
		begun := time.Now()
		h.Feed.Revoke(chain.RevTask, hospital.Task)
		<-s.Context().Done()
		if took := time.Since(begun); took > time.Second {
			t.Errorf("%s after the revocation", took)
		}
		refusedFor(t, s.Check(), 403, chain.CodeTaskRevoked)
		h.Feed.Forget()
		refusedFor(t, s.Check(), 403, chain.CodeTaskRevoked) // for good
		s.Close()
		s, _ = open(time.Hour)
		s.Close()
		if err := s.Check(); !errors.Is(err, context.Canceled) {
			t.Errorf("a closed session: %v", err)
		}
		time.Sleep(2 * time.Hour) // nothing of it is left to run
	})
}

// A client that goes away is no refusal, and what it leaves ends.
func TestRequireDelegationClientGone(t *testing.T) {
	w := openWard(t, hospital.New(t), true, nil)
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.URL+"/wait", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := w.as(t, w.h.Agent(t, time.Hour), nil).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	resp.Body.Close()
	if err := <-w.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended by %v", err)
	}
}

// With the configuration of ServerTLS no session is resumed; with another's that allows it, a resumed session is worth no
// more than its certificate is now.
func TestRequireDelegationResumedSession(t *testing.T) {
	h := hospital.New(t)
	agent := h.Agent(t, time.Hour)
	for _, ours := range []bool{true, false} {
		var resumed bool
		w := openWard(t, h, false, func(c *tls.Config) {
			c.SessionTicketsDisabled = ours
			c.VerifyConnection = func(s tls.ConnectionState) error { resumed = s.DidResume; return nil }
		})
		c := w.as(t, agent, tls.NewLRUClientSessionCache(4))
		w.answers(t, c, nil, 200, "")
		c.CloseIdleConnections()
		w.answers(t, c, nil, 200, "")
		if resumed == ours {
			t.Errorf("resumed: %v", resumed)
		}
		c.CloseIdleConnections()
		h.Feed.Revoke(chain.RevUser, chain.UserID(hospital.User().Issuer, hospital.User().Subject))
		w.answers(t, c, nil, 403, chain.CodeUserRevoked)
		h.Feed.Forget()
	}
}

func TestServerTLSRefusesOldVersions(t *testing.T) {
	w := openWard(t, hospital.New(t), false, nil)
	conf := &tls.Config{MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true} //nolint:gosec // the old version is what is tested
	transport := &http.Transport{TLSClientConfig: conf}
	defer transport.CloseIdleConnections()
	if resp, err := w.ask(t, &http.Client{Transport: transport}, "/who", nil); err == nil || !strings.Contains(err.Error(), "protocol version") {
		if err == nil {
			resp.Body.Close()
		}
		t.Errorf("TLS 1.2: %v", err)
	}
}

// What is no TLS connection, what the service itself cannot read, and headers that claim to be certificates.
func TestRequireDelegationFailsClosed(t *testing.T) {
	h := hospital.New(t)
	agent := h.Agent(t, time.Hour)
	certs := presented(t, agent).Certificates
	header := http.Header{"X-Forwarded-Client-Cert": {"By=spiffe://a;Hash=00;URI=" + hospital.AgentID}, "X-Client-Cert": {headerText(t, certs)}, "Client-Cert": {"::"}}
	for name, c := range map[string]struct {
		tls    *tls.ConnectionState
		demand func(*http.Request) (client.Demand, error)
		status int
	}{
		"plain":        {nil, func(*http.Request) (client.Demand, error) { return reads(t), nil }, 401},
		"headers only": {&tls.ConnectionState{}, func(*http.Request) (client.Demand, error) { return reads(t), nil }, 401},
		"bad request":  {&tls.ConnectionState{PeerCertificates: certs}, func(*http.Request) (client.Demand, error) { return reads(t), errors.New("?") }, 400},
		"zero demand":  {&tls.ConnectionState{PeerCertificates: certs}, func(*http.Request) (client.Demand, error) { return client.Demand{}, nil }, 500},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
		r.TLS, r.Header = c.tls, header
		rec := httptest.NewRecorder()
		client.RequireDelegation(verifier(t, h.Config()), c.demand, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Errorf("%s: let through", name) })).ServeHTTP(rec, r)
		if rec.Code != c.status {
			t.Errorf("%s: status %d", name, rec.Code)
		}
	}
	if _, ok := client.FromContext(t.Context()); ok {
		t.Error("a principal where nobody was verified")
	}
}

func headerText(t *testing.T, certs []*x509.Certificate) string {
	t.Helper()
	var out strings.Builder
	for _, c := range certs {
		out.WriteString(base64.StdEncoding.EncodeToString(c.Raw))
	}
	return out.String()
}
