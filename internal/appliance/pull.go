package appliance

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/policy"
)

const (
	pullWithin  = 30 * time.Second // for one question and its answer
	pullRetry   = 2 * time.Second  // after the first failure; doubled with each
	maxPull     = 16 << 20         // bytes of a bundle
	maxETag     = 1 << 10
	maxPullWait = 10 * time.Minute
)

// puller asks a bundle server for a bundle that is not the one it had. What comes is handed on as a candidate: the server
// decides nothing, and a server that fails in whatever way changes nothing.
type puller struct {
	cfg     PolicyPull
	token   string // path
	client  *http.Client
	receive func(ctx context.Context, archive []byte) (delegation.BundleStatus, error)
	log     *slog.Logger

	etag string   // of the last bundle that came whole
	seen [32]byte // its SHA-256: some servers have no ETags
	said string   // the last thing that was logged
}

// newPuller gives nil where nothing is to be pulled.
func (c *Config) newPuller(receive func(context.Context, []byte) (delegation.BundleStatus, error), log *slog.Logger) (*puller, error) {
	if c.Policy.Pull == nil {
		return nil, nil //nolint:nilnil // nothing to pull
	}
	p := &puller{cfg: *c.Policy.Pull, receive: receive, log: log}
	if p.cfg.TokenFile != "" {
		p.token = c.path(p.cfg.TokenFile)
	}
	roots, err := c.roots(p.cfg.CAFile)
	if err != nil {
		return nil, fmt.Errorf("configuration: policy.pull.ca_file: %w", err)
	}
	p.client = pullClient(roots)
	return p, nil
}

// pullClient follows no redirect (the token is for this server alone), takes nothing compressed beside the archive, and
// uses no proxy of the environment.
func pullClient(roots *x509.CertPool) *http.Client {
	return &http.Client{
		Timeout:       pullWithin,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			TLSClientConfig:    &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			DisableCompression: true, MaxResponseHeaderBytes: 64 << 10, MaxIdleConns: 1, IdleConnTimeout: time.Minute,
		},
	}
}

// Run asks again and again until ctx ends.
func (p *puller) Run(ctx context.Context) error {
	if p == nil {
		return nil
	}
	defer p.client.CloseIdleConnections()
	failures := 0
	for {
		if err := p.poll(ctx); err != nil && ctx.Err() == nil {
			failures++
			p.say(ctx, slog.LevelWarn, "policy bundle not pulled: "+plain(err))
		} else {
			failures = 0
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pullDelay(p.cfg.Interval, failures, fraction())):
		}
	}
}

// pullDelay is the interval, or after failures a time that doubles up to ten minutes; either is shortened by up to half,
// by part in [0,1), so that many appliances do not ask at once.
func pullDelay(interval time.Duration, failures int, part float64) time.Duration {
	d := interval
	if failures > 0 {
		d = min(pullRetry<<min(failures-1, 16), max(interval, maxPullWait))
	}
	return d - time.Duration(part*float64(d)/2)
}

func fraction() float64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return float64(binary.BigEndian.Uint64(b[:])>>11) / (1 << 53)
}

// say logs what is not what was said last: a server that is down for a day is one line.
func (p *puller) say(ctx context.Context, level slog.Level, text string) {
	if text == p.said {
		return
	}
	p.said = text
	p.log.Log(ctx, level, text)
}

// poll asks once.
func (p *puller) poll(ctx context.Context) error {
	archive, etag, err := p.fetch(ctx)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(archive)
	if archive == nil || sum == p.seen {
		p.etag = etag
		p.say(ctx, slog.LevelInfo, "the bundle server has nothing new")
		return nil
	}
	out, refused := p.receive(ctx, archive)
	if refused != nil && again(refused) {
		return refused
	}
	p.etag, p.seen = etag, sum
	if refused != nil {
		// The same bundle will be refused again: it is not asked for until the server has another.
		p.say(ctx, slog.LevelWarn, "the pulled policy bundle is refused: "+refused.Error())
		return nil //nolint:nilerr // the server did its part
	}
	p.say(ctx, slog.LevelInfo, fmt.Sprintf("pulled policy bundle %s, revision %d: active %v", out.Digest, out.Revision, out.Active))
	return nil
}

// again says whether the same bundle could be taken later.
func again(err error) bool {
	e := delegation.AsError(err)
	return e.Kind != delegation.Invalid && e.Code != policy.BundleDowngrade
}

// plain leaves out the addresses, which change with each connection and mean nothing.
func plain(err error) string {
	var op *net.OpError
	var u *url.Error
	switch {
	case errors.As(err, &op):
		return op.Op + ": " + op.Err.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &u) && u.Timeout():
		return "no answer in time"
	case errors.As(err, &u):
		return u.Err.Error()
	}
	return err.Error()
}

// fetch gives nil where the server has what was seen before.
func (p *puller) fetch(ctx context.Context) (archive []byte, etag string, err error) {
	// Not after the client's own: a server that we hang up on may end its answer well, just in time to look whole.
	ctx, cancel := context.WithTimeout(ctx, p.client.Timeout)
	defer cancel()
	r, err := p.request(ctx)
	if err != nil {
		return nil, "", err
	}
	resp, err := p.client.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && p.etag != "":
		return nil, p.etag, nil
	case resp.StatusCode != http.StatusOK:
		return nil, "", fmt.Errorf("the server answered %d", resp.StatusCode)
	case resp.Header.Get("Content-Encoding") != "":
		return nil, "", errors.New("the server encoded its answer")
	case resp.ContentLength > maxPull:
		return nil, "", fmt.Errorf("more than %d bytes", maxPull)
	}
	archive, err = io.ReadAll(io.LimitReader(resp.Body, maxPull+1))
	switch {
	case err != nil:
		return nil, "", err
	case ctx.Err() != nil:
		return nil, "", ctx.Err()
	case len(archive) > maxPull:
		return nil, "", fmt.Errorf("more than %d bytes", maxPull)
	case len(archive) == 0:
		return nil, "", errors.New("an empty answer")
	}
	if etag = resp.Header.Get("ETag"); len(etag) > maxETag {
		etag = ""
	}
	return archive, etag, nil
}

func (p *puller) request(ctx context.Context) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.cfg.URL, nil)
	if err != nil {
		return nil, err
	}
	if p.etag != "" {
		r.Header.Set("If-None-Match", p.etag)
	}
	if p.token == "" {
		return r, nil
	}
	// Read each time: it may be short-lived, and is kept nowhere.
	token, err := os.ReadFile(p.token)
	if err != nil {
		return nil, fmt.Errorf("token_file: %w", err)
	}
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	return r, nil
}
