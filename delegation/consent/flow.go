package consent

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/go-webauthn/webauthn/webauthn"
)

const (
	flowLife         = 10 * time.Minute
	maxFlows         = 1024
	maxFlowsPerGrant = 8
)

// stage tells what a flow waits for. The zero stage waits for nothing.
type stage int

const (
	stageNone    stage = iota
	stageLogin         // the first code
	stageReview        // the user's decision
	stageConfirm       // the second code

	stageAccountLogin // the code for the user's own page
	stageAccount      // a form of that page
)

// flow is one browser on its way to one consent. A flow never changes: the next step is a new one.
type flow struct {
	grantID  string
	provider *Provider
	stage    stage
	expires  time.Time
	attempt  attempt   // stageLogin, stageConfirm
	user     User      // stageReview, stageConfirm
	csrf     string    // stageReview
	shown    Request   // stageReview, stageConfirm: what the page said
	document []byte    // stageConfirm
	who      *identity // stageReview: the first login's claims, for an approval by key

	signedIn time.Time             // stageAccount: what the token of the login says
	ends     time.Time             // stageAccount: when the stay is over, whatever is done in it
	options  string                // stageAccount: of a registration
	creation *webauthn.SessionData // stageAccount: likewise
}

// signIn is the user at stageAccount.
func (f flow) signIn() SignIn { return SignIn{User: f.user, At: f.signedIn} }

// lifeFrom is how long a flow is kept after a step of it.
func (f flow) lifeFrom(now time.Time) time.Duration {
	if left := f.ends.Sub(now); !f.ends.IsZero() && left < flowLife {
		return left
	}
	return flowLife
}

// flows keeps flows by the hash of their cookie: whoever reads this memory cannot present the cookie.
type flows struct {
	mu  sync.Mutex
	all map[[32]byte]flow
}

func newFlows() *flows { return &flows{all: map[[32]byte]flow{}} }

// put adds a flow. Beyond the bounds, the oldest flow of the same grant gives way, or the oldest of all that still waits
// for its first login: opening pages, which takes no identity, must not keep other people's decisions out.
func (f *flows) put(cookie string, next flow, now time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var oldest [32]byte
	same := 0
	for key, other := range f.all {
		if !now.Before(other.expires) {
			delete(f.all, key)
			continue
		}
		if other.grantID != next.grantID || next.grantID == "" {
			continue
		}
		if same == 0 || other.expires.Before(f.all[oldest].expires) {
			oldest = key
		}
		same++
	}
	if same >= maxFlowsPerGrant {
		delete(f.all, oldest)
	}
	if len(f.all) >= maxFlows && !f.evictLogin() {
		return refuse("too_many_flows", fmt.Errorf("%d flows are pending", len(f.all)))
	}
	f.all[sha256.Sum256([]byte(cookie))] = next
	return nil
}

// evictLogin forgets the oldest flow that waits for its first login.
func (f *flows) evictLogin() bool {
	var oldest [32]byte
	found := false
	for key, other := range f.all {
		if (other.stage == stageLogin || other.stage == stageAccountLogin) && (!found || other.expires.Before(f.all[oldest].expires)) {
			oldest, found = key, true
		}
	}
	delete(f.all, oldest)
	return found
}

// get looks without taking.
func (f *flows) get(cookie string, now time.Time) (flow, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	found, ok := f.all[sha256.Sum256([]byte(cookie))]
	return found, ok && now.Before(found.expires)
}

// take removes the flow of this cookie if accept says so: what it holds is used once.
func (f *flows) take(cookie string, now time.Time, accept func(flow) error) (flow, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := sha256.Sum256([]byte(cookie))
	found, ok := f.all[key]
	if !ok || !now.Before(found.expires) {
		return flow{}, refuse("flow_missing", fmt.Errorf("no flow for this cookie"))
	}
	if err := accept(found); err != nil {
		return flow{}, err
	}
	delete(f.all, key)
	return found, nil
}

// drop forgets the flow of this cookie.
func (f *flows) drop(cookie string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.all, sha256.Sum256([]byte(cookie)))
}

// token makes 256 random bits in base64url.
func token(r io.Reader) (string, error) {
	var b [32]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return "", fmt.Errorf("consent: read randomness: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(b[:]), nil
}

// equal compares secrets in constant time.
func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
