package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/rotation"
)

// Source is the log that a bundle is taken from.
type Source interface {
	// Entries calls fn for each entry of [from, to) in order. fn keeps nothing of what it is given.
	Entries(ctx context.Context, from, to uint64, fn func(record.Stored) error) error
	// EnvelopeRange is Entries without the payloads.
	EnvelopeRange(ctx context.Context, from, to uint64, fn func(index uint64, envelope []byte) error) error
	// Tile returns width hashes of 32 bytes of a C2SP tile.
	Tile(ctx context.Context, level int, index uint64, width int) ([]byte, error)
	// Seal returns seal n; numbers run from 1 to the newest without a gap.
	Seal(ctx context.Context, n uint64) (checkpoint.Sealed, error)
}

// Attachments is what stands beside the log. A nil or empty answer means that there is none, which the verifier then reports.
type Attachments interface {
	// Certificate is the certificate issued under the entry, as one PEM block.
	Certificate(ctx context.Context, entry uint64) ([]byte, error)
	// Delegation is the delegator's compact JWS logged with the entry, and the link of a re-key.
	Delegation(ctx context.Context, entry uint64) (jws, link string, err error)
	// Evidence is the consent's file, whose SHA-256 is the grant's evidence hash.
	Evidence(ctx context.Context, grantID string) ([]byte, error)
	// Policy is the policy bundle (tar.gz) of that digest.
	Policy(ctx context.Context, digest string) ([]byte, error)
}

// Certificates are the files below certs/ that hold for the whole log, PEM unless said otherwise. Empty ones are left out.
type Certificates struct {
	Root    []byte
	Audit   []byte // a certificate, or the public key alone
	AKCert  []byte
	EK      []byte
	AK      []byte // public key (SPKI)
	Binding []byte // ak-binding.json of tpm/quote
	TPMKeys []byte // tpm-keys.json of tpm/quote: only where keys are in the TPM
	Issuing [][]byte
}

// WriteOptions says what to write.
type WriteOptions struct {
	Head         checkpoint.Sealed // the seal up to which the bundle reaches
	From, To     uint64            // entries wanted; To 0 is the sealed size. Widened to whole files of 256
	Selection    *Selection        // whose payloads and attachments are wanted; nil: all
	Minimum      uint64            // entries from the second file up to it were pruned, and the payloads of the first: a bundle from 0 begins there
	Certificates Certificates
	Rotations    []rotation.Proof // of the audit keys, as far as they count in the sealed tree
	Attachments  Attachments      // nil: none
	LogPolicy    []byte           // policy.txt (C2SP tlog-policy); empty: left out
	EventLog     []byte           // the platform's; empty: left out
}

// Write streams a bundle to sink, the manifest last. Equal inputs give equal bytes. Memory does not grow with the entries, but with an
// identifier for each grant, or with what the chains of a selection name; the manifest waits in a file below [os.TempDir], about 90 bytes for each
// certificate. On an error the sink holds part of a bundle without a manifest, which no verifier accepts.
func Write(ctx context.Context, sink Sink, src Source, o WriteOptions) error {
	seal, err := checkpoint.ParseSeal(o.Head.Text)
	if err != nil {
		return fmt.Errorf("bundle: write: head: %w", err)
	}
	manifest, err := newSpool()
	if err != nil {
		return fmt.Errorf("bundle: write: %w", err)
	}
	defer func() { _ = manifest.close() }() // it has no name, and was read
	w := &writer{ctx: ctx, sink: sink, src: src, opts: o, head: seal, manifest: manifest, grants: map[string]bool{}, policies: map[string]bool{}}
	if err := w.run(); err != nil {
		return fmt.Errorf("bundle: write: %w", err)
	}
	return nil
}

type writer struct {
	ctx      context.Context //nolint:containedctx // lives for one call of Write
	sink     Sink
	src      Source
	opts     WriteOptions
	head     checkpoint.Seal
	ceremony record.Ceremony
	manifest *spool
	grants   map[string]bool
	policies map[string]bool
	chunk    chunkBuffer
	choice   *choice // nil: everything
}

// chunkBuffer holds the lines of the file being filled.
type chunkBuffer struct{ entries, payloads, jws bytes.Buffer }

var errRange = errors.New("range of entries is empty or not covered by the seal")

