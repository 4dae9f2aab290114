package api

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/event"
)

// runDomain starts what signs the feed.
func (w *world) runDomain() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.domain.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
}

// reader is one open stream.
type reader struct {
	w    *world
	resp *http.Response
	in   *bufio.Reader
}

func (w *world) listen(r role, path string, header ...string) *reader {
	w.t.Helper()
	p := w.as(r)
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.base+path, nil)
	must(w.t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := p.http.Do(req)
	must(w.t, err)
	w.t.Cleanup(func() { resp.Body.Close() })
	return &reader{w: w, resp: resp, in: bufio.NewReader(resp.Body)}
}

// next reads one message: its id ("" for a heartbeat) and its event.
func (r *reader) next() (id string, e event.Event, err error) {
	for {
		line, err := r.in.ReadString('\n')
		if err != nil {
			return "", e, err
		}
		line = strings.TrimSuffix(line, "\n")
		switch name, value, _ := strings.Cut(line, ": "); name {
		case "id":
			id = value
		case "data":
			e, err = event.Parse(value, r.w.trust.JWT[0].PublicKey, testDomain+"/log", testDomain)
			if err != nil {
				return "", e, err
			}
		case "":
			return id, e, nil
		}
	}
}

// revocation reads on to the next that is no heartbeat.
func (r *reader) revocation() (string, event.Event) {
	r.w.t.Helper()
	for {
		id, e, err := r.next()
		must(r.w.t, err)
		if e.Kind != chain.RevUnknown {
			return id, e
		}
		if id != "" {
			r.w.t.Errorf("a heartbeat has the id %s", id)
		}
	}
}

// heartbeat reads on to one that says seq.
func (r *reader) heartbeat(seq uint64) {
	r.w.t.Helper()
	for {
		_, e, err := r.next()
		must(r.w.t, err)
		if e.Kind == chain.RevUnknown && e.Seq >= seq {
			return
		}
	}
}

func (w *world) revoke(serial string) v1.Revocation {
	w.t.Helper()
	return decodeAs[v1.Revocation](w, w.do(operator, "POST", "/v1/revocations", v1.RevocationRequest{Kind: "certificate", ID: serial}), 201)
}

func TestStreamOfRevocations(t *testing.T) {
	w := newWorld(t)
	w.runDomain()
	const path = "/v1/revocations/stream"
	r := w.listen(service, path)
	if r.resp.StatusCode != 200 || r.resp.Header.Get("Content-Type") != mediaEvents || r.resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v", r.resp.StatusCode, r.resp.Header)
	}
	r.heartbeat(0)
	first := w.revoke("0a")
	if id, e := r.revocation(); id != "1.1" || e.ID != "0a" || e.Seq != first.Seq || !e.Expires.Equal(first.Expires.Truncate(time.Second)) {
		t.Errorf("%s %+v, answered as %+v", id, e, first)
	}
	r.heartbeat(1)
	w.revoke("0b")
	if id, e := r.revocation(); id != "1.2" || e.ID != "0b" {
		t.Errorf("%s %+v", id, e)
	}
	for _, resumed := range []*reader{
		w.listen(service, path, "Last-Event-ID", "1.1"), w.listen(service, path+"?cursor=1.1"), w.listen(service, path+"?cursor=", "Last-Event-ID", "1.1"),
		w.listen(service, path+"?cursor=1.0", "Last-Event-ID", "1.1"), // EventSource repeats its first address when it comes back
	} {
		if id, e := resumed.revocation(); id != "1.2" || e.ID != "0b" {
			t.Errorf("resumed at %s %+v", id, e)
		}
	}
	if id, _ := w.listen(service, path, "Last-Event-ID", "7.9").revocation(); id != "1.1" {
		t.Errorf("another epoch's reader begins at %s", id)
	}
	for _, bad := range []string{"x", "1", "1.01", "1.-1"} {
		w.refused(w.do(service, "GET", path+"?cursor="+bad, nil), 400, codeBadParameter)
	}
}

// A reader that is revoked is cut off by the very event.
func TestStreamEndsWithItsReader(t *testing.T) {
	w := newWorld(t)
	w.runDomain()
	r := w.listen(service, "/v1/revocations/stream")
	r.heartbeat(0)
	cert, err := x509.ParseCertificate(w.as(service).cert.Certificate[0])
	must(t, err)
	w.revoke(chain.Serial(cert))
	// The event itself may be on its way, and a heartbeat before it.
	for n := 0; ; n++ {
		if _, _, err := r.next(); err != nil {
			if errors.Is(err, io.EOF) {
				t.Error("a stream that was cut off looks like one that ended")
			}
			break
		}
		if n == 3 {
			t.Fatal("it reads on")
		}
	}
	w.refused(w.do(service, "GET", "/v1/revocations", nil), 401, "certificate_revoked")
}

