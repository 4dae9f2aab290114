package bundle

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
)

// chunkResult is what one file of entries amounts to. Slices run over the leaves of the chunk.
type chunkResult struct {
	n, start uint64
	tile     []hash // as the tile says; nil if it cannot be read
	root     *hash  // of a full tile's leaves
	leaves   []hash // as the entries say, and the tile where there is no entry
	diverged bool
	bad      []mismatch
	times    []time.Time
	facts    []fact
	cited    map[string]bool // policy digests
	held     uint64
	chosen   uint64 // of a selection
	missing  bool   // the file is not here
	paid     uint64 // payloads that are what their entries commit to

	file []byte // what facts are parts of, until they are taken
}

// renew makes r the result of file n of a tree of that size, in the memory that it has.
func (r *chunkResult) renew(n, size uint64) {
	width := int(min(size-n*chunk, chunk))
	*r = chunkResult{
		n: n, start: n * chunk, cited: map[string]bool{}, leaves: slices.Grow(r.leaves[:0], width)[:width], times: slices.Grow(r.times[:0], width)[:width],
		facts: r.facts[:0], file: r.file,
	}
	clear(r.leaves)
	clear(r.times)
}

// mismatch is an entry that is not the leaf of its place. Which of both is false shows only in the root.
type mismatch struct {
	index  uint64
	detail string
}

// fact is what later checks need to know of an entry.
type fact struct {
	index    uint64
	kind     record.Type
	time     time.Time
	rests    standing // what can be revoked, as far as the entry itself names it
	unnamed  error    // why that is not all
	seal     record.SealBody
	event    string // device
	failed   hash   // issue_failed, issue_unknown: of the TBSCertificate
	revoke   revocable
	issue    *issueFact
	grant    *grantFact
	enrol    *enrolFact
	token    *tokenFact
	alarm    *alarmFact
	decision decisionFact
	prune    *record.PruneBody
	act      *record.Act
	rotation *record.RotationBody

	unsigned tokenName          // token_failed
	changed  *record.DeviceBody // device, about PCRs
}

// entries goes once through all chunks: a window of them in parallel, then what needs their order.
func (v *verifier) entries(ctx context.Context) error {
	total := (v.head.Size + chunk - 1) / chunk
	if total > uint64(len(v.files.size)) {
		v.tally.fail(CheckTile, in(dirTile), "the tree has %d leaves, the bundle not nearly as many tiles: entries were not checked", v.head.Size)
		return nil
	}
	v.strays(total)
	sizes := make([]uint64, 0, len(v.sealed)+1)
	for _, s := range v.sealed {
		sizes = append(sizes, min(s.Size, v.head.Size))
	}
	for _, turn := range v.anchors.turns {
		sizes = append(sizes, min(turn.index+1, v.head.Size))
	}
	if c := v.opts.cited; c != nil && c.Size <= v.head.Size {
		sizes = append(sizes, c.Size)
	}
	slices.Sort(sizes)
	v.byTile = newGrowth(append(sizes, v.head.Size), v.files.read)
	workers := make([]workspace, v.opts.Parallel)
	slots := make([]chunkResult, 2*v.opts.Parallel)
	err := inOrder(ctx, v.opts.Parallel, uint64(len(slots)), total, func(worker int, slot, n uint64) {
		v.chunk(&slots[slot], &workers[worker], n)
	}, func(slot, n uint64) {
		v.take(&slots[slot])
		if v.opts.Progress != nil {
			v.opts.Progress(min((n+1)*chunk, v.head.Size), v.head.Size)
		}
	})
	if err != nil {
		return err
	}
	v.judge()
	return nil
}

// strays reports files of entries and tiles that are not of this tree.
func (v *verifier) strays(total uint64) {
	for _, dir := range []string{dirEntries, dirPayloads, dirJWS} {
		for _, n := range v.files.numbered(dir, ".jsonl") {
			if n >= total {
				v.tally.fail(CheckEntry, at(n*chunk, dir+dec(n)+".jsonl"), "beyond the sealed tree of %d entries", v.head.Size)
			}
		}
	}
	for _, path := range v.files.under(dirTile) {
		level, index, width, err := merkle.ParsePath(path[len(dirLog):])
		n := v.head.Size >> (merkle.TileHeight * min(level, 7))
		if err != nil || index > n/chunk || (index < n/chunk && width != chunk) || (index == n/chunk && uint64(width) != n%chunk) { //nolint:gosec // G115: at most 256
			v.tally.fail(CheckTile, in(path), "not a tile of the sealed tree")
		}
	}
}

