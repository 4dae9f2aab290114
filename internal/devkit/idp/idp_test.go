package idp_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/signet-pki/signet/internal/devkit/idp"
)

const (
	clientID = "client"
	verifier = "0123456789012345678901234567890123456789012345"
)

type rig struct {
	t       *testing.T
	base    string
	client  *http.Client
	stopped atomic.Bool
	now     time.Time
}

// start mounts the provider at /idp of a server that has other paths too.
func start(t *testing.T) *rig {
	t.Helper()
	mux := http.NewServeMux()
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	r := &rig{t: t, base: server.URL, now: time.Now()}
	p, err := idp.New(idp.Config{
		Issuer: server.URL + "/idp", ClientID: clientID, RedirectURIs: []string{server.URL + "/callback"},
		Stopped: r.stopped.Load, Now: func() time.Time { return r.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	mux.Handle("/idp/", p)
	mux.HandleFunc("/callback", func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "callback "+r.URL.RawQuery) }) //nolint:gosec // a test reads it
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	r.client = &http.Client{Transport: server.Client().Transport, Jar: jar}
	return r
}

func (r *rig) send(method, path string, form url.Values) (status int, answer string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		r.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// authorize opens an authorization request with more parameters.
func (r *rig) authorize(more ...string) string {
	r.t.Helper()
	sum := sha256.Sum256([]byte(verifier))
	q := url.Values{
		"client_id": {clientID}, "redirect_uri": {r.base + "/callback"}, "response_type": {"code"}, "scope": {"openid"},
		"state": {"s"}, "nonce": {"n"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}
	for pair := range slices.Chunk(more, 2) {
		q[pair[0]] = pair[1:]
	}
	_, body := r.send(http.MethodGet, "/idp/authorize?"+q.Encode(), nil)
	return body
}

// login answers the login page and returns the code.
func (r *rig) login(page, login string) string {
	r.t.Helper()
	m := regexp.MustCompile(`name="id" value="([^"]+)"`).FindStringSubmatch(page)
	if m == nil {
		r.t.Fatalf("no login page: %s", page)
	}
	_, body := r.send(http.MethodPost, "/idp/login", url.Values{"id": {m[1]}, "login": {login}})
	return codeOf(r.t, body)
}

func codeOf(t *testing.T, body string) string {
	t.Helper()
	query, ok := strings.CutPrefix(body, "callback ")
	v, err := url.ParseQuery(query)
	if !ok || err != nil || v.Get("code") == "" || v.Get("state") != "s" {
		t.Fatalf("not the callback: %s", body)
	}
	return v.Get("code")
}

func (r *rig) redeem(code, verifier string) (status int, answer string) {
	r.t.Helper()
	return r.send(http.MethodPost, "/idp/oauth/token", url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "client_id": {clientID},
		"redirect_uri": {r.base + "/callback"}, "code_verifier": {verifier},
	})
}

type claims struct {
	Roles, Groups, AMR []string
	ACR, Nonce         string
	AuthTime           int64 `json:"auth_time"`
}

func (r *rig) token(code string) (*oidc.IDToken, claims) {
	r.t.Helper()
	status, body := r.redeem(code, verifier)
	var answer struct {
		IDToken string `json:"id_token"`
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusOK {
		r.t.Fatalf("status %d: %s", status, body)
	}
	ctx := oidc.ClientContext(r.t.Context(), r.client)
	p, err := oidc.NewProvider(ctx, r.base+"/idp")
	if err != nil {
		r.t.Fatal(err)
	}
	token, err := p.VerifierContext(ctx, &oidc.Config{ClientID: clientID}).Verify(ctx, answer.IDToken)
	if err != nil {
		r.t.Fatal(err)
	}
	var c claims
	if err := token.Claims(&c); err != nil {
		r.t.Fatal(err)
	}
	return token, c
}

func TestCodeFlow(t *testing.T) {
	r := start(t)
	for login, want := range map[string]idp.User{"physician": idp.Users()[0], "clerk": idp.Users()[1]} {
		token, c := r.token(r.login(r.authorize("prompt", "login"), login))
		if token.Subject != want.Subject || !slices.Equal(c.Roles, want.Roles) || !slices.Equal(c.Groups, want.Groups) ||
			c.ACR != idp.ACR || !slices.Equal(c.AMR, []string{idp.AMR}) || c.Nonce != "n" || c.AuthTime != r.now.Unix() {
			t.Errorf("%s: sub %s, %+v", login, token.Subject, c)
		}
	}
}

func TestSessionAndPrompt(t *testing.T) {
	r := start(t)
	first := r.now
	r.login(r.authorize(), "physician")
	r.now = r.now.Add(time.Minute)
	_, c := r.token(codeOf(t, r.authorize())) // the session answers
	if c.AuthTime != first.Unix() {
		t.Errorf("auth_time %d, want that of the session, %d", c.AuthTime, first.Unix())
	}
	if page := r.authorize("max_age", "3600"); !strings.HasPrefix(page, "callback") {
		t.Errorf("a young session was not accepted: %s", page)
	}
	for _, more := range [][]string{{"prompt", "login"}, {"max_age", "0"}, {"max_age", "59"}} {
		if page := r.authorize(more...); !strings.Contains(page, "Development sign-in") {
			t.Errorf("%v did not ask again: %s", more, page)
		}
	}
	_, c = r.token(r.login(r.authorize("prompt", "login"), "physician"))
	if c.AuthTime != r.now.Unix() {
		t.Errorf("auth_time %d after a new login, want %d", c.AuthTime, r.now.Unix())
	}
}

func TestRefused(t *testing.T) {
	r := start(t)
	for name, page := range map[string]string{
		"no PKCE":        r.authorize("code_challenge", ""),
		"plain PKCE":     r.authorize("code_challenge_method", "plain"),
		"implicit":       r.authorize("response_type", "id_token"),
		"other client":   r.authorize("client_id", "x"),
		"other redirect": r.authorize("redirect_uri", "https://other.example/"),
	} {
		if strings.Contains(page, "Development sign-in") || strings.Contains(page, "code=") {
			t.Errorf("%s was served: %s", name, page)
		}
	}
	code := r.login(r.authorize(), "clerk")
	if status, body := r.redeem(code, verifier+"x"); status == http.StatusOK {
		t.Errorf("a wrong verifier was accepted: %s", body)
	}
	code = r.login(r.authorize("prompt", "login"), "clerk")
	r.token(code)
	if status, body := r.redeem(code, verifier); status == http.StatusOK {
		t.Errorf("a code worked twice: %s", body)
	}
	page := r.authorize("prompt", "login")
	id := regexp.MustCompile(`name="id" value="([^"]+)"`).FindStringSubmatch(page)[1]
	for _, form := range []url.Values{{"id": {id}, "login": {"nobody"}}, {"id": {"x"}, "login": {"clerk"}}, {}} {
		if status, _ := r.send(http.MethodPost, "/idp/login", form); status != http.StatusBadRequest {
			t.Errorf("%v: status %d", form, status)
		}
	}
}

func TestStopped(t *testing.T) {
	r := start(t)
	r.stopped.Store(true)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.base+"/idp/.well-known/openid-configuration", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := r.client.Do(req)
	if err == nil {
		resp.Body.Close()
		t.Fatalf("a stopped provider answered %d", resp.StatusCode)
	}
	if !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "EOF") {
		t.Errorf("%v", err)
	}
	r.stopped.Store(false)
	if status, _ := r.send(http.MethodGet, "/idp/.well-known/openid-configuration", nil); status != http.StatusOK {
		t.Errorf("status %d after it is back", status)
	}
}

func TestConfigRefused(t *testing.T) {
	good := idp.Config{Issuer: "https://h/idp", ClientID: "c", RedirectURIs: []string{"https://h/cb"}, Now: time.Now}
	for name, change := range map[string]func(*idp.Config){
		"plain":       func(c *idp.Config) { c.Issuer = "http://h/idp" },
		"slash":       func(c *idp.Config) { c.Issuer = "https://h/idp/" },
		"no client":   func(c *idp.Config) { c.ClientID = "" },
		"no redirect": func(c *idp.Config) { c.RedirectURIs = nil },
		"no clock":    func(c *idp.Config) { c.Now = nil },
		"same login":  func(c *idp.Config) { c.Users = []idp.User{{Login: "a", Subject: "1"}, {Login: "a", Subject: "2"}} },
	} {
		c := good
		change(&c)
		if _, err := idp.New(c); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
