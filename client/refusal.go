package client

import (
	"net/http"
	"strings"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation/chain"
)

// Refusal is why a caller was not let through. It holds nothing that the caller may not see.
type Refusal struct { //nolint:errname // the word of this project
	Status  int                 // of HTTP: 401 no credentials that count, 403 they do not suffice, 503 it cannot be told now
	Reasons []string            // stable codes, the first of them the most important
	Checks  map[string]v1.Check // those that failed
}

// Error lists the reasons.
func (r *Refusal) Error() string { return "refused: " + strings.Join(r.Reasons, ", ") }

const reasonNoCertificate = "client_certificate_required"

func unauthenticated(code string) *Refusal {
	return &Refusal{Status: http.StatusUnauthorized, Reasons: []string{code}}
}

// refusal500 is a fault of the service itself.
func refusal500(code string) *Refusal {
	return &Refusal{Status: http.StatusInternalServerError, Reasons: []string{code}}
}

// failedChecks is 503 only if nothing but the freshness of the revocations is wrong: then the same caller may come again.
func failedChecks(r chain.Report) *Refusal {
	out := &Refusal{Status: http.StatusServiceUnavailable, Checks: map[string]v1.Check{}}
	for _, c := range r.Failed() {
		if c.Name != chain.CheckFreshness {
			out.Status = http.StatusForbidden
		}
		out.Reasons = append(out.Reasons, c.Code)
		out.Checks[string(c.Name)] = v1.Check{Status: c.Status.String(), Code: c.Code, Detail: c.Detail, Required: c.Required}
	}
	if len(out.Reasons) == 0 {
		out.Status, out.Reasons = http.StatusForbidden, []string{"chain_invalid"}
	}
	return out
}
