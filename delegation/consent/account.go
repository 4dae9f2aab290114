package consent

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Given is a grant that a user gave, as their own page shows it.
type Given struct {
	Request Request
	Status  string // active, revoked, expired
	TaskID  string
}

// SignIn is a user on their own page, by a sign-in of that time.
type SignIn struct {
	User
	At time.Time
}

// Grants are those that users gave. Both refuse (Refuse) a sign-in that was ended since. Withdraw of another's grant returns ErrNotPending.
type Grants interface {
	Given(ctx context.Context, in SignIn) ([]Given, error)
	Withdraw(ctx context.Context, in SignIn, grantID string) error
}

// Key is a credential as the user's page shows it.
type Key struct{ ID string }

// Account is the user's own page.
type Account struct {
	Grants  []Given
	Keys    []Key
	Options string // of a registration, JSON; "" where there can be none
}

const (
	maxCredentials = 16
	accountLife    = 15 * time.Minute // of a sign-in for the page, whatever is done on it
)

// account shows the page to who has just signed in for it, and sends any other to sign in.
func (h *Handler) account(w http.ResponseWriter, r *http.Request) error {
	cookie := cookieOf(r)
	f, ok := h.flows.get(cookie, h.now())
	if ok && f.stage == stageAccount {
		err := h.showAccount(w, r, f)
		if _, refused := Refusal(err); refused {
			h.flows.drop(cookie)
			forget(w)
		}
		return err
	}
	provider, err := h.chosen(r)
	if err != nil {
		return err
	}
	if provider == nil {
		return h.choose(w, "/account")
	}
	nonce, err := token(h.rand)
	if err != nil {
		return err
	}
	// A session that somebody left behind must not be enough to withdraw, nor to add a key.
	return h.send(w, r, flow{provider: provider, stage: stageAccountLogin}, attempt{nonce: nonce, fresh: true})
}

func (h *Handler) showAccount(w http.ResponseWriter, r *http.Request, f flow) error {
	v := View{User: f.user, CSRF: f.csrf}
	grants, err := h.grants.Given(r.Context(), f.signIn())
	if err != nil {
		return fmt.Errorf("consent: grants: %w", err)
	}
	v.Account.Grants = grants
	keys, err := h.credentials.Credentials(r.Context(), f.user)
	if err != nil {
		return fmt.Errorf("consent: credentials: %w", err)
	}
	for _, k := range keys {
		v.Account.Keys = append(v.Account.Keys, Key{base64.RawURLEncoding.EncodeToString(k.ID)})
	}
	v.Account.Options = f.options
	h.scripted(w.Header(), "")
	return h.render(w, http.StatusOK, PageAccount, v)
}

// arrive begins a stay on the page.
func (h *Handler) arrive(w http.ResponseWriter, r *http.Request, f flow, id *identity) error {
	return h.enter(w, r, flow{provider: f.provider, user: id.user, signedIn: id.issued, ends: h.now().Add(accountLife)})
}

// enter shows the page again, as long as the stay f lasts: a new cookie, a new token, a new registration.
func (h *Handler) enter(w http.ResponseWriter, r *http.Request, f flow) error {
	csrf, err := token(h.rand)
	if err != nil {
		return err
	}
	user := f.user
	next := flow{provider: f.provider, stage: stageAccount, user: user, signedIn: f.signedIn, ends: f.ends, csrf: csrf}
	if h.keys != nil {
		keys, err := h.credentials.Credentials(r.Context(), user)
		if err != nil {
			return fmt.Errorf("consent: credentials: %w", err)
		}
		if len(keys) < maxCredentials {
			if next.options, next.creation, err = h.keys.creation(holder{user, keys}); err != nil {
				return err
			}
		}
	}
	if err := h.keep(w, next); err != nil {
		return err
	}
	http.Redirect(w, r, "/account", http.StatusSeeOther)
	return nil
}

// change does what a form of the page asks.
func (h *Handler) change(w http.ResponseWriter, r *http.Request) error {
	if err := sameOrigin(r); err != nil {
		return err
	}
	if err := r.ParseForm(); err != nil {
		return refuse("form_invalid", err)
	}
	f, err := h.flows.take(cookieOf(r), h.now(), func(f flow) error {
		if f.stage != stageAccount {
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
	// What was begun is not left half done by a browser that leaves.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 20*time.Second)
	defer cancel()
	if err := h.perform(ctx, f, r); err != nil {
		return err
	}
	return h.enter(w, r, f)
}

func (h *Handler) perform(ctx context.Context, f flow, r *http.Request) error {
	switch r.PostForm.Get("action") {
	case "withdraw":
		if err := h.grants.Withdraw(ctx, f.signIn(), r.PostForm.Get("grant")); err != nil {
			return fmt.Errorf("consent: withdraw: %w", err)
		}
	case "register":
		if h.keys == nil {
			return refuse("form_invalid", errors.New("there are no authenticators here"))
		}
		c, err := h.keys.created(holder{user: f.user}, f.creation, r.PostForm.Get("credential"))
		if err != nil {
			return err
		}
		if err := h.credentials.Register(ctx, f.signIn(), c); err != nil {
			return fmt.Errorf("consent: register: %w", err)
		}
	case "forget":
		id, err := base64.RawURLEncoding.DecodeString(r.PostForm.Get("key"))
		if err != nil {
			return refuse("form_invalid", err)
		}
		if err := h.credentials.Forget(ctx, f.signIn(), id); err != nil {
			return fmt.Errorf("consent: forget: %w", err)
		}
	default:
		return refuse("form_invalid", errors.New("no such action"))
	}
	return nil
}
