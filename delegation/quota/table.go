package quota

import (
	"hash/maphash"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// The bounds of a table: some hundred bytes a bucket, so a few MiB, and how many buckets are looked at to make room.
const (
	shards   = 64
	perShard = 512
	looks    = 32
)

// table holds the buckets of one quota. Callers meet at a lock only if their keys share a shard and one of them is new.
type table struct {
	name   Name
	limit  Limit
	most   int          // buckets in a shard
	seed   maphash.Seed // secret, so that nobody can choose names that share a shard
	shards [shards]shard
}

type shard struct {
	mu      sync.RWMutex
	buckets map[string]*bucket
}

// bucket is one caller's. mu is held while several buckets are looked at together.
type bucket struct {
	mu     sync.Mutex
	now    time.Time // the latest that it was asked at
	tokens *rate.Limiter
}

// reach never goes back: callers read the clock before they wait for mu, and a rate.Limiter would fill up anew for each
// step back and forth.
func (b *bucket) reach(now time.Time) {
	if now.After(b.now) {
		b.now = now
	}
}

func newTable(name Name, l Limit, most int) *table {
	t := &table{name: name, limit: l, most: most, seed: maphash.MakeSeed()}
	for i := range t.shards {
		t.shards[i].buckets = make(map[string]*bucket)
	}
	return t
}

// of gives the bucket of key, nil where nothing is counted.
func (t *table) of(key string, now time.Time) *bucket {
	if t.limit.Unlimited {
		return nil
	}
	s := &t.shards[maphash.String(t.seed, key)%shards]
	s.mu.RLock()
	b := s.buckets[key]
	s.mu.RUnlock()
	if b != nil {
		return b
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b = s.buckets[key]; b != nil {
		return b
	}
	if len(s.buckets) >= t.most {
		s.evict(now, float64(t.limit.Burst))
	}
	b = &bucket{tokens: rate.NewLimiter(rate.Limit(t.limit.Rate), t.limit.Burst)}
	s.buckets[key] = b
	return b
}

// evict makes room among some buckets, which the map's order chooses. A full one says nothing, so all of these go. Where
// none is full the fullest goes: its owner gets back what was taken from it, which is the least that anybody can be given.
func (s *shard) evict(now time.Time, full float64) {
	fullest, most := "", math.Inf(-1)
	looked, gone := 0, false
	for key, b := range s.buckets {
		tokens := b.tokens.TokensAt(now)
		if tokens >= full {
			delete(s.buckets, key)
			gone = true
		} else if tokens > most {
			fullest, most = key, tokens
		}
		if looked++; looked == looks {
			break
		}
	}
	if !gone {
		delete(s.buckets, fullest)
	}
}

func (t *table) state(b *bucket) State {
	tokens := max(0, b.tokens.TokensAt(b.now))
	left := math.Floor(tokens)
	return State{Name: t.name, Limit: t.limit, Left: int(left), Next: seconds((left + 1 - tokens) / t.limit.Rate)}
}
