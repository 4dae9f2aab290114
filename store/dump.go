package store

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/dgraph-io/badger/v4"
)

// Item is a key as it is stored. It can be written into another store without being unpacked.
type Item struct {
	Key, Value []byte
	Packed     bool
	Expires    uint64 // Unix time; 0: never
}

// Items calls fn for every key of the snapshot, in ascending order, with slices that are valid until it returns. It stops at the first
// error of fn and returns it. Memory does not grow with the number of keys.
func (t *Txn) Items(fn func(Item) error) error {
	opt := badger.DefaultIteratorOptions
	opt.PrefetchSize = 32
	it := t.badger.NewIterator(opt)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		item := it.Item()
		if m := item.UserMeta(); m != metaPlain && m != metaS2 {
			return fmt.Errorf("store: items: %w", errPacked)
		}
		err := item.Value(func(value []byte) error {
			return fn(Item{Key: item.Key(), Value: value, Packed: item.UserMeta() == metaS2, Expires: item.ExpiresAt()})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Fill makes a store in dir, which must be empty or absent, out of items that next gives until [io.EOF]. It is durable when Fill
// returns; after an error what is in dir is no store to open.
func Fill(dir string, opt Options, next func() (Item, error)) (err error) {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("store: fill: %s is not empty", dir)
	}
	db, err := Open(dir, opt)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for ended := false; !ended; {
		if ended, err = db.fillSome(next); err != nil {
			return err
		}
	}
	return nil
}

// fillSome writes what half a transaction holds.
func (db *DB) fillSome(next func() (Item, error)) (ended bool, err error) {
	bytes, keys := db.MaxTxnBytes()/2, db.MaxTxnKeys()/2
	err = db.Update(func(t *Txn) error {
		for bytes > 0 && keys > 0 {
			item, err := next()
			if errors.Is(err, io.EOF) {
				ended = true
				return nil
			}
			if err != nil {
				return err
			}
			if len(item.Value) > MaxValue {
				return fmt.Errorf("%w: value of %d bytes", ErrTooBig, len(item.Value))
			}
			e := badger.NewEntry(item.Key, item.Value)
			if e.ExpiresAt = item.Expires; item.Packed {
				e = e.WithMeta(metaS2)
			}
			if err := tooBig(t.badger.SetEntry(e)); err != nil {
				return err
			}
			bytes, keys = bytes-TxnCost(len(item.Key), len(item.Value)), keys-1
		}
		return nil
	})
	return ended, err
}
