package idp

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

const (
	requestLife = 10 * time.Minute
	sessionLife = 8 * time.Hour
	tokenLife   = 5 * time.Minute
	maxPending  = 4096
)

var errUnknown = errors.New("idp: unknown or expired")

// storage keeps requests and sessions in memory. It implements op.Storage as far as a code flow needs it; what else that
// interface asks for is refused.
type storage struct {
	cfg    Config
	client *client
	key    signingKey

	mu       sync.Mutex
	requests map[string]*request // by id
	codes    map[string]string   // code → id
	sessions map[string]session  // by cookie
}

type session struct {
	user User
	at   time.Time
}

func newStorage(cfg Config, prefix string, key *ecdsa.PrivateKey) *storage {
	return &storage{
		cfg: cfg, key: signingKey{key, rand.Text()}, client: &client{id: cfg.ClientID, redirects: cfg.RedirectURIs, login: prefix + "/login?id="},
		requests: map[string]*request{}, codes: map[string]string{}, sessions: map[string]session{},
	}
}

// sweep drops what is over. The caller holds mu.
func (s *storage) sweep() {
	now := s.cfg.Now()
	for id, r := range s.requests {
		if now.Sub(r.created) > requestLife {
			delete(s.requests, id)
		}
	}
	for code, id := range s.codes {
		if s.requests[id] == nil {
			delete(s.codes, code)
		}
	}
	for cookie, v := range s.sessions {
		if now.Sub(v.at) > sessionLife {
			delete(s.sessions, cookie)
		}
	}
}

// CreateAuthRequest stores a request of a client. Only the code flow with PKCE (S256) is served.
func (s *storage) CreateAuthRequest(_ context.Context, in *oidc.AuthRequest, _ string) (op.AuthRequest, error) {
	if in.ResponseType != oidc.ResponseTypeCode {
		return nil, oidc.ErrUnsupportedGrantType().WithDescription("only response_type=code is served")
	}
	if in.CodeChallenge == "" || in.CodeChallengeMethod != oidc.CodeChallengeMethodS256 {
		return nil, oidc.ErrInvalidRequest().WithDescription("PKCE with S256 is required")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	if len(s.requests) >= maxPending {
		return nil, oidc.ErrServerError().WithDescription("too many sign-ins")
	}
	r := &request{id: rand.Text(), in: *in, created: s.cfg.Now()}
	s.requests[r.id] = r
	return r.copy(), nil
}

// AuthRequestByID implements op.AuthStorage.
func (s *storage) AuthRequestByID(_ context.Context, id string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.find(id)
}

// AuthRequestByCode redeems a code, which works once (RFC 6749 §4.1.2).
func (s *storage) AuthRequestByCode(_ context.Context, code string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.codes[code]
	delete(s.codes, code)
	return s.find(id)
}

func (s *storage) find(id string) (op.AuthRequest, error) {
	s.sweep()
	r, ok := s.requests[id]
	if !ok {
		return nil, errUnknown
	}
	return r.copy(), nil
}

// SaveAuthCode implements op.AuthStorage.
func (s *storage) SaveAuthCode(_ context.Context, id, code string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.codes[code] = id
	return nil
}

// DeleteAuthRequest implements op.AuthStorage.
func (s *storage) DeleteAuthRequest(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.requests, id)
	return nil
}

// waiting tells whether a request waits for a login.
func (s *storage) waiting(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	r, ok := s.requests[id]
	return ok && r.user == nil
}

// login answers a request with a user of the table.
func (s *storage) login(id, login, cookie string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	r, ok := s.requests[id]
	i := slices.IndexFunc(s.cfg.Users, func(u User) bool { return u.Login == login })
	if !ok || r.user != nil || i < 0 || len(s.sessions) >= maxPending {
		return false
	}
	now := s.cfg.Now()
	r.user, r.at = &s.cfg.Users[i], now
	s.sessions[cookie] = session{user: s.cfg.Users[i], at: now}
	return true
}

// resume answers a request with an earlier login, if its client accepts one that old (OIDC Core §3.1.2.1).
func (s *storage) resume(id, cookie string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	r, ok := s.requests[id]
	earlier, known := s.sessions[cookie]
	if !ok || !known || r.user != nil || slices.Contains(r.in.Prompt, oidc.PromptLogin) {
		return false
	}
	if m := r.in.MaxAge; m != nil && s.cfg.Now().Sub(earlier.at) >= time.Duration(*m)*time.Second { //nolint:gosec // seconds of a development client
		return false
	}
	r.user, r.at = &earlier.user, earlier.at
	return true
}

// CreateAccessToken makes no use of its token: nothing here accepts one.
func (s *storage) CreateAccessToken(context.Context, op.TokenRequest) (string, time.Time, error) {
	return rand.Text(), s.cfg.Now().Add(tokenLife), nil
}

// SigningKey implements op.AuthStorage.
func (s *storage) SigningKey(context.Context) (op.SigningKey, error) { return s.key, nil }

// SignatureAlgorithms implements op.AuthStorage.
func (s *storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.ES256}, nil
}

// KeySet implements op.AuthStorage.
func (s *storage) KeySet(context.Context) ([]op.Key, error) {
	return []op.Key{publicKey{s.key}}, nil
}

// GetClientByClientID implements op.OPStorage.
func (s *storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	if id != s.client.id {
		return nil, errUnknown
	}
	return s.client, nil
}

// Health implements op.Storage.
func (s *storage) Health(context.Context) error { return nil }
