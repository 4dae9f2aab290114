package audit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/store"
)

// The keys in the store. Numbers are big-endian, so that order of keys is order of numbers. docs/formats/log.md has the
// values.
const (
	prefixEntry    = "e/"         // e/<index>: the envelope
	prefixPayload  = "p/"         // p/<index>: salt, payload; of entries before payloads were sealed
	prefixSealed   = "x/"         // x/<index>: salt and payload under the entry's key
	prefixTerm     = "i/"         // i/<16 bytes of HMAC-SHA256(IndexKey, kind 0x00 id)><index>: empty
	prefixTile     = "t/"         // t/<level, one byte><index>: a complete tile
	prefixState    = "s/"         // s/<key>: expiry in Unix milliseconds (0 = never), value; with the top bit set it is sealed
	prefixRotation = "k/"         // k/<number>: rotation.Proof of the change to that audit key as JSON; its proof is empty until the old key vouched
	prefixSeal     = "q/"         // q/<number>: checkpoint.Sealed as JSON
	keyHead        = "m/head"     // checkpoint body and commit time
	keyPending     = "m/pending"  // text of the seal in flight
	keyLastSeal    = "m/lastseal" // its number, JSON
	keyErased      = "m/erased"   // erasures as JSON; absent: payloads have no keys yet
	keyPruned      = "m/pruned"   // pruned as JSON; absent: nothing ever was
	keyAnchor      = "m/anchor"   // where the TPM is expected: Anchor as JSON
)

const (
	termSize   = 16
	expirySize = 8
	indexSize  = 8

	sealedState = 1 << 63 // in the expiry: an index and a box follow
)

func numbered(prefix string, n uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(prefix), n)
}

// numberOf reads what numbered wrote.
func numberOf(prefix string, key []byte) uint64 { return binary.BigEndian.Uint64(key[len(prefix):]) }

func tileKey(level int, index uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(prefixTile), byte(level)), index) //nolint:gosec // G115: levels end at 7
}

func stateKey(key string) []byte { return append([]byte(prefixState), key...) }

// termPrefix hides the ids in the index: they are keyed, so the store alone does not tell whether it knows an id.
func termPrefix(key []byte, t record.Term) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(t.Kind))
	m.Write([]byte{0})
	m.Write([]byte(t.ID))
	return append([]byte(prefixTerm), m.Sum(nil)[:termSize]...)
}

// head is the newest head in the store: the unsigned checkpoint and when it was committed.
type head struct {
	checkpoint checkpoint.Checkpoint
	at         time.Time
}

func (h head) marshal() []byte {
	return fmt.Appendf(h.checkpoint.Body(), "%d\n", h.at.UnixMilli())
}

func parseHead(b []byte) (head, error) {
	const lines = 3
	end := 0
	for n := 0; end < len(b) && n < lines; end++ {
		if b[end] == '\n' {
			n++
		}
	}
	c, err := checkpoint.ParseBody(b[:end])
	if err != nil {
		return head{}, fmt.Errorf("audit: stored head: %w", err)
	}
	var ms int64
	if n, err := fmt.Sscanf(string(b[end:]), "%d\n", &ms); err != nil || n != 1 {
		return head{}, errors.New("audit: stored head has no time")
	}
	return head{checkpoint: c, at: time.UnixMilli(ms).UTC()}, nil
}

// encodeState writes flags, which are sealedState or none, into the expiry.
func encodeState(value []byte, expires time.Time, flags uint64) []byte {
	at := flags
	if !expires.IsZero() {
		at |= uint64(max(expires.UnixMilli(), 1))
	}
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, expirySize+len(value)), at), value...)
}

// decodeState gives the value unless it has expired by now, or was erased. The store's own expiry is coarser and on the wall clock.
func (v *vault) decodeState(key string, b []byte, now time.Time) (value []byte, ok bool, err error) {
	if len(b) < expirySize {
		return nil, false, nil
	}
	at := binary.BigEndian.Uint64(b)
	expires := at &^ sealedState
	if expires != 0 && now.UnixMilli() >= int64(expires) { //nolint:gosec // G115: written by encodeState
		return nil, false, nil
	}
	if value = b[expirySize:]; at&sealedState == 0 {
		return value, true, nil
	}
	value, err = v.openState(key, value)
	if errors.Is(err, errErased) {
		return nil, false, nil
	}
	return value, err == nil, err
}

// getState reads a key of domain state within a transaction.
func (v *vault) getState(t *store.Txn, key string, now time.Time) (value []byte, ok bool, err error) {
	b, err := t.Get(stateKey(key))
	if errors.Is(err, store.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	return v.decodeState(key, b, now)
}

// getJSON reads one of the log's own values; ok is false when there is none.
func getJSON[T any](t *store.Txn, key []byte) (v T, ok bool, err error) {
	b, err := t.Get(key)
	if errors.Is(err, store.ErrNotFound) {
		return v, false, nil
	}
	if err != nil {
		return v, false, err
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return v, false, fmt.Errorf("audit: stored value %q: %w", key[:2], err)
	}
	return v, true, nil
}
