package delegation

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/signet-pki/signet/delegation/chain"
)

// revKey is the projection's key of a revocation.
func revKey(kind chain.RevKind, id string) string { return keyRevoked + kind.String() + "/" + id }

func (r *revocations) get(kind chain.RevKind, id string) (Revocation, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	v, ok := r.set[revKey(kind, id)]
	return v, ok
}

// read takes one stored revocation.
func (r *revocations) read(key string, value []byte) error {
	word, id, _ := strings.Cut(strings.TrimPrefix(key, keyRevoked), "/")
	kind, err := chain.ParseRevKind(word)
	if err != nil {
		return fmt.Errorf("delegation: state %q: %w", key, err)
	}
	var st revokedState
	if err := json.Unmarshal(value, &st); err != nil {
		return fmt.Errorf("delegation: state %q is unreadable: %w", key, err)
	}
	r.add(Revocation{Seq: st.Seq, Kind: kind, ID: id, Reason: st.Reason, Time: st.Time})
	return nil
}

// sort puts the list into the order of the feed; keys come in another one.
func (r *revocations) sort() {
	slices.SortFunc(r.list, func(a, b Revocation) int { return cmp.Compare(a.Seq, b.Seq) })
}

func splitUser(id string) (issuer, subject string) {
	issuer, subject, _ = strings.Cut(id, "\x00")
	return issuer, subject
}

// maxSerial bounds a serial number, in octets (RFC 5280 §4.1.2.2).
const maxSerial = 20

// revocationID brings what a person typed into the one form that is looked up, and refuses what names nothing: a
// revocation without effect must not look like one.
func (s *Service) revocationID(q RevokeRequest) (string, error) {
	if len(q.Reason) > maxReason {
		return "", refuse(Invalid, "bad_request", "reason", "at most 256 bytes")
	}
	switch q.Kind {
	case chain.RevCertificate:
		return serialID(q.ID)
	case chain.RevOrchestrator:
		return s.orchestratorID(q.ID)
	case chain.RevUser:
		iss, sub := splitUser(q.ID)
		if iss != s.cfg.Issuer || sub == "" || len(sub) > chain.MaxSubjectBytes {
			return "", refuse(Invalid, "unknown_user", "user", "the issuer is exactly that of the configured identity provider, with a subject")
		}
		return q.ID, nil
	case chain.RevAgent, chain.RevTask, chain.RevGrant:
		if _, err := chain.ParseUUID(q.ID); err != nil {
			return "", refuse(Invalid, "bad_request", "id", "a lower-case UUIDv7")
		}
		return q.ID, nil
	case chain.RevUnknown:
	}
	return "", refuse(Invalid, "bad_revocation_kind", "kind", "one of certificate, agent, task, grant, user, orchestrator")
}

// serialID takes hexadecimal in either case, with or without colons, as tools print it.
func serialID(text string) (string, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	b = bytes.TrimLeft(b, "\x00")
	if err != nil || len(b) == 0 || len(b) > maxSerial {
		return "", refuse(Invalid, "bad_serial", "id", "a positive serial number of at most 20 octets, in hexadecimal")
	}
	return hex.EncodeToString(b), nil
}

// orchestratorID takes a name or a SPIFFE ID.
func (s *Service) orchestratorID(text string) (string, error) {
	name := text
	if id, err := chain.ParseID(text); err == nil && id.Kind() == chain.Orchestrator && id.TrustDomain() == s.cfg.Trust.TrustDomain {
		name = id.Name()
	}
	_, ok, err := load[identityState](s.cfg.Log, identityKey(chain.Orchestrator, name))
	if err != nil {
		return "", internal("read registration", err)
	}
	if !ok {
		return "", refuse(NotFound, "orchestrator_not_found", "id", "no such orchestrator")
	}
	return name, nil
}
