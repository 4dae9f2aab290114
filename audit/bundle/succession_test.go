package bundle_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
)

// successor is the log that an appliance of this world opens from a backup of its first entries, whose last seal has that number.
func (w *world) successor(size, seal uint64, change func(*record.Ceremony)) *world {
	w.t.Helper()
	n := *w
	n.name, n.entries, n.leaves, n.seals, n.last = origin+"/2", nil, nil, nil, checkpoint.Seal{}
	n.issued, n.jws, n.links, n.evidence = map[uint64][]byte{}, map[uint64]string{}, map[uint64]string{}, map[string][]byte{}
	signer, err := checkpoint.NewSigner(w.name, w.audit)
	must(w.t, err)
	root := merkle.Root(w.leaves[:size], 1)
	note, err := checkpoint.Sign(checkpoint.Checkpoint{Origin: w.name, Size: size, Root: root}, signer)
	must(w.t, err)
	digest := w.seals[seal-1].Digest()
	last, err := checkpoint.ParseSeal(w.seals[seal-1].Text)
	must(w.t, err)
	n.begin(sha256.Sum256([]byte("a policy bundle")), func(c *record.Ceremony) {
		c.Previous = w.name
		c.Restored = &record.Restored{
			Backup: strings.Repeat("ab", 32), Size: size, Root: hex.EncodeToString(root[:]), Checkpoint: note, Seal: seal, SealDigest: hex.EncodeToString(digest[:]),
			Sealed: &record.AnchorBody{Reset: last.Reset, Restart: last.Restart, Counter: last.Counter},
			Found:  record.AnchorBody{Reset: last.Reset, Restart: last.Restart, Counter: last.Counter + 3},
		}
		if change != nil {
			change(c)
		}
	})
	n.decide(3)
	n.seal()
	return &n
}

func story(t *testing.T, former, successor memory, o bundle.Options) bundle.Succession {
	t.Helper()
	s, err := bundle.VerifySuccession(t.Context(), former.fs(), successor.fs(), o)
	must(t, err)
	return s
}

// foretold wants a finding of a check with a word.
func foretold(t *testing.T, r bundle.Report, name bundle.CheckName, status bundle.Status, word string) {
	t.Helper()
	for _, c := range r.Checks {
		if c.Name == name && c.Status == status && strings.Contains(c.Detail, word) {
			return
		}
	}
	t.Errorf("no %s %s with %q: %+v", name, status, word, r.Checks)
}

func TestSuccession(t *testing.T) {
	w, _ := goodWorld(t, newSoftTPM(t))
	former := written(t, w)
	size := w.last.Size
	next := w.successor(120, 3, nil)
	successor := written(t, next)

	alone := verify(t, successor, bundle.Options{})
	foretold(t, alone, bundle.CheckPredecessor, bundle.Unproven, "first 120 entries")
	foretold(t, alone, bundle.CheckPredecessor, bundle.Unproven, "3 were made after it")
	if !alone.Valid || alone.Completeness != "unproven" {
		t.Errorf("alone: %+v", alone)
	}

	s := story(t, former, successor, bundle.Options{})
	if !s.Valid || s.Citation.Size != 120 || s.Lost != size-120 {
		t.Errorf("both: valid %t, %+v, lost %d of %d", s.Valid, s.Citation, s.Lost, size)
	}
	for _, name := range []string{w.name, next.name} {
		file := w.trustFile()
		file.Origin = name
		trust, err := file.Trust()
		must(t, err)
		if s := story(t, former, successor, bundle.Options{Trust: trust}); !s.Valid || s.Former.Anchors != bundle.Anchored {
			t.Errorf("with a trust file for %s: %+v, %+v", name, s.Former.Failed(), s.Successor.Failed())
		}
	}
	file := w.trustFile()
	file.Origin = "other.example/log"
	trust, err := file.Trust()
	must(t, err)
	if s := story(t, former, successor, bundle.Options{Trust: trust}); s.Valid {
		t.Error("a trust file for another log")
	}

	// A former bundle that ends before what is cited.
	short := *w
	short.seals, short.leaves, short.entries = w.seals[:3], w.leaves[:w.last.Size], w.entries
	s = story(t, written(t, &short), successor, bundle.Options{})
	foretold(t, s.Former, bundle.CheckSuccessor, bundle.Unproven, "cites 120 entries")
	if !s.Valid || s.Lost != 0 {
		t.Errorf("a short former bundle: %+v, lost %d", s.Former.Failed(), s.Lost)
	}
	if s := story(t, successor, former, bundle.Options{}); s.Valid || s.Citation != nil {
		t.Error("the reverse order is a story")
	}
}

