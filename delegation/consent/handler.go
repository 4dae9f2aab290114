package consent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
)

const (
	cookieName = "__Host-signet-consent"
	maxForm    = 16 << 10
)

// Users is what the pages show and change.
type Users struct {
	Pending     Pending
	Grants      Grants
	Credentials Credentials
}

// Handler serves the consent pages, GET and POST /consent/{grant_id}, the user's own, GET and POST /account, and GET on the path of each Config.RedirectURL.
type Handler struct {
	providers   []*Provider
	pending     Pending
	grants      Grants
	credentials Credentials
	keys        *authenticators
	pages       Pages
	log         *slog.Logger
	flows       *flows
	now         func() time.Time
	rand        io.Reader
	mux         *http.ServeMux
}

// NewHandler makes a Handler. Users choose among several providers; clock and randomness are the first one's.
func NewHandler(providers []*Provider, users Users, pages Pages, log *slog.Logger) (*Handler, error) {
	if len(providers) == 0 || users.Pending == nil || users.Grants == nil || users.Credentials == nil || pages == nil || log == nil {
		return nil, errors.New("consent: providers, users' grants and credentials, pages and logger are required")
	}
	keys, err := newAuthenticators(providers[0].cfg.RedirectURL)
	if err != nil {
		return nil, err
	}
	for i, p := range providers {
		for _, other := range providers[:i] {
			if p.cfg.Name == other.cfg.Name || p.cfg.Issuer == other.cfg.Issuer {
				return nil, errors.New("consent: two providers have the same name or issuer")
			}
		}
	}
	h := &Handler{
		providers: providers, pending: users.Pending, grants: users.Grants, credentials: users.Credentials, keys: keys, pages: pages, log: log, flows: newFlows(), mux: http.NewServeMux(),
		now: providers[0].cfg.Now, rand: providers[0].cfg.Rand,
	}
	h.mux.HandleFunc("GET /consent/{grant_id}", h.guard(h.open))
	h.mux.HandleFunc("POST /consent/{grant_id}", h.guard(h.decide))
	h.mux.HandleFunc("GET /consent/webauthn.js", h.guard(h.script))
	h.mux.HandleFunc("GET /account", h.guard(h.account))
	h.mux.HandleFunc("POST /account", h.guard(h.change))
	h.mux.HandleFunc("GET "+callbackPath+"{provider}", h.guard(h.callback))
	return h, nil
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// guard sets the headers that every answer has, and turns errors into pages.
func (h *Handler) guard(next func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Cache-Control", "no-store")
		header.Set("Referrer-Policy", "same-origin")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("X-Frame-Options", "DENY")
		h.policy(header, "")
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if err := next(w, r); err != nil {
			h.fail(w, r, err)
		}
	}
}

// policy sets the Content-Security-Policy. The form's answer redirects to the provider, and browsers apply form-action
// to redirects too.
func (h *Handler) policy(header http.Header, formOrigin string) {
	header.Set("Content-Security-Policy", strings.TrimSpace("default-src 'none'; style-src "+h.pages.StyleSource()+
		"; base-uri 'none'; frame-ancestors 'none'; form-action 'self' "+formOrigin))
}

// scripted is policy for a page with the one script of this origin.
func (h *Handler) scripted(header http.Header, formOrigin string) {
	h.policy(header, formOrigin)
	if h.keys != nil {
		header.Set("Content-Security-Policy", header.Get("Content-Security-Policy")+"; script-src 'self'")
	}
}

// script is that script.
func (h *Handler) script(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
	_, _ = w.Write(h.pages.Script()) // the browser left: nobody to tell
	return nil
}

func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	a := answerTo(err)
	h.log.LogAttrs(r.Context(), slog.LevelWarn, "consent not given", slog.String("code", a.code), slog.Any("error", err))
	if a.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	if err := h.render(w, a.status, PageError, View{Code: a.code, Message: a.message}); err != nil {
		h.log.LogAttrs(r.Context(), slog.LevelError, "consent page", slog.Any("error", err))
		http.Error(w, a.code, a.status)
	}
}

