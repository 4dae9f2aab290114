package api

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-pki/signet/delegation"
)

const streamPath = "/v1/revocations/stream"

// A stream lasts: neither the deadlines of its connection end it, nor that of a piece which arrived.
func TestStreamOutlastsDeadlines(t *testing.T) {
	eachHTTP(t, func(t *testing.T, http1 bool) {
		w := newPipedWorld(t, http1, func(c *Config) { c.Limits.StreamWrite = time.Second })
		w.as(service).http.Timeout = 0
		r := w.listen(service, streamPath)
		w.ofVersion(r.resp)
		time.Sleep(10 * time.Minute) // nothing is signed yet, so nothing is written
		w.runDomain()
		for began := time.Now(); time.Since(began) < 10*time.Minute; { // a heartbeat every five seconds
			_, _, err := r.next()
			must(t, err)
		}
		w.revoke("0a")
		if id, _ := r.revocation(); id != "1.1" {
			t.Errorf("after the heartbeats: %s", id)
		}
	})
}

// A reader that takes nothing keeps its place for as long as it may take for a piece, and no longer.
func TestSlowReaderIsCutOff(t *testing.T) {
	eachHTTP(t, func(t *testing.T, http1 bool) {
		const patience, goodbye = 5 * time.Second, 5 * time.Second // crypto/tls tries for so long to say that it closes
		w := newPipedWorld(t, http1, func(c *Config) {
			c.Domain = endless{c.Domain}
			c.Limits.Streams, c.Limits.StreamWrite = 1, patience
		})
		w.as(service).http.Timeout = 0
		r := w.listen(service, streamPath)
		w.ofVersion(r.resp)
		if a := w.do(service, "GET", streamPath, nil); a.status != 503 || codeOfBody(a) != codeOverloaded {
			t.Fatalf("a second reader: %d %s", a.status, a.body)
		}
		time.Sleep(patience - 1) // nobody reads
		synctest.Wait()
		if len(w.server.streams) != 1 {
			t.Error("it is cut off too soon")
		}
		time.Sleep(1 + goodbye)
		synctest.Wait()
		if len(w.server.streams) != 0 {
			t.Fatal("it keeps its place")
		}
		if _, err := io.Copy(io.Discard, r.in); err == nil {
			t.Error("a stream that was cut off looks like one that ended")
		}
	})
}

// broken is a connection that takes a header, and nothing behind it.
type broken struct{ *httptest.ResponseRecorder }

func (broken) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// A piece that did not arrive ends a stream as half an answer ends, and not as if it were over.
func TestBrokenPieceAbortsTheStream(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Domain = endless{c.Domain} })
	cert, err := x509.ParseCertificate(w.as(service).cert.Certificate[0])
	must(t, err)
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, streamPath, nil)
	req.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
	answer := broken{httptest.NewRecorder()}
	defer func() {
		if err, _ := recover().(error); !errors.Is(err, http.ErrAbortHandler) || answer.Code != http.StatusOK {
			t.Errorf("%d, and then %v", answer.Code, err)
		}
	}()
	w.server.Handler().ServeHTTP(answer, req)
}

// Who hangs up gives its place back, though nothing is written that would fail.
func TestStreamEndsWhenItsReaderHangsUp(t *testing.T) {
	eachHTTP(t, func(t *testing.T, http1 bool) {
		w := newPipedWorld(t, http1)
		r := w.listen(service, streamPath)
		w.ofVersion(r.resp)
		synctest.Wait()
		if len(w.server.streams) != 1 {
			t.Fatal("nobody reads")
		}
		r.resp.Body.Close()
		synctest.Wait()
		if len(w.server.streams) != 0 {
			t.Error("it keeps its place")
		}
	})
}

// demoting is a domain in which auditors lose their role, and not their certificate.
type demoting struct {
	Domain
	now atomic.Bool
}

func (d *demoting) Authenticate(certs []*x509.Certificate) (delegation.Caller, error) {
	by, err := d.Domain.Authenticate(certs)
	if by.Role == delegation.RoleAuditor && d.now.Load() {
		by.Role = delegation.RoleNone
	}
	return by, err
}

func demote(d *demoting) func(*Config) {
	return func(c *Config) {
		d.Domain = c.Domain
		c.Domain = d
	}
}

// A reader that may not read any more is cut off, and sees that the feed did not end.
func TestStreamEndsWithTheRoleOfItsReader(t *testing.T) {
	eachHTTP(t, func(t *testing.T, http1 bool) {
		d := new(demoting)
		w := newPipedWorld(t, http1, demote(d))
		w.runDomain()
		r := w.listen(auditor, streamPath)
		w.ofVersion(r.resp)
		r.heartbeat(0)
		d.now.Store(true)
		if _, e, err := r.next(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("it reads %+v, %v", e, err)
		}
	})
}

// The heartbeat says that all up to its number was sent before.
func TestHeartbeatComesBehindTheEvents(t *testing.T) {
	w := newWorld(t)
	w.runDomain()
	w.revoked("0a", "0b")
	r := w.listen(service, streamPath)
	for _, want := range []string{"1.1", "1.2", ""} {
		id, e, err := r.next()
		must(t, err)
		if id != want {
			t.Errorf("%q and %+v, want %q", id, e, want)
		}
	}
}

// eachWait runs a test in a bubble for each request that waits for the feed, with the one place that there is to wait in.
func eachWait(t *testing.T, test func(w *world, d *demoting, wait func() answer)) {
	for name, q := range map[string]struct {
		method, path string
		body         any
	}{
		"list": {http.MethodGet, "/v1/revocations?wait=15", nil},
		"poll": {http.MethodPost, pollPath + "?wait=15", "{}"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := new(demoting)
				w := newPipedWorld(t, false, demote(d), func(c *Config) { c.Limits.Streams = 1 })
				w.as(auditor)
				test(w, d, func() answer { return w.do(auditor, q.method, q.path, q.body) })
			})
		})
	}
}

// inBackground asks, and returns when the question waits.
func (w *world) inBackground(wait func() answer) <-chan answer {
	w.t.Helper()
	out := make(chan answer, 1)
	go func() {
		defer close(out)
		out <- wait()
	}()
	synctest.Wait()
	if len(w.server.streams) != 1 {
		w.t.Fatal("nobody waits")
	}
	return out
}

func TestWaitGivesItsPlaceBack(t *testing.T) {
	eachWait(t, func(w *world, _ *demoting, wait func() answer) {
		for range 2 {
			began := time.Now()
			if a := wait(); a.status != 200 || time.Since(began) < 15*time.Second {
				w.t.Errorf("after %s: %d %s", time.Since(began), a.status, a.body)
			}
			if n := len(w.server.streams); n != 0 {
				w.t.Errorf("%d places are taken", n)
			}
		}
	})
}

func TestWaitEndsWithTheServer(t *testing.T) {
	eachWait(t, func(w *world, _ *demoting, wait func() answer) {
		answered, began := w.inBackground(wait), time.Now()
		w.stop()
		if a := <-answered; a.status != 200 || time.Since(began) >= time.Second {
			w.t.Errorf("after %s: %d %s", time.Since(began), a.status, a.body)
		}
	})
}

// One that may not read any more when there is something learns nothing.
func TestWaitEndsWithTheRoleOfItsReader(t *testing.T) {
	eachWait(t, func(w *world, d *demoting, wait func() answer) {
		answered := w.inBackground(wait)
		d.now.Store(true)
		w.revoke("0a")
		w.runDomain()
		w.refused(<-answered, 403, codeRole)
	})
}
