package bundle

import (
	"bytes"
	"fmt"

	"github.com/signet-pki/signet/audit/record"
)

// choose finds what belongs to the selection among the entries that the bundle will hold.
func (w *writer) choose(from, to uint64) (err error) {
	if w.opts.Selection == nil {
		return nil
	}
	if err := w.opts.Selection.Check(); err != nil {
		return err
	}
	var files []uint64
	if from > 0 {
		files = append(files, 0)
	}
	for n := from / chunk; n*chunk < to; n++ {
		files = append(files, n)
	}
	w.choice, err = choose(w.ctx, *w.opts.Selection, files, w.envelopes)
	return err
}

// envelopes reads one file's worth of them.
func (w *writer) envelopes(n uint64) (list [][]byte, err error) {
	err = w.src.EnvelopeRange(w.ctx, n*chunk, min((n+1)*chunk, w.head.Size), func(_ uint64, envelope []byte) error {
		list = append(list, bytes.Clone(envelope))
		return nil
	})
	return list, err
}

// chosen writes all envelopes, and what stands beside those of the selection. Of others no payload is even read.
func (w *writer) chosen(from, to uint64) error {
	return w.src.EnvelopeRange(w.ctx, from, to, func(index uint64, envelope []byte) error {
		env, err := record.Check(envelope)
		if err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		if w.choice.belongs(&env) {
			return w.src.Entries(w.ctx, index, index+1, w.entry)
		}
		return w.entry(record.Stored{Index: index, Envelope: envelope})
	})
}

func (w *writer) selection() error {
	if w.choice == nil {
		return nil
	}
	data, err := w.choice.Selection.marshal()
	if err != nil {
		return err
	}
	return w.file(pathSelection, data)
}

func (w *writer) entry(e record.Stored) error {
	if err := w.attach(e); err != nil {
		return fmt.Errorf("entry %d: %w", e.Index, err)
	}
	return w.line(e)
}
