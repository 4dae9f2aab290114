package record

import "fmt"

// MaxRedacted bounds the entries that one redact entry names.
const MaxRedacted = 512

// RedactBody erases entries: their payloads, which from then on nobody can read. The envelopes stay.
type RedactBody struct {
	Reason  string  `json:"reason"`
	Entries []Range `json:"entries"` // ascending, apart
}

// Range is entries from the first number up to, without it, the second.
type Range [2]uint64

// Check refuses what cannot be erased by the entry at an index.
func (b RedactBody) Check(index uint64) error {
	n, at := uint64(0), uint64(0)
	for i, r := range b.Entries {
		if r[0] < at || r[0] == at && i > 0 || r[1] <= r[0] || r[1] > index || r[1]-r[0] > MaxRedacted {
			return fmt.Errorf("%w: redact entry names [%d,%d)", ErrMalformed, r[0], r[1])
		}
		n, at = n+r[1]-r[0], r[1]
	}
	if n == 0 || n > MaxRedacted {
		return fmt.Errorf("%w: redact entry names %d entries", ErrMalformed, n)
	}
	return nil
}

// Leaves are the entries one by one, of a body that was checked.
func (b RedactBody) Leaves() []uint64 {
	var out []uint64
	for _, r := range b.Entries {
		for i := r[0]; i < r[1]; i++ {
			out = append(out, i)
		}
	}
	return out
}

// Ranges joins ascending indexes.
func Ranges(leaves []uint64) []Range {
	var out []Range
	for _, l := range leaves {
		if n := len(out); n > 0 && out[n-1][1] == l {
			out[n-1][1]++
			continue
		}
		out = append(out, Range{l, l + 1})
	}
	return out
}
