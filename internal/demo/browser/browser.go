// Package browser plays a user's browser on the way through consent: cookies, redirects and forms, nothing else. It runs no
// scripts, trusts the roots that it is given alone, and is one person's: not for concurrent use.
package browser

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Browser keeps one person's cookies.
type Browser struct{ http *http.Client }

// New makes a browser without cookies.
func New(roots *x509.CertPool) (*Browser, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, fmt.Errorf("browser: %w", err)
	}
	return &Browser{&http.Client{
		Jar: jar, Timeout: 15 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}},
	}}, nil
}

// page is where the browser is.
type page struct {
	url  *url.URL
	body string
}

func (b *Browser) get(ctx context.Context, u string) (page, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return page{}, err
	}
	return b.do(req)
}

// submit sends the page's form with further fields.
func (b *Browser) submit(ctx context.Context, p page, fields url.Values) (page, error) {
	action, err := p.find(`<form method="post" action="([^"]*)"`)
	if err != nil {
		return page{}, err
	}
	for _, m := range hidden.FindAllStringSubmatch(p.body, -1) {
		if fields.Get(m[1]) == "" {
			fields.Set(m[1], html.UnescapeString(m[2]))
		}
	}
	target, err := p.url.Parse(action)
	if err != nil {
		return page{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), strings.NewReader(fields.Encode()))
	if err != nil {
		return page{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", target.Scheme+"://"+target.Host)
	return b.do(req)
}

func (b *Browser) do(req *http.Request) (page, error) {
	resp, err := b.http.Do(req)
	if err != nil {
		return page{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return page{}, err
	}
	p := page{resp.Request.URL, string(body)}
	if resp.StatusCode != http.StatusOK {
		code, err := p.find(`<code>([^<]*)</code>`)
		if err != nil {
			code = strings.TrimSpace(p.body)
		}
		return p, fmt.Errorf("%s answered %s: %s", resp.Request.URL.Path, resp.Status, code)
	}
	return p, nil
}

var hidden = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)"`)

func (p page) find(pattern string) (string, error) {
	m := regexp.MustCompile(pattern).FindStringSubmatch(p.body)
	if m == nil {
		return "", errors.New("the page is not the one expected: " + p.url.Path)
	}
	return html.UnescapeString(m[1]), nil
}

// Consent goes to consentURL as the user of that login: signs in, reads Signet's page, approves, and signs in again. It
// gives the page that was shown.
func (b *Browser) Consent(ctx context.Context, consentURL, login string) (shown string, err error) {
	p, err := b.get(ctx, consentURL)
	if err != nil {
		return "", err
	}
	if p, err = b.submit(ctx, p, url.Values{"login": {login}}); err != nil {
		return "", err
	}
	shown = p.body
	if p, err = b.submit(ctx, p, url.Values{"decision": {"approve"}}); err != nil {
		return shown, err
	}
	_, err = b.submit(ctx, p, url.Values{"login": {login}})
	return shown, err
}
