package delegation

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/policy"
)

// reserved is how far the number in the log runs ahead. What was numbered and lost in a crash may have been seen by a
// follower of the feed: after a restart its number is not used again.
const reserved = 4 * maxEnding

// revocations is the set of all revoked things, in memory: an access decision asks it a handful of times. The list is
// in the order of sequence numbers. What nothing valid can name any more is dropped.
type revocations struct {
	// turn is held by whoever numbers, appends and publishes, so that a reader of the feed never sees a later one first.
	turn    chan struct{}
	queue   sync.Mutex
	waiting []*ending

	mu      sync.RWMutex
	set     map[string]Revocation
	list    []Revocation
	epoch   uint64
	newest  uint64        // number of the last one, dropped or not
	shown   uint64        // likewise of the last one that is published
	last    time.Time     // when that one was made
	ceiling uint64        // numbers up to here are spoken for in the log; 0 after a start, when none are
	changed chan struct{} // closed when the list grows
}

// loadRevocations reads the projection's revocations.
func loadRevocations(ctx context.Context, log Log, now time.Time) (*revocations, error) {
	r := &revocations{set: make(map[string]Revocation), epoch: 1, turn: make(chan struct{}, 1), changed: make(chan struct{})}
	head, known, err := load[feedState](log, keyFeed)
	if err != nil {
		return nil, err
	}
	if known {
		// No revocation that is loaded has a higher number: each was written together with a head above it.
		r.epoch, r.newest = head.Epoch, head.Seq
	}
	after := ""
	for {
		n := 0
		err := log.Scan(ctx, keyRevoked, after, 1000, func(key string, value []byte) error {
			n, after = n+1, key
			return r.read(key, value)
		})
		if err != nil {
			return nil, err
		}
		if n < 1000 {
			break
		}
	}
	slices.SortFunc(r.list, func(a, b Revocation) int { return cmp.Compare(a.Seq, b.Seq) })
	if n := len(r.list); n > 0 {
		r.last = r.list[n-1].Time
	}
	r.shown = r.newest
	r.drop(now)
	return r, nil
}

// read takes one stored revocation.
func (r *revocations) read(key string, value []byte) error {
	word, id, _ := strings.Cut(strings.TrimPrefix(key, keyRevoked), "/")
	kind, err := chain.ParseRevKind(word)
	if err != nil {
		return fmt.Errorf("delegation: state %q: %w", key, err)
	}
	var st revokedState
	if err := json.Unmarshal(value, &st); err != nil {
		return fmt.Errorf("delegation: state %q is unreadable: %w", key, err)
	}
	v := Revocation{Seq: st.Seq, Kind: kind, ID: id, Reason: st.Reason, Time: st.Time, Expires: st.Expires}
	r.set[key] = v
	r.list = append(r.list, v)
	return nil
}

// wait queues an ending for whoever has the turn.
func (r *revocations) wait(e *ending) {
	r.queue.Lock()
	defer r.queue.Unlock()
	r.waiting = append(r.waiting, e)
}

// take gives those that have waited longest.
func (r *revocations) take(limit int) []*ending {
	r.queue.Lock()
	defer r.queue.Unlock()
	n := min(limit, len(r.waiting))
	out := r.waiting[:n:n]
	r.waiting = slices.Clone(r.waiting[n:])
	return out
}

// unspoken gives the state that speaks for the first numbers after a start; ok is false once the log has it.
func (r *revocations) unspoken() (head feedState, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return feedState{Epoch: r.epoch, Seq: r.newest + reserved}, r.ceiling == 0
}

// spoken says that the log has it.
func (r *revocations) spoken(head feedState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ceiling = head.Seq
}

// reserve gives the first of n numbers. The caller has the turn. When the log has not answered for too long there are no
// more numbers: one more could be used twice.
func (r *revocations) reserve(n uint64) (epoch, first uint64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.newest+n > r.ceiling {
		return 0, 0, &Error{Kind: Unavailable, Code: "audit_unavailable", Detail: "the audit log has not said what became of earlier revocations"}
	}
	first = r.newest + 1
	r.newest += n
	return r.epoch, first, nil
}

