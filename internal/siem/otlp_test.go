package siem

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	collogs "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"
)

// receiver is a real HTTP server that reads what it gets by the official messages, strictly.
type receiver struct {
	*received
	http   *httptest.Server
	handle atomic.Pointer[http.HandlerFunc]
	asked  atomic.Int64
}

func newReceiver(t *testing.T, start func(*httptest.Server)) *receiver {
	t.Helper()
	r := &receiver{received: newReceived()}
	r.answers(r.accepts)
	r.http = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.asked.Add(1)
		// Read first: only then the server notices that a client has gone.
		body, err := io.ReadAll(q.Body)
		if err != nil {
			t.Error(err)
		}
		q.Body = io.NopCloser(bytes.NewReader(body))
		(*r.handle.Load())(w, q)
	}))
	start(r.http)
	t.Cleanup(r.http.Close)
	return r
}

func (r *receiver) answers(h http.HandlerFunc) { r.handle.Store(&h) }

func parse(q *http.Request) (*collogs.ExportLogsServiceRequest, error) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return nil, err
	}
	v := new(collogs.ExportLogsServiceRequest)
	if q.Method != http.MethodPost || q.Header.Get("Content-Type") != "application/x-protobuf" {
		return nil, errors.New("not OTLP")
	}
	return v, proto.Unmarshal(body, v)
}

func bodies(v *collogs.ExportLogsServiceRequest) (out [][]byte) {
	for _, l := range v.GetResourceLogs()[0].GetScopeLogs()[0].GetLogRecords() {
		out = append(out, []byte(l.GetBody().GetStringValue()))
	}
	return out
}

func (r *receiver) accepts(w http.ResponseWriter, q *http.Request) {
	v, err := parse(q)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, b := range bodies(v) {
		r.take(b)
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func says(status int, kind string, v *collogs.ExportLogsServiceResponse) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		b, err := proto.Marshal(v)
		if err != nil {
			panic(err)
		}
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = w.Write(b)
	}
}

func rejects(n int64, text string) *collogs.ExportLogsServiceResponse {
	return &collogs.ExportLogsServiceResponse{PartialSuccess: &collogs.ExportLogsPartialSuccess{RejectedLogRecords: n, ErrorMessage: text}}
}

func (r *receiver) config(t *testing.T, l Log) Config {
	return config(t, r.http.URL+"/v1/logs", l)
}

// sends hands over the first n entries once.
func sends(t *testing.T, c Config, n uint64) error {
	t.Helper()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if o, ok := s.sink.(*otlp); ok {
		o.client.Timeout = 2 * time.Second
		defer o.client.CloseIdleConnections()
	}
	s.limit = maxBatch
	events, err := s.read(t.Context(), 0, n)
	if err != nil {
		t.Fatal(err)
	}
	return s.sink.send(t.Context(), events)
}

