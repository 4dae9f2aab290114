package store

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"
	"github.com/klauspost/compress/s2"
)

// Values of some size are kept packed: what is written passes the write-ahead log, the memtable and a table, each of which
// costs by the byte, and entries, certificates and state repeat themselves. The bit says so beside the value, where
// Badger's checksum covers it.
const (
	packFrom  = 256
	metaPlain = 0
	metaS2    = 1 // one S2 block
)

var errPacked = errors.New("store: value is not packed as it says")

// pack makes the value of e shorter if that can be. It works in scratch, and returns it for the next one.
func pack(e *badger.Entry, scratch []byte) []byte {
	if len(e.Value) < packFrom {
		return scratch
	}
	if n := s2.MaxEncodedLen(len(e.Value)); len(scratch) < n {
		scratch = make([]byte, n)
	}
	if packed := s2.Encode(scratch, e.Value); len(packed) < len(e.Value) {
		e.Value = bytes.Clone(packed)
		e.WithMeta(metaS2)
	}
	return scratch
}

// read gives a copy of an item's value.
func read(item *badger.Item) (value []byte, err error) {
	switch item.UserMeta() {
	case metaPlain:
		return item.ValueCopy(nil)
	case metaS2:
		err = item.Value(func(packed []byte) error {
			value, err = unpack(packed)
			return err
		})
		return value, err
	default:
		return nil, fmt.Errorf("%w: kind %d", errPacked, item.UserMeta())
	}
}

func unpack(packed []byte) ([]byte, error) {
	n, err := s2.DecodedLen(packed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPacked, err)
	}
	if n > MaxValue {
		return nil, fmt.Errorf("%w: %d bytes", errPacked, n)
	}
	value, err := s2.Decode(nil, packed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPacked, err)
	}
	return value, nil
}