// render writes nothing before the page is whole.
func (h *Handler) render(w http.ResponseWriter, status int, page string, v View) error {
	var out bytes.Buffer
	v.Left = v.Request.NotAfter.Sub(h.now())
	if err := h.pages.Render(&out, page, v); err != nil {
		return fmt.Errorf("consent: render %s: %w", page, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes()) // the browser left: nobody to tell
	return nil
}

// open shows the request to a browser that has logged in for it, and sends any other to log in.
func (h *Handler) open(w http.ResponseWriter, r *http.Request) error {
	grantID, err := grantOf(r)
	if err != nil {
		return err
	}
	request, err := h.pending.Describe(r.Context(), grantID)
	if err != nil {
		return fmt.Errorf("consent: describe grant: %w", err)
	}
	f, ok := h.flows.get(cookieOf(r), h.now())
	if ok && f.stage == stageReview && f.grantID == grantID {
		meta, err := f.provider.metadata(r.Context())
		if err != nil {
			return err
		}
		options, err := h.keyRequest(r.Context(), f)
		if err != nil {
			return fmt.Errorf("consent: key: %w", err)
		}
		h.scripted(w.Header(), meta.authorize)
		return h.render(w, http.StatusOK, PageReview, View{Request: f.shown, User: f.user, CSRF: f.csrf, KeyOptions: options})
	}
	provider, err := h.chosen(r)
	if err != nil {
		return err
	}
	if provider == nil {
		return h.choose(w, "/consent/"+request.GrantID)
	}
	nonce, err := token(h.rand)
	if err != nil {
		return err
	}
	return h.send(w, r, flow{grantID: grantID, provider: provider, stage: stageLogin, shown: request}, attempt{nonce: nonce})
}

// chosen is the provider that the link names, or the only one; nil if the user has yet to choose.
func (h *Handler) chosen(r *http.Request) (*Provider, error) {
	name := r.URL.Query().Get("provider")
	if name == "" && len(h.providers) == 1 {
		return h.providers[0], nil
	}
	for _, p := range h.providers {
		if p.cfg.Name == name {
			return p, nil
		}
	}
	if name != "" {
		return nil, refuse("provider_unknown", fmt.Errorf("no provider %.32q", name))
	}
	return nil, nil //nolint:nilnil // nobody is chosen, and nothing is wrong
}

// choose asks where the user has an account. It shows nothing of the request, for nobody has signed in yet.
func (h *Handler) choose(w http.ResponseWriter, path string) error {
	v := View{Path: path}
	for _, p := range h.providers {
		v.Providers = append(v.Providers, Choice{Name: p.cfg.Name, Issuer: p.cfg.Issuer})
	}
	return h.render(w, http.StatusOK, PageChoose, v)
}

// send starts a code flow: it puts state, verifier and nonce behind a new cookie and redirects to the provider.
func (h *Handler) send(w http.ResponseWriter, r *http.Request, f flow, a attempt) error {
	meta, err := f.provider.metadata(r.Context())
	if err != nil {
		return err
	}
	if a.state, err = token(h.rand); err != nil {
		return err
	}
	if a.verifier, err = token(h.rand); err != nil {
		return err
	}
	a.started = h.now()
	f.attempt = a
	if err := h.keep(w, f); err != nil {
		return err
	}
	http.Redirect(w, r, meta.authorizeURL(a), http.StatusSeeOther)
	return nil
}

// keep stores a flow behind a new cookie. The cookie changes with each step, so that one planted before the login is
// worth nothing after it.
func (h *Handler) keep(w http.ResponseWriter, f flow) error {
	cookie, err := token(h.rand)
	if err != nil {
		return err
	}
	now := h.now()
	life := f.lifeFrom(now)
	f.expires = now.Add(life)
	if err := h.flows.put(cookie, f, now); err != nil {
		return err
	}
	// Lax: the provider's redirect back is a top-level navigation from another site.
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: cookie, Path: "/", MaxAge: max(1, int(life.Seconds())),
		Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
	return nil
}

// decide takes the user's answer on the review page.
func (h *Handler) decide(w http.ResponseWriter, r *http.Request) error {
	grantID, err := grantOf(r)
	if err != nil {
		return err
	}
	if err := sameOrigin(r); err != nil {
		return err
	}
	if err := r.ParseForm(); err != nil {
		return refuse("form_invalid", err)
	}
	decision := r.PostForm.Get("decision")
	if decision != "approve" && decision != "approve_key" && decision != "refuse" {
		return refuse("form_invalid", errors.New("decision is none that the page offers"))
	}
	f, err := h.flows.take(cookieOf(r), h.now(), func(f flow) error {
		if f.stage != stageReview || f.grantID != grantID {
			return refuse("flow_missing", errors.New("the flow of this cookie is not at this page"))
		}
		if !equal(f.csrf, r.PostForm.Get("csrf")) {
			return refuse("csrf_mismatch", errors.New("the form has not this page's token"))
		}
		return nil
	})
	if err != nil {
		return err
	}
	switch decision {
	case "refuse":
		return h.decline(w, r, f)
	case "approve_key":
		return h.approveByKey(w, r, f)
	default:
		return h.approve(w, r, f)
	}
}

// sameOrigin refuses a form that a browser says is another site's.
func sameOrigin(r *http.Request) error {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
		return refuse("csrf_mismatch", fmt.Errorf("the form came from a %q page", site))
	}
	return nil
}

