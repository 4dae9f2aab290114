package bundle_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
)

func tarOf(t testing.TB, w *world, o bundle.WriteOptions) []byte {
	t.Helper()
	var out bytes.Buffer
	sink := bundle.NewTar(&out)
	must(t, bundle.Write(t.Context(), sink, w, o))
	must(t, sink.Close())
	return out.Bytes()
}

func TestTarIsTheSameBytesEachTime(t *testing.T) {
	w, _ := goodWorld(t, newSoftTPM(t))
	o := w.options()
	archive := tarOf(t, w, o)
	if !bytes.Equal(archive, tarOf(t, w, o)) {
		t.Error("two archives of one log differ")
	}
	files, err := bundle.OpenTar(bytes.NewReader(archive), int64(len(archive)))
	must(t, err)
	r, err := bundle.Verify(t.Context(), files, bundle.Options{})
	must(t, err)
	if !r.Valid || r.Entries != uint64(len(w.entries)) {
		show(t, r)
		t.Error("the archive is not valid")
	}
}

// TestPartOfALog: entries of one file only, with proofs from the tiles.
func TestPartOfALog(t *testing.T) {
	w, _ := goodWorld(t, newSoftTPM(t))
	w.decide(600)
	w.seal()
	o := w.options()
	o.From, o.To = 600, 700
	m := memory{}
	must(t, bundle.Write(t.Context(), m, w, o))
	if m["entries/2.jsonl"] == nil || m["entries/0.jsonl"] == nil || m["entries/1.jsonl"] != nil || m["entries/3.jsonl"] != nil {
		t.Error("not the files of the range and of leaf 0")
	}
	if m["payloads/0.jsonl"] != nil {
		t.Error("payloads outside the range were exported")
	}
	r := verify(t, m, bundle.Options{Range: &bundle.Range{From: 600, To: 700}})
	if !r.Valid || r.Entries != 512 {
		show(t, r)
		t.Error("the part is not valid")
	}
	wantFinding(t, verify(t, m, bundle.Options{}), expected{bundle.CheckRange, 256, "entries/1.jsonl", ""})
	wantFinding(t, verify(t, m, bundle.Options{Range: &bundle.Range{From: 600, To: 800}}), expected{bundle.CheckRange, 768, "entries/3.jsonl", ""})
	wantFinding(t, verify(t, m, bundle.Options{Range: &bundle.Range{From: 600, To: 1 << 40}}), expected{bundle.CheckRange, -1, "log/checkpoint", ""})
	removeSeal(m, "6")
	m.remanifest()
	wantFinding(t, verify(t, m, bundle.Options{Range: &bundle.Range{From: 600, To: 700}}), expected{bundle.CheckSealChain, 6, "seals/6.txt", ""})
	dir := onDisk(t, w, o)
	if out, err := runReadme(t, dir); err != nil {
		t.Errorf("README.verify of a part: %v\n%s", err, out)
	}
}

func TestWriterRefuses(t *testing.T) {
	w := newWorld(t, newSoftTPM(t))
	w.seal()
	o := w.options()
	o.From, o.To = 0, 2
	if err := bundle.Write(t.Context(), memory{}, w, o); err == nil {
		t.Error("a range beyond the seal was written")
	}
	dir := t.TempDir()
	t.Run("nowhere for the manifest", func(t *testing.T) {
		t.Setenv("TMPDIR", filepath.Join(dir, "absent"))
		m := memory{}
		if err := bundle.Write(t.Context(), m, w, w.options()); err == nil || !strings.Contains(err.Error(), "manifest") || len(m) > 0 {
			t.Errorf("%d files, %v", len(m), err)
		}
	})
	if _, err := bundle.NewDirectory(dir); err == nil {
		t.Error("an existing directory was taken")
	}
	sink, err := bundle.NewDirectory(filepath.Join(dir, "new"))
	must(t, err)
	must(t, os.Symlink(dir, filepath.Join(dir, "new", "entries")))
	for _, path := range []string{"../x", "/x", "a/../../x", "", ".", "a//b", "a b", "entries/0.jsonl"} {
		if err := sink.Put(path, 0, strings.NewReader("")); err == nil {
			t.Errorf("%q was created", path)
		}
	}
	archive := bundle.NewTar(&bytes.Buffer{})
	for _, path := range []string{"../x", "/x", "a b"} {
		if err := archive.Put(path, 0, strings.NewReader("")); err == nil {
			t.Errorf("%q was created in a tar", path)
		}
	}
	if err := archive.Put("a", 2, strings.NewReader("1")); err == nil {
		t.Error("a file of one byte was taken for one of two")
	}
}
