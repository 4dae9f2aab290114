package delegation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// redeemJoin (join_token) checks a token and gives the write that spends it, which only one of two redemptions at once can
// make. See redeemAgain about a token that was redeemed.
func (s *Service) redeemJoin(_ chain.ID, reg *identityState, a Attestation) (proof, error) {
	key := joinKey(a.Token)
	old, ok, err := s.cfg.Log.Get(key)
	if err != nil {
		return proof{}, internal("read join token", err)
	}
	if !ok {
		return proof{}, errAttestation("join_token_unknown")
	}
	var st joinState
	if err := json.Unmarshal(old, &st); err != nil {
		return proof{}, internal("read join token", err)
	}
	switch {
	case st.Name != a.Name, st.Registration != reg.Registration: // of another, or of a registration that was replaced
		return proof{}, errAttestation("join_token_unknown")
	case !s.cfg.Now().Before(st.Expires):
		return proof{}, errAttestation("join_token_expired")
	case st.Used:
		return proof{done: &st}, nil
	}
	return proof{spend: func(p Prepared, spki []byte) ([]record.Mutation, error) {
		st.Used, st.SPKI, st.TBS = true, spki, p.TBS()
		value, err := encode(st)
		return []record.Mutation{replace(key, old, value, st.Expires.Add(idemLife), errAttestation("join_token_used"))}, err
	}}, nil
}

// redeemAgain lets a token be used once more by the same key if the first redemption got no certificate: a device that
// failed must not cost the name. Any other second use is a replay.
func (s *Service) redeemAgain(ctx context.Context, o order, done joinState) (Issued, error) {
	if !bytes.Equal(done.SPKI, o.template.SPKI) {
		return Issued{}, errAttestation("join_token_used")
	}
	if _, released, err := s.releasedAt(sha256.Sum256(done.TBS)); err != nil {
		return Issued{}, err
	} else if released {
		return Issued{}, errAttestation("join_token_used")
	}
	return s.issueAgain(ctx, o, done.TBS)
}

// joinKey names a token by its hash: the log's files never hold one.
func joinKey(token string) string {
	sum := sha256.Sum256([]byte(token))
	return keyJoin + hex.EncodeToString(sum[:])
}
