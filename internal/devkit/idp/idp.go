// Package idp is a development OpenID provider: zitadel/oidc with users from a table, everything in memory, and a login
// page of one click without a password.
//
// It is for `signetd dev` and for tests, and protects nothing: whoever reaches it is whoever they say. It speaks the
// authorization code flow with PKCE for one public client, honours prompt=login and max_age, and puts auth_time, acr, amr,
// nonce, roles and groups into ID tokens. Its keys and sessions end with the process. It mounts below the path of its
// issuer, so that one HTTPS port can carry it beside other handlers. Safe for concurrent use.
package idp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"
)

// What the tokens say about how a user authenticated: a click, and nothing more.
const (
	ACR = "urn:signet:development:one-click"
	AMR = "user" // RFC 8176: presence
)

// User is a person in the table. Login is what the login form sends.
type User struct {
	Login, Subject, Name string
	Roles, Groups        []string
}

// Users are the people of the demonstration.
func Users() []User {
	return []User{
		{Login: "physician", Subject: "physician-7f3a", Name: "A physician", Roles: []string{"physician", "analyst"}, Groups: []string{"cardiology"}},
		{Login: "clerk", Subject: "clerk-19c2", Name: "A clerk", Roles: []string{"clerk"}, Groups: []string{"front-desk"}},
	}
}

// Config says what the provider is. All fields but Stopped and Users are required.
type Config struct {
	Issuer       string // https://HOST:PORT/idp: its path is where the provider is mounted
	ClientID     string
	RedirectURIs []string
	Users        []User      // nil: Users()
	Stopped      func() bool // while true, connections are dropped without an answer, as by a dead server
	Now          func() time.Time
}

// Provider is an http.Handler. It takes requests with their full path, the issuer's included.
type Provider struct {
	cfg    Config
	prefix string
	store  *storage
	routes http.Handler
	op     *op.Provider
}

// New makes a provider with a fresh P-256 key.
func New(cfg Config) (*Provider, error) {
	prefix, err := cfg.check()
	if err != nil {
		return nil, err
	}
	if cfg.Users == nil {
		cfg.Users = Users()
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("idp: make key: %w", err)
	}
	var secret [32]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return nil, fmt.Errorf("idp: make key: %w", err)
	}
	p := &Provider{cfg: cfg, prefix: prefix, store: newStorage(cfg, prefix, key)}
	p.op, err = op.NewProvider(&op.Config{
		CryptoKey: secret, CodeMethodS256: true, SupportedScopes: []string{"openid", "profile"},
		SupportedClaims: []string{"iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "acr", "amr", "roles", "groups"},
	}, p.store, op.StaticIssuer(cfg.Issuer), op.WithCORSOptions(nil))
	if err != nil {
		return nil, fmt.Errorf("idp: make provider: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /login", p.showLogin)
	mux.HandleFunc("POST /login", p.takeLogin)
	mux.Handle("/", p.op)
	p.routes = http.StripPrefix(prefix, mux)
	return p, nil
}

func (c Config) check() (prefix string, err error) {
	u, err := url.Parse(c.Issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.HasSuffix(u.Path, "/") {
		return "", errors.New("idp: issuer is not an https URL without a final slash")
	}
	if c.ClientID == "" || len(c.RedirectURIs) == 0 || c.Now == nil {
		return "", errors.New("idp: client id, redirect URIs and clock are required")
	}
	for i, user := range c.Users {
		same := func(other User) bool { return other.Login == user.Login || other.Subject == user.Subject }
		if user.Login == "" || user.Subject == "" || slices.ContainsFunc(c.Users[:i], same) {
			return "", fmt.Errorf("idp: user %d has no login and subject of its own", i)
		}
	}
	return u.Path, nil
}

// ServeHTTP implements http.Handler.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.cfg.Stopped != nil && p.cfg.Stopped() {
		panic(http.ErrAbortHandler) // net/http's way to close a connection without an answer
	}
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	p.routes.ServeHTTP(w, r)
}
