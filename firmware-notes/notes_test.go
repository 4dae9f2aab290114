package firmwarenotes

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
)

func TestPages(t *testing.T) {
	for _, name := range Pages() {
		text, err := Page(name)
		if err != nil || !strings.HasPrefix(string(text), "# ") {
			t.Errorf("page %s does not begin with a title: %v", name, err)
		}
		if name == readme {
			t.Error("the README is listed as a device")
		}
	}
	for _, name := range []string{"no-such-device", "../go", ""} {
		if _, err := Page(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Page(%q): %v, want ErrNotExist", name, err)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, tc := range []struct{ vendor, version, want string }{
		{"IFX\x00", "7.61.2785.0", "CVE-2017-15361 CVE-2024-45678"},
		{"IFX", "7.62.3126.0", "CVE-2024-45678"},
		{"IFX", "4.34", "CVE-2024-45678"},
		{"IFX", "4.41.1", "CVE-2017-15361 CVE-2024-45678"},
		{"STM ", "73.8.17568", "CVE-2019-16863"},
		{"STM ", "73.64.17568", ""},
		{"STM ", "73.64", ""},
		{"stm", "71.12", "CVE-2019-16863"},
		{"INTC", "11.8.50.3425", "CVE-2019-11090"},
		{"INTC", "11.8.70.3626", ""},
		{"INTC", "11", "CVE-2019-11090"},
		{"NTC\x00", "1.3.2.8", "CVE-2023-1017"},
		{"NTC\x00", "1.3.2.20", ""},
		{"IBM\x00", "8215.1538", "CVE-2023-1017, CVE-2023-1018"},
		{"Yubico (www.yubico.com)", "2.3.2", "CVE-2024-45678"},
		{"Yubico (www.yubico.com)", "2.4.0", ""},
		{"STM", "unreadable", "CVE-2019-16863"},
		{"STM", "", "CVE-2019-16863"},
		{"SoftHSM project", "2.6", ""},
		{"", "1.0", ""},
	} {
		var ids []string
		for _, a := range Match(tc.vendor, tc.version) {
			ids = append(ids, a.ID)
		}
		if got := strings.Join(ids, " "); got != tc.want {
			t.Errorf("Match(%q, %q) = %q, want %q", tc.vendor, tc.version, got, tc.want)
		}
	}
}

func TestTableIsWhole(t *testing.T) {
	for _, a := range Advisories() {
		if a.ID == "" || a.Consequence == "" || a.Advice == "" || a.Source == "" || a.Vendor != vendorWord(a.Vendor) {
			t.Errorf("incomplete row: %+v", a)
		}
		for _, r := range a.Firmware {
			first, ok := parseVersion(r.First)
			last, okLast := parseVersion(r.Last)
			if !ok || !okLast || compare(first, last) > 0 {
				t.Errorf("%s: range %v is not one", a.ID, r)
			}
		}
	}
}
