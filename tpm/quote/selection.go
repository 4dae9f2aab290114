package quote

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

const (
	pcrCount   = 24 // platform PCRs of a PC client (TCG PC Client Platform TPM Profile, 4.6)
	bankPrefix = "sha256:"
)

// Selection is a set of PCRs of the SHA-256 bank. The zero value is empty and matches no quote. Selections compare with ==.
type Selection struct{ bits uint32 }

// ParseSelection reads the notation of tpm2-tools, restricted to one bank: "sha256:0,1,2,3,4,5,6,7". Indexes run from 0 to 23,
// in any order, each at most once.
func ParseSelection(text string) (Selection, error) {
	list, found := strings.CutPrefix(text, bankPrefix)
	if !found || len(text) > 128 {
		return Selection{}, fmt.Errorf("quote: PCR selection: must be %q and a list of PCR indexes", bankPrefix)
	}
	var sel Selection
	for field := range strings.SplitSeq(list, ",") {
		index, err := strconv.ParseUint(field, 10, 8)
		if err != nil || index >= pcrCount || field != strconv.FormatUint(index, 10) {
			return Selection{}, fmt.Errorf("quote: PCR selection: %q is not an index from 0 to %d", field, pcrCount-1)
		}
		if sel.bits&(1<<index) != 0 {
			return Selection{}, fmt.Errorf("quote: PCR selection: %d is listed twice", index)
		}
		sel.bits |= 1 << index
	}
	return sel, nil
}

// PlatformPCRs is the default selection: PCRs 0 to 7, which firmware and boot loader extend.
func PlatformPCRs() Selection { return Selection{bits: 0xff} }

// IsZero reports whether nothing is selected.
func (s Selection) IsZero() bool { return s.bits == 0 }

// Len is the number of PCRs.
func (s Selection) Len() int { return bits.OnesCount32(s.bits) }

// PCRs lists the indexes in ascending order, which is the order of their values in [Statement].
func (s Selection) PCRs() []int {
	list := make([]int, 0, s.Len())
	for i := range pcrCount {
		if s.bits&(1<<i) != 0 {
			list = append(list, i)
		}
	}
	return list
}

// String is the one canonical form: ascending, as [ParseSelection] and `tpm2_checkquote -l` take it. It is empty for the zero value.
func (s Selection) String() string {
	if s.IsZero() {
		return ""
	}
	var text strings.Builder
	text.WriteString(bankPrefix)
	for i, index := range s.PCRs() {
		if i > 0 {
			text.WriteByte(',')
		}
		text.WriteString(strconv.Itoa(index))
	}
	return text.String()
}

// MarshalText implements [encoding.TextMarshaler].
func (s Selection) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; it refuses an empty selection.
func (s *Selection) UnmarshalText(text []byte) error {
	sel, err := ParseSelection(string(text))
	if err != nil {
		return err
	}
	*s = sel
	return nil
}
