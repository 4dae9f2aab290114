package bundle

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"

	"github.com/signet-pki/signet/audit/checkpoint"
)

// Citation is what the first entry of a log says of the log that it succeeds, after an appliance was restored from a backup.
type Citation struct {
	Origin string `json:"origin"` // of the former log
	Size   uint64 `json:"size"`   // entries of it in the backup
	Root   string `json:"root"`   // hex
	Seal   uint64 `json:"seal"`   // the last one in the backup; 0: none

	root, seal hash
	note       []byte
}

// citationOf reads leaf 0's; nil where the log succeeds none.
func citationOf(p *pins) (*Citation, error) {
	switch {
	case p == nil || p.Previous == "" && p.Restored == nil:
		return nil, nil //nolint:nilnil // there is none
	case p.Previous == "" || p.Restored == nil:
		return nil, errors.New("it names a former log without saying where that ended, or the reverse")
	case p.Previous == p.Origin:
		return nil, errors.New("it succeeds itself")
	}
	r := p.Restored
	c := &Citation{Origin: p.Previous, Size: r.Size, Root: r.Root, Seal: r.Seal, note: r.Checkpoint}
	var err error
	if c.root, err = parseHash(r.Root); err != nil {
		return nil, fmt.Errorf("root of the former log: %w", err)
	}
	if r.Seal > 0 {
		if c.seal, err = parseHash(r.SealDigest); err != nil || r.Sealed == nil {
			return nil, errors.New("the former log's last seal is not told whole")
		}
	}
	return c, checkOrigin(c.Origin)
}

// predecessor checks the citation by itself: the audit key signed that end under the former log's name.
func (v *verifier) predecessor() {
	c, err := citationOf(v.pins)
	if c == nil && err == nil {
		return
	}
	where := at(0, entriesPath(0))
	if err == nil {
		err = v.anchors.signedCitation(c)
	}
	if !v.tally.check(CheckPredecessor, where, err) {
		return
	}
	v.cites = c
	v.tally.unsure(CheckPredecessor, where, "it succeeds %s, restored from a backup of its first %d entries. %s. What that log had beyond them is not known here",
		c.Origin, c.Size, v.missedSeals())
}

// missedSeals tells from the TPM's counter how much is lost.
func (v *verifier) missedSeals() string {
	r := v.pins.Restored
	switch {
	case r.Sealed == nil:
		return "None of these was sealed"
	case r.Sealed.Reset == r.Found.Reset && r.Found.Counter >= r.Sealed.Counter:
		return fmt.Sprintf("Its last seal in the backup is %d; by the TPM's counter %d were made after it", r.Seal, r.Found.Counter-r.Sealed.Counter)
	default:
		return fmt.Sprintf("Its last seal in the backup is %d; the TPM was reset since, so that its counter does not tell how many were made after it", r.Seal)
	}
}

func (a *anchors) signedCitation(c *Citation) error {
	if a.audit == nil {
		return errors.New("there is no audit key to verify the former log's checkpoint with")
	}
	verifier, err := checkpoint.NewVerifier(c.Origin, a.audit)
	if err != nil {
		return fmt.Errorf("the former log's checkpoint: %w", err)
	}
	head, err := checkpoint.Open(c.note, verifier)
	if err != nil {
		return fmt.Errorf("the former log's checkpoint: %w", err)
	}
	if head != (checkpoint.Checkpoint{Origin: c.Origin, Size: c.Size, Root: c.root}) {
		return errors.New("the former log's checkpoint is about another end than the one that is cited")
	}
	return nil
}

// successor compares the former log with what its successor says of it.
func (v *verifier) successor() {
	c := v.opts.cited
	if c == nil {
		return
	}
	where := in(pathCheckpoint)
	switch root, known := v.byTile.roots[c.Size]; {
	case c.Origin != v.anchors.origin:
		v.tally.fail(CheckSuccessor, where, "the successor succeeds %s", c.Origin)
	case c.Size > v.head.Size:
		v.tally.unsure(CheckSuccessor, where, "the successor cites %d entries, and these are %d: whether the last of them are those of this log is not seen here", c.Size, v.head.Size)
	case !known:
		v.tally.fail(CheckSuccessor, where, "the root of the first %d entries could not be computed", c.Size)
	case root != c.root:
		v.tally.fail(CheckSuccessor, where, "the successor cites root %s of the first %d entries, which is %s: it forks this log", c.Root, c.Size, hex.EncodeToString(root[:]))
	default:
		v.tally.pass(CheckSuccessor, 1)
	}
	v.citedSeal(c)
}

// citedSeal compares the last seal that the successor knew.
func (v *verifier) citedSeal(c *Citation) {
	for _, s := range v.sealed {
		if s.Number == c.Seal {
			var err error
			if s.digest != c.seal {
				err = errors.New("the successor cites another seal of this number: it forks this log")
			}
			v.tally.check(CheckSuccessor, at(c.Seal, sealPath(c.Seal, ".txt")), err)
		}
	}
}

// Succession is what two bundles tell together: of a log, and of the one that succeeds it after a restore.
type Succession struct {
	Valid     bool      `json:"valid"` // both are, and they agree
	Former    Report    `json:"former"`
	Successor Report    `json:"successor"`
	Citation  *Citation `json:"citation,omitempty"` // nil: the second succeeds no log
	// Lost are the entries of the former log that are here and were not in the backup, and LostRevocations those that ended something:
	// the appliance does not know of them any more.
	Lost            uint64 `json:"lost"`
	LostRevocations uint64 `json:"lost_revocations"`
}

// VerifySuccession verifies both bundles, each by itself, and that the former one has the end that its successor cites. The trust file
// names the origin of either: the other's follows from the citation, which the same audit key signed.
func VerifySuccession(ctx context.Context, former, successor fs.FS, o Options) (Succession, error) {
	c, next, err := readCitation(ctx, successor)
	if err != nil {
		return Succession{}, err
	}
	first, second := o, o
	first.cited = c
	if t := o.Trust; t != nil && c != nil && (t.origin == c.Origin || t.origin == next) {
		first.Trust, second.Trust = t.named(c.Origin), t.named(next)
	}
	var out Succession
	v, err := verified(ctx, former, first)
	if err != nil {
		return out, err
	}
	out.Former = v.finish()
	if out.Successor, err = Verify(ctx, successor, second); err != nil {
		return out, err
	}
	out.Citation = c
	out.Valid = out.Former.Valid && out.Successor.Valid && c != nil
	if c != nil && v.head != nil && v.head.Size > c.Size {
		out.Lost = v.head.Size - c.Size
		for _, e := range v.revoked {
			if e.index >= c.Size {
				out.LostRevocations++
			}
		}
	}
	return out, nil
}

// readCitation reads a bundle's first entry, which [Verify] verifies.
func readCitation(ctx context.Context, fsys fs.FS) (c *Citation, origin string, err error) {
	files, err := scan(ctx, fsys, newTally())
	if err != nil {
		return nil, "", err
	}
	data, err := files.read(entriesPath(0))
	if err != nil {
		return nil, "", nil //nolint:nilerr // Verify names it
	}
	line, _, _ := bytes.Cut(data, []byte{'\n'})
	p, _ := parsePins(line)
	if p == nil {
		return nil, "", nil
	}
	c, err = citationOf(p)
	if err != nil {
		return nil, p.Origin, nil //nolint:nilerr // likewise
	}
	return c, p.Origin, nil
}

// named is the trust in another log of the same appliance.
func (t *Trust) named(origin string) *Trust {
	out := *t
	out.origin = origin
	return &out
}
