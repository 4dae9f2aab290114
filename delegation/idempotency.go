package delegation

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/signet-pki/signet/audit/record"
)

// idemLife is how long a retry finds its first attempt.
const idemLife = 24 * time.Hour

// errRaced tells a request that an equal one was committed since it looked: it looks again.
var errRaced = refuse(Conflict, "idempotency_race", "Idempotency-Key", "an equal request is being answered; retry")

func idemKey(by Caller, key string) string {
	sum := sha256.Sum256([]byte(key))
	return keyIdem + by.ID.String() + "/" + hex.EncodeToString(sum[:])
}

// replayed finds what the first attempt made. A key that was used with another body is a conflict.
func (s *Service) replayed(by Caller, idem Idempotency) (ref string, ok bool, err error) {
	if idem.Key == "" {
		return "", false, nil
	}
	st, ok, err := load[idemState](s.cfg.Log, idemKey(by, idem.Key))
	if err != nil {
		return "", false, internal("read idempotency key", err)
	}
	if !ok {
		return "", false, nil
	}
	if !bytes.Equal(st.Hash, idem.Hash[:]) {
		return "", false, refuse(Conflict, "idempotency_key_reused", "Idempotency-Key", "this key was used with another request")
	}
	return st.Ref, true, nil
}

// remember ties the key to ref in the transaction of the entry. Of two equal requests at once the second is rejected.
func (s *Service) remember(by Caller, idem Idempotency, ref string) ([]record.Mutation, error) {
	if idem.Key == "" {
		return nil, nil
	}
	v, err := encode(idemState{Hash: idem.Hash[:], Ref: ref})
	if err != nil {
		return nil, err
	}
	return []record.Mutation{create(idemKey(by, idem.Key), v, s.cfg.Now().Add(idemLife), errRaced)}, nil
}
