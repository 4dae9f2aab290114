package rotation

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
)

// Proof shows one change of key without the rest of the log: the entry, and a C2SP tlog-proof of it to the checkpoint by which
// the old key vouches for the tree that ends in it.
type Proof struct {
	Index    uint64 `json:"index"`
	Envelope []byte `json:"envelope"` // exact bytes
	Proof    string `json:"proof"`
}

// MaxProofs bounds the proofs of all changes, in bytes.
const MaxProofs = MaxKeys * 16 << 10

// FollowProof adds the key of a change, and gives the tree that the old key vouches for. Errors match [ErrUnproved],
// record.ErrMalformed, merkle.ErrProof, checkpoint.ErrMalformed or checkpoint.ErrUnsigned.
func (k *Keys) FollowProof(p Proof) (*Keys, checkpoint.Checkpoint, error) {
	next, err := k.Follow(p.Index, p.Envelope)
	if err != nil {
		return nil, checkpoint.Checkpoint{}, err
	}
	proof, err := merkle.ParseProof([]byte(p.Proof))
	if err != nil {
		return nil, checkpoint.Checkpoint{}, err
	}
	head, err := next.Open(proof.Checkpoint) // of a size at which the old key still signs
	if err != nil {
		return nil, checkpoint.Checkpoint{}, err
	}
	if proof.Index != p.Index || head.Size != p.Index+1 {
		return nil, checkpoint.Checkpoint{}, fmt.Errorf("%w: the old key vouches for a tree of %d entries, not for the one that ends in entry %d", ErrUnproved, head.Size, p.Index)
	}
	return next, head, merkle.VerifyInclusion(proof.Path, p.Index, head.Size, record.LeafHash(p.Envelope), head.Root)
}

// MarshalProofs writes one JSON object a line.
func MarshalProofs(list []Proof) ([]byte, error) {
	var out bytes.Buffer
	for _, p := range list {
		line, err := json.Marshal(p)
		if err != nil {
			return nil, fmt.Errorf("rotation: %w", err)
		}
		out.Write(append(line, '\n'))
	}
	return out.Bytes(), nil
}

// ParseProofs reads what MarshalProofs writes, and nothing else; it verifies nothing. Errors match record.ErrMalformed.
func ParseProofs(data []byte) ([]Proof, error) {
	if len(data) > MaxProofs {
		return nil, fmt.Errorf("%w: %d bytes of changes of key", record.ErrMalformed, len(data))
	}
	var out []Proof
	for line := range bytes.Lines(data) {
		if len(out) == MaxKeys {
			return nil, fmt.Errorf("%w: too many changes of key", record.ErrMalformed)
		}
		var p Proof
		if err := json.Unmarshal(line, &p); err != nil {
			return nil, fmt.Errorf("%w: change of key: %w", record.ErrMalformed, err)
		}
		out = append(out, p)
	}
	// One spelling: no field twice, none unknown, no other order.
	if again, err := MarshalProofs(out); err != nil || !bytes.Equal(again, data) {
		return nil, fmt.Errorf("%w: changes of key in another spelling", record.ErrMalformed)
	}
	return out, nil
}
