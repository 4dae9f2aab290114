// Package consent obtains a user's consent to a grant from an OpenID provider: consent type oidc_nonce.
//
// Two authorization code flows with PKCE make one consent. The first logs the user in, to learn who is asked. Signet's
// page then shows orchestrator, task, scope and deadline, and the user approves or refuses. Approval starts the second
// flow with prompt=login, max_age=0 and nonce = base64url(SHA-256(canonical grant)): the ID token that comes back is the
// provider's signature under this grant. It proves that the user's authentication committed to the grant, not that the
// user read it.
//
// Refused are: another user at the second login, an old auth_time, a state, nonce or cookie that is not this flow's, a
// form without its CSRF token, symmetric and absent signatures, a grant document that differs from the page that was
// shown. State, verifiers and page hang on one __Host- cookie; each state and nonce is used once; flows live in memory,
// bounded in number and time, and a restart forgets them.
//
// Handler and Provider are safe for concurrent use. They start no goroutine.
package consent

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
)

// Errors where callers branch.
var (
	// ErrProviderUnavailable tells that the identity provider does not answer, or answers with a fault of its own. Nothing
	// was consented to; later attempts ask it again.
	ErrProviderUnavailable = errors.New("identity provider unavailable")
	// ErrNotPending is returned by Pending, wrapped or not, for a grant that does not exist or waits for nobody.
	ErrNotPending = errors.New("grant is not pending")
)

// User is a person as the identity provider names them: OIDC iss and sub.
type User struct{ Issuer, Subject string }

// Request is what the user is shown before they approve.
type Request struct {
	GrantID      string
	Orchestrator string // SPIFFE ID
	Task         string // the purpose, in the orchestrator's words
	Scope        []string
	AgentTypes   []string
	NotAfter     time.Time
	MaxDepth     int
}

// Approval is a verified consent with the claims of that moment.
type Approval struct {
	Type          chain.ConsentType
	User          User
	Roles, Groups []string
	ACR           string
	AMR           []string
	AuthTime      time.Time
	Document      []byte   // the canonical grant that Pending.Document gave
	Evidence      []byte   // what the consent rests on; see package evidence
	EvidenceHash  [32]byte // SHA-256 of Evidence
	Credential    []byte   // webauthn: the id of the credential that signed
	Once          *Once    // token_exchange
	// SignedIn is when the provider's token was issued; zero for a signature by the user's certificate, which needs none.
	SignedIn time.Time
}

// Once names a token that may be exchanged for one grant alone: SHA-256 of its issuer and jti.
type Once struct {
	Hash    [32]byte
	Expires time.Time
}

// Pending keeps the grants that wait for consent. Approve returns once the consent is durable; at most one Approve or
// Refuse of a grant succeeds, and the others return ErrNotPending. Other refusals are made by Refuse.
type Pending interface {
	Describe(ctx context.Context, grantID string) (Request, error)
	// Document gives the canonical grant (chain.GrantDocument) for this user. It must say what Describe said.
	Document(ctx context.Context, grantID string, user User) ([]byte, error)
	Approve(ctx context.Context, grantID string, a Approval) error
	Refuse(ctx context.Context, grantID string, user User) error
}

// The pages that Pages renders.
const (
	PageReview  = "review" // asks the user
	PageDone    = "done"   // tells that it is decided
	PageError   = "error"
	PageChoose  = "choose"  // asks for the identity provider
	PageAccount = "account" // the user's grants and keys
)

// Choice is an identity provider to choose.
type Choice struct{ Name, Issuer string }

// View is what a page shows. It holds no secret but the CSRF token of its own form.
type View struct {
	Request    Request
	User       User
	CSRF       string        // form field csrf; beside it, the field decision is approve or refuse
	Left       time.Duration // until the request's deadline
	KeyOptions string        // PageReview: for the user's key to sign, JSON; "" if they have none
	Providers  []Choice      // PageChoose
	Path       string        // PageChoose: where the choice goes
	Account    Account       // PageAccount
	Approved   bool          // PageDone
	Code       string        // PageError: a stable word
	Message    string        // PageError: a sentence for the user
}

// Pages renders HTML. Data is a View.
type Pages interface {
	Render(w io.Writer, page string, data any) error
	// Script is the pages' only script, which runs WebAuthn in the browser.
	Script() []byte
	// StyleSource is the Content-Security-Policy source of the pages' inline style sheet.
	StyleSource() string
}
