package bundle_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
)

// TestHostileFiles: nothing in a bundle may stop the verifier or pass unseen.
func TestHostileFiles(t *testing.T) {
	w, _ := goodWorld(t, newSoftTPM(t))
	good, both := written(t, w), newSecond(t)
	crlf := func(path string) func(m memory) {
		return func(m memory) { m[path] = bytes.ReplaceAll(m[path], []byte("\n"), []byte("\r\n")) }
	}
	for name, row := range map[string]struct {
		change func(m memory)
		want   expected
	}{
		"unknown file":            {func(m memory) { m["extra"] = []byte("x") }, expected{bundle.CheckLayout, -1, "extra", ""}},
		"number with a zero":      {func(m memory) { m["seals/01.txt"] = m["seals/1.txt"] }, expected{bundle.CheckLayout, -1, "seals/01.txt", ""}},
		"tile off the tree":       {func(m memory) { m["log/tile/0/009"] = m["log/tile/0/000"] }, expected{bundle.CheckTile, -1, "log/tile/0/009", ""}},
		"tile of another width":   {func(m memory) { m["log/tile/0/001.p/7"] = m["log/tile/0/000"][:7*32] }, expected{bundle.CheckTile, -1, "log/tile/0/001.p/7", ""}},
		"tile too long":           {func(m memory) { m["log/tile/0/000"] = append(m["log/tile/0/000"], 0) }, expected{bundle.CheckLayout, -1, "log/tile/0/000", ""}},
		"entries beyond the tree": {func(m memory) { m["entries/7.jsonl"] = m["entries/0.jsonl"] }, expected{bundle.CheckEntry, 7 * 256, "entries/7.jsonl", ""}},
		"CRLF payloads":           {crlf("payloads/0.jsonl"), expected{bundle.CheckPayload, 0, "payloads/0.jsonl", ""}},
		"CRLF seal":               {crlf("seals/2.txt"), expected{bundle.CheckSeal, 2, "seals/2.txt", ""}},
		"CRLF checkpoint":         {crlf("log/checkpoint"), expected{bundle.CheckCheckpoint, -1, "log/checkpoint", ""}},
		"no last line feed":       {func(m memory) { m["entries/1.jsonl"] = bytes.TrimSuffix(m["entries/1.jsonl"], []byte("\n")) }, expected{bundle.CheckEntry, 256, "entries/1.jsonl", ""}},
		"empty line":              {func(m memory) { m["entries/1.jsonl"] = append(m["entries/1.jsonl"], '\n') }, expected{bundle.CheckEntry, 256, "entries/1.jsonl", ""}},
		"empty entries":           {func(m memory) { m["entries/1.jsonl"] = nil }, expected{bundle.CheckEntry, 256, "entries/1.jsonl", ""}},
		"payload key twice": {func(m memory) {
			m["payloads/0.jsonl"] = bytes.Replace(m["payloads/0.jsonl"], []byte(`{"index":`), []byte(`{"index":1,"index":`), 1)
		}, expected{bundle.CheckPayload, 0, "payloads/0.jsonl", ""}},
		"PEM with a preamble": {func(m memory) { m["certs/root.pem"] = append([]byte("hello\n"), m["certs/root.pem"]...) }, expected{bundle.CheckCertificate, -1, "certs/root.pem", ""}},
		"control characters":  {func(m memory) { m["entries/\x1b[2J"] = nil }, expected{bundle.CheckLayout, -1, `entries/\x1b[2J`, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			m := good.clone()
			row.change(m)
			m.remanifest()
			r := verify(t, m, bundle.Options{})
			wantFinding(t, r, row.want)
			if r.Valid {
				t.Error("valid")
			}
			both.add(name, m.onDisk(both.t), r, row.want)
		})
	}
	both.agree()
}

func TestHostileManifest(t *testing.T) {
	w, _ := goodWorld(t, newSoftTPM(t))
	good, both := written(t, w), newSecond(t)
	for name, change := range map[string]func(text string) string{
		"traversal":      func(s string) string { return s + strings.Repeat("0", 64) + "  ../../etc/passwd\n" },
		"absolute":       func(s string) string { return s + strings.Repeat("0", 64) + "  /etc/passwd\n" },
		"itself":         func(s string) string { return s + strings.Repeat("0", 64) + "  MANIFEST.sha256\n" },
		"twice":          func(s string) string { return s + s[:strings.IndexByte(s, '\n')+1] },
		"binary mode":    func(s string) string { return strings.Replace(s, "  policy.txt", " *policy.txt", 1) },
		"upper case":     func(s string) string { return strings.ToUpper(s[:64]) + s[64:] },
		"CRLF":           func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") },
		"no line feed":   func(s string) string { return strings.TrimSuffix(s, "\n") },
		"one long line":  func(s string) string { return s + strings.Repeat("x", 1<<16) },
		"file not there": func(s string) string { return s + strings.Repeat("0", 64) + "  eventlog\n" },
		"empty":          func(string) string { return "" },
	} {
		m := good.clone()
		m["MANIFEST.sha256"] = []byte(change(string(m["MANIFEST.sha256"])))
		r := verify(t, m, bundle.Options{})
		if r.Valid || !slices.ContainsFunc(r.Failed(), func(c bundle.Check) bool { return c.Name == bundle.CheckManifest }) {
			t.Errorf("%s: accepted", name)
		}
		both.cases = append(both.cases, secondCase{name: name, path: m.onDisk(t)})
	}
	both.agree()
}

