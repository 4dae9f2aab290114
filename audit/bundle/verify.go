package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"runtime"
	"slices"
	"time"
	"unique"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/custody"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/rotation"
	"github.com/signet-pki/signet/delegation/chain"
)

// Options says what to verify against. The zero Options takes the anchors from the bundle itself and expects the whole log.
type Options struct {
	Trust    *Trust                   // nil: self-asserted anchors
	Range    *Range                   // nil: every entry of the sealed tree must be there
	Parallel int                      // files at a time; below 1, the number of processors. Each holds a few files in memory
	Progress func(done, total uint64) // entries; nil: none. Called from one goroutine

	Selection *Selection          // nil: what belongs to all users, tasks and agents
	User      *record.UserPayload // or what belongs to this user, by the name that the consents in the bundle show

	cited *Citation // what the log's successor says of it
}

// Range is the part of the log that the auditor asked for, from From up to but not including To; it counts in whole files of 256
// entries.
type Range struct{ From, To uint64 }

// Verify checks a whole bundle and reports every failure that it finds; nothing in the bundle makes it panic or read without bound.
// Memory grows with the number of files, grants, certificates and revocations, not with entries. The error is for what is no verdict: the
// context ended, or there is no bundle ([ErrUnreadable]). fsys must be safe for concurrent use.
//
// Links are refused where fsys shows them. Over a directory, use [os.Root.FS], which also keeps paths inside.
func Verify(ctx context.Context, fsys fs.FS, o Options) (Report, error) {
	v, err := verified(ctx, fsys, o)
	if err != nil {
		return Report{}, err
	}
	return v.finish(), nil
}

func verified(ctx context.Context, fsys fs.FS, o Options) (*verifier, error) {
	if o.Parallel < 1 {
		o.Parallel = runtime.GOMAXPROCS(0)
	}
	v := &verifier{opts: o, tally: newTally()}
	return v, v.run(ctx, fsys)
}

func (v *verifier) finish() Report {
	kind := SelfAsserted
	if v.opts.Trust != nil {
		kind = Anchored
	}
	report := v.tally.report(kind)
	report.Origin, report.Entries, report.Seals = v.anchors.origin, v.held, uint64(len(v.sealed))
	if v.head != nil {
		report.Size = v.head.Size
	}
	report.Witnesses, report.Selection = v.witnesses, v.selected()
	return report
}

// verifier is one run.
type verifier struct {
	opts     Options
	tally    *tally
	files    *files
	pins     *pins // leaf 0; nil if unreadable
	anchors  anchors
	trust    *chain.Trust           // for certificates; nil if there is none
	head     *checkpoint.Checkpoint // nil if unreadable
	from, to uint64                 // entries that must be there
	partial  bool                   // not all entries are here, and that is in order: what they would show is not missed
	sealed   []sealInfo             // by number
	jumps    []jump

	witnesses Witnesses

	byTile, byEntry *growth // byEntry is nil while tiles and entries agree
	bad             []mismatch
	badTotal        uint64
	held            uint64
	latest          time.Time
	around          interval // of the last entry whose time was checked
	stood           uint64   // entries that rest on nothing revoked, not counted yet
	changes         uint64   // entries so far after which what an entry rests on is looked at anew

	issues  []uint64            // issue entries, ascending
	failed  map[hash]uint64     // by TBSCertificate, the newest entry that says that its signature failed or is unknown
	keys    map[hash]bearer     // who has a key, by its first issue entry
	agents  map[string]hash     // the first key of an agent
	signed  map[hash]uint64     // the issue entry of a delegation, by its hash
	devices map[string][]uint64 // device entries by event, ascending
	pcrs    map[uint64][]change // of PCRs, by seal
	grants  map[string]*grantFact
	tokens  map[enrolled]enrolFact
	serials map[unique.Handle[string]]*certified            // agents' certificates, by their first issue entry
	shown   map[hash]*certified                             // likewise, by TBS hash
	renews  map[unique.Handle[string]]unique.Handle[string] // certificate to the one before
	revoked map[revocable]ending
	alarmed map[revocable]uint64 // agents
	gap     *uint64              // the first entry that is not here
	blind   *uint64              // the first behind it that was held to the revocations
	notes   []sealNote
	cited   map[string]bool // policy digests
	cache   cache

	statements chain.Statements

	choice *choice                       // nil: everything
	chosen uint64                        // entries that belong to it
	names  map[record.UserPayload]uint64 // of the user that it is by, by entry

	pruned    *pruneFact // the entry that prunes most
	lastPrune *pruneFact // the last one that was gone through

	custodians custody.Set       // in force at the entry that is looked at
	acts       map[string]uint64 // by id, the entry
	agreedTo   map[uint64]hash   // acts that change the audit key and no entry of a change rests on yet, by entry

	accessTokens map[tokenName]struct{} // access tokens that no entry says were not signed

	cites *Citation // the log that this one succeeds; nil: none
}

