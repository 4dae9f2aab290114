package consent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
)

const redeemTimeout = 30 * time.Second

// callback takes the provider's redirect, of either flow.
func (h *Handler) callback(w http.ResponseWriter, r *http.Request) error {
	query, err := single(r.URL)
	if err != nil {
		return err
	}
	f, err := h.flows.take(cookieOf(r), h.now(), func(f flow) error {
		if f.stage != stageLogin && f.stage != stageConfirm && f.stage != stageAccountLogin {
			return refuse("flow_missing", errors.New("no redirect is awaited"))
		}
		if !equal(f.attempt.state, query["state"]) {
			return refuse("state_mismatch", errors.New("state is not this flow's"))
		}
		return nil
	})
	if err != nil {
		return err
	}
	// From here on the code is spent: a browser that leaves does not stop what it began.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), redeemTimeout)
	defer cancel()
	id, err := f.provider.redeem(ctx, f, r.PathValue("provider"), query)
	if err != nil {
		return err
	}
	switch f.stage {
	case stageLogin:
		return h.review(w, r, f, id)
	case stageAccountLogin:
		return h.arrive(w, r, f, id)
	default:
		return h.confirm(ctx, w, f, id)
	}
}

// single refuses a parameter that comes twice (RFC 6749 §3.1) and gives the others.
func single(u *url.URL) (map[string]string, error) {
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, refuse("callback_invalid", err)
	}
	out := make(map[string]string, len(values))
	for name, v := range values {
		if len(v) != 1 {
			return nil, refuse("callback_invalid", fmt.Errorf("parameter %.32q is there %d times", name, len(v)))
		}
		out[name] = v[0]
	}
	return out, nil
}

// redeem gets the identity for a redirect to the URI of the provider called at.
func (p *Provider) redeem(ctx context.Context, f flow, at string, query map[string]string) (*identity, error) {
	if at != p.cfg.Name {
		return nil, refuse("issuer_mismatch", errors.New("the redirect is to another provider's URI"))
	}
	meta, err := p.metadata(ctx)
	if err != nil {
		return nil, err
	}
	// RFC 9207 §2.4: the answer must come from the provider that was asked.
	if iss, ok := query["iss"]; (ok || meta.sendsIss) && iss != p.cfg.Issuer {
		return nil, refuse("issuer_mismatch", errors.New("iss of the redirect is not the provider's"))
	}
	if code, ok := query["error"]; ok {
		return nil, refuse("idp_refused", fmt.Errorf("the provider says %.64q", code))
	}
	if query["code"] == "" {
		return nil, refuse("callback_invalid", errors.New("no code"))
	}
	return p.exchange(ctx, meta, query["code"], f.attempt)
}

// review remembers who logged in and shows what they are asked.
func (h *Handler) review(w http.ResponseWriter, r *http.Request, f flow, id *identity) error {
	csrf, err := token(h.rand)
	if err != nil {
		return err
	}
	next := flow{grantID: f.grantID, provider: f.provider, stage: stageReview, user: id.user, who: id, csrf: csrf, shown: f.shown}
	if err := h.keep(w, next); err != nil {
		return err
	}
	http.Redirect(w, r, "/consent/"+f.grantID, http.StatusSeeOther)
	return nil
}

// confirm hands the verified consent over, if it is the same user's.
func (h *Handler) confirm(ctx context.Context, w http.ResponseWriter, f flow, id *identity) error {
	if id.user != f.user {
		return refuse("other_user", errors.New("the second login is another user's"))
	}
	evidence, err := newEvidence(f.document, id, h.now())
	if err != nil {
		return err
	}
	return h.approved(ctx, w, f, id.approval(chain.OIDCNonce, f.document, evidence))
}

func (id *identity) approval(kind chain.ConsentType, document, file []byte) Approval {
	return Approval{
		Type: kind, User: id.user, Roles: id.roles, Groups: id.groups, ACR: id.acr, AMR: id.amr, AuthTime: id.authTime, SignedIn: id.issued,
		Document: document, Evidence: file, EvidenceHash: sha256.Sum256(file),
	}
}

func (h *Handler) approved(ctx context.Context, w http.ResponseWriter, f flow, a Approval) error {
	if err := h.pending.Approve(ctx, f.grantID, a); err != nil {
		return fmt.Errorf("consent: approve grant: %w", err)
	}
	h.log.LogAttrs(ctx, slog.LevelInfo, "consent given", slog.String("grant", f.grantID), slog.String("type", a.Type.String()))
	forget(w)
	return h.render(w, http.StatusOK, PageDone, View{Request: f.shown, User: f.user, Approved: true})
}
