package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-pki/signet/client"
)

// wire carries a feed without a network, in the time of a synctest bubble. The test plays the appliance: it meets each
// request for the stream, says what it likes and when, and sees whether the follower left.
type wire struct {
	*authority
	feed     *client.Feed
	requests chan *connection

	mu       sync.Mutex // guards the key set, which the follower may be asking for
	slowKeys bool       // requests for the keys are met too
}

// connection is one request of the follower, and what is said to it.
type connection struct {
	t      *testing.T
	came   time.Time
	cursor string
	ctx    context.Context //nolint:containedctx // it ends when the follower leaves
	answer chan *http.Response
	body   *io.PipeWriter
}

// onWire runs a test of a follower in a bubble. Nobody waits for real time there: time goes on when all wait for it.
func onWire(t *testing.T, test func(w *wire), change ...func(*client.FeedConfig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w, c := newWire(t)
		w.feed = w.run(c, change...)
		test(w)
	})
}

func newWire(t *testing.T) (*wire, *client.Client) {
	t.Helper()
	w := &wire{authority: newAuthority(t), requests: make(chan *connection)}
	c, err := client.New(client.Config{URL: "https://feed.test.example", Roots: w.roots})
	if err != nil {
		t.Fatal(err)
	}
	c.Over(w)
	return w, c
}

// RoundTrip is of http.RoundTripper.
func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if body := w.keysFor(r); body != nil {
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, nil
	}
	c := &connection{t: w.t, came: time.Now(), cursor: r.URL.Query().Get("cursor"), ctx: r.Context(), answer: make(chan *http.Response)}
	select {
	case w.requests <- c:
	case <-c.ctx.Done():
		return nil, c.ctx.Err()
	}
	select {
	case resp := <-c.answer:
		resp.Request = r
		return resp, nil
	case <-c.ctx.Done():
		return nil, c.ctx.Err()
	}
}

// keysFor is the key set, unless r asks for something else.
func (w *wire) keysFor(r *http.Request) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.URL.Path != "/v1/jwks" || w.slowKeys {
		return nil
	}
	body, err := json.Marshal(w.keys)
	if err != nil {
		w.t.Error(err)
	}
	return body
}

// change lets a test change what is said of the keys.
func (w *wire) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// meet waits for the next request and does not answer it.
func (w *wire) meet() *connection {
	w.t.Helper()
	select {
	case c := <-w.requests:
		return c
	case <-time.After(time.Minute):
		w.t.Fatal("no request came")
		return nil
	}
}

// connect waits for the next request, which must ask from cursor, and begins an answer.
func (w *wire) connect(cursor string) *connection {
	w.t.Helper()
	c := w.meet()
	if c.cursor != cursor {
		w.t.Errorf("it asks from %q, want %q", c.cursor, cursor)
	}
	c.open(http.StatusOK)
	return c
}

// nobody sees that no request comes for a minute.
func (w *wire) nobody(why string) {
	w.t.Helper()
	select {
	case <-w.requests:
		w.t.Errorf("it asks for the stream: %s", why)
	case <-time.After(time.Minute):
	}
}

// fresh checks FreshAt, and what is revoked: each of known, and not "x".
func (w *wire) fresh(at time.Time, known ...string) {
	w.t.Helper()
	synctest.Wait()
	if got := w.feed.FreshAt(); !got.Equal(at) {
		w.t.Errorf("fresh at %s, want %s", got.UTC(), at)
	}
	for _, id := range known {
		if !w.revoked(id) {
			w.t.Errorf("%s is not revoked", id)
		}
	}
	if w.revoked("x") {
		w.t.Error("it believed what it refused")
	}
}

func (c *connection) open(status int) {
	r, w := io.Pipe()
	c.body = w
	context.AfterFunc(c.ctx, func() { w.CloseWithError(c.ctx.Err()) })
	c.answer <- &http.Response{StatusCode: status, Status: http.StatusText(status), Body: r}
}

// say sends texts, and waits until the follower has dealt with them or left; n is how much it read.
func (c *connection) say(texts ...string) (n int) {
	for _, text := range texts {
		more, err := io.WriteString(c.body, text)
		n += more
		if err != nil {
			break // the follower left
		}
	}
	synctest.Wait()
	return n
}

func (c *connection) end() { c.body.Close() }

// over says whether the follower has left.
func (c *connection) over() bool {
	synctest.Wait()
	return c.ctx.Err() != nil
}

// lasted waits until the follower leaves, and gives how long it stayed.
func (c *connection) lasted() time.Duration {
	c.t.Helper()
	select {
	case <-c.ctx.Done():
	case <-time.After(time.Hour):
		c.t.Fatal("it does not leave")
	}
	return time.Since(c.came)
}
