package bundle_test

import (
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
)

func TestTrustFile(t *testing.T) {
	w, _ := goodWorld(t, newSoftTPM(t))
	m := written(t, w)
	file := w.trustFile()
	file.PCRValues = map[string]bundle.PCRValues{"7": {strings.Repeat("00", 32)}}
	text, err := file.Marshal()
	must(t, err)
	trust, err := bundle.ParseTrust(text)
	must(t, err)
	r := verify(t, m, bundle.Options{Trust: trust})
	if !r.Valid || r.Anchors != bundle.Anchored {
		show(t, r)
		t.Fatal("the good bundle is not valid with its own trust file")
	}
	other := newWorld(t, newSoftTPM(t)).trustFile()
	for name, row := range map[string]struct {
		change func(f *bundle.TrustFile)
		check  bundle.CheckName
	}{
		"origin":       {func(f *bundle.TrustFile) { f.Origin = "another.example/log" }, bundle.CheckTrust},
		"trust domain": {func(f *bundle.TrustFile) { f.TrustDomain = "another.example" }, bundle.CheckTrust},
		"root":         {func(f *bundle.TrustFile) { f.Roots = other.Roots }, bundle.CheckTrust},
		"audit key":    {func(f *bundle.TrustFile) { f.AuditKey = other.AuditKey }, bundle.CheckCheckpoint},
		"AK":           {func(f *bundle.TrustFile) { f.AKName = other.AKName }, bundle.CheckQuote},
		"NV index":     {func(f *bundle.TrustFile) { f.NVName = other.AKName }, bundle.CheckCounter},
		"PCRs":         {func(f *bundle.TrustFile) { f.PCRs = "sha256:0,7" }, bundle.CheckQuote},
		"PCR value":    {func(f *bundle.TrustFile) { f.PCRValues = map[string]bundle.PCRValues{"7": {strings.Repeat("11", 32)}} }, bundle.CheckQuote},
	} {
		t.Run(name, func(t *testing.T) {
			f := w.trustFile()
			row.change(&f)
			trust, err := f.Trust()
			must(t, err)
			r := verify(t, m, bundle.Options{Trust: trust})
			found := false
			for _, c := range r.Failed() {
				found = found || c.Name == row.check
			}
			if r.Valid || !found {
				show(t, r)
				t.Errorf("valid %v, %s failed %v", r.Valid, row.check, found)
			}
		})
	}
}

func TestParseTrustRefuses(t *testing.T) {
	raw, err := newWorld(t, newSoftTPM(t)).trustFile().Marshal()
	must(t, err)
	text := string(raw)
	for name, bad := range map[string]string{
		"empty":         "",
		"unknown key":   text + "more: 1\n",
		"repeated key":  text + "origin: x\n",
		"anchor":        strings.Replace(text, "origin: ", "origin: &a ", 1),
		"format":        strings.Replace(text, "trust@v1", "trust@v2", 1),
		"no origin":     strings.Replace(text, "origin: "+origin, "origin: ''", 1),
		"shell":         strings.Replace(text, "origin: "+origin, "origin: a$(id)b", 1),
		"no root":       strings.ReplaceAll(text, "CERTIFICATE", "NOTHING"),
		"name":          strings.Replace(text, "ak_name: 000b", "ak_name: 000c", 1),
		"PCRs":          strings.Replace(text, "sha256:0,", "sha1:0,", 1),
		"value, no PCR": text + "pcr_values: {\"9\": \"" + strings.Repeat("00", 32) + "\"}\n",
		"too long":      text + strings.Repeat("#\n", 64<<10),
	} {
		if _, err := bundle.ParseTrust([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := (bundle.TrustFile{}).Marshal(); err == nil {
		t.Error("an empty trust file was written")
	}
}

func FuzzParseTrust(f *testing.F) {
	text, err := newWorld(f, newSoftTPM(f)).trustFile().Marshal()
	must(f, err)
	f.Add(text)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		trust, err := bundle.ParseTrust(data)
		if (trust == nil) == (err == nil) {
			t.Error("neither trust nor error")
		}
	})
}
