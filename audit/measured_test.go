package audit

import (
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
)

// pcrEntries are the entries that record changed registers, by seal.
func pcrEntries(t testing.TB, l *Log) map[uint64]record.DeviceBody {
	t.Helper()
	out := map[uint64]record.DeviceBody{}
	err := l.Entries(t.Context(), 0, l.Head().Size, func(s record.Stored) error {
		env, err := record.Check(s.Envelope)
		if err != nil || env.Type != record.TypeDevice {
			return err
		}
		body, err := record.DecodeBody[record.DeviceBody](env)
		if len(body.PCRs) > 0 {
			if _, twice := out[body.Seal]; twice {
				t.Errorf("seal %d has two entries about registers", body.Seal)
			}
			out[body.Seal] = body
			before, err := l.Read(t.Context(), s.Index-1)
			if err != nil || !strings.Contains(string(before.Envelope), `"type":"seal"`) {
				t.Errorf("entry %d does not stand beside that of its seal: %v", s.Index, err)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sealAnchor(t testing.TB, l *Log, n uint64) record.AnchorBody {
	t.Helper()
	sealed, err := l.Seal(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	s, err := checkpoint.ParseSeal(sealed.Text)
	if err != nil {
		t.Fatal(err)
	}
	return record.AnchorBody{Reset: s.Reset, Restart: s.Restart, Counter: s.Counter}
}

// A register that changes has one entry, beside the seal that shows it; which boot it changed in decides its name.
func TestChangedRegistersAreRecorded(t *testing.T) {
	for name, tc := range map[string]struct {
		boot  func(*Anchor)
		event string
	}{
		"other boot": {func(a *Anchor) { a.Reset++ }, record.EventPCRsChanged},
		"resumed":    {func(a *Anchor) { a.Restart++ }, record.EventPCRsChanged},
		"same boot":  {func(*Anchor) {}, record.EventPCRsChangedInBoot},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := newTPM()
			cfg := testConfig(t, q)
			create(t, cfg)
			l := start(t, cfg)
			sealNow(t, l.Log)
			sealNow(t, l.Log)
			l.mustStop(t)
			last := l.Status().LastSeal
			q.set(func(q *tpm) { q.pcr = 0xab; tc.boot(&q.at) })
			again := start(t, cfg)
			sealNow(t, again.Log)
			sealNow(t, again.Log)
			found := pcrEntries(t, again.Log)
			body, ok := found[last+1]
			if len(found) != 1 || !ok {
				t.Fatalf("entries about registers: %+v, want one of seal %d", found, last+1)
			}
			if body.Event != tc.event || *body.Expected != sealAnchor(t, again.Log, last) || *body.Found != sealAnchor(t, again.Log, last+1) {
				t.Errorf("%+v, %+v, %+v", body, body.Expected, body.Found)
			}
			want := record.PCRChange{PCR: 7, Before: strings.Repeat("00", 32), After: strings.Repeat("ab", 32)}
			if len(body.PCRs) != 1 || body.PCRs[0] != want {
				t.Errorf("%+v", body.PCRs)
			}
			again.mustStop(t)
			mustFsck(t, cfg)
		})
	}
}

// A seal that could not be stored has no entry about registers either; the one that is stored has one.
func TestChangeIsRecordedWithTheSealOrNotAtAll(t *testing.T) {
	q := newTPM()
	cfg := testConfig(t, q)
	create(t, cfg)
	l := start(t, cfg)
	sealNow(t, l.Log)
	l.mustStop(t)
	last := l.Status().LastSeal
	q.set(func(q *tpm) { q.pcr = 1; q.at.Reset++ })
	failing := cfg
	failing.hooks.at = func(point string) error {
		if point == "quoted" {
			return errTPM
		}
		return nil
	}
	again := start(t, failing)
	waitUntil(t, "trouble", func() bool { return again.Status().Sealing != nil })
	if err := again.stop(); err == nil {
		t.Error("stopped without its last seal and said nothing")
	}
	third := start(t, cfg)
	sealNow(t, third.Log)
	if found := pcrEntries(t, third.Log); len(found) != 1 || found[last+1].Event != record.EventPCRsChanged {
		t.Errorf("entries about registers: %+v, want one of seal %d", found, last+1)
	}
	third.mustStop(t)
	mustFsck(t, cfg)
}

// A quote of more or fewer values than there are registers is no seal.
func TestQuoteOfOtherRegisters(t *testing.T) {
	q := newTPM()
	cfg := testConfig(t, q)
	cfg.PCRs = []int{0, 7}
	create(t, cfg)
	l := start(t, cfg)
	waitUntil(t, "trouble", func() bool { return l.Status().Sealing != nil })
	if err := l.Status().Sealing; !strings.Contains(err.Error(), "32 bytes of values for 2 registers") || l.Status().LastSeal != 0 {
		t.Errorf("%v, seal %d", err, l.Status().LastSeal)
	}
}
