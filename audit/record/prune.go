package record

import (
	"fmt"
	"regexp"
)

// PruneWidth is the number of entries of a C2SP entry bundle: the log is archived and pruned in whole ones. The first is never pruned,
// since leaf 0 pins the keys.
const PruneWidth = 256

// PruneBody says that the log no longer has the entries from PruneWidth up to To, nor the payloads of those before To, and where
// the last of them are. Those before From are in earlier archives: the entry Previous names the last of these, and is itself in
// this archive where it stands before To.
type PruneBody struct {
	Reason   string  `json:"reason"`
	From     uint64  `json:"from"`               // the archive holds the entries [From, To)
	To       uint64  `json:"to"`                 // both in whole entry bundles
	Archive  string  `json:"archive"`            // name of the archive's file, an evidence bundle
	SHA256   string  `json:"sha256"`             // of that file, lower-case hex
	Previous *uint64 `json:"previous,omitempty"` // index of the prune entry before; absent from the first
}

var archiveName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// Check refuses what the entry at an index cannot prune.
func (b PruneBody) Check(index uint64) error {
	switch {
	case b.From%PruneWidth != 0 || b.To%PruneWidth != 0 || b.From >= b.To || b.To <= PruneWidth:
		return fmt.Errorf("%w: prune entry names [%d,%d): not whole bundles of %d entries behind the first", ErrMalformed, b.From, b.To, PruneWidth)
	case b.To > index:
		return fmt.Errorf("%w: prune entry names [%d,%d), and is entry %d itself", ErrMalformed, b.From, b.To, index)
	case (b.From == 0) != (b.Previous == nil):
		return fmt.Errorf("%w: prune entry from %d: only the first begins at 0 and has none before it", ErrMalformed, b.From)
	case b.Previous != nil && (*b.Previous < b.From || *b.Previous >= index):
		return fmt.Errorf("%w: prune entry from %d cannot follow entry %d", ErrMalformed, b.From, *b.Previous)
	case !archiveName.MatchString(b.Archive) || !isHash([]byte(b.SHA256)):
		return fmt.Errorf("%w: prune entry without an archive and its SHA-256", ErrMalformed)
	}
	return nil
}

// PruneOf reads the body of the prune entry at an index.
func PruneOf(env Envelope, index uint64) (PruneBody, error) {
	if env.Type != TypePrune {
		return PruneBody{}, fmt.Errorf("%w: a %s entry prunes nothing", ErrMalformed, env.Type)
	}
	body, err := DecodeBody[PruneBody](env)
	if err == nil {
		err = body.Check(index)
	}
	return body, err
}