// sealNote is an entry that records a seal.
type sealNote struct {
	index uint64
	record.SealBody
}

func (v *verifier) run(ctx context.Context, fsys fs.FS) (err error) {
	if v.files, err = scan(ctx, fsys, v.tally); err != nil {
		return err
	}
	v.failed, v.keys, v.agents, v.signed = map[hash]uint64{}, map[hash]bearer{}, map[string]hash{}, map[hash]uint64{}
	v.devices, v.grants, v.cited = map[string][]uint64{}, map[string]*grantFact{}, map[string]bool{}
	v.tokens, v.serials, v.shown = map[enrolled]enrolFact{}, map[unique.Handle[string]]*certified{}, map[hash]*certified{}
	v.renews, v.revoked, v.alarmed = map[unique.Handle[string]]unique.Handle[string]{}, map[revocable]ending{}, map[revocable]uint64{}
	v.acts, v.agreedTo = map[string]uint64{}, map[uint64]hash{}
	v.accessTokens, v.pcrs = map[tokenName]struct{}{}, map[uint64][]change{}
	v.files.manifest()
	if err := v.checks(ctx); err != nil {
		return err
	}
	return v.files.rest(ctx, v.opts.Parallel)
}

func (v *verifier) checks(ctx context.Context) error {
	v.ceremony()
	v.predecessor()
	v.certificates()
	v.checkpoint()
	v.cosignatures()
	if err := v.seals(ctx); err != nil {
		return err
	}
	if v.head == nil {
		return nil
	}
	if err := v.gone(ctx); err != nil {
		return err
	}
	v.settlePruned()
	if err := v.selection(ctx); err != nil {
		return err
	}
	if err := v.entries(ctx); err != nil {
		return err
	}
	v.successor()
	v.approved()
	v.explain()
	v.measured()
	v.unseen()
	v.recorded()
	v.evidence()
	v.policies()
	v.strangers()
	return v.issued(ctx)
}

// ceremony reads leaf 0, which every bundle holds, and settles the anchors.
func (v *verifier) ceremony() {
	data, err := v.files.read(entriesPath(0))
	if err == nil {
		line, _, found := bytes.Cut(data, []byte{'\n'})
		if !found {
			line = nil
		}
		v.pins, err = parsePins(line)
	}
	v.tally.check(CheckCeremony, at(0, entriesPath(0)), err)
	v.settle(v.opts.Trust, v.readRotations())
}

// settle takes what everything else is held to.
func (v *verifier) settle(trust *Trust, changes []rotation.Proof) {
	v.anchors = anchorsFrom(v.pins, changes, pathRotations, trust, v.tally)
	if v.pins != nil {
		v.custodians = v.pins.custodians
	}
}

// checkpoint opens the signed head. An unsigned one is still used, as a claim, to find what else is wrong.
func (v *verifier) checkpoint() {
	signed, err := v.files.read(pathCheckpoint)
	var head checkpoint.Checkpoint
	if err == nil {
		if head, err = v.anchors.open(signed); err == nil {
			v.head = &head
		} else if body, _, found := bytes.Cut(signed, []byte("\n\n")); found {
			if head, err := checkpoint.ParseBody(append(bytes.Clone(body), '\n')); err == nil {
				v.head = &head
			}
		}
	}
	v.tally.check(CheckCheckpoint, in(pathCheckpoint), err)
	if v.head == nil {
		return
	}
	if v.head.Size == 0 || v.head.Size > maxTreeSize {
		v.tally.fail(CheckCheckpoint, in(pathCheckpoint), "size %d", v.head.Size)
		v.head = nil
		return
	}
	v.from, v.to = 0, v.head.Size
	if r := v.opts.Range; r != nil {
		v.partial = true
		if r.From >= r.To || r.To > v.head.Size {
			v.tally.fail(CheckRange, in(pathCheckpoint), "[%d, %d) was asked for; the sealed tree has %d entries", r.From, r.To, v.head.Size)
			return
		}
		v.from, v.to = widen(r.From, r.To, v.head.Size)
	}
	v.tally.pass(CheckRange, 1)
}

func (a *anchors) open(signed []byte) (checkpoint.Checkpoint, error) {
	if a.keys == nil {
		return checkpoint.Checkpoint{}, errors.New("no audit key to verify with")
	}
	return a.keys.Open(signed)
}

