package delegation

import (
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

// sort puts the list into the order in which things were revoked; keys come in another one.
func (r *revocations) sort() {
	slices.SortStableFunc(r.list, func(a, b Revocation) int {
		if c := a.Time.Compare(b.Time); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
}

func splitUser(id string) (issuer, subject string) {
	issuer, subject, _ = strings.Cut(id, "\x00")
	return issuer, subject
}
