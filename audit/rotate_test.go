package audit

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/rotation"
	"github.com/signet-pki/signet/store"
)

// labelled is the same key for a label in every process.
func labelled(t testing.TB, label string) *ecdsa.PrivateKey {
	d := sha256.Sum256([]byte("audit test key " + label))
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d[:])
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func withKeys(t testing.TB, cfg Config) Config {
	cfg.Keys = func(_ context.Context, label string) (crypto.Signer, error) { return labelled(t, label), nil }
	return cfg
}

func rotate(t testing.TB, l *Log, label string) Position {
	t.Helper()
	act := mustAppend(t, l, entry(t, time.Now(), record.TypeAdmin, "", nil))
	pos, err := l.Rotate(t.Context(), labelled(t, label), label, rotation.Act{Index: act.Index, Hash: [32]byte{7}})
	if err != nil {
		t.Fatal(err)
	}
	return pos
}

// wantKey fails unless a signed checkpoint is of the key of a label, "" for the first.
func wantKey(t testing.TB, signed []byte, label string) {
	t.Helper()
	key := testKey(t)
	if label != "" {
		key = labelled(t, label)
	}
	v, err := checkpoint.NewVerifier(testOrigin, &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := checkpoint.Open(signed, v); err != nil {
		t.Errorf("not signed by key %q: %v\n%s", label, err, signed)
	}
}

func TestRotateUnderLoad(t *testing.T) {
	cfg := withKeys(t, testConfig(t, newTPM()))
	cfg.CheckpointInterval = time.Millisecond
	create(t, cfg)
	l := start(t, cfg)
	var stopped atomic.Bool
	var wg sync.WaitGroup
	var appended atomic.Int64
	for range 32 {
		wg.Go(func() {
			for !stopped.Load() {
				if _, err := l.Append(t.Context(), entry(t, time.Now(), record.TypeTask, "", nil)); err != nil {
					t.Error(err)
				}
				appended.Add(1)
			}
		})
	}
	seen := map[uint64][]byte{} // signed checkpoints by size
	var changes []Position
	for _, label := range []string{"audit-2", "audit-3"} {
		for until := appended.Load() + 200; appended.Load() < until; {
			c := l.SignedCheckpoint()
			if c == nil {
				continue
			}
			head, err := l.Keys().Open(c)
			if err != nil {
				t.Fatalf("%v\n%s", err, c)
			}
			seen[head.Size] = c
		}
		changes = append(changes, rotate(t, l.Log, label))
	}
	stopped.Store(true)
	wg.Wait()
	mustAppend(t, l.Log, entry(t, time.Now(), record.TypeTask, "", nil))
	sealNow(t, l.Log)
	seen[l.Head().Size] = nil
	l.mustStop(t)
	for size, c := range seen {
		if c != nil {
			wantKey(t, c, labelAt(changes, size))
		}
	}
	mustFsck(t, cfg)
	again := start(t, cfg)
	if k := again.Keys().Newest(); k.Label != "audit-3" || k.From != changes[1].Index+1 {
		t.Errorf("after opening again the key is %+v", k)
	}
	keys, err := rotation.NewKeys(testOrigin, &testKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range again.Rotations(again.Head().Size) {
		if keys, _, err = keys.FollowProof(p); err != nil {
			t.Fatal(err)
		}
	}
	wantKey(t, again.SignedCheckpoint(), "audit-3")
	if !keys.Has(&labelled(t, "audit-3").PublicKey) {
		t.Error("who trusts the first key does not get to the newest")
	}
}

func labelAt(changes []Position, size uint64) string {
	label := ""
	for n, c := range changes {
		if size > c.Index+1 {
			label = fmt.Sprintf("audit-%d", n+2)
		}
	}
	return label
}

func TestRotateRefuses(t *testing.T) {
	cfg := withKeys(t, testConfig(t, newTPM()))
	create(t, cfg)
	l := start(t, cfg)
	act := rotation.Act{Index: 0}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rotate(t, l.Log, "audit-2")
	size := l.Head().Size
	for name, key := range map[string]crypto.Signer{"the first again": testKey(t), "the present one": labelled(t, "audit-2"), "P-384": p384} {
		if _, err := l.Rotate(t.Context(), key, "audit-3", act); !errors.Is(err, rotation.ErrUnproved) {
			t.Errorf("%s: %v", name, err)
		}
	}
	body, err := l.Keys().New(labelled(t, "audit-2"), labelled(t, "audit-3"), "audit-3", act)
	if err != nil {
		t.Fatal(err)
	}
	it, err := l.newRotation(body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), it.entry); !errors.Is(err, record.ErrMalformed) {
		t.Errorf("Append of a rotation: %v", err)
	}
	if n := l.Head().Size; l.Keys().Newest().Label != "audit-2" || n > size+1 { // a seal's entry
		t.Errorf("refused, and the key is %+v, the size %d after %d", l.Keys().Newest(), n, size)
	}
}

func TestOpenWithoutTheKeyInForce(t *testing.T) {
	cfg := withKeys(t, testConfig(t, newTPM()))
	create(t, cfg)
	l := start(t, cfg)
	rotate(t, l.Log, "audit-2")
	l.mustStop(t)
	for name, keys := range map[string]func(context.Context, string) (crypto.Signer, error){
		"nowhere to look": nil,
		"another key":     func(context.Context, string) (crypto.Signer, error) { return labelled(t, "x"), nil },
		"gone":            func(context.Context, string) (crypto.Signer, error) { return nil, errTPM },
	} {
		cfg.Keys = keys
		if l, err := Open(t.Context(), cfg); err == nil {
			t.Errorf("%s: opened with key %+v", name, l.Keys().Newest())
		}
	}
	start(t, withKeys(t, cfg))
}

// TestRotationTampered changes what the store keeps of a change of key.
func TestRotationTampered(t *testing.T) {
	for name, change := range map[string]func(p *rotation.Proof) bool{
		"gone":          func(*rotation.Proof) bool { return false },
		"another place": func(p *rotation.Proof) bool { p.Index++; return true },
		"another entry": func(p *rotation.Proof) bool {
			p.Envelope = bytes.Replace(p.Envelope, []byte("audit-2"), []byte("audit-9"), 1)
			return true
		},
		"another key": func(p *rotation.Proof) bool {
			p.Envelope = bytes.Replace(p.Envelope, []byte(`"key":"M`), []byte(`"key":"N`), 1)
			return true
		},
		"not vouched for": func(p *rotation.Proof) bool { p.Proof = strings.Replace(p.Proof, "\n— ", "\n— x", 1); return true },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := withKeys(t, testConfig(t, newTPM()))
			create(t, cfg)
			l := start(t, cfg)
			rotate(t, l.Log, "audit-2")
			mustAppend(t, l.Log, entry(t, time.Now(), record.TypeTask, "", nil))
			sealNow(t, l.Log)
			l.mustStop(t)
			mustFsck(t, cfg)
			tamperRotation(t, cfg, change)
			r, err := Fsck(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, f := range r.Findings {
				found = found || f.What == whatRotation
			}
			if !found {
				t.Errorf("fsck found %+v", r.Findings)
			}
		})
	}
}

