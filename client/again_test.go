package client_test

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
)

// busy is an appliance whose quota lets a request through after some refusals.
type busy struct {
	refusals int
	status   int    // of a refusal
	after    string // Retry-After
	came     []time.Time
	bodies   []string
}

func (b *busy) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	body := ""
	if r.Body != nil {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		body = string(raw)
	}
	b.came, b.bodies = append(b.came, time.Now()), append(b.bodies, body)
	resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}")), Request: r}
	if len(b.came) <= b.refusals {
		resp.StatusCode = b.status
		resp.Header.Set("Retry-After", b.after)
		resp.Body = io.NopCloser(strings.NewReader(`{"code":"rate_limited","quota":"task"}`))
	}
	return resp, nil
}

func (b *busy) client(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{URL: "https://busy.test.example", Roots: x509.NewCertPool()})
	if err != nil {
		t.Fatal(err)
	}
	c.Over(b)
	return c
}

// What may be repeated is, each time after as long as the appliance says, with the same body.
func TestRetryAfter(t *testing.T) {
	key := client.Idempotent("k")
	for name, c := range map[string]struct {
		ask   func(ctx context.Context, c *client.Client) error
		again bool
	}{
		"a read": {func(ctx context.Context, c *client.Client) error { _, err := c.Task(ctx, "t"); return err }, true},
		"bytes":  {func(ctx context.Context, c *client.Client) error { _, err := c.Checkpoint(ctx); return err }, true},
		"a spawn": {func(ctx context.Context, c *client.Client) error {
			_, err := c.Spawn(ctx, v1.SpawnRequest{SpawnID: "i"})
			return err
		}, true},
		"a delegation": {func(ctx context.Context, c *client.Client) error {
			_, err := c.Delegate(ctx, "p", v1.SpawnRequest{})
			return err
		}, true},
		"a redemption": {func(ctx context.Context, c *client.Client) error { _, err := c.Enroll(ctx, "a", "t", "c"); return err }, true},
		"a re-key":     {func(ctx context.Context, c *client.Client) error { _, err := c.Rekey(ctx, "a", "l", "c"); return err }, true},
		"a decision": {func(ctx context.Context, c *client.Client) error {
			_, err := c.Evaluate(ctx, v1.EvaluationRequest{})
			return err
		}, true},
		"a grant, by key": {func(ctx context.Context, c *client.Client) error {
			_, err := c.RequestGrant(ctx, v1.GrantRequest{}, key)
			return err
		}, true},
		"a grant": {func(ctx context.Context, c *client.Client) error {
			_, err := c.RequestGrant(ctx, v1.GrantRequest{})
			return err
		}, false},
		"a token": {func(ctx context.Context, c *client.Client) error {
			_, err := c.AccessToken(ctx, v1.TokenRequest{})
			return err
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &busy{refusals: 2, status: 429, after: "3"}
				began := time.Now()
				err := c.ask(t.Context(), b.client(t))
				if !c.again {
					var p *client.Problem
					if !errors.As(err, &p) || p.Code != "rate_limited" || len(b.came) != 1 || time.Since(began) != 0 {
						t.Errorf("%d attempts, %v", len(b.came), err)
					}
					return
				}
				if err != nil || len(b.came) != 3 {
					t.Fatalf("%d attempts, %v", len(b.came), err)
				}
				for i, at := range b.came {
					if at.Sub(began) != time.Duration(3*i)*time.Second || b.bodies[i] != b.bodies[0] {
						t.Errorf("attempt %d after %s with %q", i, at.Sub(began), b.bodies[i])
					}
				}
			})
		})
	}
}

// Nobody waits for what comes too late, nor because of what is no Retry-After of a quota.
func TestRetryAfterHasAnEnd(t *testing.T) {
	for name, c := range map[string]struct {
		busy     busy
		within   time.Duration // of the context; 0 is none
		attempts int
		took     time.Duration
	}{
		"until the timeout":     {busy{refusals: 99, status: 429, after: "4"}, 0, 4, 12 * time.Second},
		"until the deadline":    {busy{refusals: 99, status: 429, after: "4"}, 6 * time.Second, 2, 4 * time.Second},
		"exactly the deadline":  {busy{refusals: 1, status: 429, after: "4"}, 4 * time.Second, 1, 0},
		"later than the end":    {busy{refusals: 1, status: 429, after: "15"}, 0, 1, 0},
		"at once":               {busy{refusals: 1, status: 429, after: "0"}, 0, 2, time.Second},
		"never":                 {busy{refusals: 1, status: 429, after: "99999999999999999999"}, 0, 1, 0},
		"in weeks":              {busy{refusals: 1, status: 429, after: "4000000000"}, 0, 1, 0},
		"yesterday":             {busy{refusals: 1, status: 429, after: "-1"}, 0, 1, 0},
		"a date":                {busy{refusals: 1, status: 429, after: "Fri, 31 Dec 1999 23:59:59 GMT"}, 0, 1, 0},
		"nothing":               {busy{refusals: 1, status: 429}, 0, 1, 0},
		"an overload is no 429": {busy{refusals: 1, status: 503, after: "1"}, 0, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if c.within > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.within)
					defer cancel()
				}
				began := time.Now()
				_, err := c.busy.client(t).Task(ctx, "t")
				if len(c.busy.came) != c.attempts || time.Since(began) != c.took {
					t.Errorf("%d attempts in %s, want %d in %s", len(c.busy.came), time.Since(began), c.attempts, c.took)
				}
				var p *client.Problem
				if refused := c.attempts <= c.busy.refusals; refused != errors.As(err, &p) || !refused && err != nil {
					t.Errorf("%v", err)
				}
			})
		})
	}
}

// Who gives up while the Client waits gets the refusal at once.
func TestRetryAfterEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &busy{refusals: 1, status: 429, after: "10"}
		c := b.client(t)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(2*time.Second, cancel)
		began := time.Now()
		_, err := c.Task(ctx, "t")
		var p *client.Problem
		if !errors.As(err, &p) || time.Since(began) != 2*time.Second || len(b.came) != 1 {
			t.Errorf("after %s, %d attempts: %v", time.Since(began), len(b.came), err)
		}
	})
}
