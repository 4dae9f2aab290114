package backup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

// custodians makes some, with their keys.
func custodians(t testing.TB, n int) ([]Custodian, []*age.X25519Identity) {
	t.Helper()
	var out []Custodian
	var keys []*age.X25519Identity
	for i := range n {
		id, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		out, keys = append(out, Custodian{Name: fmt.Sprintf("custodian-%d", i+1), Recipient: id.Recipient().String()}), append(keys, id)
	}
	return out, keys
}

func description(c []Custodian) Description {
	return Description{
		Origin: "signet.example/log", Checkpoint: []byte("note"), Made: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Threshold: 2, Custodians: c,
	}
}

func long() []byte { return bytes.Repeat([]byte("0123456789abcdef"), (2*partSize+5000)/16) }

func fill(w *Writer) error {
	return errors.Join(w.Add("pki/root.pem", []byte("root")), w.Stream("log.snapshot", bytes.NewReader(long())), w.Add("index.key", []byte("secret")))
}

// little is less of it, for what reads a file many times.
func little(w *Writer) error {
	return errors.Join(w.Stream("log.snapshot", bytes.NewReader(long()[:100_000])), w.Add("index.key", []byte("secret")))
}

func made(t testing.TB) (string, []*age.X25519Identity) { return madeWith(t, fill) }

func madeWith(t testing.TB, fill func(*Writer) error) (string, []*age.X25519Identity) {
	t.Helper()
	c, keys := custodians(t, 3)
	path := filepath.Join(t.TempDir(), "backup")
	digest, err := Create(path, description(c), fill)
	if err != nil {
		t.Fatal(err)
	}
	b := opened(t, path)
	if b.Digest() != digest {
		t.Error("Create gives another digest")
	}
	return path, keys
}

func opened(t testing.TB, path string) *Backup {
	t.Helper()
	b, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// peel takes one layer off, as `age -d -i KEY` does.
func peel(data []byte, key *age.X25519Identity) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(data), key)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func identityOf(t testing.TB, b *Backup, keys []*age.X25519Identity) *age.X25519Identity {
	t.Helper()
	text, err := peel(b.layers["layers/1-3.age"], keys[0])
	if err == nil {
		text, err = peel(text, keys[2])
	}
	if err != nil {
		t.Fatal(err)
	}
	id, err := ParseIdentity(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestRoundTrip(t *testing.T) {
	path, keys := made(t)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	b := opened(t, path)
	got := map[string][]byte{}
	var order []string
	err = b.Extract(identityOf(t, b, keys), func(name string, r io.Reader) error {
		order = append(order, name)
		got[name], err = io.ReadAll(r)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"pki/root.pem", "log.snapshot", "index.key"}; !slices.Equal(order, want) || !bytes.Equal(got["log.snapshot"], long()) || string(got["index.key"]) != "secret" {
		t.Errorf("got %v", order)
	}
	if _, err := Create(path, b.Description(), fill); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second backup of the name: %v", err)
	}
}

// One custodian alone, in whatever order they try, has nothing that opens the data.
func TestOneCustodianAloneReadsNothing(t *testing.T) {
	path, keys := made(t)
	b := opened(t, path)
	if len(b.layers) != 3 {
		t.Fatalf("%d groups of 2 among 3", len(b.layers))
	}
	for name, layers := range b.layers {
		for i, key := range keys {
			inner, err := peel(layers, key)
			if err != nil {
				continue
			}
			if _, err := ParseIdentity(inner); err == nil {
				t.Errorf("%s: custodian %d alone gets the key", name, i+1)
			}
			if _, err := peel(inner, key); err == nil {
				t.Errorf("%s: custodian %d takes off both layers", name, i+1)
			}
		}
	}
	for i, key := range keys {
		if err := b.Extract(key, func(string, io.Reader) error { return nil }); !errors.Is(err, ErrFormat) {
			t.Errorf("custodian %d's own key on the data: %v", i+1, err)
		}
	}
}

// read back wholly, as a restore does.
func readAll(path string, id *age.X25519Identity) error {
	b, err := Open(path)
	if err != nil {
		return err
	}
	defer b.Close()
	return b.Extract(id, func(_ string, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	})
}

func TestEveryFlippedByteIsRefused(t *testing.T) {
	path, keys := madeWith(t, little)
	id := identityOf(t, opened(t, path), keys)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(t.TempDir(), "broken")
	try := func(what string, data []byte) {
		if err := os.WriteFile(broken, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := readAll(broken, id); !errors.Is(err, ErrFormat) && !errors.Is(err, ErrGroups) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Every seventh byte of what is not encrypted and a sample of what is, ends included.
	head := int(opened(t, path).data)
	for at := 0; at < len(good); {
		data := bytes.Clone(good)
		data[at] ^= 1 << (at % 8)
		try(fmt.Sprintf("byte %d of %d", at, len(good)), data)
		switch {
		case at < head:
			at += 11
		case at < len(good)-1100:
			at += 2_003
		default:
			at += 13
		}
	}
	for _, size := range []int{0, 1, 511, 512, head, head + 1, len(good) / 2, len(good) - 1024, len(good) - 1} {
		try(fmt.Sprintf("cut to %d of %d", size, len(good)), good[:size])
	}
	try("a byte more", append(bytes.Clone(good), 0))
}

func TestAnotherIdentity(t *testing.T) {
	path, _ := made(t)
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if err := readAll(path, other); !errors.Is(err, ErrFormat) {
		t.Errorf("got %v", err)
	}
	if _, err := ParseIdentity([]byte(other.Recipient().String())); err == nil || strings.Contains(err.Error(), "age1") {
		t.Errorf("a recipient for a key: %v", err)
	}
}

func TestGroups(t *testing.T) {
	c, _ := custodians(t, 16)
	for _, tc := range []struct {
		n, k int
		ok   bool
	}{{3, 2, true}, {16, 2, true}, {10, 4, true}, {2, 2, true}, {1, 2, false}, {3, 1, false}, {11, 5, false}, {16, 8, false}} {
		d := description(c[:tc.n])
		d.Threshold, d.Format = tc.k, Format
		if _, err := d.groups(); (err == nil) != tc.ok || err != nil && !errors.Is(err, ErrGroups) {
			t.Errorf("%d of %d: %v", tc.k, tc.n, err)
		}
	}
}

// What fails in the middle leaves no file.
func TestFailureLeavesNothing(t *testing.T) {
	c, _ := custodians(t, 2)
	path := filepath.Join(t.TempDir(), "backup")
	failed := errors.New("failed")
	_, err := Create(path, description(c), func(w *Writer) error { return errors.Join(fill(w), failed) })
	if _, stat := os.Stat(path); !errors.Is(err, failed) || !errors.Is(stat, os.ErrNotExist) {
		t.Errorf("%v, %v", err, stat)
	}
}

func FuzzOpen(f *testing.F) {
	c, _ := custodians(f, 2)
	path := filepath.Join(f.TempDir(), "backup")
	if _, err := Create(path, description(c), func(w *Writer) error { return w.Add("a", []byte("b")) }); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if readAll(file, id) == nil {
			t.Error("opened with a key that it was not made for")
		}
	})
}