// endless is a feed of which there is always more.
type endless struct{ Domain }

func (e endless) Feed(after delegation.Cursor, limit int) delegation.FeedPage {
	out := delegation.FeedPage{More: true}
	for i := range limit {
		out.Events = append(out.Events, delegation.SignedEvent{Seq: after.Seq + uint64(i), SET: strings.Repeat("x", 4096)})
	}
	out.Next = delegation.Cursor{Epoch: 1, Seq: after.Seq + uint64(limit)}
	return out
}

// leaving is an endless feed whose reader loses its certificate while it reads.
type leaving struct {
	endless
	asked atomic.Int32
}

func (l *leaving) Authenticate(certs []*x509.Certificate) (delegation.Caller, error) {
	if l.asked.Add(1) > 3 {
		return delegation.Caller{}, refuse(delegation.Unauthenticated, "certificate_revoked", "", "")
	}
	return l.endless.Authenticate(certs)
}

// A reader that is far behind is asked who it is before each piece, too.
func TestStreamEndsWithItsReaderFarBehind(t *testing.T) {
	l := &leaving{}
	l.asked.Store(-1000) // the service gets its certificate first
	w := newWorld(t, func(c *Config) {
		l.Domain = c.Domain
		c.Domain = l
	})
	w.as(service)
	l.asked.Store(0)
	r := w.listen(service, "/v1/revocations/stream")
	got := 0
	for ; got <= 3*streamPage; got++ {
		if line, err := r.in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "id: ") {
			break
		}
		for range 2 { // data, and the blank line
			if _, err := r.in.ReadString('\n'); err != nil {
				break
			}
		}
	}
	if got == 0 || got > 3*streamPage {
		t.Errorf("%d events were read", got)
	}
}

func codeOfBody(a answer) string { return codeOf(a, &route{}) }

func TestLongPoll(t *testing.T) {
	w := newWorld(t)
	w.as(service)
	for _, bad := range []string{"-1", "x", "26", "1.5"} {
		w.refused(w.do(service, "GET", "/v1/revocations?wait="+bad, nil), 400, codeBadParameter)
	}
	began := time.Now()
	if page := decodeAs[v1.RevocationPage](w, w.do(service, "GET", "/v1/revocations?cursor=&wait=1", nil), 200); len(page.Revocations) != 0 || page.NextCursor != "1.0" || time.Since(began) < time.Second {
		t.Errorf("after %s: %+v", time.Since(began), page)
	}
	answered := make(chan v1.RevocationPage, 1)
	go func() {
		answered <- decodeAs[v1.RevocationPage](w, w.do(service, "GET", "/v1/revocations?cursor=1.0&wait=15", nil), 200)
	}()
	deadline := time.Now().Add(10 * time.Second)
	for len(w.server.streams) == 0 { // until it waits
		if time.Now().After(deadline) {
			t.Fatal("nobody waits")
		}
		time.Sleep(time.Millisecond)
	}
	w.revoke("0a")
	if page := <-answered; len(page.Revocations) != 1 || page.Revocations[0].ID != "0a" || page.NextCursor != "1.1" || page.Revocations[0].Expires.IsZero() {
		t.Errorf("%+v", page)
	}
	// What is there already is not waited for.
	if page := decodeAs[v1.RevocationPage](w, w.do(service, "GET", "/v1/revocations?wait=25", nil), 200); len(page.Revocations) != 1 {
		t.Errorf("%+v", page)
	}
}

// The server's end ends streams; the world's cleanup fails if it has to cut them off.
func TestStreamsEndWithTheServer(t *testing.T) {
	ended := make(chan error, 1)
	t.Cleanup(func() { // after the server's
		if err := <-ended; err != nil {
			t.Errorf("the stream ends with %v", err)
		}
	})
	w := newWorld(t, func(c *Config) { c.Limits.Shutdown = 10 * time.Second })
	w.runDomain()
	req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, w.base+"/v1/revocations/stream", nil)
	must(t, err)
	resp, err := w.as(service).http.Do(req) //nolint:bodyclose // by who reads it to the end below
	must(t, err)
	r := &reader{w: w, resp: resp, in: bufio.NewReader(resp.Body)}
	r.heartbeat(0)
	go func() {
		defer resp.Body.Close()
		_, err := io.Copy(io.Discard, r.in)
		ended <- err
	}()
}
