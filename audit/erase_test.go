package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/keytree"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/store"
)

const person = "erika.mustermann@clinic.example"

// privateConfig keeps state below p/ private.
func privateConfig(t testing.TB, q Quoter) Config {
	cfg := testConfig(t, q)
	cfg.Private = func(key string) bool { return strings.HasPrefix(key, "p/") }
	return cfg
}

func personal(t testing.TB, key string) record.Entry {
	payload := map[string]string{"subject": person, "again": strings.Repeat(person, 20)}
	return entry(t, time.Now(), record.TypeGrant, "t1", payload, record.Mutation{Key: key, Value: []byte(strings.Repeat(person, 20))})
}

func redaction(t testing.TB, ranges ...record.Range) record.Entry {
	t.Helper()
	body, err := json.Marshal(record.RedactBody{Reason: "asked for", Entries: ranges})
	if err != nil {
		t.Fatal(err)
	}
	e, err := record.New(record.Envelope{Type: record.TypeRedact, Time: time.Now(), Body: body}, nil, [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func wantErased(t testing.TB, l *Log, index uint64, key string) {
	t.Helper()
	s, err := l.Read(t.Context(), index)
	if err != nil || s.Salt != nil || s.Payload != nil || len(s.Envelope) == 0 {
		t.Errorf("entry %d: %v, payload %q", index, err, s.Payload)
	}
	if v, ok, err := l.Get(key); ok || err != nil {
		t.Errorf("state %s: %q %v", key, v, err)
	}
}

func wantKept(t testing.TB, l *Log, index uint64, key string) {
	t.Helper()
	s, err := l.Read(t.Context(), index)
	if err != nil || !bytes.Contains(s.Payload, []byte(person)) {
		t.Errorf("entry %d: %v, payload %q", index, err, s.Payload)
	}
	if v, ok, err := l.Get(key); !ok || err != nil || !bytes.Contains(v, []byte(person)) {
		t.Errorf("state %s: %q %v %v", key, v, ok, err)
	}
}

// wantNowhere looks for the person in all files below dir.
func wantNowhere(t testing.TB, dir string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(os.DirFS(dir), path)
		if bytes.Contains(b, []byte(person)) {
			t.Errorf("%s has the person in it", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What is erased is readable nowhere, all else as before, and the log is whole.
func TestErase(t *testing.T) {
	q := newTPM()
	cfg := privateConfig(t, q)
	create(t, cfg)
	l := start(t, cfg)
	one := mustAppend(t, l.Log, personal(t, "p/1")).Index
	two := mustAppend(t, l.Log, personal(t, "p/2")).Index
	three := mustAppend(t, l.Log, personal(t, "p/3")).Index
	sealNow(t, l.Log)
	if err := l.Put(t.Context(), []record.Mutation{{Key: "p/of1", Value: []byte(person), Of: &one}}); err != nil {
		t.Fatal(err)
	}
	wantKept(t, l.Log, one, "p/of1")
	pos, err := l.Erase(t.Context(), redaction(t, record.Range{one, one + 1}, record.Range{three, three + 1}))
	if err != nil {
		t.Fatal(err)
	}
	check := func(l *Log) {
		wantErased(t, l, one, "p/1")
		wantErased(t, l, one, "p/of1")
		wantErased(t, l, three, "p/3")
		wantKept(t, l, two, "p/2")
		want := fmt.Sprintf(`"entries":[[%d,%d],[%d,%d]]`, one, one+1, three, three+1)
		if s, err := l.Read(t.Context(), pos.Index); err != nil || !strings.Contains(string(s.Envelope), want) {
			t.Errorf("%s %v", s.Envelope, err)
		}
	}
	check(l.Log)
	// What comes late for an erased entry is not kept.
	if err := l.Put(t.Context(), []record.Mutation{{Key: "p/of1", Value: []byte(person), Of: &one}}); err != nil {
		t.Fatal(err)
	}
	check(l.Log)
	wantNowhere(t, cfg.Dir)
	l.mustStop(t)
	r := mustFsck(t, cfg)
	if r.Erased != 2 || r.Payloads != 1 {
		t.Errorf("%+v", r)
	}
	again := start(t, cfg)
	check(again.Log)
	if !again.Status().Writable {
		t.Error(again.Status().Reasons)
	}
}

// A copy of the store from before the erasure tells nothing to who has the keys of after it.
func TestOldStoreWithNewKeys(t *testing.T) {
	q := newTPM()
	cfg := privateConfig(t, q)
	create(t, cfg)
	l := start(t, cfg)
	one := mustAppend(t, l.Log, personal(t, "p/1")).Index
	sealNow(t, l.Log)
	l.mustStop(t)
	old := filepath.Join(t.TempDir(), "old")
	copyDir(t, cfg.Dir, old)
	read := func(dir string) (payload []byte) {
		v, err := openVault(dir)
		if err != nil {
			t.Fatal(err)
		}
		db, err := store.Open(filepath.Join(old, storeDir), store.Options{Log: cfg.Log})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		err = v.readEntries(t.Context(), db, one, one+1, func(s record.Stored) error {
			payload = s.Payload
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return payload
	}
	if !bytes.Contains(read(old), []byte(person)) {
		t.Fatal("the copy is not one")
	}
	l = start(t, cfg)
	if _, err := l.Erase(t.Context(), redaction(t, record.Range{one, one + 1})); err != nil {
		t.Fatal(err)
	}
	l.mustStop(t)
	if p := read(cfg.Dir); p != nil {
		t.Errorf("%q", p)
	}
}

// A crash between the entry and the keys, or keys of an older backup, are made good at the next start.
func TestErasureIsFinished(t *testing.T) {
	q := newTPM()
	cfg := privateConfig(t, q)
	create(t, cfg)
	keys, err := os.ReadFile(filepath.Join(cfg.Dir, keysName))
	if err != nil {
		t.Fatal(err)
	}
	died := errors.New("died")
	dying := cfg
	dying.hooks.at = func(point string) error {
		if point == "redacted" {
			return died
		}
		return nil
	}
	l := start(t, dying)
	one := mustAppend(t, l.Log, personal(t, "p/1")).Index
	two := mustAppend(t, l.Log, personal(t, "p/2")).Index
	three := mustAppend(t, l.Log, personal(t, "p/3")).Index
	if _, err := l.Erase(t.Context(), redaction(t, record.Range{one, one + 1})); !errors.Is(err, died) {
		t.Fatal(err)
	}
	l.mustStop(t)
	for range 2 {
		l = start(t, cfg)
		wantErased(t, l.Log, one, "p/1")
		wantKept(t, l.Log, two, "p/2")
		l.mustStop(t)
		if err := os.WriteFile(filepath.Join(cfg.Dir, keysName), keys, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// An erasure that was left so is finished by the next one too.
	l = start(t, dying)
	if _, err := l.Erase(t.Context(), redaction(t, record.Range{two, two + 1})); !errors.Is(err, died) {
		t.Fatal(err)
	}
	if _, err := l.Erase(t.Context(), redaction(t, record.Range{three, three + 1})); !errors.Is(err, died) {
		t.Fatal(err)
	}
	wantErased(t, l.Log, two, "p/2")
	l.mustStop(t)
	mustFsck(t, cfg)
}

func TestLostKeys(t *testing.T) {
	q := newTPM()
	cfg := privateConfig(t, q)
	create(t, cfg)
	l := start(t, cfg)
	one := mustAppend(t, l.Log, personal(t, "p/1")).Index
	sealNow(t, l.Log)
	l.mustStop(t)
	path := filepath.Join(cfg.Dir, keysName)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := keytree.New([32]byte{1}).Marshal()
	for name, file := range map[string][]byte{"missing": nil, "damaged": good[:len(good)-2], "another's": other} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if file != nil {
			if err := os.WriteFile(path, file, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r, err := Fsck(t.Context(), cfg)
		if err != nil || r.OK() {
			t.Errorf("%s: fsck: %v %v", name, r.Findings, err)
		}
		l, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		wantReason(t, l, "payload_keys")
		if _, err := l.Read(t.Context(), one); !errors.Is(err, errKeys) {
			t.Errorf("%s: %v", name, err)
		}
		if _, _, err := l.Get("p/1"); !errors.Is(err, errKeys) {
			t.Errorf("%s: %v", name, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if file == nil {
			if err := os.WriteFile(path, good, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A log that began before payloads had keys gets them, and what it has is read, and erased as far as a store forgets.
func TestOlderPayloads(t *testing.T) {
	q := newTPM()
	cfg := privateConfig(t, q)
	create(t, cfg)
	l := start(t, cfg)
	one := mustAppend(t, l.Log, personal(t, "open")).Index
	l.mustStop(t)
	unseal(t, cfg, one)
	if err := os.Remove(filepath.Join(cfg.Dir, keysName)); err != nil {
		t.Fatal(err)
	}
	mustFsck(t, cfg)
	l = start(t, cfg)
	wantKept(t, l.Log, one, "open")
	two := mustAppend(t, l.Log, personal(t, "p/2")).Index
	if _, err := l.Erase(t.Context(), redaction(t, record.Range{one, one + 1}, record.Range{two, two + 1})); err != nil {
		t.Fatal(err)
	}
	wantErased(t, l.Log, one, "p/1")
	wantErased(t, l.Log, two, "p/2")
	l.mustStop(t)
	mustFsck(t, cfg)
}

// unseal makes a payload one of before there were keys.
func unseal(t *testing.T, cfg Config, index uint64) {
	t.Helper()
	v, err := openVault(cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(filepath.Join(cfg.Dir, storeDir), store.Options{Log: cfg.Log})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *store.Txn) error {
		salt, payload, err := v.readPayload(tx, index)
		if err != nil {
			return err
		}
		return errors.Join(tx.Set(numbered(prefixPayload, index), append(bytes.Clone(salt), payload...)),
			tx.Delete(numbered(prefixSealed, index)), tx.Delete([]byte(keyErased)))
	})
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestEraseRefuses(t *testing.T) {
	q := newTPM()
	cfg := privateConfig(t, q)
	create(t, cfg)
	l := start(t, cfg)
	one := mustAppend(t, l.Log, personal(t, "p/1")).Index
	for name, ranges := range map[string][]record.Range{
		"nothing": {}, "what is not there": {{1, 1000}}, "backwards": {{1, 1}}, "twice": {{0, 1}, {0, 1}}, "out of order": {{1, 2}, {0, 1}}, "itself": {{1 << 40, 1<<40 + 1}},
	} {
		if _, err := l.Erase(t.Context(), redaction(t, ranges...)); !errors.Is(err, record.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := l.Erase(t.Context(), personal(t, "p/2")); !errors.Is(err, record.ErrMalformed) {
		t.Error(err)
	}
	if _, err := l.Append(t.Context(), redaction(t, record.Range{0, 1})); !errors.Is(err, record.ErrMalformed) {
		t.Error(err)
	}
	wantKept(t, l.Log, one, "p/1")
}
