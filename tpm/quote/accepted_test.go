package quote

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestAccepted(t *testing.T) {
	one, two := strings.Repeat("11", 32), strings.Repeat("22", 32)
	a, err := ParseAccepted(map[string][]string{"7": {one, two}, "0": {one}}, PlatformPCRs())
	if err != nil {
		t.Fatal(err)
	}
	value := func(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }
	for name, tc := range map[string]struct {
		pcrs map[int][]byte
		want string
	}{
		"first":       {map[int][]byte{0: value(0x11), 7: value(0x11)}, ""},
		"second":      {map[int][]byte{0: value(0x11), 7: value(0x22), 4: value(9)}, ""},
		"another":     {map[int][]byte{0: value(0x11), 7: value(0x33)}, "PCR 7 is " + strings.Repeat("33", 32)},
		"another's":   {map[int][]byte{0: value(0x22), 7: value(0x22)}, "PCR 0 is "},
		"not there":   {map[int][]byte{0: value(0x11)}, "PCR 7 is "},
		"two of them": {map[int][]byte{0: value(1), 7: value(2)}, "PCR 7 is 02"},
	} {
		err := a.Check(tc.pcrs)
		if (err == nil) != (tc.want == "") || err != nil && (!errors.Is(err, ErrPCRValue) || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !a.Names(7) || a.Names(4) {
		t.Error("7 is named and 4 is not")
	}
	if err := (Accepted{}).Check(nil); err != nil {
		t.Errorf("the zero value: %v", err)
	}
}

func TestParseAcceptedRefuses(t *testing.T) {
	good := strings.Repeat("11", 32)
	for name, lists := range map[string]map[string][]string{
		"not selected": {"8": {good}}, "no number": {"x": {good}}, "another spelling": {"07": {good}}, "negative": {"-1": {good}},
		"no values": {"7": {}}, "short": {"7": {good[:62]}}, "no hex": {"7": {strings.Repeat("x", 64)}},
		"too many": {"7": slices.Repeat([]string{good}, maxAccepted+1)},
	} {
		if a, err := ParseAccepted(lists, PlatformPCRs()); err == nil || a.Names(7) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
