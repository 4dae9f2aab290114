package audit

import (
	"context"

	"github.com/signet-pki/signet/audit/record"
)

// whatState is the finding about domain state. It is derived from the entries, but not from what stands in them alone: the domain
// reads clocks and what was erased. So it is compared, and mended by nothing but the domain's own acts.
const whatState = "state"

// Replay makes domain state anew from entries and compares: the log knows no domain types. State is called for each live key, then
// Entry for each entry in order with its payload unless that is absent, then Findings, which reports what differs. Pruned comes
// before the entries if those up to the first that is given are not here: what they made is not missed.
type Replay interface {
	State(key string, value []byte)
	Pruned()
	Entry(index uint64, env record.Envelope, payload []byte) error
	Findings(report func(index uint64, detail string))
}

func (f *fsck) replay(index uint64, env record.Envelope, payload []byte) {
	// The first entries are followed by a gap: they do not tell what became of what they made.
	if f.cfg.Replay == nil || index < f.pruned.Minimum {
		return
	}
	if err := f.cfg.Replay.Entry(index, env, payload); err != nil {
		f.report.add("entry", index, "%v", err)
	}
}

// readState hands over what lives in the domain's state.
func (f *fsck) readState(ctx context.Context) error {
	if f.cfg.Replay == nil {
		return nil
	}
	if f.pruned.Minimum > 0 {
		f.cfg.Replay.Pruned()
	}
	now := f.cfg.Now()
	for after := ""; ; {
		last, seen, err := scanChunk(f.db, "", after, func(key string, raw []byte) error {
			value, ok, err := f.vault.decodeState(key, raw, now)
			if err != nil {
				f.report.add(whatState, 0, "%.120q: %v", key, err)
			} else if ok {
				f.cfg.Replay.State(key, value)
			}
			return ctx.Err()
		})
		if err != nil || seen < chunk {
			return err
		}
		after = last
	}
}

// checkState reports what the entries say differently.
func (f *fsck) checkState() {
	if f.cfg.Replay != nil {
		f.cfg.Replay.Findings(func(index uint64, detail string) { f.report.add(whatState, index, "%s", detail) })
	}
}
