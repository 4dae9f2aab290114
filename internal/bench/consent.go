package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
)

var (
	formAction  = regexp.MustCompile(`<form method="post" action="([^"]*)"`)
	hiddenField = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)"`)
)

// approve has the development provider's physician consent at consentURL: sign in, approve, sign in again.
func approve(ctx context.Context, roots *x509.CertPool, consentURL string) error {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}
	defer tr.CloseIdleConnections()
	u := &user{http: &http.Client{Jar: jar, Transport: tr}}
	if err := u.visit(ctx, http.MethodGet, consentURL, nil); err != nil {
		return err
	}
	for _, fields := range []url.Values{{"login": {"physician"}}, {"decision": {"approve"}}, {"login": {"physician"}}} {
		if err := u.submit(ctx, fields); err != nil {
			return err
		}
	}
	return nil
}

// user is a person with a browser.
type user struct {
	http *http.Client
	at   *url.URL
	page string
}

// submit sends the form of the page.
func (u *user) submit(ctx context.Context, fields url.Values) error {
	m := formAction.FindStringSubmatch(u.page)
	if m == nil {
		return fmt.Errorf("consent: %s has no form", u.at.Path)
	}
	for _, h := range hiddenField.FindAllStringSubmatch(u.page, -1) {
		if !fields.Has(h[1]) {
			fields.Set(h[1], html.UnescapeString(h[2]))
		}
	}
	target, err := u.at.Parse(html.UnescapeString(m[1]))
	if err != nil {
		return err
	}
	return u.visit(ctx, http.MethodPost, target.String(), fields)
}

func (u *user) visit(ctx context.Context, method, to string, fields url.Values) error {
	req, err := http.NewRequestWithContext(ctx, method, to, strings.NewReader(fields.Encode()))
	if err != nil {
		return err
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", req.URL.Scheme+"://"+req.URL.Host)
	}
	resp, err := u.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("consent: %s: %s: %.300s", resp.Request.URL.Path, resp.Status, body)
	}
	u.at, u.page = resp.Request.URL, string(body)
	return nil
}