func tamperRotation(t *testing.T, cfg Config, change func(p *rotation.Proof) bool) {
	t.Helper()
	db, err := store.Open(cfg.Dir+"/"+storeDir, store.Options{Log: cfg.Log})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *store.Txn) error {
		key := numbered(prefixRotation, 2)
		value, err := tx.Get(key)
		if err != nil {
			return err
		}
		var p rotation.Proof
		if err := json.Unmarshal(value, &p); err != nil {
			return err
		}
		if !change(&p) {
			return tx.Delete(key)
		}
		if value, err = json.Marshal(p); err != nil {
			return err
		}
		return tx.Set(key, value)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestRotatingChild is no test of its own: TestKillWhileRotating starts it.
func TestRotatingChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		return
	}
	cfg := withKeys(t, childConfig(t, dir))
	var rotating atomic.Bool
	sealed := make(chan struct{}, 1<<16)
	cfg.hooks.at = func(point string) error {
		if point == "sealed" {
			sealed <- struct{}{}
		}
		if rotating.Load() && point == os.Getenv(childPoint) {
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				return err
			}
			select {}
		}
		return nil
	}
	during := slices.Contains(whileCommitting, os.Getenv(childPoint))
	if during {
		cfg.SealInterval, cfg.Heartbeat = time.Hour, time.Hour // the next commit is the rotation's
	}
	l := start(t, cfg)
	<-sealed // the first seal comes at once
	act := mustAppend(t, l.Log, entry(t, time.Now(), record.TypeAdmin, "", nil))
	label := fmt.Sprintf("audit-%d", l.Keys().Newest().Number+1)
	rotating.Store(during)
	_, err := l.Rotate(t.Context(), labelled(t, label), label, rotation.Act{Index: act.Index})
	t.Logf("rotated: %v", err)
	rotating.Store(true)
	mustAppend(t, l.Log, entry(t, time.Now(), record.TypeTask, "", nil))
	select {}
}

// whileCommitting are the points that a rotation passes; those after it are a seal's.
var whileCommitting = []string{"commit", "committed", "headed", "vouching"}

func TestKillWhileRotating(t *testing.T) {
	for _, point := range append(slices.Clone(whileCommitting), "pending", "incremented", "quoted") {
		t.Run("at "+point, func(t *testing.T) {
			dir := t.TempDir()
			create(t, childConfig(t, dir))
			for round := range uint64(2) {
				killed(t, "TestRotatingChild", dir, point)
				cfg := withKeys(t, childConfig(t, dir))
				mustFsck(t, cfg)
				l := start(t, cfg)
				if st := l.Status(); !st.Writable {
					t.Fatalf("not writable after the kill: %q", st.Reasons)
				}
				mustAppend(t, l.Log, entry(t, time.Now(), record.TypeTask, "", nil))
				sealNow(t, l.Log)
				wantKey(t, l.SignedCheckpoint(), l.Keys().Newest().Label)
				want := round + 2
				if point == "commit" {
					want = 1
				}
				if got := l.Keys().Newest().Number; got != want {
					t.Errorf("key %d is in force, want %d", got, want)
				}
				l.mustStop(t)
				mustFsck(t, cfg)
			}
		})
	}
}
