package quote

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// ErrPCRValue means that a register has a value that is not accepted.
var ErrPCRValue = errors.New("PCR value is not accepted")

// maxAccepted bounds the values of one register.
const maxAccepted = 256

// Accepted says which values registers may have: those of the firmware, boot loaders and kernels that somebody knows. A register
// that it does not name may have any. The zero value accepts everything.
type Accepted struct{ values map[int][][]byte }

// ParseAccepted reads lists of values by register: indexes in decimal, each among sel, and SHA-256 values in hexadecimal.
func ParseAccepted(lists map[string][]string, sel Selection) (Accepted, error) {
	a := Accepted{values: make(map[int][][]byte, len(lists))}
	var errs []error
	for _, index := range slices.Sorted(maps.Keys(lists)) {
		values, err := parseAccepted(lists[index])
		pcr, numErr := strconv.Atoi(index)
		switch {
		case numErr != nil || strconv.Itoa(pcr) != index || !slices.Contains(sel.PCRs(), pcr):
			errs = append(errs, fmt.Errorf("quote: accepted values: %q is not among %s", index, sel))
		case err != nil:
			errs = append(errs, fmt.Errorf("quote: accepted values: PCR %s: %w", index, err))
		default:
			a.values[pcr] = values
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Accepted{}, err
	}
	return a, nil
}

func parseAccepted(list []string) ([][]byte, error) {
	if len(list) == 0 || len(list) > maxAccepted {
		return nil, fmt.Errorf("%d values; 1 to %d are allowed", len(list), maxAccepted)
	}
	out := make([][]byte, len(list))
	for i, text := range list {
		raw, err := hex.DecodeString(text)
		if err != nil || len(raw) != sha256.Size {
			return nil, fmt.Errorf("not %d hexadecimal digits", 2*sha256.Size)
		}
		out[i] = raw
	}
	return out, nil
}

// Names reports whether a says anything about a register.
func (a Accepted) Names(pcr int) bool { return len(a.values[pcr]) > 0 }

// Check returns [ErrPCRValue] for each register that has none of its accepted values, or is not there.
func (a Accepted) Check(pcrs map[int][]byte) error {
	var errs []error
	for _, pcr := range slices.Sorted(maps.Keys(a.values)) {
		have, ok := pcrs[pcr]
		if !ok || !slices.ContainsFunc(a.values[pcr], func(v []byte) bool { return bytes.Equal(v, have) }) {
			errs = append(errs, fmt.Errorf("%w: PCR %d is %x", ErrPCRValue, pcr, have))
		}
	}
	return errors.Join(errs...)
}