func TestLinksAreRefused(t *testing.T) {
	w, _ := goodWorld(t, newSoftTPM(t))
	dir := onDisk(t, w, w.options())
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.Rename(filepath.Join(dir, "policy.txt"), outside))
	must(t, os.Symlink(outside, filepath.Join(dir, "policy.txt")))
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	r, err := bundle.Verify(t.Context(), root.FS(), bundle.Options{})
	must(t, err)
	wantFinding(t, r, expected{bundle.CheckLayout, -1, "policy.txt", ""})
	if r.Valid {
		t.Error("valid")
	}
}

func TestHostileTar(t *testing.T) {
	file := func(name string, size int64) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644}
	}
	both := newSecond(t)
	for name, members := range map[string][]*tar.Header{
		"traversal":          {file("../x", 0)},
		"absolute":           {file("/x", 0)},
		"link":               {{Typeflag: tar.TypeSymlink, Name: "eventlog", Linkname: "/etc/passwd"}},
		"hard link":          {{Typeflag: tar.TypeLink, Name: "eventlog", Linkname: "policy.txt"}},
		"device":             {{Typeflag: tar.TypeChar, Name: "eventlog"}},
		"twice":              {file("eventlog", 0), file("eventlog", 0)},
		"twice, dotted":      {file("eventlog", 0), file("./eventlog", 0)},
		"file and directory": {file("seals", 0), file("seals/1.txt", 0)},
		"directory and file": {file("seals/1.txt", 0), file("seals", 0)},
		"bomb":               {file("seals/1.txt", 1<<20)},
	} {
		var out bytes.Buffer
		archive := tar.NewWriter(&out)
		for _, h := range members {
			must(t, archive.WriteHeader(h))
			_, err := archive.Write(make([]byte, h.Size))
			must(t, err)
		}
		must(t, archive.Close())
		if _, err := bundle.OpenTar(bytes.NewReader(out.Bytes()), int64(out.Len())); !errors.Is(err, bundle.ErrArchive) {
			t.Errorf("%s: %v", name, err)
		}
		path := filepath.Join(t.TempDir(), "bundle.tar")
		must(t, os.WriteFile(path, out.Bytes(), 0o600))
		both.cases = append(both.cases, secondCase{name: name, path: path})
	}
	both.agree()
}

func TestNoBundle(t *testing.T) {
	if _, err := bundle.Verify(t.Context(), memory{"x": nil}.fs(), bundle.Options{}); !errors.Is(err, bundle.ErrUnreadable) {
		t.Errorf("%v", err)
	}
	r := verify(t, memory{"MANIFEST.sha256": nil}, bundle.Options{})
	if r.Valid {
		t.Error("an empty bundle is valid")
	}
	r = verify(t, memory{"log/checkpoint": []byte(origin + "\n1099511627775\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n— x y\n")}, bundle.Options{})
	if r.Valid {
		t.Error("a bundle of a checkpoint alone is valid")
	}
}

// FuzzVerify changes bytes, files and names anywhere in a good bundle: the verifier returns, and never says valid unless nothing that it
// looks at was changed.
func FuzzVerify(f *testing.F) {
	w := newWorld(f, newSoftTPM(f))
	w.seal()
	w.recordSeal()
	w.play(0x100)
	w.seal()
	good := written(f, w)
	var paths []string
	for path := range good {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	for i := range paths {
		f.Add(uint16(i), uint32(10), []byte{'x'}, byte(i))
	}
	f.Fuzz(func(t *testing.T, file uint16, offset uint32, insert []byte, mode byte) {
		m := good.clone()
		path := paths[int(file)%len(paths)]
		data := m[path]
		at := 0
		if len(data) > 0 {
			at = int(offset) % len(data)
		}
		switch mode % 4 {
		case 0:
			copy(data[at:], insert)
		case 1:
			m[path] = slices.Concat(data[:at], insert, data[at:])
		case 2:
			m[path] = data[:at]
		case 3:
			m[path] = insert
		}
		same := bytes.Equal(m[path], good[path])
		if path != "MANIFEST.sha256" {
			m.remanifest()
		}
		r := verify(t, m, bundle.Options{Parallel: 1})
		harmless := path == "policy.txt" || path == "README.verify" || (strings.HasPrefix(path, "certs/") && strings.HasSuffix(path, ".pem")) ||
			path == "certs/ak-binding.json" || path == "MANIFEST.sha256" || path == "log/checkpoint"
		if r.Valid && !same && !harmless && r.Completeness == "complete" {
			t.Errorf("valid although %s was changed", path)
		}
	})
}
