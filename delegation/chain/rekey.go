package chain

import (
	"crypto"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"time"
)

// RekeyType is the typ of a re-key link; nothing else that a key signs can pass for one.
const RekeyType = "agent-rekey+jwt"

// Rekey is what an agent signs with its old key about its new one.
type Rekey struct {
	Agent    string    // SPIFFE ID
	Audience string    // origin of the log
	TaskID   string    // UUIDv7
	IssuedAt time.Time // whole seconds
	Expiry   time.Time // the appliance takes it until then; whole seconds
	OldKey   [32]byte  // RFC 7638 thumbprint of the key that signs
	NewKey   [32]byte  // of the key that follows it (cnf.jkt)
}

// Link is a re-key with the key that signed it.
type Link struct {
	JWS string `json:"link"`
	Key []byte `json:"key"` // SubjectPublicKeyInfo of the old key
}

type rekeyClaims struct {
	Issuer   string          `json:"iss"`
	Audience string          `json:"aud"`
	TaskID   string          `json:"task_id"`
	IssuedAt int64           `json:"iat"`
	Expiry   int64           `json:"exp"`
	OldKey   string          `json:"old_jkt"`
	Confirm  json.RawMessage `json:"cnf"`
}

type rekeyConfirm struct {
	Key string `json:"jkt"`
}

// SignRekey returns the compact JWS, signed by the old key, whose thumbprint it fills in. It is verified before it is returned.
func SignRekey(old crypto.Signer, r Rekey) (string, error) {
	var err error
	if r.OldKey, err = Thumbprint(old.Public()); err != nil {
		return "", err
	}
	if err := r.validate(); err != nil {
		return "", fmt.Errorf("%w: %w", ErrRekey, err)
	}
	payload, err := r.encode()
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrRekey, err)
	}
	compact, err := signCompact(old, RekeyType, payload)
	if err != nil {
		return "", err
	}
	if _, err := VerifyRekey(compact, old.Public()); err != nil {
		return "", fmt.Errorf("delegation: the signer's signature does not verify: %w", err)
	}
	return compact, nil
}

// VerifyRekey verifies a link under the old key, as strictly as VerifyDelegation does, and that it names that key. It does
// not look at the time.
func VerifyRekey(compact string, old crypto.PublicKey) (Rekey, error) {
	payload, err := verifyCompact(compact, RekeyType, MaxRekeyBytes, old)
	if err != nil {
		return Rekey{}, fmt.Errorf("%w: %w", ErrRekey, err)
	}
	r, err := decodeRekey(payload)
	if err != nil {
		return Rekey{}, fmt.Errorf("%w: %w", ErrRekey, err)
	}
	sum, err := Thumbprint(old)
	if err != nil || subtle.ConstantTimeCompare(sum[:], r.OldKey[:]) != 1 {
		return Rekey{}, fmt.Errorf("%w: old_jkt is not the key that signed", ErrRekey)
	}
	return r, nil
}

func (r *Rekey) encode() ([]byte, error) {
	confirm, err := json.Marshal(rekeyConfirm{Key: encodeBase64(r.NewKey[:])})
	if err != nil {
		return nil, err
	}
	return json.Marshal(rekeyClaims{
		Issuer: r.Agent, Audience: r.Audience, TaskID: r.TaskID, IssuedAt: r.IssuedAt.Unix(), Expiry: r.Expiry.Unix(),
		OldKey: encodeBase64(r.OldKey[:]), Confirm: confirm,
	})
}

func decodeRekey(payload []byte) (Rekey, error) {
	var w rekeyClaims
	if err := decodeObject(payload, &w, []string{"iss", "aud", "task_id", "iat", "exp", "old_jkt", "cnf"}, nil); err != nil {
		return Rekey{}, fmt.Errorf("claims: %w", err)
	}
	var confirm rekeyConfirm
	if err := decodeObject(w.Confirm, &confirm, []string{"jkt"}, nil); err != nil {
		return Rekey{}, fmt.Errorf("cnf: %w", err)
	}
	r := Rekey{
		Agent: w.Issuer, Audience: w.Audience, TaskID: w.TaskID,
		IssuedAt: time.Unix(w.IssuedAt, 0).UTC(), Expiry: time.Unix(w.Expiry, 0).UTC(),
	}
	var err error
	if r.OldKey, err = decodeHash(w.OldKey); err != nil {
		return Rekey{}, fmt.Errorf("old_jkt: %w", err)
	}
	if r.NewKey, err = decodeHash(confirm.Key); err != nil {
		return Rekey{}, fmt.Errorf("cnf.jkt: %w", err)
	}
	return r, r.validate()
}

// validate holds for what is signed and for what is accepted.
func (r *Rekey) validate() error {
	id, err := ParseID(r.Agent)
	switch {
	case err != nil:
		return fmt.Errorf("iss: %w", err)
	case id.Kind() != Agent:
		return fmt.Errorf("iss is no agent")
	case !printable(r.Audience, maxOriginBytes):
		return fmt.Errorf("aud is not 1 to %d printable ASCII characters", maxOriginBytes)
	case r.OldKey == [32]byte{} || r.NewKey == [32]byte{}:
		return fmt.Errorf("old_jkt or cnf.jkt is all zero")
	case r.OldKey == r.NewKey:
		return fmt.Errorf("cnf.jkt is the old key")
	}
	if _, err := ParseUUID(r.TaskID); err != nil {
		return fmt.Errorf("task_id: %w", err)
	}
	return validateTimes(r.IssuedAt, r.Expiry)
}
