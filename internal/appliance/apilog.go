package appliance

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/signet-pki/signet/api"
	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
)

// apiLog is the log as the API wants it.
type apiLog struct {
	log     *audit.Log
	certs   bundle.Certificates
	beside  attachments
	anchors bundle.ReceiptAnchors

	pseudonym func(issuer, subject string) string

	witnesses *witnesses
	tpmKeys   atomic.Pointer[[]byte] // certs.TPMKeys since an audit key was added
}

var _ api.Log = (*apiLog)(nil)

// newAPILog reads leaf 0, whose anchors every receipt carries.
func newAPILog(ctx context.Context, log *audit.Log, certs bundle.Certificates, beside attachments) (*apiLog, error) {
	first, err := log.Read(ctx, 0)
	if err != nil {
		return nil, fmt.Errorf("leaf 0: %w", err)
	}
	anchors, err := bundle.AnchorsOf(first.Envelope)
	if err != nil {
		return nil, fmt.Errorf("leaf 0: %w", err)
	}
	return &apiLog{log: log, certs: certs, beside: beside, anchors: anchors}, nil
}

// holds takes the statements about keys in the TPM as they are now.
func (l *apiLog) holds(tpmKeys []byte) { l.tpmKeys.Store(&tpmKeys) }

func (l *apiLog) certificates() bundle.Certificates {
	c := l.certs
	if newer := l.tpmKeys.Load(); newer != nil {
		c.TPMKeys = *newer
	}
	return c
}

// found translates the log's word for what is not there.
func found(err error) error {
	switch {
	case errors.Is(err, audit.ErrNotFound):
		return fmt.Errorf("%w: %w", api.ErrNotFound, err)
	case errors.Is(err, audit.ErrPruned):
		return fmt.Errorf("%w: %w", api.ErrPruned, err)
	default:
		return err
	}
}

// Pruned tells which entries are not here any more.
func (l *apiLog) Pruned() (minimum, entry uint64, ok bool) { return l.log.Pruned() }

// Entry reads one entry.
func (l *apiLog) Entry(ctx context.Context, index uint64) (api.Entry, error) {
	e, err := l.log.Read(ctx, index)
	return api.Entry{Index: e.Index, Envelope: e.Envelope, Payload: e.Payload, Salt: e.Salt}, found(err)
}

// Lookup finds entries by an index term.
func (l *apiLog) Lookup(ctx context.Context, kind, id string, from uint64, limit int) ([]uint64, error) {
	return l.log.Lookup(ctx, record.Term{Kind: kind, ID: id}, from, limit)
}

// Receipt proves an entry to the newest sealed checkpoint that covers it, or, unsealed, to the newest signed one.
func (l *apiLog) Receipt(ctx context.Context, index uint64, waitSealed bool) ([]byte, error) {
	e, err := l.log.Read(ctx, index)
	if err != nil {
		return nil, found(err)
	}
	if waitSealed {
		if _, err := l.log.WaitSealed(ctx, index); err != nil {
			return nil, err
		}
	}
	proof, sealed, err := l.prove(ctx, index)
	if err != nil {
		return nil, err
	}
	head, err := l.log.Keys().Open(proof.Checkpoint)
	if err != nil {
		return nil, err
	}
	r := bundle.NewReceipt(e, proof, sealed, l.anchors)
	r.Rotations = l.log.Rotations(head.Size)
	return r.Marshal()
}

// prove leads an entry to the checkpoint of its receipt.
func (l *apiLog) prove(ctx context.Context, index uint64) (merkle.Proof, *checkpoint.Sealed, error) {
	head, sealed, err := l.proving(index)
	if err != nil {
		return merkle.Proof{}, nil, err
	}
	path, err := l.log.Inclusion(ctx, index, head.size)
	return merkle.Proof{Index: index, Path: path, Checkpoint: head.note}, sealed, found(err)
}

// Proof is an entry's tlog-proof, as its receipt holds it.
func (l *apiLog) Proof(ctx context.Context, index uint64) ([]byte, error) {
	if index >= l.log.Head().Size {
		return nil, api.ErrNotFound
	}
	proof, _, err := l.prove(ctx, index)
	if err != nil {
		return nil, err
	}
	return proof.Marshal(), nil
}

// WaitSealed waits until a seal covers an entry.
func (l *apiLog) WaitSealed(ctx context.Context, index uint64) (uint64, error) {
	seal, err := l.log.WaitSealed(ctx, index)
	return seal, found(err)
}

// Inclusion proves an entry to the tree of a size.
func (l *apiLog) Inclusion(ctx context.Context, index, size uint64) ([][32]byte, error) {
	path, err := l.log.Inclusion(ctx, index, size)
	return path, found(err)
}

