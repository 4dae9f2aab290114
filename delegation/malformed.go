package delegation

import (
	"context"
	"sync"
	"time"

	"github.com/signet-pki/signet/audit/record"
)

// aggregator lets a few refusals a minute through one by one and counts the rest by code: a flood of nonsense must not
// become a flood of durable writes.
type aggregator struct {
	mu     sync.Mutex
	burst  int
	minute int64
	used   int
	counts map[string]uint64
}

// maxCodes bounds the counters: codes are ours, so more than this means a mistake of ours.
const maxCodes = 256

func newAggregator(burst int) *aggregator {
	return &aggregator{burst: burst, counts: make(map[string]uint64)}
}

// admit says whether r gets an entry of its own; otherwise it is counted.
func (a *aggregator) admit(r Refusal, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if m := now.Unix() / 60; m != a.minute {
		a.minute, a.used = m, 0
	}
	if a.used < a.burst {
		a.used++
		return true
	}
	if _, ok := a.counts[r.Code]; ok || len(a.counts) < maxCodes {
		a.counts[r.Code]++
	}
	return false
}

// take empties the counters.
func (a *aggregator) take() map[string]uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := a.counts
	a.counts = make(map[string]uint64)
	return out
}

// flushMalformed writes one entry for each code that was counted.
func (s *Service) flushMalformed(ctx context.Context) error {
	for code, n := range s.malformed.take() {
		_, err := s.append(ctx, draft{
			env:  record.Envelope{Type: record.TypeMalformed, Code: code},
			body: record.MalformedBody{Operation: "aggregated", Count: n},
		})
		if err != nil {
			return err
		}
	}
	return nil
}