// What a record is.
func TestOTLPRecord(t *testing.T) {
	r := newReceiver(t, (*httptest.Server).Start)
	var got *collogs.ExportLogsServiceRequest
	r.answers(func(w http.ResponseWriter, q *http.Request) {
		var err error
		if got, err = parse(q); err != nil || q.URL.Path != "/v1/logs" || q.Header.Get("Authorization") != "Bearer abc" {
			t.Errorf("%v, %s %v", err, q.URL, q.Header)
		}
		w.WriteHeader(http.StatusNoContent)
	})
	c := r.config(t, grown(3))
	c.TokenFile = c.Cursor + ".token"
	if err := os.WriteFile(c.TokenFile, []byte("abc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sends(t, c, 3); err != nil {
		t.Fatal(err)
	}
	res := got.GetResourceLogs()[0]
	rec := res.GetScopeLogs()[0].GetLogRecords()[2]
	text := res.GetResource().String() + " " + res.GetScopeLogs()[0].GetScope().String()
	for _, want := range []string{`"service.name"`, `"signet"`, `"service.instance.id"`, `"` + origin + `"`, `"signet/siem"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	at := time.Date(2026, 3, 1, 12, 0, 0, 120_000_000, time.UTC)
	if rec.GetTimeUnixNano() != uint64(at.UnixNano()) || rec.GetSeverityNumber() != 9 || rec.GetSeverityText() != "Informational" || rec.GetEventName() != "signet.decision" {
		t.Error(rec)
	}
	a := rec.GetAttributes()
	if len(a) != 3 || a[0].GetValue().GetStringValue() != origin || a[1].GetValue().GetIntValue() != 2 || len(a[2].GetValue().GetStringValue()) != 64 {
		t.Error(a)
	}
	c.TokenFile += ".gone"
	if err := sends(t, c, 3); err == nil || !strings.Contains(err.Error(), "token_file") {
		t.Errorf("without a token: %v", err)
	}
}

// What a collector answers, and what is made of it.
func TestOTLPAnswers(t *testing.T) {
	r := newReceiver(t, (*httptest.Server).Start)
	const pb = "application/x-protobuf"
	for name, c := range map[string]struct {
		handle http.HandlerFunc
		want   string // "" = sent
		kind   string
	}{
		"empty":          {says(200, pb, nil), "", ""},
		"nothing":        {says(200, "text/plain", nil), "", ""},
		"204":            {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, "", ""},
		"only a warning": {says(200, pb, rejects(0, "deprecated")), "", ""},
		"rejects one":    {says(200, pb, rejects(1, "too old")), "rejects 1: \"too old\"", "content"},
		"rejects -1":     {says(200, pb, rejects(-1, strings.Repeat("x", 60000))), "rejects -1", "content"},
		"as JSON":        {says(200, "application/json", rejects(1, "x")), "not that of an OTLP collector", "lasting"},
		"a portal":       {page(200, "<html>sign in</html>"), "not that of an OTLP collector", "lasting"},
		"no protobuf": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", pb)
			_, _ = w.Write([]byte("\xff\xff\xff"))
		}, "not that of an OTLP collector", "lasting"},
		"202": {page(202, ""), "answered 202", "lasting"},
		"redirect": {func(w http.ResponseWriter, q *http.Request) {
			http.Redirect(w, q, "/elsewhere", http.StatusTemporaryRedirect)
		}, "answered 307", "lasting"},
		"redirect 301": {func(w http.ResponseWriter, q *http.Request) {
			http.Redirect(w, q, "/elsewhere", http.StatusMovedPermanently)
		}, "answered 301", "lasting"},
		"400":             {page(400, "bad"), "answered 400", "content"},
		"401":             {page(401, "who?"), "answered 401", "lasting"},
		"403":             {page(403, ""), "answered 403", "lasting"},
		"404":             {page(404, ""), "answered 404", "lasting"},
		"413":             {page(413, ""), "answered 413", "content"},
		"429":             {page(429, ""), "answered 429", ""},
		"500":             {page(500, ""), "answered 500", ""},
		"503":             {page(503, ""), "answered 503", ""},
		"100 KB":          {page(200, strings.Repeat("x", 100_000)), "more than", ""},
		"endless":         {endless, "more than", ""},
		"endless headers": {headers, "header", ""},
		"cut off":         {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF", ""},
		"half":            {half100, "EOF", ""},
		"hangs":           {func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() }, "no answer in time", ""},
		"trickles":        {trickles, "no answer in time", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r.answers(c.handle)
			before := r.asked.Load()
			err := sends(t, r.config(t, grown(3)), 3)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(plain(err), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if n := r.asked.Load() - before; n != 1 {
				t.Errorf("%d requests", n)
			}
			var f sendError
			kind := ""
			if errors.As(err, &f) && f.content {
				kind = "content"
			} else if f.lasting {
				kind = "lasting"
			}
			if kind != c.kind {
				t.Errorf("it is %q, want %q", kind, c.kind)
			}
			if err != nil && len(plain(err)) > 400 {
				t.Errorf("a reason of %d bytes", len(plain(err)))
			}
		})
	}
}

func page(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(text))
	}
}

func endless(w http.ResponseWriter, q *http.Request) {
	w.Header().Set("Content-Type", "application/x-protobuf")
	for q.Context().Err() == nil {
		if _, err := w.Write(make([]byte, 32<<10)); err != nil {
			return
		}
	}
}

func headers(w http.ResponseWriter, _ *http.Request) {
	for i := range 100 {
		w.Header().Set("X-"+strconv.Itoa(i), strings.Repeat("x", 1000))
	}
}

func half100(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "100")
	_, _ = w.Write([]byte("half"))
}

func trickles(w http.ResponseWriter, q *http.Request) {
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write([]byte("\x0a"))
	_ = http.NewResponseController(w).Flush()
	<-q.Context().Done()
}

func TestRetryAfter(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-1": 0, "2147483647": maxAfter, "99999999999999999999": 0, "Fri, 31 Dec 2100 23:59:59 GMT": 0, "1.5": 0,
	} {
		err := judge(503, http.Header{"Retry-After": {text}}, nil)
		var f sendError
		if !errors.As(err, &f) || f.after != want {
			t.Errorf("%q: %+v, want %s", text, f, want)
		}
	}
}

// The same log by a collector that is away, fails, is too small and starts again: all of it, in order.
func TestOTLPThroughFailures(t *testing.T) {
	r := newReceiver(t, (*httptest.Server).Start)
	r.answers(func(w http.ResponseWriter, q *http.Request) {
		switch n := r.asked.Load(); {
		case n == 1:
			page(503, "")(w, q)
		case n == 2:
			r.accepts(w, q) // took all, and the answer is lost
			panic(http.ErrAbortHandler)
		case q.ContentLength > 100<<10:
			page(413, "")(w, q)
		case n%3 == 0:
			says(200, "application/x-protobuf", rejects(2, "busy"))(w, q)
		default:
			r.accepts(w, q)
		}
	})
	s, stop := runs(t, r.config(t, grown(1200)))
	r.waits(t, 0, 1200)
	until(t, "all are accepted", func() bool { return s.Status().Lag == 0 })
	stop()
	r.inOrder(t, 0)
}

func TestOTLPVerifiesTheServer(t *testing.T) {
	p := newPKI(t)
	r := newReceiver(t, func(s *httptest.Server) {
		s.TLS = &tls.Config{Certificates: []tls.Certificate{p.pair(t, "server")}, ClientCAs: p.pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}
		s.StartTLS()
	})
	c := r.config(t, grown(3))
	for name, change := range map[string]func(*Config){
		"the system's roots":    func(c *Config) { c.Roots = nil },
		"another root":          func(c *Config) { c.Roots = x509.NewCertPool() },
		"no client certificate": func(c *Config) { c.CertFile = "" },
		"another client":        func(c *Config) { c.CertFile, c.KeyFile = p.file("other.pem"), p.file("other.key") },
		"another name":          func(c *Config) { c.Target.name = "siem.example" },
	} {
		c := c
		c.Roots, c.CertFile, c.KeyFile = p.pool, p.file("client.pem"), p.file("client.key")
		change(&c)
		if err := sends(t, c, 3); err == nil || r.asked.Load() != 0 {
			t.Errorf("%s: %v, asked %d", name, err, r.asked.Load())
		}
	}
	c.Roots, c.CertFile, c.KeyFile = p.pool, p.file("client.pem"), p.file("client.key")
	if err := sends(t, c, 3); err != nil || r.has(3) != 3 {
		t.Errorf("%v, %d came", err, r.has(3))
	}
}

// A real log, appended to at speed while it is sent: every entry comes, and no payload does.
func TestRealLogByOTLP(t *testing.T) {
	r := newReceiver(t, (*httptest.Server).Start)
	r.answers(func(w http.ResponseWriter, q *http.Request) {
		v, err := parse(q)
		if err != nil {
			t.Error(err)
			return
		}
		for _, b := range bodies(v) {
			if strings.Contains(string(b), secret) {
				t.Errorf("a payload left: %s", b)
			}
			r.take(b)
		}
	})
	l := realLog(t)
	s, stop := runs(t, r.config(t, l))
	appends(t, l, 1000)
	until(t, "no entry waits", func() bool { return s.Status().Lag == 0 })
	n := s.Status().Next
	stop()
	r.waits(t, 0, n)
	r.inOrder(t, 0)
	if n < 1001 || r.asked.Load() >= int64(n) {
		t.Errorf("%d entries in %d requests", n, r.asked.Load())
	}
}

// Whatever a collector answers, only its word that it has everything counts.
func FuzzJudge(f *testing.F) {
	f.Add(200, "application/x-protobuf", "\x0a\x02\x08\x01")
	f.Add(200, "application/x-protobuf", "\x0a\x02\x08\x00")
	f.Add(503, "text/html", "<html>")
	f.Add(204, "", "")
	f.Fuzz(func(t *testing.T, status int, kind, text string) {
		if judge(status, http.Header{"Content-Type": {kind}, "Retry-After": {text}}, []byte(text)) != nil {
			return
		}
		var v collogs.ExportLogsServiceResponse
		if err := proto.Unmarshal([]byte(text), &v); err != nil || v.GetPartialSuccess().GetRejectedLogRecords() != 0 || status != 200 && status != 204 {
			t.Errorf("%d %q %q counts as sent", status, kind, text)
		}
	})
}
