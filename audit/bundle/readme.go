package bundle

import (
	_ "embed"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/tpm/quote"
)

//go:embed readme.txt
var readmeText string

// readme writes README.verify: the same checks with stock tools. Everything put into it was parsed before, so that it cannot smuggle a command in.
func (w *writer) readme(from, to, first uint64) error {
	if err := checkOrigin(w.ceremony.Origin); err != nil {
		return fmt.Errorf("origin: %w", err)
	}
	sel, err := quote.ParseSelection(w.ceremony.PCRs)
	if err != nil {
		return err
	}
	sealed := w.opts.Head
	if first != w.head.Number {
		if sealed, err = w.src.Seal(w.ctx, first); err != nil {
			return fmt.Errorf("seal %d: %w", first, err)
		}
	}
	seal, err := checkpoint.ParseSeal(sealed.Text)
	if err != nil {
		return fmt.Errorf("seal %d: %w", first, err)
	}
	var mask [3]byte // TPMS_PCR_SELECTION.pcrSelect
	for _, pcr := range sel.PCRs() {
		mask[pcr/8] |= 1 << (pcr % 8)
	}
	flags := ""
	if w.opts.From >= chunk || to < w.head.Size {
		flags = fmt.Sprintf(" --range %d:%d", from, to)
	}
	about := ""
	if w.choice != nil {
		flags += fmt.Sprintf(" --%s %s", w.choice.By, w.choice.ID)
		about = "\n  of which     " + w.choice.String() + ": payloads, certificates and consents of its entries alone"
	}
	text := strings.NewReplacer(
		"@ORIGIN@", w.ceremony.Origin,
		"@SIZE@", dec(w.head.Size),
		"@RANGE@", fmt.Sprintf("%d to %d", from, to-1)+about,
		"@SEAL@", fmt.Sprintf("%d, %s", w.head.Number, stamp(w.head.Time)),
		"@FLAGS@", flags,
		"@PCRS@", sel.String(),
		"@COUNT@", strconv.Itoa(sel.Len()),
		"@SIZEPCRS@", strconv.Itoa(sel.Len()*merkle.HashSize),
		"@MASK@", fmt.Sprintf(`\%03o\%03o\%03o`, mask[0], mask[1], mask[2]),
		"@MASKHEX@", hex.EncodeToString(mask[:]),
		"@PREVIOUS@", hex.EncodeToString(seal.Previous[:]),
		"@FIRST@", dec(first),
	).Replace(readmeText)
	return w.file(pathReadme, []byte(text))
}
