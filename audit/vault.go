package audit

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/klauspost/compress/s2"

	"github.com/signet-pki/signet/audit/keytree"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/internal/durable"
	"github.com/signet-pki/signet/store"
)

// keysName is the file outside the store with the keys of payloads. A store forgets nothing at once; a key can be destroyed.
const keysName = "payload.keys"

// errErased: the key was destroyed.
var errErased = errors.New("audit: erased")

// errKeys: what is sealed under an entry's key cannot be read, though it was not erased.
var errKeys = errors.New("audit: payload cannot be decrypted")

// vault holds the keys of payloads and of private state. The zero value has none.
type vault struct {
	path string
	tree atomic.Pointer[keytree.Tree]
}

// createVault makes the keys of a new log.
func createVault(dir string) (*vault, error) {
	var seed [keytree.Size]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("audit: %s: %w", keysName, err)
	}
	v := &vault{path: filepath.Join(dir, keysName)}
	t := keytree.New(seed)
	if err := durable.Create(v.path, t.Marshal(), 0o600); err != nil {
		return nil, fmt.Errorf("audit: %s: %w", keysName, err)
	}
	v.tree.Store(t)
	return v, nil
}

// openVault reads the keys; fs.ErrNotExist if there is no file.
func openVault(dir string) (*vault, error) {
	v := &vault{path: filepath.Join(dir, keysName)}
	text, err := os.ReadFile(v.path)
	if err != nil {
		return v, fmt.Errorf("audit: %s: %w", keysName, err)
	}
	t, err := keytree.Parse(text)
	if err != nil {
		return v, fmt.Errorf("audit: %s: %w", keysName, err)
	}
	v.tree.Store(t)
	return v, nil
}

// destroy replaces the file by one without these keys, and without those of the entries before first, and overwrites what it was, as
// far as the file system lets it.
func (v *vault) destroy(leaves []uint64, first, generation uint64) error {
	t := v.tree.Load().Without(leaves, generation).From(first, generation)
	old, err := os.OpenFile(v.path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("audit: %s: %w", keysName, err)
	}
	if err := durable.WriteFile(v.path, t.Marshal(), 0o600); err != nil {
		return errors.Join(fmt.Errorf("audit: %s: %w", keysName, err), old.Close())
	}
	v.tree.Store(t)
	if err := errors.Join(overwrite(old), old.Close()); err != nil {
		return fmt.Errorf("audit: overwrite the former %s: %w", keysName, err)
	}
	return nil
}

func overwrite(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(make([]byte, info.Size()), 0); err != nil {
		return err
	}
	return f.Sync()
}

// erasures is what the store knows of the keys: how often some were destroyed, and which seed they are of.
type erasures struct {
	Generation uint64 `json:"generation"`
	Check      string `json:"check"` // SHA-256 of the key of the last leaf, which no entry ever has; hex
}

func erasuresOf(t *keytree.Tree) erasures {
	key, _ := t.Key(1<<keytree.Depth - 1)
	sum := sha256.Sum256(key[:])
	return erasures{Generation: t.Generation(), Check: hex.EncodeToString(sum[:])}
}

func (e erasures) write() (pair, error) {
	value, err := json.Marshal(e)
	return pair{[]byte(keyErased), value}, err
}

// readErasures gives what the store knows; ok is false in a log without keys.
func readErasures(db *store.DB) (e erasures, ok bool, err error) {
	err = db.View(func(t *store.Txn) error {
		e, ok, err = getJSON[erasures](t, []byte(keyErased))
		return err
	})
	return e, ok, err
}

// of is the cipher under an entry's key, for the few values that belong to it.
func (v *vault) of(index uint64) (cipher.AEAD, error) {
	t := v.tree.Load()
	if t == nil {
		return nil, fmt.Errorf("%w: %s: %w", errKeys, keysName, fs.ErrNotExist)
	}
	key, ok := t.Key(index)
	if !ok {
		return nil, errErased
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errKeys, err)
	}
	// Random nonces: a key serves an entry's payload and the state that it changes, which are a handful of values.
	return cipher.NewGCMWithRandomNonce(block)
}

// Kinds of what is sealed.
const (
	plainBytes = 0
	s2Block    = 1

	boxOverhead = 12 + 16 + 1 // nonce, tag, kind
)

// conceal seals a value under its name: AES-256-GCM of a byte for its kind and the value, packed where that is shorter.
func conceal(aead cipher.AEAD, name, value []byte) []byte {
	in := append(make([]byte, 0, 1+len(value)), plainBytes)
	in = append(in, value...)
	if len(value) >= packFrom {
		out := make([]byte, 1+s2.MaxEncodedLen(len(value)))
		if packed := s2.Encode(out[1:], value); len(packed) < len(value) {
			out[0] = s2Block
			in = out[:1+len(packed)]
		}
	}
	return aead.Seal(nil, nil, in, name) // #nosec G407 -- it makes its own nonce
}

// packFrom is from how many bytes on packing is tried.
const packFrom = 256

// reveal gives back what was sealed under that name.
func reveal(aead cipher.AEAD, name, box []byte) ([]byte, error) {
	out, err := aead.Open(nil, nil, box, name)
	if err != nil || len(out) == 0 {
		return nil, errKeys
	}
	switch kind, value := out[0], out[1:]; kind {
	case plainBytes:
		return value, nil
	case s2Block:
		if n, err := s2.DecodedLen(value); err != nil || n > record.MaxPayload+record.SaltSize+record.MaxValue {
			return nil, errKeys
		}
		value, err := s2.Decode(nil, value)
		if err != nil {
			return nil, errKeys
		}
		return value, nil
	default:
		return nil, errKeys
	}
}

// sealState seals a value of private state: index of the entry that it belongs to, then the box.
func (v *vault) sealState(key string, value []byte, index uint64) ([]byte, error) {
	aead, err := v.of(index)
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint64(nil, index), conceal(aead, stateKey(key), value)...), nil
}

// belongsBefore says whether a value of domain state is sealed under the key of an entry before first, and which.
func belongsBefore(value []byte, first uint64) (index uint64, before bool) {
	if len(value) < expirySize+indexSize || binary.BigEndian.Uint64(value)&sealedState == 0 {
		return 0, false
	}
	index = binary.BigEndian.Uint64(value[expirySize:])
	return index, index < first
}

func (v *vault) openState(key string, b []byte) ([]byte, error) {
	if len(b) < indexSize {
		return nil, errKeys
	}
	aead, err := v.of(binary.BigEndian.Uint64(b))
	if err != nil {
		return nil, err
	}
	return reveal(aead, stateKey(key), b[indexSize:])
}
