package bundle_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/record"
)

// memory is a sink in memory.
type memory map[string][]byte

func (m memory) Put(path string, size int64, content io.Reader) error {
	m[path] = make([]byte, size)
	_, err := io.ReadFull(content, m[path])
	return err
}

func (m memory) fs() fs.FS {
	out := fstest.MapFS{}
	for path, data := range m {
		out[path] = &fstest.MapFile{Data: data, Mode: 0o444}
	}
	return out
}

func (m memory) clone() memory {
	out := memory{}
	for path, data := range m {
		out[path] = slices.Clone(data)
	}
	return out
}

// remanifest is what an attacker does after tampering.
func (m memory) remanifest() {
	var paths []string
	for path := range m {
		if path != "MANIFEST.sha256" {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	var out strings.Builder
	for _, path := range paths {
		sum := sha256.Sum256(m[path])
		out.WriteString(hex.EncodeToString(sum[:]) + "  " + path + "\n")
	}
	m["MANIFEST.sha256"] = []byte(out.String())
}

// goodWorld has two files of entries, six seals and a power loss.
func goodWorld(t testing.TB, device tpmSide) (*world, *physician) {
	t.Helper()
	w := newWorld(t, device)
	w.seal()
	w.recordSeal()
	p := w.play(0x100)
	w.seal()
	w.recordSeal()
	w.decide(100)
	w.seal()
	w.recordSeal()
	w.seal()
	if soft, ok := device.(*softTPM); ok {
		soft.reset, soft.count = soft.reset+1, 255
		w.add(record.TypeDevice, record.Envelope{}, record.DeviceBody{Event: record.EventTPMReset, Seal: w.last.Number}, nil)
	}
	w.recordSeal()
	w.decide(150)
	w.seal()
	w.recordSeal()
	w.decide(30)
	w.seal()
	return w, p
}

func written(t testing.TB, w *world) memory {
	t.Helper()
	m := memory{}
	must(t, bundle.Write(t.Context(), m, w, w.options()))
	return m
}

func verify(t testing.TB, m memory, o bundle.Options) bundle.Report {
	t.Helper()
	report, err := bundle.Verify(t.Context(), m.fs(), o)
	must(t, err)
	return report
}

func fmtUint(n uint64) string { return strconv.FormatUint(n, 10) }

func b64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func jsonOf(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	must(t, err)
	return data
}
