package bundle_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
)

// TestMisspelledEntries are entries that the tree covers as they are: what is wrong with them is nothing but what they say.
func TestMisspelledEntries(t *testing.T) {
	both := newSecond(t)
	entry, ceremony := expected{bundle.CheckEntry, 1, "entries/0.jsonl", ""}, expected{bundle.CheckCeremony, 0, "entries/0.jsonl", ""}
	for _, row := range []struct {
		name, old, with string
		want            expected
	}{
		{"unknown key", `"service":`, `"servant":`, entry},
		{"upper case key", `"action":`, `"Action":`, entry},
		{"key twice, below", `"action":`, `"action":"x","action":`, entry},
		{"another version", `"v":1`, `"v":2`, entry},
		{"version is a boolean", `"v":1`, `"v":true`, entry},
		{"unknown type", `"type":"decision"`, `"type":"decided"`, entry},
		{"time without milliseconds", `.000Z"`, `Z"`, entry},
		{"time in another zone", `.000Z"`, `.000+00:00"`, entry},
		{"body is a list", `"body":{`, `"body":[{`, entry},
		{"more than one value", `{"v":1`, `{}{"v":1`, entry},
		{"too long", `"service":"`, `"service":"` + strings.Repeat("x", 1<<16), entry},
		{"entry 0 is no ceremony", `"type":"ceremony"`, `"type":"admin"`, ceremony},
		{"name of another AK", `"ak_name":"000b`, `"ak_name":"000a`, ceremony},
		{"name of another counter", `"nv_name":"000b`, `"nv_name":"000a`, ceremony},
		{"PCRs that there are not", `"pcrs":"sha256:0,`, `"pcrs":"sha256:99,`, ceremony},
		{"other PCRs than those quoted", `"pcrs":"sha256:0,1,2,3,4,5,6,7"`, `"pcrs":"sha256:1,2,3,4,5,6,7,8"`, expected{bundle.CheckQuote, 1, "seals/1.quote", ""}},
	} {
		t.Run(row.name, func(t *testing.T) {
			index := 1
			if row.want != entry {
				index = 0
			}
			m := logged(t, index, func(line []byte) []byte {
				if !bytes.Contains(line, []byte(row.old)) {
					t.Fatalf("%s does not hold %s", line, row.old)
				}
				return bytes.Replace(line, []byte(row.old), []byte(row.with), 1)
			})
			m.remanifest()
			r := verify(t, m, bundle.Options{})
			wantFinding(t, r, row.want)
			if r.Valid {
				t.Error("valid")
			}
			both.add(row.name, m.onDisk(both.t), r, row.want)
		})
	}
	both.agree()
}

// TestUnfitTPM: keys and counters that a TPM may have, but not an audited log.
func TestUnfitTPM(t *testing.T) {
	both := newSecond(t)
	ceremony := expected{bundle.CheckCeremony, 0, "entries/0.jsonl", ""}
	for _, row := range []struct {
		name  string
		unfit func(s *softTPM)
		want  expected
	}{
		{"AK that may decrypt", func(s *softTPM) { s.attributes |= 1 << 17 }, ceremony},
		{"AK that can leave the TPM", func(s *softTPM) { s.attributes &^= 1 << 1 }, ceremony},
		{"AK that was imported", func(s *softTPM) { s.attributes &^= 1 << 5 }, ceremony},
		{"AK of the owner's hierarchy", func(s *softTPM) { s.hierarchy = 0x40000001 }, expected{bundle.CheckQuote, 1, "seals/1.quote", ""}},
		{"index that can be written", func(s *softTPM) { s.nv &^= 1 << 4 }, ceremony},
		{"index that was never written", func(s *softTPM) { s.nv &^= 1 << 29 }, ceremony},
	} {
		t.Run(row.name, func(t *testing.T) {
			device := newSoftTPM(t)
			row.unfit(device)
			w := newWorld(t, device)
			w.seal()
			m := written(t, w)
			r := verify(t, m, bundle.Options{})
			wantFinding(t, r, row.want)
			if r.Valid {
				t.Error("valid")
			}
			both.add(row.name, m.onDisk(both.t), r, row.want)
		})
	}
	both.agree()
}
