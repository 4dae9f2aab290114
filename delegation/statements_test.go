package delegation_test

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"sync/atomic"

	"github.com/go-jose/go-jose/v4"

	"github.com/signet-pki/signet/delegation/chain"
)

// statements signs with a key in memory, until failing is set.
type statements struct {
	key     crypto.Signer
	failing atomic.Pointer[error]
	signed  atomic.Int64
	tokens  atomic.Int64 // access tokens among them
	last    atomic.Int64 // the device is gone when so many are signed; 0: never
	before  func(ctx context.Context, s said) error
}

// said is what a statement of the feed says.
type said struct {
	Time   int64 `json:"iat"`
	Signet struct {
		Seq  uint64 `json:"seq"`
		Kind string `json:"kind"`
	} `json:"signet"`
}

func (s said) heartbeat() bool { return s.Signet.Kind == "heartbeat" }

func (s *statements) Sign(ctx context.Context, typ string, claims any) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := s.failing.Load(); err != nil {
		return "", *err
	}
	if last := s.last.Load(); last > 0 && s.signed.Load() >= last {
		return "", errors.New("the token is gone")
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	if s.before != nil {
		var what said
		if err := json.Unmarshal(payload, &what); err != nil {
			return "", err
		}
		if err := s.before(ctx, what); err != nil {
			return "", err
		}
	}
	s.signed.Add(1)
	if typ == chain.AccessTokenType {
		s.tokens.Add(1)
	}
	kid, err := chain.KeyID(s.key.Public())
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: s.key}, new(jose.SignerOptions).WithType(jose.ContentType(typ)).WithHeader("kid", kid))
	if err != nil {
		return "", err
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return jws.CompactSerialize()
}
