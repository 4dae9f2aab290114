package consent

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/signet-pki/signet/delegation/chain"
)

// refusedError is a consent that does not happen, with a stable word for the cause. The cause itself goes to the log only.
type refusedError struct {
	code   string
	status int // of HTTP, where it is not the code's own
	err    error
}

func (r *refusedError) Error() string { return fmt.Sprintf("consent: %s: %v", r.code, r.err) }

func (r *refusedError) Unwrap() error { return r.err }

func refuse(code string, err error) *refusedError { return &refusedError{code: code, err: err} }

// Refuse is how Pending, Grants and Credentials refuse for a cause of their own: a stable word, which the user sees, and the
// status of HTTP. The cause goes to the log only.
func Refuse(code string, status int, cause error) error {
	return &refusedError{code: code, status: status, err: cause}
}

// Refusal gives the stable word for why a consent does not happen; ok is false for errors of another kind.
func Refusal(err error) (code string, ok bool) {
	var r *refusedError
	if !errors.As(err, &r) {
		return "", false
	}
	return r.code, true
}

// answer is how an error looks to the user.
type answer struct {
	status        int
	code, message string
}

func answerTo(err error) answer {
	var r *refusedError
	switch {
	case errors.Is(err, ErrProviderUnavailable):
		return answer{http.StatusServiceUnavailable, "idp_unavailable", "The identity provider does not answer. Nothing was granted. Try again later."}
	case errors.Is(err, ErrNotPending):
		return answer{http.StatusGone, "grant_not_pending", "This request does not exist, has expired or was already answered."}
	case errors.As(err, &r) && r.status != 0:
		return answer{r.status, r.code, refusedMessage(r.code)}
	case errors.As(err, &r):
		return answer{statusOf(r.code), r.code, messageOf(r.code)}
	}
	return answer{http.StatusInternalServerError, "internal", "Signet could not complete this. Nothing was granted."}
}

func statusOf(code string) int {
	switch code {
	case "flow_missing", "form_invalid", "callback_invalid", "provider_unknown", "credential_invalid":
		return http.StatusBadRequest
	case "too_many_flows":
		return http.StatusServiceUnavailable
	}
	return http.StatusForbidden
}

func messageOf(code string) string {
	switch code {
	case "flow_missing", "state_mismatch":
		return "This sign-in is not one that your browser began here, or it took too long. Open the link of the request again."
	case "csrf_mismatch", "form_invalid":
		return "The form was not sent from Signet's own page. Nothing was granted."
	case "other_user":
		return "Another person signed in than the one who was asked. Nothing was granted."
	case "auth_time_stale", "auth_time_missing":
		return "The identity provider did not ask you to sign in anew. Nothing was granted."
	case "assertion_invalid", "credential_invalid":
		return "What the security key said was not acceptable. Nothing was granted or changed."
	case "idp_refused":
		return "The identity provider ended the sign-in. Nothing was granted."
	case "too_many_flows":
		return "Too many sign-ins are under way. Try again later."
	case "subject_is_email":
		return "The identity provider names you by an e-mail address, which this appliance does not put into certificates."
	}
	return "The identity provider's answer was not acceptable. Nothing was granted."
}

// refusedMessage says in plain words what those refuse who keep grants and credentials.
func refusedMessage(code string) string {
	switch code {
	case "session_ended":
		return "Your identity provider has ended your session since you signed in. Nothing was granted or changed. Sign in again."
	case chain.CodeUserRevoked:
		return "You are barred from this appliance. Nothing was granted or changed. Ask those who run it."
	case chain.CodeGrantRevoked, chain.CodeOrchestratorRevoked:
		return "This request, or who asks for it, was revoked. Nothing was granted."
	case "credential_removed":
		return "This security key is not yours any more. Nothing was granted."
	case "credential_taken":
		return "This security key is registered already. Nothing was changed."
	case "too_many_credentials":
		return "You have as many security keys as one person may have. Remove one first."
	case "not_ready", "audit_unavailable", "state_unavailable":
		return "Signet can record nothing at the moment, so nothing was granted or changed. Try again later."
	case "outcome_unknown":
		return "Signet could not tell in time whether this was recorded. Open the page again to see."
	}
	return "Signet refuses this. Nothing was granted or changed."
}
