package audit

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
)

func TestCosignaturesStayBesideTheSeal(t *testing.T) {
	cfg := testConfig(t, newTPM())
	create(t, cfg)
	l := start(t, cfg)
	first, err := l.NextSeal(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if lines, err := l.Cosignatures(first.Number); lines != nil || err != nil {
		t.Errorf("%q, %v", lines, err)
	}
	size := l.Head().Size
	for _, lines := range [][]byte{[]byte("— a x\n"), []byte("— a x\n— b y\n")} {
		if err := l.KeepCosignatures(t.Context(), first.Number, lines); err != nil {
			t.Fatal(err)
		}
		if got, err := l.Cosignatures(first.Number); !bytes.Equal(got, lines) || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	if l.Head().Size != size && l.busy() {
		t.Error("cosignatures made the log busy")
	}
	for number, lines := range map[uint64][]byte{0: []byte("x"), 1 << 40: []byte("x"), first.Number: nil} {
		if err := l.KeepCosignatures(t.Context(), number, lines); err == nil {
			t.Errorf("seal %d, %q: kept", number, lines)
		}
	}
	if err := l.KeepCosignatures(t.Context(), first.Number, make([]byte, maxCosigned+1)); err == nil {
		t.Error("kept too much")
	}
	l.mustStop(t)
	mustFsck(t, cfg)
	again := start(t, cfg)
	if got, err := again.Cosignatures(first.Number); string(got) != "— a x\n— b y\n" || err != nil {
		t.Errorf("after a restart %q, %v", got, err)
	}
	again.mustStop(t)
}

func TestNextSealWaits(t *testing.T) {
	cfg := testConfig(t, newTPM())
	create(t, cfg)
	l := start(t, cfg)
	sealed, err := l.NextSeal(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	if _, err := l.NextSeal(ended, 1<<40); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	mustAppend(t, l.Log, entry(t, time.Now(), record.TypeDecision, "", nil))
	next, err := l.NextSeal(t.Context(), sealed.Number)
	if err != nil || next.Number <= sealed.Number {
		t.Errorf("seal %d after %d, %v", next.Number, sealed.Number, err)
	}
	l.mustStop(t)
	if _, err := l.NextSeal(t.Context(), 1<<40); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}
