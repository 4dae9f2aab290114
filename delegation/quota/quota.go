// Package quota counts requests by whom they are for, and says when there were too many.
//
// Each orchestrator, user, task and service has a bucket of its own, of the size Burst, that fills with Rate units a second.
// A request takes one unit of each bucket that it counts for, or of none. Keys are identities that were authenticated and
// tasks that exist, never texts of a request; the number of buckets is bounded all the same. Nothing is kept over a restart.
//
// The package refuses and tells; it neither waits nor records. Its types are safe for concurrent use.
package quota

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// Name says which quota.
type Name string

// The quotas.
const (
	Task         Name = "task"
	User         Name = "user"
	Orchestrator Name = "orchestrator"
	Service      Name = "service"
)

// Limit is the size of one quota. The zero Limit is none: Check refuses it.
type Limit struct {
	Rate      float64 // units a second
	Burst     int     // units at once
	Unlimited bool    // nothing is counted; then the others are zero
}

// Bounds of a Limit. A bucket is full again within a day, so that what a client is told to wait has an end.
const (
	maxRate   = 1e6
	maxBurst  = 1_000_000
	maxWindow = 24 * 60 * 60
)

// Check says what is wrong with a Limit.
func (l Limit) Check() error {
	switch {
	case l.Unlimited && (l.Rate != 0 || l.Burst != 0):
		return errors.New("unlimited has neither rate nor burst")
	case l.Unlimited:
		return nil
	case !(l.Rate > 0 && l.Rate <= maxRate) || l.Burst < 1 || l.Burst > maxBurst:
		return fmt.Errorf("rate (above 0, up to %.0f a second) and burst (1 to %d) go together, or unlimited", maxRate, maxBurst)
	case float64(l.Burst)/l.Rate > maxWindow:
		return errors.New("at this rate the burst is not full again within a day")
	}
	return nil
}

// Window is the whole number of seconds in which the Rate fills an empty bucket.
func (l Limit) Window() int { return seconds(float64(l.Burst) / l.Rate) }

func seconds(s float64) int { return max(1, int(math.Ceil(s))) }

// Limits are the sizes of all quotas.
type Limits struct{ Task, User, Orchestrator, Service Limit }

// Default is far above what one honest caller asks for, and each is twice the one before: no task uses up its user's,
// and no user their orchestrator's.
func Default() Limits {
	return Limits{
		Task: Limit{Rate: 1000, Burst: 10_000}, User: Limit{Rate: 2000, Burst: 20_000},
		Orchestrator: Limit{Rate: 4000, Burst: 40_000}, Service: Limit{Rate: 5000, Burst: 50_000},
	}
}

// Check says what is wrong with any of them.
func (l Limits) Check() error {
	for _, q := range []struct {
		name  Name
		limit Limit
	}{{Task, l.Task}, {User, l.User}, {Orchestrator, l.Orchestrator}, {Service, l.Service}} {
		if err := q.limit.Check(); err != nil {
			return fmt.Errorf("quota: %s: %w", q.name, err)
		}
	}
	return nil
}

// Uses are what one request counts for; "" is not counted.
type Uses struct{ Task, User, Orchestrator, Service string }

// State is how much a caller has left.
type State struct {
	Name  Name
	Limit Limit
	Left  int // units that can be taken now
	Next  int // seconds, rounded up, until there is one more: who takes no more than Left within them is not refused
}

// Exceeded refuses a request. Its State has nothing left.
type Exceeded struct{ State } //nolint:errname // as the draft calls it: quota exceeded

// Error names the quota.
func (e *Exceeded) Error() string { return fmt.Sprintf("the quota %q is used up", e.Name) }

// Quotas are the buckets of everybody. Make them with New.
type Quotas struct{ tables [4]*table }

// New makes Quotas of checked limits, all full.
func New(l Limits) *Quotas {
	return &Quotas{[4]*table{
		newTable(Task, l.Task, perShard), newTable(User, l.User, perShard),
		newTable(Orchestrator, l.Orchestrator, perShard), newTable(Service, l.Service, perShard),
	}}
}

// Take counts one request for all of u, or refuses it with an *Exceeded and counts it for none. The Meter of ctx, if there is
// one, learns of the caller's own quota, or of the one that refused: what the rest has left depends on others, whose
// business it is.
func (q *Quotas) Take(ctx context.Context, now time.Time, u Uses) error {
	var held [len(q.tables)]*bucket
	for i, key := range [...]string{u.Task, u.User, u.Orchestrator, u.Service} {
		if key != "" {
			held[i] = q.tables[i].of(key, now)
		}
	}
	// All at once, in the order of the tables, so that no two requests wait for each other.
	for _, b := range held {
		if b != nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.reach(now)
		}
	}
	if e := q.exceeded(held); e != nil {
		note(ctx, e.State)
		return e
	}
	for _, b := range held {
		if b != nil {
			b.tokens.AllowN(b.now, 1)
		}
	}
	if i := u.own(); held[i] != nil {
		note(ctx, q.tables[i].state(held[i]))
	}
	return nil
}

// own is the place of the caller's own quota. A user's is never that: several orchestrators share it.
func (u Uses) own() int {
	switch {
	case u.Task != "":
		return 0
	case u.Orchestrator != "":
		return 2
	}
	return 3
}

// exceeded finds the bucket that is empty the longest.
func (q *Quotas) exceeded(held [4]*bucket) *Exceeded {
	var worst *Exceeded
	for i, b := range held {
		if b == nil || b.tokens.TokensAt(b.now) >= 1 {
			continue
		}
		if s := q.tables[i].state(b); worst == nil || s.Next > worst.Next {
			worst = &Exceeded{s}
		}
	}
	return worst
}
