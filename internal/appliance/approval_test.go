package appliance

import (
	"testing"
	"time"

	"github.com/signet-pki/signet/delegation/consent"
)

// Without the time of the sign-in an ended session would still give grants.
func TestApprovalKeepsTheSignIn(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	if got := approval(consent.Approval{SignedIn: at}); !got.SignedIn.Equal(at) {
		t.Errorf("signed in %s", got.SignedIn)
	}
}
