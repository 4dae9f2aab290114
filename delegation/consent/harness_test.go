package consent_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/consent"
	"github.com/signet-pki/signet/web"
)

const (
	grantID  = "01912d68-783e-7a03-8467-5661c1243ad4"
	otherID  = "01912d68-783e-7a03-8467-5661c1243ad5"
	taskID   = "01912d68-783e-7a03-8467-5661c1243ad6"
	clientID = "signet-consent"
	lab      = "spiffe://hospital.example/orchestrator/lab"
)

// domain is the other side of consent.Pending. It keeps its contract: one answer for each grant, and no other.
type domain struct {
	mu       sync.Mutex
	issuer   string
	open     map[string]bool
	keys     keyring
	approved []consent.Approval
	refused  []consent.User
	tamper   func(*chain.GrantDocument)
	fail     error
}

func (d *domain) request(id string) consent.Request {
	return consent.Request{
		GrantID: id, Orchestrator: lab, Task: "read the cardiology cohort", Scope: []string{"database:read:patients"},
		AgentTypes: []string{"research"}, NotAfter: time.Date(2040, 1, 2, 3, 4, 5, 0, time.UTC), MaxDepth: 2,
	}
}

func (d *domain) Describe(_ context.Context, id string) (consent.Request, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.open[id] {
		return consent.Request{}, fmt.Errorf("domain: %w", consent.ErrNotPending)
	}
	return d.request(id), nil
}

func (d *domain) Document(_ context.Context, id string, u consent.User) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.open[id] {
		return nil, consent.ErrNotPending
	}
	r := d.request(id)
	scope, err := chain.ParseScope(r.Scope)
	if err != nil {
		return nil, err
	}
	g := chain.GrantDocument{
		GrantID: id, Random: [32]byte{1}, Origin: "hospital.example/log", Issuer: u.Issuer, ClientID: clientID, Subject: u.Subject,
		TaskID: taskID, Task: r.Task, Scope: scope, MaxDepth: r.MaxDepth, NotAfter: r.NotAfter, AgentTypes: r.AgentTypes,
		Orchestrator: r.Orchestrator, OrchestratorKey: [32]byte{2},
	}
	if d.tamper != nil {
		d.tamper(&g)
	}
	return g.Canonical()
}

func (d *domain) Approve(_ context.Context, id string, a consent.Approval) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.open[id] {
		return consent.ErrNotPending
	}
	if d.fail != nil {
		return d.fail
	}
	delete(d.open, id)
	d.approved = append(d.approved, a)
	return nil
}

// users is everything that the pages show; of grants already given there are none.
func (d *domain) users() consent.Users {
	return consent.Users{Pending: d, Grants: d, Credentials: &d.keys}
}

func (d *domain) Given(_ context.Context, u consent.SignIn) ([]consent.Given, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.keys.over(u); err != nil {
		return nil, err
	}
	var out []consent.Given
	for _, a := range d.approved {
		if a.User == u.User {
			g, err := chain.ParseGrantDocument(a.Document)
			if err != nil {
				return nil, err
			}
			out = append(out, consent.Given{Request: d.request(g.GrantID), Status: "active", TaskID: taskID})
		}
	}
	return out, nil
}

func (d *domain) Withdraw(_ context.Context, u consent.SignIn, id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.keys.over(u); err != nil {
		return err
	}
	for i, a := range d.approved {
		if g, err := chain.ParseGrantDocument(a.Document); err == nil && a.User == u.User && g.GrantID == id {
			d.approved = append(d.approved[:i], d.approved[i+1:]...)
			return nil
		}
	}
	return consent.ErrNotPending
}

// keyring keeps its contract: an id belongs to one user.
type keyring struct {
	mu    sync.Mutex
	all   map[consent.User][]consent.Credential
	ended time.Time // sign-ins until then are over
}

func (k *keyring) over(in consent.SignIn) error {
	if in.At.After(k.ended) {
		return nil
	}
	return fmt.Errorf("domain: %w", consent.Refuse("session_ended", http.StatusForbidden, errors.New("ended")))
}

func (k *keyring) Credentials(_ context.Context, u consent.User) ([]consent.Credential, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.all[u], nil
}

func (k *keyring) Register(_ context.Context, in consent.SignIn, c consent.Credential) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.over(in); err != nil {
		return err
	}
	u := in.User
	for _, has := range k.all {
		for _, one := range has {
			if string(one.ID) == string(c.ID) {
				return errors.New("taken")
			}
		}
	}
	if k.all == nil {
		k.all = map[consent.User][]consent.Credential{}
	}
	k.all[u] = append(k.all[u], c)
	return nil
}

