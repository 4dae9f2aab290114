package delegation

import (
	"encoding/hex"
	"slices"
	"strings"

	"github.com/signet-pki/signet/delegation/chain"
)

// maxEKs bounds the TPMs that one orchestrator may run on.
const maxEKs = 64

// methods are those asked for; without a word about them, a join token and whatever the registration describes.
func (q Registration) methods(kind chain.Kind) []string {
	switch {
	case kind != chain.Orchestrator:
		return nil
	case len(q.Methods) > 0:
		return q.Methods
	}
	out := []string{MethodJoinToken}
	for _, m := range []string{MethodX509Pop, MethodOIDC, MethodTPM} {
		if q.describes(m) {
			out = append(out, m)
		}
	}
	return out
}

// describes says whether the registration has what a method is held against.
func (q Registration) describes(method string) bool {
	switch method {
	case MethodX509Pop:
		return len(q.PopRoots) > 0
	case MethodOIDC:
		return q.OIDCIssuer != "" || q.OIDCSubject != ""
	case MethodTPM:
		return len(q.EKs) > 0
	}
	return false
}

// checkMethods refuses a method without what it is held against, and the reverse: neither is what somebody meant.
func (s *Service) checkMethods(q Registration) error {
	for i, m := range q.Methods {
		if !slices.Contains(Methods(), m) || slices.Contains(q.Methods[:i], m) {
			return refuse(Invalid, "bad_attestation_method", "methods", "each one of join_token, x509pop, oidc_jwt, tpm_devid, and once")
		}
	}
	for _, need := range []struct{ method, field string }{
		{MethodX509Pop, "x509pop_roots"}, {MethodOIDC, "oidc_subject"}, {MethodTPM, "tpm_eks"},
	} {
		if q.describes(need.method) != slices.Contains(q.methods(chain.Orchestrator), need.method) {
			return refuse(Invalid, "bad_attestation_method", need.field, "given and not among the methods, or among the methods and not given")
		}
	}
	return s.checkProofs(q)
}

func (s *Service) checkProofs(q Registration) error {
	if len(q.PopRoots) > 0 {
		if _, err := chain.ParsePEM(q.PopRoots, 16); err != nil {
			return refuse(Invalid, "bad_certificate", "x509pop_roots", "not 1 to 16 PEM certificates")
		}
	}
	if q.describes(MethodOIDC) {
		if _, ok := s.cfg.Workloads[q.OIDCIssuer]; !ok {
			return refuse(Invalid, "unknown_issuer", "oidc_issuer", "no issuer of that name is configured")
		}
		if !subjectForm(q.OIDCSubject) {
			return refuse(Invalid, "bad_subject", "oidc_subject", "1 to 256 printable characters without spaces, and no pattern: one subject exactly")
		}
	}
	if q.describes(MethodTPM) && s.cfg.TPM == nil {
		return refuse(Invalid, "bad_attestation_method", "tpm_eks", "no makers of TPMs are configured")
	}
	return checkEKs(q.EKs)
}

// subjectForm refuses patterns, which somebody could take for more than the characters that they are.
func subjectForm(s string) bool {
	bad := func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '*' || r == '?' }
	return s != "" && len(s) <= 256 && !strings.ContainsFunc(s, bad)
}

func checkEKs(eks []string) error {
	if len(eks) > maxEKs {
		return refuse(Invalid, "bad_endorsement_key", "tpm_eks", "at most 64")
	}
	for _, ek := range eks {
		sum, err := hex.DecodeString(ek)
		if err != nil || len(sum) != 32 || strings.ToLower(ek) != ek {
			return refuse(Invalid, "bad_endorsement_key", "tpm_eks", "each the SHA-256 of an endorsement key's SubjectPublicKeyInfo, 64 lower-case hexadecimal digits")
		}
	}
	return nil
}
