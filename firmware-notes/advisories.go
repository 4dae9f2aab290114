package firmwarenotes

import (
	"strconv"
	"strings"
)

// Advisory is one published weakness.
type Advisory struct {
	// Vendor as the device reports it: TPM_PT_MANUFACTURER ("IFX", "STM", "INTC", "NTC", "IBM" for swtpm) or the first
	// word of a PKCS#11 token's manufacturerID.
	Vendor string
	// Firmware lists the affected versions. Empty: the publication names none that the device reports, so every version
	// matches and the advice says how to tell.
	Firmware    []Range
	ID          string
	Consequence string
	Advice      string
	Source      string
}

// Range is a span of dotted decimal versions, both ends included. An end covers what is below it: Last "4.33" covers
// 4.33.12.
type Range struct{ First, Last string }

// Match returns the advisories for a device, by the vendor and the firmware version that it reports. A version that
// cannot be read matches every advisory of its vendor: not knowing is no clearance.
func Match(vendor, version string) []Advisory {
	var found []Advisory
	for _, a := range Advisories() {
		if a.Vendor == vendorWord(vendor) && a.covers(version) {
			found = append(found, a)
		}
	}
	return found
}

func (a Advisory) covers(version string) bool {
	v, ok := parseVersion(version)
	if !ok || len(a.Firmware) == 0 {
		return true
	}
	for _, r := range a.Firmware {
		first, okFirst := parseVersion(r.First)
		last, okLast := parseVersion(r.Last)
		if okFirst && okLast && compare(v, first) >= 0 && compare(v, last) <= 0 {
			return true
		}
	}
	return false
}

// vendorWord drops the padding of both standards (NUL in a TPM's, spaces in a token's) and a company's address.
func vendorWord(vendor string) string {
	words := strings.Fields(strings.ReplaceAll(vendor, "\x00", " "))
	if len(words) == 0 {
		return ""
	}
	return strings.ToUpper(words[0])
}

func parseVersion(s string) ([]uint64, bool) {
	var v []uint64
	for part := range strings.SplitSeq(s, ".") {
		n, err := strconv.ParseUint(part, 10, 32)
		if err != nil {
			return nil, false
		}
		v = append(v, n)
	}
	return v, true
}

// compare looks at as many numbers as the end has; those that the version lacks count as zero.
func compare(version, end []uint64) int {
	for i, e := range end {
		var v uint64
		if i < len(version) {
			v = version[i]
		}
		if v != e {
			if v < e {
				return -1
			}
			return 1
		}
	}
	return 0
}
