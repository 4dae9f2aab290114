package softhsmtest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
)

// evidence is a copy of a bundle that may be tampered with.
type evidence struct {
	t   *testing.T
	dir string
}

func copyBundle(t *testing.T, from string) evidence {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bundle")
	must(t, os.CopyFS(dir, os.DirFS(from)))
	return evidence{t, dir}
}

func (e evidence) read(name string) []byte {
	e.t.Helper()
	b, err := os.ReadFile(filepath.Join(e.dir, name))
	must(e.t, err)
	return b
}

// place is the offset of what follows a text in a line of a file.
func (e evidence) place(name string, line int, after string) int {
	e.t.Helper()
	b := e.read(name)
	at := 0
	for range line {
		at += bytes.IndexByte(b[at:], '\n') + 1
	}
	found := bytes.Index(b[at:], []byte(after))
	if found < 0 {
		e.t.Fatalf("%s:%d does not hold %s", name, line, after)
	}
	return at + found + len(after)
}

// flip turns the lowest bit of one byte; a negative offset counts from the end.
func (e evidence) flip(name string, at int) {
	e.t.Helper()
	b := e.read(name)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 1
	path := filepath.Join(e.dir, name)
	must(e.t, os.Chmod(path, 0o600))
	must(e.t, os.WriteFile(path, b, 0o600))
}

// remanifest does what an attacker does too.
func (e evidence) remanifest() {
	e.t.Helper()
	var lines []string
	must(e.t, fs.WalkDir(os.DirFS(e.dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path == "MANIFEST.sha256" {
			return err
		}
		lines = append(lines, fmt.Sprintf("%x  %s\n", sha256.Sum256(e.read(path)), path))
		return nil
	}))
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[66:], b[66:]) })
	path := filepath.Join(e.dir, "MANIFEST.sha256")
	must(e.t, os.Chmod(path, 0o600))
	must(e.t, os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600))
}

// removeSeal takes away all files of a seal.
func (e evidence) removeSeal(n string) {
	e.t.Helper()
	for _, suffix := range []string{".txt", ".quote", ".quote.sig", ".pcrs", ".nv", ".nv.sig"} {
		must(e.t, os.Remove(filepath.Join(e.dir, "seals", n+suffix)))
	}
}

// verdict is what signet-verify says.
func (e evidence) verdict() (bundle.Report, int) {
	e.t.Helper()
	out, code := command(e.t, "", nil, program("signet-verify"), "bundle", "--json", e.dir)
	var r bundle.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		e.t.Fatalf("%v: %s", err, out)
	}
	return r, code
}

// the one file whose name begins so.
func (e evidence) only(dir string) string {
	e.t.Helper()
	var found string
	must(e.t, fs.WalkDir(os.DirFS(e.dir), dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = path
		}
		return err
	}))
	if found == "" {
		e.t.Fatalf("no file below %s", dir)
	}
	return found
}

// tampering is one change to a real bundle, and the finding that must be among those reported.
type tampering struct {
	name  string
	do    func(e evidence)
	check bundle.CheckName
	index int64 // -1: none
	file  string
}

func tamperings(e evidence) []tampering {
	flip := func(name string, at int) func(evidence) { return func(e evidence) { e.flip(name, at) } }
	tile := e.only("log/tile")
	sealed := e.place("entries/0.jsonl", 20, `"time":"`)
	payload := e.place("payloads/0.jsonl", 3, `"payload":"`) + 40
	var line struct {
		Index int64 `json:"index"`
	}
	must(e.t, json.Unmarshal(bytes.Split(e.read("payloads/0.jsonl"), []byte("\n"))[3], &line))
	return []tampering{
		{"entry", flip("entries/0.jsonl", sealed+3), bundle.CheckEntry, 20, "entries/0.jsonl"},
		{"entry's syntax", flip("entries/0.jsonl", sealed-1), bundle.CheckEntry, 20, "entries/0.jsonl"},
		{"payload", flip("payloads/0.jsonl", payload), bundle.CheckPayload, line.Index, "payloads/0.jsonl"},
		{"tile", flip(tile, 32*20+7), bundle.CheckTile, -1, tile},
		{"checkpoint's signature", flip("log/checkpoint", -20), bundle.CheckCheckpoint, -1, "log/checkpoint"},
		{"checkpoint's root", flip("log/checkpoint", e.place("log/checkpoint", 2, "")+3), bundle.CheckCheckpoint, -1, "log/checkpoint"},
		{"seal's text", flip("seals/2.txt", -3), bundle.CheckQuote, 2, "seals/2.quote"},
		{"quote", flip("seals/2.quote", -1), bundle.CheckQuote, 2, "seals/2.quote"},
		{"quote's signature", flip("seals/2.quote.sig", -1), bundle.CheckQuote, 2, "seals/2.quote"},
		{"PCR values", flip("seals/2.pcrs", 5), bundle.CheckQuote, 2, "seals/2.quote"},
		{"counter statement", flip("seals/2.nv", -1), bundle.CheckCounter, 2, "seals/2.nv"},
		{"removed seal", func(e evidence) { e.removeSeal("2") }, bundle.CheckSealChain, 2, "seals/2.txt"},
		{"removed first seal", func(e evidence) { e.removeSeal("1") }, bundle.CheckSealChain, 1, "seals/1.txt"},
	}
}

// tampered changes one thing at a time in copies of a real bundle. Without a new manifest the manifest names the file; with
// one, as an attacker would leave it, the check that the thing itself fails is named, with its place.
func tampered(t *testing.T, from string) {
	if r, code := copyBundle(t, from).verdict(); code != 0 || !r.Valid {
		t.Fatalf("the good bundle: exit %d, %+v", code, r)
	}
	for _, row := range tamperings(copyBundle(t, from)) {
		t.Run(row.name, func(t *testing.T) {
			e := copyBundle(t, from)
			row.do(e)
			r, code := e.verdict()
			if code != 1 || r.Valid || !names(r, bundle.CheckManifest, -1, "") {
				t.Errorf("with the old manifest: exit %d, %+v", code, r.Failed())
			}
			e.remanifest()
			r, code = e.verdict()
			if code != 1 || r.Valid || !names(r, row.check, row.index, row.file) {
				t.Errorf("with a new manifest: want %s %d %s, got exit %d, %s", row.check, row.index, row.file, code, findings(r))
			}
			if names(r, bundle.CheckManifest, -1, "") {
				t.Error("the new manifest is not right: this proves nothing")
			}
		})
	}
}

// names reports whether a failed check has this name, and this place where one is wanted.
func names(r bundle.Report, check bundle.CheckName, index int64, file string) bool {
	return slices.ContainsFunc(r.Failed(), func(c bundle.Check) bool {
		return c.Name == check && (file == "" || c.File == file) && (index < 0 || c.Index != nil && int64(*c.Index) == index)
	})
}

func findings(r bundle.Report) string {
	var out []string
	for _, c := range r.Failed() {
		index := "-"
		if c.Index != nil {
			index = fmt.Sprint(*c.Index)
		}
		out = append(out, fmt.Sprintf("%s %s %s: %s", c.Name, index, c.File, c.Detail))
	}
	return strings.Join(out, "\n  ")
}
