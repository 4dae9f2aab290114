package api

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/quota"
)

// rateLimit tells the tightest quota that a request met, in the fields of draft-ietf-httpapi-ratelimit-headers-11: q units
// (§3.1.1) that come back in w seconds (§3.1.3); r of them left (§4.1.1), which may be used within t seconds (§4.1.2).
// There is no partition key: it would name the caller, who knows it.
func rateLimit(m *quota.Meter, h http.Header) {
	s, ok := m.Tightest()
	if !ok {
		return
	}
	h["Ratelimit-Policy"] = []string{fmt.Sprintf("%q;q=%d;w=%d", s.Name, s.Limit.Burst, s.Limit.Window())}
	h["Ratelimit"] = []string{fmt.Sprintf("%q;r=%d;t=%d", s.Name, s.Left, s.Next)}
}

// exceeded is the quota that refused a request, nil if none did. Its Next is Retry-After: not before the end of the window
// that RateLimit tells (§6 of the draft).
func exceeded(e *delegation.Error) *quota.Exceeded {
	var x *quota.Exceeded
	if e.Code == codeRateLimited && errors.As(e.Err, &x) {
		return x
	}
	return nil
}