// note keeps what later checks need to know of an entry.
func (v *verifier) note(f *fact) {
	switch f.kind { //nolint:exhaustive // factOf yields no other
	case record.TypeCeremony:
		if f.index != 0 {
			v.tally.fail(CheckCeremony, at(f.index, entriesPath(f.index/chunk)), "a second ceremony in one log")
		}
	case record.TypeSeal:
		v.notes = append(v.notes, sealNote{index: f.index, SealBody: f.seal})
	case record.TypeDevice:
		v.devices[f.event] = append(v.devices[f.event], f.index)
		if f.changed != nil {
			v.pcrs[f.changed.Seal] = append(v.pcrs[f.changed.Seal], change{index: f.index, DeviceBody: *f.changed})
		}
	case record.TypeIssueFailed, record.TypeIssueUnknown:
		v.failed[f.failed] = f.index
	case record.TypeIssue:
		v.issues = append(v.issues, f.index)
		v.noteIssue(f)
	case record.TypeGrant:
		v.noteGrant(f)
	case record.TypeEnrollment:
		v.noteEnrollment(f)
	case record.TypeToken:
		v.noteToken(f)
	case record.TypeTokenFailed:
		v.noteUnsigned(f)
	case record.TypeTask:
		v.stands(f, f.rests)
	case record.TypeDecision:
		v.noteDecision(f)
	case record.TypeRevoke:
		v.noteRevoke(f)
	case record.TypeAlarm:
		v.noteAlarm(f)
	case record.TypePrune:
		v.notePrune(f)
	case record.TypeRotation:
		v.noteRotation(f)
	case record.TypeAct:
		v.noteAct(f)
	}
}

// Events of device entries that explain a jump of the counter.
const (
	eventGap   = record.EventCounterGap
	eventReset = record.EventTPMReset
)

// explain looks for the device entries between the two seals of each jump. They must have been covered by the seal after it. Each reset moves
// the counter by at most orderlyCount either way.
func (v *verifier) explain() {
	for _, j := range v.jumps {
		where := at(j.seal, sealPath(j.seal, ".txt"))
		noted := between(v.devices[j.event], j.from, j.to)
		switch {
		case len(noted) == 0 && (j.from < v.from || j.to > v.to):
			v.tally.unsure(CheckBoot, where, "%s: the entries around it are not part of the range", j.detail)
		case len(noted) == 0:
			v.tally.fail(CheckBoot, where, "%s: no %s entry among %d to %d records it. %s", j.detail, j.event, j.from, j.to, j.unrecorded())
		case j.event == eventReset && j.moved > orderlyCount*uint64(len(noted)):
			v.tally.fail(CheckBoot, where, "%s: more than %d power losses can explain. %s", j.detail, len(noted), j.tooFar())
		default:
			v.tally.unsure(CheckBoot, where, "%s: completeness unproven since the seal before; recorded by entry %d. %s", j.detail, noted[0], j.recorded())
		}
	}
	if len(v.sealed) > 0 {
		v.tally.pass(CheckBoot, 1)
	}
}

// between returns the part of an ascending list in [from, to).
func between(list []uint64, from, to uint64) []uint64 {
	i, _ := slices.BinarySearch(list, from)
	j, _ := slices.BinarySearch(list, to)
	return list[i:max(i, j)]
}

// recorded compares the entries that record seals with the seals.
func (v *verifier) recorded() {
	for _, n := range v.notes {
		where := at(n.index, entriesPath(n.index/chunk))
		i, found := slices.BinarySearchFunc(v.sealed, n.Number, func(s sealInfo, n uint64) int {
			switch {
			case s.Number < n:
				return -1
			case s.Number > n:
				return 1
			}
			return 0
		})
		switch {
		case !found && v.opts.Range != nil && (len(v.sealed) == 0 || n.Number < v.sealed[0].Number):
		case !found:
			v.tally.fail(CheckSealEntry, where, "records seal %d, which is not in the bundle", n.Number)
		case n.Digest != hexOf(v.sealed[i].digest) || n.Size != v.sealed[i].Size:
			v.tally.fail(CheckSealEntry, where, "seal %d is not the one recorded here", n.Number)
		case n.index < n.Size:
			v.tally.fail(CheckSealEntry, where, "seal %d covers the entry that records it", n.Number)
		default:
			v.tally.pass(CheckSealEntry, 1)
		}
	}
}

// policies checks that each policy bundle has the digest that entries cite, and names those that are not here.
func (v *verifier) policies() {
	for _, path := range v.files.under(dirPolicy) {
		sum, err := v.files.hash(path)
		if err == nil && policyPath(hexOf(sum)) != path {
			err = errors.New("its SHA-256 is not its name")
		}
		v.tally.check(CheckPolicy, in(path), err)
	}
	for digest := range v.cited {
		if path := policyPath(digest); !v.files.has(path) {
			v.tally.unsure(CheckPolicy, in(path), "absent, although entries were decided by it")
		}
	}
}

func parseHash(text string) (h hash, err error) {
	if !isHash(text) {
		return h, errors.New("not a SHA-256 in lower-case hexadecimal")
	}
	raw, err := hex.DecodeString(text)
	if err != nil {
		return h, err
	}
	return [sha256.Size]byte(raw), nil
}
