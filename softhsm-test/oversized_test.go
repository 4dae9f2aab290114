package softhsmtest

import (
	"crypto/tls"
	"net/http"
	"strings"
	"testing"
)

// TestOversizedIsAnswered: who sends too much over HTTP/1.1 reads why, and no broken connection.
func TestOversizedIsAnswered(t *testing.T) {
	dir := newDir(t)
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	lost := 0
	for range 200 {
		tr := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS13, RootCAs: c.roots, Certificates: []tls.Certificate{*c.orchestrator.cert},
		}}
		body := strings.NewReader(`{"agent_type":"` + strings.Repeat("a", 300<<10) + `"}`)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.url+"/v1/agents", body)
		must(t, err)
		req.Header.Set("Content-Type", "application/json")
		resp, err := (&http.Client{Transport: tr}).Do(req)
		if err != nil {
			lost++
			continue
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s, %v", resp.Status, err)
		}
	}
	if lost > 0 {
		t.Errorf("%d of 200 answers were lost", lost)
	}
}