func (h *Handler) decline(w http.ResponseWriter, r *http.Request, f flow) error {
	if err := h.pending.Refuse(r.Context(), f.grantID, f.user); err != nil {
		return fmt.Errorf("consent: refuse grant: %w", err)
	}
	forget(w)
	return h.render(w, http.StatusOK, PageDone, View{Request: f.shown, User: f.user})
}

// approve fixes the grant document and sends the user to authenticate for exactly that.
func (h *Handler) approve(w http.ResponseWriter, r *http.Request, f flow) error {
	document, grant, err := h.document(r.Context(), f)
	if err != nil {
		return err
	}
	nonce, err := grant.Nonce()
	if err != nil {
		return fmt.Errorf("consent: grant document: %w", err)
	}
	next := flow{grantID: f.grantID, provider: f.provider, stage: stageConfirm, user: f.user, shown: f.shown, document: document}
	return h.send(w, r, next, attempt{nonce: nonce, fresh: true})
}

// document is the canonical grant of what the page showed.
func (h *Handler) document(ctx context.Context, f flow) ([]byte, chain.GrantDocument, error) {
	document, err := h.pending.Document(ctx, f.grantID, f.user)
	if err != nil {
		return nil, chain.GrantDocument{}, fmt.Errorf("consent: grant document: %w", err)
	}
	grant, err := chain.ParseGrantDocument(document)
	if err != nil {
		return nil, chain.GrantDocument{}, fmt.Errorf("consent: grant document: %w", err)
	}
	return document, grant, asShown(grant, f)
}

// asShown holds the document to the page: the user commits to what they were shown, or to nothing.
func asShown(g chain.GrantDocument, f flow) error {
	s := f.shown
	same := g.GrantID == f.grantID && g.Issuer == f.user.Issuer && g.Subject == f.user.Subject &&
		g.ClientID == f.provider.cfg.ClientID && g.Orchestrator == s.Orchestrator && g.Task == s.Task &&
		slices.Equal(g.Scope.Strings(), s.Scope) && slices.Equal(g.AgentTypes, s.AgentTypes) &&
		g.MaxDepth == s.MaxDepth && g.NotAfter.Equal(s.NotAfter)
	if !same {
		return errors.New("consent: the grant document is not what the page showed")
	}
	return nil
}

func forget(w http.ResponseWriter) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Path: "/", MaxAge: -1, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

func cookieOf(r *http.Request) string {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return ""
	}
	return c.Value
}

// grantOf reads the grant's id. What is no id is treated as one that does not exist.
func grantOf(r *http.Request) (string, error) {
	id := r.PathValue("grant_id")
	if _, err := chain.ParseUUID(id); err != nil {
		return "", fmt.Errorf("consent: grant id: %w: %w", ErrNotPending, err)
	}
	return id, nil
}
