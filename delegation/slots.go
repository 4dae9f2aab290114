package delegation

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/signet-pki/signet/audit/record"
)

// slots bounds the agents of a task: each takes one of a fixed number of keys in the transaction of its entry. What is
// in memory only says which key to try; two requests that try the same one are told apart at commit.
type slots struct {
	log  Log
	most int

	mu    sync.Mutex
	tasks *cache[string, *taskSlots]
}

// taskSlots are the free numbers of one task: some below next, and all from there on.
type taskSlots struct {
	mu     sync.Mutex
	loaded bool
	next   int
	free   []int
}

// errSlotTaken makes a request look again which slots are free.
var errSlotTaken = refuse(Conflict, "agent_slot_taken", "", "another agent took this place; retry")

// slotTries bounds how often one request looks again.
const slotTries = 3

func newSlots(log Log, most int) *slots {
	return &slots{log: log, most: most, tasks: newCache[string, *taskSlots](8192)}
}

// withSlot runs do with a place for one more agent of the task. A place that was not used is free again.
func (s *Service) withSlot(ctx context.Context, task string, expires time.Time, do func(place record.Mutation) error) error {
	var err error
	for range slotTries {
		var n int
		if n, err = s.slots.take(ctx, task); err != nil {
			return err
		}
		err = do(create(slotKey(task, n), nil, expires, errSlotTaken))
		if err == nil {
			return nil
		}
		switch AsError(err).Code {
		case errSlotTaken.Code:
			s.slots.forget(task)
			continue
		case codeSigning, codeUnknown:
			return err
		}
		s.slots.give(task, n)
		return err
	}
	return err
}

func slotKey(task string, n int) string { return fmt.Sprintf("%s%s/%08d", keySlot, task, n) }

func (s *slots) of(task string) *taskSlots {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tasks.get(task)
	if !ok {
		t = &taskSlots{}
		s.tasks.put(task, t)
	}
	return t
}

func (s *slots) take(ctx context.Context, task string) (int, error) {
	t := s.of(task)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.load(ctx, s.log, task); err != nil {
		return 0, internal("read the task's agents", err)
	}
	if n := len(t.free); n > 0 {
		out := t.free[n-1]
		t.free = t.free[:n-1]
		return out, nil
	}
	if t.next >= s.most {
		return 0, refuse(Forbidden, "too_many_agents", "task_id", "the task has as many agents as one may have")
	}
	t.next++
	return t.next - 1, nil
}

// load finds the places that are taken, in the order of their numbers.
func (t *taskSlots) load(ctx context.Context, log Log, task string) error {
	if t.loaded {
		return nil
	}
	t.next, t.free = 0, nil
	prefix := keySlot + task + "/"
	after := ""
	for {
		n := 0
		err := log.Scan(ctx, prefix, after, 1000, func(key string, _ []byte) error {
			n, after = n+1, key
			number, err := strconv.Atoi(strings.TrimPrefix(key, prefix))
			if err != nil {
				return fmt.Errorf("delegation: state %q: %w", key, err)
			}
			for ; t.next < number; t.next++ {
				t.free = append(t.free, t.next)
			}
			t.next = number + 1
			return nil
		})
		if err != nil {
			return err
		}
		if n < 1000 {
			break
		}
	}
	t.loaded = true
	return nil
}

func (s *slots) give(task string, n int) {
	t := s.of(task)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.loaded && n < t.next && !slices.Contains(t.free, n) {
		t.free = append(t.free, n)
	}
}

func (s *slots) forget(task string) {
	t := s.of(task)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.loaded = false
}
