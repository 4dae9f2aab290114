package softhsmtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// chromium is one browser process, which trusts the given keys and nothing else, and resolves no name beyond this machine.
type chromium struct{ ctx context.Context }

func newChromium(t testing.TB, trusted ...*x509.Certificate) *chromium {
	t.Helper()
	var pins []string
	for _, c := range trusted {
		sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
		pins = append(pins, base64.StdEncoding.EncodeToString(sum[:]))
	}
	options := []chromedp.ExecAllocatorOption{
		chromedp.Headless, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.DisableGPU,
		chromedp.ExecPath("chromium"), chromedp.UserDataDir(t.TempDir()), chromedp.WSURLReadTimeout(time.Minute),
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"),
		chromedp.Flag("ignore-certificate-errors-spki-list", strings.Join(pins, ",")),
	}
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // it refuses to be root's otherwise
	}
	ctx, cancel := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	ctx, closeBrowser := chromedp.NewContext(ctx)
	t.Cleanup(func() {
		closeBrowser()
		cancel() // and waits for the process
	})
	must(t, chromedp.Do(ctx))
	return &chromium{ctx}
}

// window is one person's: no other window has its cookies.
type window struct {
	t   testing.TB
	ctx context.Context
}

// patience bounds what a person would wait for one page, on a machine that does much else.
const patience = 60 * time.Second

type void = chromedp.Void

func (c *chromium) window(t testing.TB) *window {
	t.Helper()
	ctx, cancel := chromedp.NewContext(c.ctx, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	must(t, chromedp.Do(ctx)) // the window ends with the context of its first action
	w := &window{t, ctx}
	t.Cleanup(func() {
		if t.Failed() {
			w.describe()
		}
	})
	return w
}

// describe logs what is to be seen.
func (w *window) describe() {
	ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
	defer cancel()
	at, err := chromedp.Run(ctx, chromedp.Location())
	text, err2 := chromedp.Run(ctx, chromedp.Text(chromedp.CSS("body")))
	w.t.Logf("the window is at %s (%v) and shows (%v):\n%s", at, err, err2, lastOf(text, 1500))
}

// look does one thing in a window within a person's patience.
func look[T any](w *window, a chromedp.Action[T]) T {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		w.t.Fatalf("the browser: %v", err)
	}
	return v
}

func (w *window) do(actions ...chromedp.Action[void]) {
	w.t.Helper()
	look(w, chromedp.Steps(actions...))
}

func (w *window) open(u string) {
	w.t.Helper()
	w.do(chromedp.Navigate(u))
}

const loginField = chromedp.CSS(`input[name="login"]`)

// signIn fills the provider's form.
func (w *window) signIn(user string) {
	w.t.Helper()
	w.do(
		chromedp.WaitVisible(loginField),
		chromedp.SendKeys(loginField, user),
		chromedp.SendKeys(chromedp.CSS(`input[name="password"]`), "any"),
		chromedp.Click(chromedp.CSS(`button[type="submit"]`)),
	)
}

func (w *window) click(selector chromedp.CSS) {
	w.t.Helper()
	w.do(chromedp.Click(selector, chromedp.NodeVisible))
}

// sees waits for a heading and gives the page's text.
func (w *window) sees(heading string) string {
	w.t.Helper()
	w.do(chromedp.WaitVisible(chromedp.Search(`//h1[normalize-space()="` + heading + `"]`)))
	return look(w, chromedp.Text(chromedp.CSS("main")))
}

// refusal waits for the page that says no, and gives its code.
func (w *window) refusal() string {
	w.t.Helper()
	w.sees("This did not work")
	return look(w, chromedp.Text(chromedp.CSS("main code")))
}

// detour changes the first address of this prefix that the browser goes to, as whoever sits between two sites could.
func (w *window) detour(prefix string, change func(q url.Values)) {
	w.t.Helper()
	paused := chromedp.Events(w.ctx, fetch.RequestPaused)
	go func() { // ends with the window
		spent := false
		for e, err := range paused {
			if err != nil {
				return
			}
			if !spent {
				spent = true
				err = redirect(w.ctx, e, change)
			} else {
				_, err = chromedp.Call(w.ctx, fetch.ContinueRequest, fetch.ContinueRequestParams{RequestID: e.RequestID})
			}
			if err != nil && w.ctx.Err() == nil {
				w.t.Error(err)
			}
		}
	}()
	_, err := chromedp.Call(w.ctx, fetch.Enable, fetch.EnableParams{Patterns: []*fetch.RequestPattern{{URLPattern: prefix + "*"}}})
	must(w.t, err)
}

func redirect(ctx context.Context, e fetch.EventRequestPaused, change func(q url.Values)) error {
	u, err := url.Parse(e.Request.URL)
	if err != nil {
		return err
	}
	q := u.Query()
	change(q)
	u.RawQuery = q.Encode()
	_, err = chromedp.Call(ctx, fetch.FulfillRequest, fetch.FulfillRequestParams{
		RequestID: e.RequestID, ResponseCode: http.StatusFound,
		ResponseHeaders: []*fetch.HeaderEntry{{Name: "Location", Value: u.String()}},
	})
	return err
}

// cookie is the window's consent cookie.
func (w *window) cookie(u string) *network.Cookie {
	w.t.Helper()
	all, err := chromedp.Call(w.ctx, network.GetCookies, network.GetCookiesParams{URLs: []string{u}})
	must(w.t, err)
	for _, c := range all.Cookies {
		if c.Name == "__Host-signet-consent" {
			return c
		}
	}
	w.t.Fatal("no consent cookie")
	return nil
}

// newSigningKey makes a key for a JWS algorithm.
func newSigningKey(alg string) (any, error) {
	if alg == "RS256" || alg == "PS256" {
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}
