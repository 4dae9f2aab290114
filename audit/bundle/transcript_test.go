package bundle_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/custody"
	"github.com/signet-pki/signet/audit/record"
)

// transcript is the account of the world's beginning, over all that it has.
func (w *world) transcript() []byte {
	w.t.Helper()
	signer, err := checkpoint.NewSigner(origin, w.audit)
	must(w.t, err)
	note, err := checkpoint.Sign(w.head(), signer)
	must(w.t, err)
	var b bytes.Buffer
	for _, e := range w.entries {
		b.Write(e.Envelope)
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	b.Write(note)
	return b.Bytes()
}

func TestTranscript(t *testing.T) {
	g := newGuarded(t)
	g.agree(g.act(custody.Init, "{}"), g.people[:2]...)
	g.add(record.TypeAdmin, record.Envelope{}, record.AdminBody{Action: "ceremony.generate", Target: "root"}, nil)
	good := g.transcript()
	trust, err := g.trustFile().Trust()
	must(t, err)
	for _, anchors := range []*bundle.Trust{nil, trust} {
		report, err := bundle.VerifyTranscript(good, anchors)
		if must(t, err); !report.Valid || report.Entries != 3 || report.Origin != origin {
			t.Errorf("%+v", report)
		}
	}
	alone := newGuarded(t)
	alone.agree(alone.act(custody.Init, "{}"), alone.people[0])
	other := newGuarded(t)
	other.agree(other.act(custody.Init, "{}"), other.people...)
	lines := bytes.SplitAfter(good, []byte("\n"))
	for name, c := range map[string]struct {
		text  []byte
		trust *bundle.Trust
		check bundle.CheckName
	}{
		"one alone":       {alone.transcript(), nil, bundle.CheckCustodians},
		"no act":          {bytes.Join(append(append([][]byte{}, lines[0]), lines[2:]...), nil), nil, bundle.CheckCustodians},
		"a line less":     {bytes.Join(append(append([][]byte{}, lines[:2]...), lines[3:]...), nil), nil, bundle.CheckCheckpoint},
		"changed":         {bytes.Replace(good, []byte(`"root"`), []byte(`"boot"`), 1), nil, bundle.CheckEntry},
		"another's":       {other.transcript(), trust, bundle.CheckTrust},
		"no checkpoint":   {append(bytes.Join(lines[:3], nil), '\n'), nil, bundle.CheckCheckpoint},
		"no entry":        {append([]byte("\n\n"), bytes.Join(lines[4:], nil)...), nil, bundle.CheckCeremony},
		"ceremony, again": {bytes.Join(append(append([][]byte{}, lines[:3]...), append([][]byte{lines[0]}, lines[3:]...)...), nil), nil, bundle.CheckCeremony},
	} {
		report, err := bundle.VerifyTranscript(c.text, c.trust)
		must(t, err)
		failed := false
		for _, f := range report.Failed() {
			failed = failed || f.Name == c.check || name == "changed"
		}
		if report.Valid || !failed {
			t.Errorf("%s: %+v", name, report)
		}
	}
	for _, text := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("x\n"), 2000)} {
		if _, err := bundle.VerifyTranscript(text, nil); !errors.Is(err, bundle.ErrUnreadable) {
			t.Error(err)
		}
	}
}

func FuzzVerifyTranscript(f *testing.F) {
	w := newWorld(f, newSoftTPM(f))
	f.Add(w.transcript())
	f.Fuzz(func(t *testing.T, data []byte) {
		if report, err := bundle.VerifyTranscript(data, nil); err == nil && report.Valid && !bytes.Contains(data, []byte(origin)) {
			t.Fatalf("%+v", report)
		}
	})
}