func (k *keyring) Forget(_ context.Context, in consent.SignIn, id []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.over(in); err != nil {
		return err
	}
	u := in.User
	for i, c := range k.all[u] {
		if string(c.ID) == string(id) {
			k.all[u] = append(k.all[u][:i], k.all[u][i+1:]...)
			return nil
		}
	}
	return consent.ErrNotPending
}

func (d *domain) Refuse(_ context.Context, id string, u consent.User) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.open[id] {
		return consent.ErrNotPending
	}
	if d.fail != nil {
		return d.fail
	}
	delete(d.open, id)
	d.refused = append(d.refused, u)
	return nil
}

// nothing fails the test if anybody answered the grant.
func (d *domain) nothing(t *testing.T) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.approved)+len(d.refused) != 0 || !d.open[grantID] {
		t.Errorf("the grant was answered: %d approvals, %d refusals", len(d.approved), len(d.refused))
	}
}

// world is a consent handler and a provider behind one TLS server.
type world struct {
	t      *testing.T
	url    string
	domain *domain
	mux    *http.ServeMux
	client *http.Client // trusts the server; no cookies
	now    func() time.Time
	logged *strings.Builder
}

// newWorld starts the server; provider makes the handler of everything below /idp, knowing the server's URL.
func newWorld(t *testing.T, provider func(base string) http.Handler, change func(*consent.Config)) *world {
	t.Helper()
	mux := http.NewServeMux()
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	w := &world{t: t, mux: mux, url: server.URL, client: server.Client(), logged: &strings.Builder{}, now: time.Now}
	w.domain = &domain{issuer: server.URL + "/idp", open: map[string]bool{grantID: true, otherID: true}}
	cfg := consent.Config{
		Name: "idp", Issuer: server.URL + "/idp", ClientID: clientID, RedirectURL: server.URL + "/v1/grants/callback/idp",
		HTTPClient: server.Client(), Now: func() time.Time { return w.now() }, Rand: rand.Reader,
	}
	if change != nil {
		change(&cfg)
	}
	p, err := consent.NewProvider(cfg)
	if err != nil {
		t.Fatal(err)
	}
	pages, err := web.NewConsent()
	if err != nil {
		t.Fatal(err)
	}
	h, err := consent.NewHandler([]*consent.Provider{p}, w.domain.users(), pages, slog.New(slog.NewTextHandler(w.logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	mux.Handle("/idp/", provider(server.URL))
	mux.Handle("/", h)
	return w
}

// browser has cookies of its own. It follows redirects if told to.
type browser struct {
	w      *world
	client *http.Client
}

func (w *world) browser(follow bool) *browser {
	w.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	c := &http.Client{Transport: w.client.Transport, Jar: jar}
	if !follow {
		c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	return &browser{w, c}
}

type page struct {
	status   int
	body     string
	header   http.Header
	location *url.URL
}

func (b *browser) do(r *http.Request) page {
	b.w.t.Helper()
	resp, err := b.client.Do(r)
	if err != nil {
		b.w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.w.t.Fatal(err)
	}
	p := page{status: resp.StatusCode, body: string(body), header: resp.Header}
	p.location, _ = resp.Location()
	return p
}

func (b *browser) get(path string) page {
	b.w.t.Helper()
	r, err := http.NewRequestWithContext(b.w.t.Context(), http.MethodGet, b.w.absolute(path), http.NoBody)
	if err != nil {
		b.w.t.Fatal(err)
	}
	return b.do(r)
}

func (b *browser) post(path string, form url.Values) page {
	b.w.t.Helper()
	r, err := http.NewRequestWithContext(b.w.t.Context(), http.MethodPost, b.w.absolute(path), strings.NewReader(form.Encode()))
	if err != nil {
		b.w.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.do(r)
}

func (w *world) absolute(path string) string {
	if strings.HasPrefix(path, "https://") {
		return path
	}
	return w.url + path
}

// field finds the value of a hidden input.
func (p page) field(t *testing.T, name string) string {
	t.Helper()
	m := regexp.MustCompile(`name="` + name + `" value="([^"]*)"`).FindStringSubmatch(p.body)
	if m == nil {
		t.Fatalf("no field %s in page of status %d: %s", name, p.status, p.body)
	}
	return html.UnescapeString(m[1])
}

// want checks status and code of an error page, and that it leaks nothing.
func (p page) want(t *testing.T, status int, code string) {
	t.Helper()
	if p.status != status || !strings.Contains(p.body, "<code>"+code+"</code>") {
		t.Errorf("status %d, want %d %s: %s", p.status, status, code, p.body)
	}
}
