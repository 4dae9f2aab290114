package audit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
)

// unpackedLog is a log made of a snapshot.
func unpackedLog(t *testing.T, cfg Config, snapshot []byte) (Config, []byte) {
	t.Helper()
	cfg.Dir = filepath.Join(t.TempDir(), "log")
	note, err := ReadSnapshot(cfg.Dir, bytes.NewReader(snapshot))
	if err != nil {
		t.Fatal(err)
	}
	return cfg, note
}

// Snapshots that are taken while entries are appended are each a whole log, with a checkpoint over exactly that, and its state.
func TestSnapshotsUnderLoad(t *testing.T) {
	cfg := testConfig(t, newTPM())
	create(t, cfg)
	l := start(t, cfg)
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for ctx.Err() == nil {
				m := record.Mutation{Key: "k", Value: []byte("v"), Expires: time.Now().Add(time.Hour)}
				if _, err := l.Append(ctx, entry(t, time.Now(), record.TypeTask, "t", map[string]string{"a": strings.Repeat("b", 600)}, m)); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var snapshots [3]bytes.Buffer
	for i := range snapshots {
		for range 20 {
			mustAppend(t, l.Log, entry(t, time.Now(), record.TypeTask, "t", nil))
		}
		if err := l.Backup(t.Context(), &snapshots[i]); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	writers.Wait()
	l.mustStop(t)
	for i := range snapshots {
		unpacked, note := unpackedLog(t, cfg, snapshots[i].Bytes())
		r := mustFsck(t, unpacked)
		verifier, err := checkpoint.NewVerifier(cfg.Origin, &testKey(t).PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		head, err := checkpoint.Open(note, verifier)
		if err != nil || head.Size != r.Entries || r.Payloads == 0 {
			t.Errorf("snapshot %d: head %d, %d entries, %d payloads: %v", i, head.Size, r.Entries, r.Payloads, err)
		}
		former, err := Open(t.Context(), unpacked)
		if err != nil {
			t.Fatal(err)
		}
		if value, ok, err := former.Get("k"); string(value) != "v" || !ok || err != nil {
			t.Errorf("state %q, %v", value, err)
		}
		err = former.Each(t.Context(), "k", func(_ string, _ []byte, expires time.Time) error {
			if left := time.Until(expires); left < 50*time.Minute || left > time.Hour {
				t.Errorf("it expires in %s", left)
			}
			return nil
		})
		if err := errors.Join(err, former.Close()); err != nil {
			t.Error(err)
		}
	}
}

func TestDamagedSnapshot(t *testing.T) {
	cfg := testConfig(t, newTPM())
	create(t, cfg)
	l := start(t, cfg)
	for range 3 {
		mustAppend(t, l.Log, entry(t, time.Now(), record.TypeTask, "t", nil))
	}
	var out bytes.Buffer
	if err := l.Backup(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	good := out.Bytes()
	read := func(data []byte) error {
		_, err := ReadSnapshot(filepath.Join(t.TempDir(), "log"), bytes.NewReader(data))
		return err
	}
	for _, size := range []int{0, 5, len(snapshotHeader), len(snapshotHeader) + 20, len(good) / 2, len(good) - 1} {
		if err := read(good[:size]); !errors.Is(err, errSnapshot) {
			t.Errorf("cut to %d of %d: %v", size, len(good), err)
		}
	}
	if err := read(append(bytes.Clone(good), 0)); !errors.Is(err, errSnapshot) {
		t.Errorf("a byte more: %v", err)
	}
	dir := t.TempDir()
	if _, err := ReadSnapshot(dir, bytes.NewReader(good)); !errors.Is(err, os.ErrExist) {
		t.Errorf("over a directory: %v", err)
	}
}

// What was erased before the backup is not in it, and what the log says is erased goes when it is opened, with a file of keys that was
// read before.
func TestSnapshotAfterErasure(t *testing.T) {
	cfg := testConfig(t, newTPM())
	create(t, cfg)
	l := start(t, cfg)
	pos := mustAppend(t, l.Log, entry(t, time.Now(), record.TypeTask, "t", map[string]string{"name": "somebody"}))
	older, err := os.ReadFile(filepath.Join(cfg.Dir, keysName))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Erase(t.Context(), redaction(t, record.Range{pos.Index, pos.Index + 1})); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := l.Backup(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	for _, replaced := range []bool{false, true} {
		unpacked, _ := unpackedLog(t, cfg, out.Bytes())
		if replaced {
			if err := os.WriteFile(filepath.Join(unpacked.Dir, keysName), older, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		former, err := Open(t.Context(), unpacked)
		if err != nil {
			t.Fatal(err)
		}
		e, err := former.Read(t.Context(), pos.Index)
		if err != nil || e.Payload != nil {
			t.Errorf("payload %q, %v", e.Payload, err)
		}
		keys, err := os.ReadFile(filepath.Join(unpacked.Dir, keysName))
		if err != nil || bytes.Equal(keys, older) {
			t.Errorf("the key is still there: %v", err)
		}
		if err := former.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A log that begins with more than one transaction holds has all of it.
func TestCreateWithMuch(t *testing.T) {
	cfg := testConfig(t, newTPM())
	first := ceremony(t)
	for i := range 2500 {
		first = append(first, entry(t, time.Now(), record.TypeTask, "t", nil))
		if i%100 == 0 {
			first = append(first, record.Entry{Mutations: []record.Mutation{{Key: "part/" + string(rune('a'+i/100)), Value: make([]byte, 200<<10)}}})
		}
	}
	if err := Create(t.Context(), cfg, first); err != nil {
		t.Fatal(err)
	}
	if r := mustFsck(t, cfg); r.Entries != 2501 {
		t.Errorf("%d entries", r.Entries)
	}
}

func FuzzReadSnapshot(f *testing.F) {
	cfg := testConfig(f, newTPM())
	create(f, cfg)
	l := start(f, cfg)
	var out bytes.Buffer
	if err := l.Backup(f.Context(), &out); err != nil {
		f.Fatal(err)
	}
	f.Add(out.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		in := itemReader{in: bufio.NewReaderSize(bytes.NewReader(data), 1<<16)}
		if _, _, err := readSnapshotStart(in.in); err != nil {
			return
		}
		for {
			item, err := in.next()
			if err != nil {
				return
			}
			if len(item.Key) == 0 || len(item.Key) > maxStoredKey {
				t.Fatalf("key of %d bytes", len(item.Key))
			}
		}
	})
}