// add publishes revocations, which come in the order of their numbers. written says that the log has taken their numbers.
func (r *revocations) add(written bool, all ...Revocation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if written {
		r.ceiling = r.newest + reserved
	}
	if len(all) == 0 {
		return
	}
	for _, v := range all {
		r.set[revKey(v.Kind, v.ID)] = v
	}
	r.list = append(r.list, all...)
	r.shown, r.last = r.newest, all[len(all)-1].Time
	close(r.changed)
	r.changed = make(chan struct{})
}

func isOver(expires, now time.Time) bool { return !expires.IsZero() && !now.Before(expires) }

// drop forgets what nothing valid can name any more.
func (r *revocations) drop(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	over := func(v Revocation) bool { return isOver(v.Expires, now) }
	if !slices.ContainsFunc(r.list, over) {
		return
	}
	// A new list: pages share the old one.
	kept := make([]Revocation, 0, len(r.list))
	for _, v := range r.list {
		if over(v) {
			delete(r.set, revKey(v.Kind, v.ID))
			continue
		}
		kept = append(kept, v)
	}
	r.list = kept
}

func (r *revocations) get(kind chain.RevKind, id string) (Revocation, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	v, ok := r.set[revKey(kind, id)]
	return v, ok
}

func (r *revocations) has(kind chain.RevKind, id string) bool {
	_, ok := r.get(kind, id)
	return ok
}

// page gives up to limit revocations behind a place. Without any, the place is the newest.
func (r *revocations) page(after Cursor, limit int) RevocationPage {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if after.Epoch != r.epoch {
		after.Seq = 0
	}
	i, _ := slices.BinarySearchFunc(r.list, after.Seq+1, func(v Revocation, seq uint64) int { return cmp.Compare(v.Seq, seq) })
	out := RevocationPage{Revocations: slices.Clip(r.list[i:min(i+limit, len(r.list))]), Next: Cursor{r.epoch, after.Seq}, Newest: r.shown, Changed: r.changed}
	if n := len(out.Revocations); n > 0 {
		out.Next.Seq = out.Revocations[n-1].Seq
	}
	return out
}

// current is the set as chain.Verify wants it: the appliance's own is complete at the moment that is verified for.
type current struct {
	*revocations
	at time.Time
}

// Revoked asks the set.
func (c current) Revoked(kind chain.RevKind, id string) bool { return c.has(kind, id) }

// FreshAt is that moment.
func (c current) FreshAt() time.Time { return c.at }

// view is what policy learns of the set: the appliance's own is complete at any moment.
func (r *revocations) view(now time.Time) policy.Revocation {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return policy.Revocation{AsOf: now, Epoch: r.epoch, Seq: r.shown, Changed: r.last}
}

// lineage gives the code of the first revoked part of a chain, "" when there is none.
func (r *revocations) lineage(d chain.Delegation) string {
	switch {
	case r.has(chain.RevUser, chain.UserID(d.Grant.Issuer, d.Grant.Subject)):
		return chain.CodeUserRevoked
	case r.has(chain.RevGrant, chain.FormatUUID(d.Grant.GrantID)):
		return chain.CodeGrantRevoked
	case r.has(chain.RevTask, chain.FormatUUID(d.TaskID)):
		return chain.CodeTaskRevoked
	}
	last := len(d.Hops) - 1
	for i, h := range d.Hops {
		id, err := chain.ParseID(h.ID)
		if err != nil {
			return chain.CodeHopID
		}
		switch {
		case i == 0 && r.has(chain.RevOrchestrator, id.Name()):
			return chain.CodeOrchestratorRevoked
		case i > 0 && r.has(chain.RevAgent, id.AgentID()):
			return chain.CodeAgentRevoked
		case i > 0 && i < last && r.has(chain.RevSubtree, id.AgentID()):
			return chain.CodeSubtreeRevoked
		}
	}
	return ""
}
