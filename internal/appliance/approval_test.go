package appliance

import (
	"errors"
	"testing"
	"time"

	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/consent"
)

// Without the time of the sign-in an ended session would still give grants.
func TestApprovalKeepsTheSignIn(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	if got := approval(consent.Approval{SignedIn: at}); !got.SignedIn.Equal(at) {
		t.Errorf("signed in %s", got.SignedIn)
	}
}

// The pages are told why the domain refuses, and nothing of a fault of the appliance.
func TestShown(t *testing.T) {
	for name, c := range map[string]struct {
		err     error
		code    string
		pending bool
	}{
		"refused":     {&delegation.Error{Kind: delegation.Forbidden, Code: "user_revoked"}, "user_revoked", false},
		"unavailable": {&delegation.Error{Kind: delegation.Unavailable, Code: "not_ready"}, "not_ready", false},
		"not pending": {&delegation.Error{Kind: delegation.Conflict, Code: "grant_not_pending"}, "", true},
		"unknown":     {&delegation.Error{Kind: delegation.NotFound, Code: "grant_not_found"}, "", true},
		"fault":       {&delegation.Error{Kind: delegation.Internal, Code: "internal"}, "", false},
		"another":     {errors.New("disk"), "", false},
	} {
		got := shown(c.err)
		if code, _ := consent.Refusal(got); code != c.code || errors.Is(got, consent.ErrNotPending) != c.pending {
			t.Errorf("%s: %v", name, got)
		}
	}
	if shown(nil) != nil {
		t.Error("a refusal of nothing")
	}
}
