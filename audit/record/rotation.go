package record

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"regexp"
)

// TypeRotation is the type of an entry by which the log changes a key.
const TypeRotation Type = "rotation"

// RotationBody makes a new key the log's audit key. Both keys have signed the text that package rotation makes of it.
type RotationBody struct {
	Number       uint64 `json:"number"`        // of the new key; leaf 0 names the first
	Label        string `json:"label"`         // of the new key where the appliance keeps it
	Key          string `json:"key"`           // SPKI, base64
	Act          uint64 `json:"act"`           // index of the entry of the act that the custodians agreed to
	ActHash      string `json:"act_hash"`      // SHA-256 of the act's exact bytes, lower-case hex
	OldSignature string `json:"old_signature"` // of the key before it, ECDSA over SHA-256, DER, base64
	NewSignature string `json:"new_signature"` // likewise of the new key
}

var keyLabel = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)

// Check refuses what the entry at an index cannot say.
func (b RotationBody) Check(index uint64) error {
	switch {
	case b.Number < 2:
		return fmt.Errorf("%w: rotation to key %d: the first is leaf 0's", ErrMalformed, b.Number)
	case !keyLabel.MatchString(b.Label):
		return fmt.Errorf("%w: rotation: label %.64q", ErrMalformed, b.Label)
	case b.Act >= index:
		return fmt.Errorf("%w: rotation entry %d rests on the later entry %d", ErrMalformed, index, b.Act)
	case !isHash([]byte(b.ActHash)):
		return fmt.Errorf("%w: rotation without the hash of its act", ErrMalformed)
	}
	return nil
}

// RotationParts are the bytes that a RotationBody spells.
type RotationParts struct {
	Key                        []byte
	ActHash                    [32]byte
	OldSignature, NewSignature []byte
}

// Parts reads them.
func (b RotationBody) Parts() (p RotationParts, err error) {
	for _, f := range []struct {
		name, text string
		into       *[]byte
	}{{"key", b.Key, &p.Key}, {"old_signature", b.OldSignature, &p.OldSignature}, {"new_signature", b.NewSignature, &p.NewSignature}} {
		*f.into, err = base64.StdEncoding.Strict().DecodeString(f.text)
		if err != nil || base64.StdEncoding.EncodeToString(*f.into) != f.text { // the decoder passes over line feeds
			return p, fmt.Errorf("%w: rotation: %s is no base64 in the one spelling", ErrMalformed, f.name)
		}
	}
	if n, err := hex.Decode(p.ActHash[:], []byte(b.ActHash)); err != nil || n != len(p.ActHash) {
		return p, fmt.Errorf("%w: rotation: act_hash", ErrMalformed)
	}
	return p, nil
}

// RotationOf reads the body of the rotation entry at an index.
func RotationOf(env Envelope, index uint64) (RotationBody, error) {
	if env.Type != TypeRotation {
		return RotationBody{}, fmt.Errorf("%w: a %s entry rotates nothing", ErrMalformed, env.Type)
	}
	body, err := DecodeBody[RotationBody](env)
	if err == nil {
		err = body.Check(index)
	}
	return body, err
}