// Consistency proves one tree to be the beginning of another.
func (l *apiLog) Consistency(ctx context.Context, from, to uint64) ([][32]byte, error) {
	path, err := l.log.Consistency(ctx, from, to)
	return path, found(err)
}

// signedHead is a signed checkpoint and its size.
type signedHead struct {
	note []byte
	size uint64
}

// proving chooses the checkpoint of a receipt: the cosigned one, or else the last sealed one, or else the newest signed one.
func (l *apiLog) proving(index uint64) (signedHead, *checkpoint.Sealed, error) {
	for _, choose := range []func() (checkpoint.Sealed, bool){l.witnesses.cosigned, l.witnesses.plain} {
		s, ok := choose()
		if !ok {
			continue
		}
		seal, err := checkpoint.ParseSeal(s.Text)
		if err != nil {
			return signedHead{}, nil, err
		}
		if seal.Size > index {
			return signedHead{s.Checkpoint, seal.Size}, &s, nil
		}
	}
	signed := l.log.SignedCheckpoint()
	if signed == nil {
		return signedHead{}, nil, api.ErrNotSealed
	}
	head, err := l.log.Keys().Open(signed)
	if err != nil {
		return signedHead{}, nil, err
	}
	if head.Size <= index {
		return signedHead{}, nil, api.ErrNotSealed
	}
	return signedHead{signed, head.Size}, nil, nil
}

// Export writes the evidence bundle of the log, as far as it was not pruned, up to the last seal, or the newest cosigned one.
func (l *apiLog) Export(ctx context.Context, w io.Writer, of api.Selection) error {
	s, ok := l.witnesses.seal()
	if !ok {
		return api.ErrNotSealed
	}
	return l.write(ctx, w, bundle.WriteOptions{Head: s, Selection: l.selection(of)})
}

// write writes a bundle of this log.
func (l *apiLog) write(ctx context.Context, w io.Writer, o bundle.WriteOptions) error {
	policy, err := l.witnesses.logPolicy(o.Head.Checkpoint)
	if err != nil {
		return err
	}
	o.Minimum, o.Certificates, o.Attachments, o.LogPolicy = l.log.Minimum(), l.certificates(), l.beside, policy
	o.Rotations = l.log.Rotations(l.log.Head().Size)
	tar := bundle.NewTar(w)
	if err := bundle.Write(ctx, tar, l.log, o); err != nil {
		return err
	}
	return tar.Close()
}

// selection names a user as entries do. It is nil where everything is wanted.
func (l *apiLog) selection(of api.Selection) *bundle.Selection {
	switch {
	case of.Task != "":
		return &bundle.Selection{By: bundle.ByTask, ID: of.Task}
	case of.Agent != "":
		return &bundle.Selection{By: bundle.ByAgent, ID: of.Agent}
	case of.Pseudonym != "":
		return &bundle.Selection{By: bundle.ByUser, ID: of.Pseudonym}
	case of.User != nil:
		return &bundle.Selection{By: bundle.ByUser, ID: l.pseudonym(of.User.Issuer, of.User.Subject)}
	default:
		return nil
	}
}

// Checkpoint is the newest cosigned one, or else the newest signed one.
func (l *apiLog) Checkpoint() []byte {
	if s, ok := l.witnesses.cosigned(); ok {
		return s.Checkpoint
	}
	return l.log.SignedCheckpoint()
}

// Tile gives a tile of hashes.
func (l *apiLog) Tile(ctx context.Context, level int, index uint64, width int) ([]byte, error) {
	b, err := l.log.Tile(ctx, level, index, width)
	return b, found(err)
}

// EntryTile gives entries as a C2SP entry bundle: each with its length in 16 bits.
func (l *apiLog) EntryTile(ctx context.Context, index uint64, width int) ([]byte, error) {
	size := l.log.Head().Size
	if index > size/256 { // before it is multiplied: a huge index must not be another name of a small one
		return nil, api.ErrNotFound
	}
	from := index * 256
	if to := from + uint64(width); to > size { //nolint:gosec // the API bounds the width
		return nil, api.ErrNotFound
	}
	var out []byte
	err := l.log.Entries(ctx, from, from+uint64(width), func(e record.Stored) error { //nolint:gosec // likewise
		out = binary.BigEndian.AppendUint16(out, uint16(len(e.Envelope))) //nolint:gosec // record.MaxEnvelope fits
		out = append(out, e.Envelope...)
		return nil
	})
	return out, found(err)
}

// Seal gives a seal.
func (l *apiLog) Seal(ctx context.Context, n uint64) (api.Seal, error) {
	s, err := l.log.Seal(ctx, n)
	return api.Seal{
		Number: s.Number, Text: s.Text, Checkpoint: s.Checkpoint, Quote: s.Quote, QuoteSig: s.QuoteSig, PCRs: s.PCRs,
		CounterAttest: s.NV, CounterSig: s.NVSig,
	}, found(err)
}
