package audit

import (
	"errors"
	"io/fs"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/store"
)

// checkPayload gives the payload, and counts one that is absent; whether it was erased is seen at the end, when the redact entries
// are read.
func (f *fsck) checkPayload(t *store.Txn, index uint64, env record.Envelope) []byte {
	salt, payload, err := f.vault.readPayload(t, index)
	switch {
	case err != nil:
		f.report.add("payload", index, "%v", err)
	case salt != nil:
		f.report.Payloads++
		if record.PayloadHash(salt, payload) != env.PayloadHash {
			f.report.add("payload", index, "is not the one that the envelope names")
		}
	case env.PayloadHash != "":
		f.absent = append(f.absent, index)
	}
	return payload
}

// checkAbsent tells what is gone without an entry that erased it.
func (f *fsck) checkAbsent() {
	for _, index := range f.absent {
		switch {
		case f.redacted[index]:
			f.report.Erased++
		case index < f.pruned.Minimum: // of the first bundle, whose envelopes stay
		default:
			f.report.add("payload", index, "is absent, and no entry says that it was erased")
		}
	}
}

// readKeys opens the keys of payloads. Nothing is destroyed here that a crash left: opening the log does that.
func (f *fsck) readKeys() {
	known, marked, err := readErasures(f.db)
	if err != nil {
		f.report.add("payload_keys", 0, "%v", err)
	}
	f.vault, err = openVault(f.cfg.Dir)
	switch {
	case !marked && errors.Is(err, fs.ErrNotExist): // a log that began before payloads had keys
	case err != nil:
		f.report.add("payload_keys", 0, "%v", err)
	case marked && erasuresOf(f.vault.tree.Load()).Check != known.Check:
		f.report.add("payload_keys", 0, "%s is that of another log", keysName)
	}
}
