package firmwarenotes

import (
	"math"
	"strconv"
	"strings"
)

// version is a dotted decimal version. What follows its last number was not reported, and may be anything. Nil is a
// version that cannot be read.
type version []uint64

// Range is a span of dotted decimal versions, from From up to what comes before Below. Numbers left out are zeros:
// Below "4.34" excludes 4.34.0 and covers 4.33.12.
type Range struct{ From, Below string }

// answer is yes, no or perhaps. The zero value is perhaps: not knowing is no clearance.
type answer uint8

const (
	perhaps answer = iota
	no
	yes
)

// scheme is how a maker packs a version into what is reported. Zero: the numbers are the version's.
type scheme uint8

const (
	_ scheme = iota
	// tens: PKCS#11 has room for two numbers, and the second one is ten times the minor version plus the patch
	// (yubihsm-shell, pkcs11/yubihsm_pkcs11.c, C_GetTokenInfo and C_GetInfo): 2.32 is 2.3.2.
	tens
)

const (
	maxNumbers = 8
	two        = 2
)

func (s scheme) parse(text string) version {
	v := parseVersion(text)
	if s == tens && len(v) == two {
		return version{v[0], v[1] / 10, v[1] % 10}
	}
	return v
}

func parseVersion(text string) version {
	parts := strings.Split(text, ".")
	if len(parts) > maxNumbers {
		return nil
	}
	var v version
	for _, part := range parts {
		n, err := strconv.ParseUint(part, 10, 32)
		if err != nil {
			return nil
		}
		v = append(v, n)
	}
	return v
}

// holds compares the whole span of what was not reported: 11.8 is perhaps below 11.8.70.
func (r Range) holds(v version) answer {
	from, below := parseVersion(r.From), parseVersion(r.Below)
	if v == nil || from == nil || below == nil {
		return perhaps
	}
	least, most := uint64(0), uint64(math.MaxUint64)
	switch {
	case compare(v, most, from) < 0, compare(v, least, below) >= 0:
		return no
	case compare(v, least, from) >= 0 && compare(v, most, below) < 0:
		return yes
	default:
		return perhaps
	}
}

// compare takes rest for the numbers that v lacks, and zero for those that end lacks.
func compare(v version, rest uint64, end version) int {
	for i := range max(len(v), len(end)) {
		a, b := rest, uint64(0)
		if i < len(v) {
			a = v[i]
		}
		if i < len(end) {
			b = end[i]
		}
		switch {
		case a < b:
			return -1
		case a > b:
			return 1
		}
	}
	return 0
}