// workspace is memory that a worker uses again for each of its chunks.
type workspace struct {
	payloads payloads
}

// chunk reads and checks one file of entries with its tile and payloads.
func (v *verifier) chunk(r *chunkResult, w *workspace, n uint64) {
	r.renew(n, v.head.Size)
	width := len(r.leaves)
	r.tile = v.tile(n, width)
	copy(r.leaves, r.tile)
	if width == chunk && r.tile != nil {
		r.root = new(merkle.Root(r.tile, 1))
	}
	r.diverged = r.tile == nil
	path := entriesPath(n)
	if !v.files.has(path) {
		r.missing = true
		v.absent(r, width)
		return
	}
	data, err := v.files.readInto(path, r.file)
	if err == nil {
		r.file = data
		var list [][]byte
		if list, err = lines(data, chunk); err == nil {
			v.align(r, w, list, width)
			return
		}
	}
	v.tally.fail(CheckEntry, at(r.start, path), "%v", err)
}

func (v *verifier) absent(r *chunkResult, width int) {
	end := r.start + uint64(width) //nolint:gosec // G115: at most 256
	if r.start >= v.to || end <= v.from {
		return
	}
	v.tally.fail(CheckRange, at(r.start, entriesPath(r.n)), "entries %d to %d are not in the bundle", r.start, end-1)
}

func (v *verifier) tile(n uint64, width int) []hash {
	path := tilePath(0, n, width)
	data, err := v.files.read(path)
	if err == nil && len(data) != width*merkle.HashSize {
		err = fmt.Errorf("%d bytes instead of %d", len(data), width*merkle.HashSize)
	}
	if err != nil {
		v.tally.fail(CheckTile, at(n*chunk, path), "%v", err)
		return nil
	}
	leaves := make([]hash, width)
	for i := range leaves {
		leaves[i] = hash(data[i*merkle.HashSize:])
	}
	return leaves
}

// align finds each line's place. A line that is not the leaf of its place but one further on means that entries were taken out.
func (v *verifier) align(r *chunkResult, w *workspace, list [][]byte, width int) {
	payloads := &w.payloads
	v.payloads(r, payloads)
	place := 0
	for _, line := range list {
		leaf := record.LeafHash(line)
		if r.tile != nil && place < width && r.tile[place] != leaf {
			if skip := ahead(r.tile[place:], leaf); skip > 0 {
				v.removed(r, place, place+skip)
				place += skip
			}
		}
		index := r.start + uint64(place)
		if place >= width {
			v.tally.fail(CheckEntry, at(index, entriesPath(r.n)), "a line more than the tree has leaves")
			return
		}
		if r.tile != nil && r.tile[place] != leaf {
			r.diverged = true
			r.bad = append(r.bad, mismatch{index: index, detail: "not the leaf that the tree holds"})
		}
		r.leaves[place] = leaf
		v.entry(r, index, line, payloads)
		place++
	}
	v.removed(r, place, width)
	for i := range payloads.lines {
		if payloads.lines[i].here {
			v.tally.fail(CheckPayload, at(r.start+uint64(i), payloadsPath(r.n)), "a payload that no entry commits to")
		}
	}
}

func ahead(tile []hash, leaf hash) int {
	for i := range tile {
		if tile[i] == leaf {
			return i
		}
	}
	return 0
}

func (v *verifier) removed(r *chunkResult, from, to int) {
	for i := from; i < to; i++ {
		v.tally.fail(CheckEntry, at(r.start+uint64(i), entriesPath(r.n)), "missing: the tree holds an entry here") //nolint:gosec // G115: at most 256
	}
}

// entry checks one line by itself.
func (v *verifier) entry(r *chunkResult, index uint64, line []byte, payloads *payloads) {
	view, err := record.Read(line)
	if err != nil {
		v.tally.fail(CheckEntry, at(index, entriesPath(r.n)), "%v", err)
		return
	}
	r.held++
	r.times[index-r.start] = view.Time
	mine := v.belongs(&view)
	if mine {
		r.chosen++
	}
	if mine && !r.cited[string(view.Policy)] && isHash(string(view.Policy)) {
		r.cited[string(view.Policy)] = true
	}
	if p := payloads.of(index); p.here && view.Type == record.TypeToken {
		env := view.Envelope()
		v.tally.check(CheckDelegation, at(index, payloadsPath(r.n)), claims(&env, p.payload))
	}
	if mine {
		v.payload(r, index, view.PayloadHash, payloads)
	} else {
		v.unasked(r, index, payloads)
	}
	if view.Type == record.TypeDecision {
		v.decision(r, index, line, &view)
		return
	}
	env := view.Envelope()
	if env.Type == record.TypeRedact {
		v.redact(r, index, env)
	}
	if env.Type == record.TypePrune {
		if f := v.pruning(r, index, env); f.prune != nil {
			r.facts = append(r.facts, f)
		}
		return
	}
	f, err := factOf(env)
	if err != nil {
		v.tally.fail(CheckEntry, at(index, entriesPath(r.n)), "%v", err)
		return
	}
	if f.kind != "" {
		f.index = index
		r.facts = append(r.facts, f)
	}
}

