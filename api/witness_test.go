package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
)

// A request to cosign goes through as it is; what comes of it has the statuses of tlog-witness.
func TestAddCheckpoint(t *testing.T) {
	w := newWorld(t)
	w.refused(w.do(anyone, http.MethodPost, "/add-checkpoint", "old 0\n\nx\n"), 404, codeNotFound) // it is no witness
	answers := map[string]error{
		"malformed": &delegation.Error{Kind: delegation.Invalid, Code: "checkpoint_malformed"},
		"unknown":   &delegation.Error{Kind: delegation.NotFound, Code: "log_unknown"},
		"unsigned":  &delegation.Error{Kind: delegation.Forbidden, Code: "checkpoint_unsigned"},
		"proof":     &delegation.Error{Kind: delegation.Invalid, Code: codeProof},
		"away":      &delegation.Error{Kind: delegation.Unavailable, Code: "witness_unavailable"},
		"size":      &SizeConflictError{Size: 20852014},
		"fault":     errors.New("what is this"),
		"good":      nil,
	}
	w.server.cfg.Witness = func(_ context.Context, request []byte) ([]byte, error) {
		return []byte("— w x\n"), answers[string(request)]
	}
	for body, row := range map[string]struct {
		status int
		code   string
	}{
		"malformed": {400, "checkpoint_malformed"}, "unknown": {404, "log_unknown"}, "unsigned": {403, "checkpoint_unsigned"}, "proof": {422, codeProof},
		"away": {503, "witness_unavailable"}, "fault": {500, codeInternal}, "": {400, codeBodyMissing}, strings.Repeat("x", 65<<10): {413, codeBodyTooLarge},
	} {
		before := w.log.count(record.TypeMalformed, "")
		w.refused(w.do(anyone, http.MethodPost, "/add-checkpoint", body), row.status, row.code)
		if recorded := w.log.count(record.TypeMalformed, "") == before+1; recorded != (row.status < 500) {
			t.Errorf("%.20q: recorded %v", body, recorded)
		}
	}
	before := w.log.count(record.TypeMalformed, "")
	if a := w.do(anyone, http.MethodPost, "/add-checkpoint", "size"); a.status != 409 || string(a.body) != "20852014\n" || a.header.Get("Content-Type") != "text/x.tlog.size" {
		t.Errorf("%d %q %v", a.status, a.body, a.header)
	}
	if a := w.do(anyone, http.MethodPost, "/add-checkpoint", "good"); a.status != 200 || string(a.body) != "— w x\n" || a.header.Get("Content-Type") != mediaText {
		t.Errorf("%d %q %v", a.status, a.body, a.header)
	}
	if a := w.do(anyone, http.MethodGet, "/add-checkpoint", nil); a.status != 405 {
		t.Errorf("GET: %d", a.status)
	}
	if after := w.log.count(record.TypeMalformed, ""); after > before+1 { // the GET is one
		t.Errorf("%d entries for what is no refusal", after-before)
	}
	w.refused(w.do(anyone, http.MethodPost, "/add-checkpoint", "good", "Content-Encoding", "gzip"), 415, codeContentEncoding)
}
