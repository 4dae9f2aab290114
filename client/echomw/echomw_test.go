package echomw_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/client/echomw"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/internal/testrig/hospital"
)

// open serves /:database to agents whose scope covers it.
func open(t *testing.T, h *hospital.Hospital, ended chan<- error) *httptest.Server {
	t.Helper()
	v, err := client.NewVerifier(h.Config())
	if err != nil {
		t.Fatal(err)
	}
	e := echo.New()
	e.Use(echomw.RequireDelegation(v, func(c echo.Context) (client.Demand, error) {
		token, err := chain.ParseToken("database:read:" + c.Param("database"))
		return client.Demand{Scope: chain.Scope{token}}, err
	}))
	e.GET("/:database", func(c echo.Context) error {
		p, ok := client.FromContext(c.Request().Context())
		if !ok {
			t.Error("no principal")
		}
		return c.String(http.StatusOK, p.Agent.String())
	})
	e.GET("/:database/fails", func(echo.Context) error { return echo.NewHTTPError(http.StatusTeapot) })
	e.GET("/:database/stream", func(c echo.Context) error {
		c.Response().Flush()
		<-c.Request().Context().Done()
		ended <- context.Cause(c.Request().Context())
		// The deadline is set beside the end of the context, so the first write may still be in time.
		for err := error(nil); err == nil; {
			_, err = c.Response().Write(make([]byte, 1<<12))
			if err != nil {
				ended <- err
			}
		}
		return nil
	})
	srv := httptest.NewUnstartedServer(e)
	own := h.Listener(t)
	srv.TLS = client.ServerTLS(func() (*tls.Certificate, error) { return own, nil })
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

func ask(t *testing.T, cert *tls.Certificate, url string) *http.Response {
	t.Helper()
	conf := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true} //nolint:gosec // the server is not what is tested
	if cert != nil {
		conf.Certificates = []tls.Certificate{*cert}
	}
	transport := &http.Transport{TLSClientConfig: conf}
	t.Cleanup(transport.CloseIdleConnections)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func get(t *testing.T, cert *tls.Certificate, url string) (status int, text string) {
	t.Helper()
	resp := ask(t, cert, url)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestRequireDelegation(t *testing.T) {
	h := hospital.New(t)
	srv := open(t, h, nil)
	agent := h.Agent(t, time.Hour)
	for name, c := range map[string]struct {
		cert   *tls.Certificate
		path   string
		revoke chain.RevKind
		status int
		body   string
	}{
		"allowed":         {cert: agent, path: "/patients", status: 200, body: hospital.AgentID},
		"handler's error": {cert: agent, path: "/patients/fails", status: 418, body: "{\"message\":\"I'm a teapot\"}\n"},
		"no certificate":  {path: "/patients", status: 401, body: `{"reasons":["client_certificate_required"]}` + "\n"},
		"another scope":   {cert: agent, path: "/billing", status: 403},
		"bad request":     {cert: agent, path: "/a%20b", status: 400},
		"another root":    {cert: hospital.New(t).Agent(t, time.Hour), path: "/patients", status: 403},
		"revoked":         {cert: agent, path: "/patients", revoke: chain.RevTask, status: 403},
	} {
		if c.revoke != chain.RevUnknown {
			h.Feed.Revoke(c.revoke, hospital.Task)
		}
		status, body := get(t, c.cert, srv.URL+c.path)
		if status != c.status || c.body != "" && body != c.body {
			t.Errorf("%s: %d %s", name, status, body)
		}
		h.Feed.Forget()
	}
}

// The context of Echo's request is the one that ends, and nothing can be written after it.
func TestStreamEnds(t *testing.T) {
	h, ended := hospital.New(t), make(chan error, 2)
	srv := open(t, h, ended)
	resp := ask(t, h.Agent(t, time.Hour), srv.URL+"/patients/stream")
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	h.Feed.Revoke(chain.RevAgent, hospital.Parent)
	if r, ok := errors.AsType[*client.Refusal](<-ended); !ok || r.Reasons[0] != chain.CodeParentRevoked {
		t.Errorf("ended by %v", r)
	}
	if err := <-ended; err == nil {
		t.Error("the handler could still write")
	}
}