// What a successor cites is what its former log had.
func TestSuccessionForks(t *testing.T) {
	w, _ := goodWorld(t, newSoftTPM(t))
	former := written(t, w)
	signed := func(c *record.Ceremony, size uint64, root [32]byte, name string) {
		signer, err := checkpoint.NewSigner(name, w.audit)
		must(t, err)
		c.Restored.Checkpoint, err = checkpoint.Sign(checkpoint.Checkpoint{Origin: name, Size: size, Root: root}, signer)
		must(t, err)
		c.Restored.Size, c.Restored.Root = size, hex.EncodeToString(root[:])
	}
	other := [32]byte{1}
	for what, row := range map[string]struct {
		change func(*record.Ceremony)
		name   bundle.CheckName // of the successor's report, except CheckSuccessor
		word   string
	}{
		"another root, signed":   {func(c *record.Ceremony) { signed(c, 120, other, w.name) }, bundle.CheckSuccessor, "it forks this log"},
		"another seal":           {func(c *record.Ceremony) { c.Restored.SealDigest = strings.Repeat("00", 32) }, bundle.CheckSuccessor, "it forks this log"},
		"another root":           {func(c *record.Ceremony) { c.Restored.Root = strings.Repeat("00", 32) }, bundle.CheckPredecessor, "another end"},
		"another size":           {func(c *record.Ceremony) { c.Restored.Size++ }, bundle.CheckPredecessor, "another end"},
		"another origin":         {func(c *record.Ceremony) { c.Previous = "other.example/log" }, bundle.CheckPredecessor, "checkpoint"},
		"no checkpoint":          {func(c *record.Ceremony) { c.Restored.Checkpoint = nil }, bundle.CheckPredecessor, "checkpoint"},
		"no end":                 {func(c *record.Ceremony) { c.Restored = nil }, bundle.CheckPredecessor, "without saying where"},
		"no former log":          {func(c *record.Ceremony) { c.Previous = "" }, bundle.CheckPredecessor, "or the reverse"},
		"itself":                 {func(c *record.Ceremony) { c.Previous = c.Origin }, bundle.CheckPredecessor, "itself"},
		"a seal that is not one": {func(c *record.Ceremony) { c.Restored.SealDigest = "x" }, bundle.CheckPredecessor, "not told whole"},
	} {
		t.Run(what, func(t *testing.T) {
			s := story(t, former, written(t, w.successor(120, 3, row.change)), bundle.Options{})
			if s.Valid {
				t.Error("valid")
			}
			r := s.Successor
			if row.name == bundle.CheckSuccessor {
				r = s.Former
			}
			foretold(t, r, row.name, bundle.Fail, row.word)
		})
	}
}

// TestSuccessionVectors holds the format still: two bundles of which one tells of the other.
func TestSuccessionVectors(t *testing.T) {
	dir := filepath.Join(vectors, "succession")
	if *update {
		w := newWorld(t, newSoftTPM(t))
		w.seal()
		w.recordSeal()
		w.play(0x100)
		w.seal()
		w.recordSeal()
		w.decide(4)
		w.seal()
		trust, err := w.trustFile().Marshal()
		must(t, err)
		next := w.successor(w.last.Size-2, 2, nil)
		must(t, os.MkdirAll(dir, 0o755))
		for name, data := range map[string][]byte{"former.tar": tarOf(t, w, w.options()), "successor.tar": tarOf(t, next, next.options()), "trust.yaml": trust} {
			must(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
		}
	}
	trust, err := bundle.ParseTrust(vector(t, "succession/trust.yaml"))
	must(t, err)
	open := func(name string) fs.FS {
		archive := vector(t, "succession/"+name)
		files, err := bundle.OpenTar(bytes.NewReader(archive), int64(len(archive)))
		must(t, err)
		return files
	}
	s, err := bundle.VerifySuccession(t.Context(), open("former.tar"), open("successor.tar"), bundle.Options{Trust: trust})
	must(t, err)
	if !s.Valid || s.Lost != 2 {
		show(t, s.Former)
		show(t, s.Successor)
		t.Errorf("lost %d", s.Lost)
	}
}
