// Package client talks to a Signet appliance over mutual TLS, and guards a service with its decisions.
//
// A Client authenticates as whoever holds its certificate: an operator, an orchestrator, an agent or a service. It
// trusts one set of roots and no other, speaks TLS 1.3, and bounds what it reads. Refusals of the appliance come back
// as *Problem. Where a quota refuses a request that may be repeated, the Client waits as long as it is told to and asks
// again, while the request's time lasts. A Client is safe for concurrent use.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
)

// maxAnswer bounds a JSON answer, in bytes.
const maxAnswer = 8 << 20

// Config says where the appliance is and who asks.
type Config struct {
	URL         string           // https://host:port
	Roots       *x509.CertPool   // of the trust domain; required
	Certificate *tls.Certificate // nil: only what needs none
	Timeout     time.Duration    // of one request; 0 means 15 s
}

// Client is a connection pool to one appliance, as one identity.
type Client struct {
	base  string
	http  *http.Client
	roots *x509.CertPool
}

// Problem is a refusal by the appliance (RFC 9457).
type Problem struct{ v1.Problem } //nolint:errname // the word of RFC 9457

// Error says the code and the detail.
func (p *Problem) Error() string {
	s := p.Code
	if p.Field != "" {
		s += " (" + p.Field + ")"
	}
	if p.Detail != "" {
		s += ": " + p.Detail
	}
	return s
}

// New makes a Client. It connects on first use.
func New(c Config) (*Client, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("client: URL: an https URL of host, port and path is required")
	}
	if c.Roots == nil {
		return nil, errors.New("client: Roots: the root certificates of the trust domain are required")
	}
	if c.Timeout == 0 {
		c.Timeout = 15 * time.Second
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: c.Roots}
	if c.Certificate != nil {
		conf.Certificates = []tls.Certificate{*c.Certificate}
	}
	return &Client{base: strings.TrimSuffix(c.URL, "/"), roots: c.Roots, http: &http.Client{
		Timeout:   c.Timeout,
		Transport: &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}}, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Option changes one request.
type Option func(*http.Request)

// Idempotent makes a retry of the same request give the first one's outcome.
func Idempotent(key string) Option {
	return func(r *http.Request) { r.Header.Set("Idempotency-Key", key) }
}

// WaitSealed has a spawn, delegation, batch, enrolment, re-key or decision answered when the TPM has sealed its entry, some
// seconds later. The answer's receipt says whether it has: it comes in any case, 25 s at the latest unless the appliance is
// configured otherwise, for which Config.Timeout has to leave time.
func WaitSealed() Option {
	return func(r *http.Request) { r.URL.RawQuery = "wait=sealed" }
}

// post sends in as JSON and reads the answer into a T.
func post[T any](ctx context.Context, c *Client, path string, in any, opts []Option) (T, error) {
	var out T
	body, err := json.Marshal(in)
	if err != nil {
		return out, fmt.Errorf("client: encode request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(body))
	if err != nil {
		return out, fmt.Errorf("client: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	for _, o := range opts {
		o(req)
	}
	return decode[T](c, req)
}

// get reads the answer at path into a T.
func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		var none T
		return none, fmt.Errorf("client: %w", err)
	}
	return decode[T](c, req)
}

func decode[T any](c *Client, req *http.Request) (T, error) {
	var out T
	body, err := c.send(req)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return out, fmt.Errorf("client: %s %s: answer is not the JSON expected: %w", req.Method, req.URL.Path, err)
	}
	return out, nil
}

// try gives the body of a 2xx answer, or how long the appliance wants its caller to wait before the next attempt.
func (c *Client) try(req *http.Request) (body []byte, pause time.Duration, err error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, 0, fmt.Errorf("client: %w", err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, 0, fmt.Errorf("client: %s %s: %w", req.Method, req.URL.Path, err)
	}
	if len(body) > maxAnswer {
		return nil, 0, fmt.Errorf("client: %s %s: answer of more than %d bytes", req.Method, req.URL.Path, maxAnswer)
	}
	if resp.StatusCode/100 == 2 {
		return body, 0, nil
	}
	return nil, pauseOf(resp), refusal(req, resp, body)
}

// refusal reads a problem, or the text "code (field): detail" that AuthZEN's endpoints answer with; an answer that is neither
// keeps its status.
func refusal(req *http.Request, resp *http.Response, body []byte) error {
	var p Problem
	var text string
	if json.Unmarshal(body, &text) == nil && text != "" {
		p.Status = resp.StatusCode
		p.Code, p.Detail, _ = strings.Cut(text, ": ")
		p.Code, p.Field, _ = strings.Cut(strings.TrimSuffix(p.Code, ")"), " (")
		return &p
	}
	if err := json.Unmarshal(body, &p.Problem); err != nil || p.Code == "" {
		return fmt.Errorf("client: %s %s: status %s", req.Method, req.URL.Path, resp.Status)
	}
	return &p
}