func (w *writer) run() error {
	from, to, err := w.bounds()
	if err != nil {
		return err
	}
	if err := w.readCeremony(); err != nil {
		return err
	}
	if err := w.choose(from, to); err != nil {
		return err
	}
	first, err := w.firstSeal(w.opts.From)
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		w.certificates,
		func() error { return w.file(pathCheckpoint, w.opts.Head.Checkpoint) },
		w.rotations,
		w.tiles,
		func() error { return w.entries(from, to) },
		func() error { return w.seals(first) },
		func() error { return w.optional(pathPolicyText, w.opts.LogPolicy) },
		func() error { return w.optional(pathEventLog, w.opts.EventLog) },
		w.selection,
		func() error { return w.readme(from, to, first) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	lines, err := w.manifest.reader()
	if err != nil {
		return err
	}
	return w.sink.Put(pathManifest, w.manifest.size, lines)
}

// bounds widens the wanted range to whole files.
func (w *writer) bounds() (from, to uint64, err error) {
	from, to = w.opts.From, w.opts.To
	if to == 0 {
		to = w.head.Size
	}
	if from >= to || to > w.head.Size || w.head.Size > maxTreeSize {
		return 0, 0, fmt.Errorf("%w: [%d, %d) of %d", errRange, from, to, w.head.Size)
	}
	from, to = widen(from, to, w.head.Size)
	if from > 0 && from < w.opts.Minimum || to <= w.opts.Minimum {
		return 0, 0, fmt.Errorf("%w: [%d, %d) is pruned up to %d", errRange, from, to, w.opts.Minimum)
	}
	return max(from, w.opts.Minimum), to, nil
}

// widen takes a range to whole files.
func widen(from, to, size uint64) (uint64, uint64) {
	return from - from%chunk, min((to+chunk-1)/chunk*chunk, size)
}

func (w *writer) readCeremony() error {
	return w.src.Entries(w.ctx, 0, 1, func(e record.Stored) (err error) {
		w.ceremony, err = parseCeremony(e.Envelope)
		return err
	})
}

// firstSeal finds the newest seal that covers nothing at or after from, so that every entry has a seal before it. Sizes never fall.
func (w *writer) firstSeal(from uint64) (uint64, error) {
	from -= from % chunk
	low, high := uint64(sealOne), w.head.Number
	if from == 0 {
		return low, nil
	}
	for low < high {
		middle := high - (high-low)/2
		sealed, err := w.src.Seal(w.ctx, middle)
		if err != nil {
			return 0, fmt.Errorf("seal %d: %w", middle, err)
		}
		seal, err := checkpoint.ParseSeal(sealed.Text)
		if err != nil {
			return 0, fmt.Errorf("seal %d: %w", middle, err)
		}
		if seal.Size <= from {
			low = middle
		} else {
			high = middle - 1
		}
	}
	return low, nil
}

// rotations leaves out the change that the sealed tree ends in, or that it does not have.
func (w *writer) rotations() error {
	list := slices.DeleteFunc(slices.Clone(w.opts.Rotations), func(p rotation.Proof) bool { return p.Index+1 >= w.head.Size })
	data, err := rotation.MarshalProofs(list)
	if err != nil {
		return err
	}
	return w.optional(pathRotations, data)
}

func (w *writer) certificates() error {
	c := w.opts.Certificates
	for _, f := range []struct {
		path string
		data []byte
	}{
		{pathAKBinding, c.Binding},
		{pathAKCert, c.AKCert},
		{pathAK, c.AK},
		{pathAudit, c.Audit},
		{pathEK, c.EK},
		{pathRoot, c.Root},
		{pathTPMKeys, c.TPMKeys},
	} {
		if err := w.optional(f.path, f.data); err != nil {
			return err
		}
	}
	for i, data := range c.Issuing {
		if err := w.file(issuerPath(i), data); err != nil {
			return err
		}
	}
	return nil
}

// tiles writes all hash tiles of the sealed tree, of a partial bundle too: they prove each entry and each seal's root.
func (w *writer) tiles() error {
	for level, n := 0, w.head.Size; n > 0; level, n = level+1, n/chunk {
		for index := uint64(0); index*chunk < n; index++ {
			width := int(min(n-index*chunk, chunk))
			data, err := w.src.Tile(w.ctx, level, index, width)
			if err != nil {
				return fmt.Errorf("tile %d/%d: %w", level, index, err)
			}
			if err := w.file(tilePath(level, index, width), data); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *writer) entries(from, to uint64) error {
	if from > 0 { // leaf 0 pins the keys; its neighbours come along, without their payloads
		err := w.src.Entries(w.ctx, 0, min(chunk, w.head.Size), func(e record.Stored) error {
			return w.line(record.Stored{Index: e.Index, Envelope: e.Envelope})
		})
		if err != nil {
			return err
		}
	}
	if w.choice != nil {
		return w.chosen(from, to)
	}
	return w.src.Entries(w.ctx, from, to, w.entry)
}

// line adds an entry to the open files and closes them when they are full or the tree ends.
func (w *writer) line(e record.Stored) error {
	if bytes.ContainsAny(e.Envelope, "\r\n") {
		return fmt.Errorf("entry %d: more than one line", e.Index)
	}
	w.chunk.entries.Write(e.Envelope)
	w.chunk.entries.WriteByte('\n')
	if len(e.Salt) > 0 {
		if err := jsonLine(&w.chunk.payloads, payloadLine{Index: e.Index, Salt: e.Salt, Payload: e.Payload}); err != nil {
			return fmt.Errorf("entry %d: %w", e.Index, err)
		}
	}
	if (e.Index+1)%chunk != 0 && e.Index+1 != w.head.Size {
		return nil
	}
	n := e.Index / chunk
	if err := w.file(entriesPath(n), w.chunk.entries.Bytes()); err != nil {
		return err
	}
	if err := w.optional(payloadsPath(n), w.chunk.payloads.Bytes()); err != nil {
		return err
	}
	if err := w.optional(delegatorsPath(n), w.chunk.jws.Bytes()); err != nil {
		return err
	}
	w.chunk.entries.Reset()
	w.chunk.payloads.Reset()
	w.chunk.jws.Reset()
	return nil
}

// attach writes what stands beside an entry.
func (w *writer) attach(e record.Stored) error {
	if w.opts.Attachments == nil {
		return nil
	}
	env, err := record.Check(e.Envelope)
	if err != nil {
		return err
	}
	if env.Type == record.TypeIssue && w.choice.beside(e.Index, &env) {
		if err := w.issued(e.Index); err != nil {
			return err
		}
	}
	if w.choice.consent(env.Grant) {
		if err := w.once(w.grants, env.Grant, evidencePath, w.opts.Attachments.Evidence); err != nil {
			return err
		}
	}
	if !isHash(env.Policy) || !w.choice.belongs(&env) {
		return nil
	}
	return w.once(w.policies, env.Policy, policyPath, w.opts.Attachments.Policy)
}

func (w *writer) issued(index uint64) error {
	pem, err := w.opts.Attachments.Certificate(w.ctx, index)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	if err := w.optional(issuedPath(index), pem); err != nil {
		return err
	}
	jws, link, err := w.opts.Attachments.Delegation(w.ctx, index)
	if err != nil {
		return fmt.Errorf("delegation: %w", err)
	}
	if jws == "" && link == "" {
		return nil
	}
	return jsonLine(&w.chunk.jws, jwsLine{Index: index, JWS: jws, Link: link})
}

// once writes the attachment of an identifier when it is first met.
func (w *writer) once(seen map[string]bool, id string, path func(string) string, get func(context.Context, string) ([]byte, error)) error {
	if id == "" || seen[id] {
		return nil
	}
	seen[id] = true
	data, err := get(w.ctx, id)
	if err != nil {
		return fmt.Errorf("%s: %w", path(id), err)
	}
	return w.optional(path(id), data)
}

func (w *writer) seals(first uint64) error {
	for n := first; n <= w.head.Number; n++ {
		sealed := w.opts.Head
		if n != w.head.Number {
			var err error
			if sealed, err = w.src.Seal(w.ctx, n); err != nil {
				return fmt.Errorf("seal %d: %w", n, err)
			}
		}
		parts := [][]byte{sealed.Text, sealed.Quote, sealed.QuoteSig, sealed.PCRs, sealed.NV, sealed.NVSig}
		for i, suffix := range sealSuffixes() {
			if err := w.file(sealPath(n, suffix), parts[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *writer) optional(path string, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	return w.file(path, data)
}

// file writes one file and its manifest line. What a verifier would refuse is refused here.
func (w *writer) file(path string, data []byte) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	limit, known := sizeLimit(path)
	if !known || !validPath(path) || int64(len(data)) > limit {
		return fmt.Errorf("%q: not a file of a bundle, or its %d bytes are too many", path, len(data))
	}
	sum := sha256.Sum256(data)
	if _, err := fmt.Fprintf(w.manifest, "%s  %s\n", hex.EncodeToString(sum[:]), path); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	return w.sink.Put(path, int64(len(data)), bytes.NewReader(data))
}

// encodeBase64 is the encoding of bytes in the project's JSON.
func encodeBase64(data []byte) string { return base64.StdEncoding.EncodeToString(data) }
