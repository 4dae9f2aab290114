package custody_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/signet-pki/signet/audit/custody"
	"github.com/signet-pki/signet/internal/testrig/custodian"
)

func FuzzParseSet(f *testing.F) {
	s, err := custody.NewSet(2, members())
	if err != nil {
		f.Fatal(err)
	}
	b, err := s.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := custody.ParseSet(data)
		if err != nil {
			return
		}
		if again, err := s.Marshal(); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%s became %s, %v", data, again, err)
		}
		if len(s.Custodians()) < s.Threshold() || s.Threshold() < 2 {
			t.Fatal("too few are enough")
		}
	})
}

func FuzzParseAct(f *testing.F) {
	f.Add(text(f, act(custody.Set{})))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := custody.ParseAct(data)
		if err != nil {
			return
		}
		if again, err := a.Marshal(); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%s became %s, %v", data, again, err)
		}
	})
}

// FuzzApproved changes one valid signature: what is accepted is of the one who signed, and never enough.
func FuzzApproved(f *testing.F) {
	s, people := custodian.Three(f)
	b := text(f, act(s))
	f.Add(people[0].Sign(f, b))
	f.Add(people[0].SignAs(f, "file", b))
	f.Fuzz(func(t *testing.T, data []byte) {
		switch names, err := s.Approved(b, [][]byte{data}); {
		case errors.Is(err, custody.ErrSignature):
		case errors.Is(err, custody.ErrTooFew) && len(names) == 1 && names[0] == "alice":
		default:
			t.Fatal(names, err)
		}
	})
}