// decision is entry for a decision, of which there are the most.
func (v *verifier) decision(r *chunkResult, index uint64, line []byte, view *record.View) {
	d, allowed, err := decisionOf(view.Body)
	switch {
	case err != nil:
		v.tally.fail(CheckEntry, at(index, entriesPath(r.n)), "%v", err)
	case allowed:
		d.line = line
		r.facts = append(r.facts, fact{index: index, kind: view.Type, time: view.Time, decision: d})
	}
}

// factOf decodes the bodies that other checks build on. The zero fact means that none does.
func factOf(env record.Envelope) (f fact, err error) {
	f.kind, f.time = env.Type, env.Time
	switch env.Type {
	case record.TypeSeal:
		f.seal, err = record.DecodeBody[record.SealBody](env)
	case record.TypeDevice:
		var body record.DeviceBody
		body, err = record.DecodeBody[record.DeviceBody](env)
		if f.event = body.Event; aboutPCRs(body) {
			f.changed = &body
		}
	case record.TypeIssueFailed, record.TypeIssueUnknown:
		var body record.FailBody
		body, err = record.DecodeBody[record.FailBody](env)
		if err == nil {
			f.failed, err = parseHash(body.TBSHash)
		}
	case record.TypeTokenFailed:
		f.unsigned, err = unsignedOf(env)
	case record.TypeCeremony:
	case record.TypeRotation:
		var body record.RotationBody
		body, err = record.DecodeBody[record.RotationBody](env)
		f.rotation = &body
	case record.TypeAct:
		var body record.Act
		body, err = record.DecodeBody[record.Act](env)
		f.act = &body
	case record.TypeRevoke:
		f.revoke, err = revokeOf(env)
	case record.TypeAlarm:
		if aboutWitnesses(env) {
			return fact{}, checkWitnessAlarm(env)
		}
		f.alarm, err = alarmOf(env)
	default:
		return f.resting(env)
	}
	return f, err
}

// resting decodes what must rest on nothing that was revoked.
func (f fact) resting(env record.Envelope) (_ fact, err error) {
	switch env.Type {
	case record.TypeIssue:
		err = f.readIssue(&env)
	case record.TypeGrant:
		err = f.readGrant(&env)
	case record.TypeTask:
		f.rests, f.unnamed = standingOf(&env, nil)
	case record.TypeEnrollment:
		err = f.readEnrollment(&env)
	case record.TypeToken:
		err = f.readToken(&env)
	default:
		return fact{}, nil
	}
	return f, err
}

// take does what needs the chunks in order.
func (v *verifier) take(r *chunkResult) {
	v.held, v.chosen = v.held+r.held, v.chosen+r.chosen
	if r.missing && v.gap == nil {
		v.gap = new(r.start)
	}
	tile := r.tile
	if tile == nil {
		tile = r.leaves
	}
	if r.diverged && v.byEntry == nil {
		v.byEntry = v.byTile.clone()
	}
	if v.byEntry != nil {
		v.byEntry.append(r.leaves, nil)
	}
	v.turned(r, tile)
	v.byTile.append(tile, r.root)
	if room := MaxFindings - len(v.bad); room > 0 {
		v.bad = append(v.bad, r.bad[:min(room, len(r.bad))]...)
	}
	v.badTotal += uint64(len(r.bad))
	v.tally.pass(CheckEntry, r.held)
	v.tally.pass(CheckPayload, r.paid)
	v.times(r)
	if r.start+uint64(len(r.leaves)) > v.from && r.start < v.to {
		maps.Copy(v.cited, r.cited)
	}
	for i := range r.facts {
		v.note(&r.facts[i])
	}
	v.tally.pass(CheckRevocation, v.stood)
	v.stood = 0
}
