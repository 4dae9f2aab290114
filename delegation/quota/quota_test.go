package quota

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func limits(change func(*Limits)) Limits {
	none := Limit{Unlimited: true}
	l := Limits{none, none, none, none}
	change(&l)
	return l
}

// exceeded is what refused a request, nil if nothing did.
func exceeded(t *testing.T, err error) *Exceeded {
	t.Helper()
	var e *Exceeded
	if err != nil && !errors.As(err, &e) {
		t.Fatal(err)
	}
	return e
}

// Each quota alone: so much at once, then what the rate gives, and nobody pays for another.
func TestEachQuotaAlone(t *testing.T) {
	small := Limit{Rate: 2, Burst: 3}
	for name, c := range map[Name]struct {
		set  func(*Limits)
		uses func(key string) Uses
	}{
		Task:         {func(l *Limits) { l.Task = small }, func(k string) Uses { return Uses{Task: k, User: "u", Orchestrator: "o"} }},
		User:         {func(l *Limits) { l.User = small }, func(k string) Uses { return Uses{Task: "t", User: k, Orchestrator: "o"} }},
		Orchestrator: {func(l *Limits) { l.Orchestrator = small }, func(k string) Uses { return Uses{Orchestrator: k} }},
		Service:      {func(l *Limits) { l.Service = small }, func(k string) Uses { return Uses{Service: k} }},
	} {
		t.Run(string(name), func(t *testing.T) {
			q := New(limits(c.set))
			now := start
			take := func(key string) *Exceeded { return exceeded(t, q.Take(t.Context(), now, c.uses(key))) }
			for i := range 3 {
				if e := take("a"); e != nil {
					t.Fatalf("request %d: %v", i, e)
				}
			}
			e := take("a")
			if e == nil || e.State != (State{Name: name, Limit: small, Left: 0, Next: 1}) {
				t.Fatalf("the fourth: %+v", e)
			}
			if take("b") != nil {
				t.Error("another pays for it")
			}
			now = now.Add(500*time.Millisecond - 1)
			if take("a") == nil {
				t.Error("a unit comes too soon")
			}
			now = now.Add(1)
			if take("a") != nil || take("a") == nil {
				t.Error("half a second is not one unit")
			}
			now = now.Add(time.Hour)
			for range 3 {
				if take("a") != nil {
					t.Error("not full again")
				}
			}
			if take("a") == nil {
				t.Error("more than full")
			}
		})
	}
}

// A request that one quota refuses costs nothing at the others, and the one that is empty the longest is named.
func TestAllOrNone(t *testing.T) {
	q := New(limits(func(l *Limits) {
		l.Task, l.User, l.Orchestrator = Limit{Rate: 1, Burst: 1}, Limit{Rate: 0.1, Burst: 2}, Limit{Rate: 1, Burst: 3}
	}))
	u := Uses{Task: "t", User: "u", Orchestrator: "o"}
	if err := q.Take(t.Context(), start, u); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if e := exceeded(t, q.Take(t.Context(), start, u)); e == nil || e.Name != Task || e.Error() != `the quota "task" is used up` {
			t.Fatalf("%+v", e)
		}
	}
	u.Task = "another"
	if err := q.Take(t.Context(), start, u); err != nil {
		t.Errorf("refusals cost something: %v", err)
	}
	if e := exceeded(t, q.Take(t.Context(), start, u)); e == nil || e.Name != User || e.Next != 10 {
		t.Errorf("of task and user: %+v", e)
	}
	if err := q.Take(t.Context(), start, Uses{Orchestrator: "o"}); err != nil {
		t.Error(err)
	}
	if e := exceeded(t, q.Take(t.Context(), start, Uses{Orchestrator: "o"})); e == nil || e.Name != Orchestrator {
		t.Errorf("%+v", e)
	}
}

// A caller that read the clock earlier and comes later gains nothing.
func TestTimeNeverGoesBack(t *testing.T) {
	q := New(limits(func(l *Limits) { l.Service = Limit{Rate: 1, Burst: 5} }))
	taken := 0
	for i := range 100 {
		if q.Take(t.Context(), start.Add(-time.Duration(i%2)*time.Second), Uses{Service: "s"}) == nil {
			taken++
		}
	}
	if taken != 5 {
		t.Errorf("%d of 5 units", taken)
	}
}

// The Meter sees the caller's own quota alone, the tightest of several, and whatever refused.
func TestMeter(t *testing.T) {
	q := New(limits(func(l *Limits) {
		l.Task, l.User, l.Orchestrator = Limit{Rate: 1, Burst: 5}, Limit{Rate: 1, Burst: 4}, Limit{Rate: 1, Burst: 4}
	}))
	seen := func(m *Meter) string {
		s, ok := m.Tightest()
		if !ok {
			return "nothing"
		}
		return fmt.Sprintf("%s %d", s.Name, s.Left)
	}
	expect := func(m *Meter, want string) {
		t.Helper()
		if got := seen(m); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	take := func(ctx context.Context, u Uses) { _ = q.Take(ctx, start, u) }
	ctx, m := Watch(t.Context())
	expect(m, "nothing")
	take(ctx, Uses{User: "u"}) // 3 left
	expect(m, "nothing")
	take(ctx, Uses{Task: "t", User: "u", Orchestrator: "o"}) // 4, 2 and 3 left
	expect(m, "task 4")
	take(ctx, Uses{Orchestrator: "o"}) // 2 left
	expect(m, "orchestrator 2")
	take(ctx, Uses{Task: "t"}) // 3 left
	expect(m, "orchestrator 2")
	take(ctx, Uses{Task: "t", User: "u"})
	take(ctx, Uses{Task: "t", User: "u"}) // user: 0 left
	expect(m, "task 1")
	take(ctx, Uses{Task: "t", User: "u"})
	expect(m, "user 0")
	take(t.Context(), Uses{Task: "t"}) // nobody watches
}

// small gives one quota with few places.
func small(places int) (*Quotas, *table) {
	q := New(limits(func(l *Limits) { l.Task = Limit{Rate: 1, Burst: 3} }))
	q.tables[0] = newTable(Task, q.tables[0].limit, places)
	return q, q.tables[0]
}

func (t *table) size() (n int) {
	for i := range t.shards {
		n += len(t.shards[i].buckets)
	}
	return n
}

// A table is bounded. Full buckets go first, and lose nothing: a new one is full too.
func TestTableIsBounded(t *testing.T) {
	const places = 8
	q, tasks := small(places)
	take := func(key string, at time.Time) bool { return q.Take(t.Context(), at, Uses{Task: key}) == nil }
	for i := range 40 * shards {
		if !take(strconv.Itoa(i), start) {
			t.Fatal("a new task is refused")
		}
	}
	if n := tasks.size(); n != shards*places {
		t.Fatalf("%d buckets, want %d", n, shards*places)
	}
	full := start.Add(2 * time.Second)
	if !take("one more", full) {
		t.Fatal("a new task is refused")
	}
	if n := tasks.size(); n != shards*places-places+1 {
		t.Errorf("%d buckets: those of its shard are full again and should have gone", n)
	}
}

// Where no bucket is full, the emptiest outlive the others.
func TestTheFullestGoes(t *testing.T) {
	q, _ := small(looks)
	take := func(key string) bool { return q.Take(t.Context(), start, Uses{Task: key}) == nil }
	for range 3 {
		take("greedy")
	}
	for i := range 4 * looks * shards {
		if !take(strconv.Itoa(i)) {
			t.Fatal("a new task is refused")
		}
	}
	if take("greedy") {
		t.Error("the greedy one was forgotten before others")
	}
}

// Many at once get exactly what there is, and what one quota refuses is still there in the others.
func TestConcurrentUse(t *testing.T) {
	q := New(limits(func(l *Limits) {
		l.Task, l.User, l.Orchestrator = Limit{Rate: 1e-3, Burst: 50}, Limit{Rate: 1e-3, Burst: 80}, Limit{Rate: 1e-3, Burst: 60}
	}))
	var passed [2]atomic.Int64
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 100 {
				if q.Take(t.Context(), start, Uses{Task: strconv.Itoa(i % 2), User: "u", Orchestrator: "o"}) == nil {
					passed[i%2].Add(1)
				}
			}
		})
	}
	all.Wait()
	if a, b := passed[0].Load(), passed[1].Load(); a > 50 || b > 50 || a+b != 60 {
		t.Errorf("%d and %d passed; the orchestrator's 60 in all, 50 of a task", a, b)
	}
	left := 0
	for q.Take(t.Context(), start, Uses{User: "u"}) == nil {
		left++
	}
	if left != 20 {
		t.Errorf("the user has %d left, want 20", left)
	}
}

func TestCheck(t *testing.T) {
	if err := Default().Check(); err != nil {
		t.Error(err)
	}
	for name, l := range map[string]Limit{
		"zero": {}, "no rate": {Burst: 1}, "no burst": {Rate: 1}, "negative": {Rate: -1, Burst: 1}, "negative burst": {Rate: 1, Burst: -1},
		"not a number": {Rate: math.NaN(), Burst: 1}, "infinite": {Rate: math.Inf(1), Burst: 1}, "too fast": {Rate: 2e6, Burst: 1},
		"too much": {Rate: 1e6, Burst: 1_000_001}, "for weeks": {Rate: 1e-3, Burst: 1000}, "both": {Rate: 1, Burst: 1, Unlimited: true},
	} {
		if l.Check() == nil {
			t.Errorf("%s: taken", name)
		}
		for i := range 4 {
			all := Default()
			*[]*Limit{&all.Task, &all.User, &all.Orchestrator, &all.Service}[i] = l
			if all.Check() == nil {
				t.Errorf("%s as the limit %d: taken", name, i)
			}
		}
	}
	if err := (Limit{Unlimited: true}).Check(); err != nil {
		t.Error(err)
	}
	for want, l := range map[int]Limit{10: {Rate: 1000, Burst: 10_000}, 1: {Rate: 100, Burst: 1}, 4: {Rate: 3, Burst: 10}} {
		if got := l.Window(); got != want {
			t.Errorf("%+v fills in %d s", l, got)
		}
	}
}

// BenchmarkTake is one request of an agent, which counts for three.
func BenchmarkTake(b *testing.B) {
	for name, keys := range map[string]int{"one caller": 1, "64 callers": 64} {
		b.Run(name, func(b *testing.B) {
			wide := Limit{Rate: maxRate, Burst: maxBurst}
			q := New(Limits{wide, wide, wide, wide})
			ctx, _ := Watch(b.Context())
			var next atomic.Int64
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				me := strconv.Itoa(int(next.Add(1)) % keys)
				now := time.Now()
				for pb.Next() {
					now = now.Add(time.Millisecond)
					if err := q.Take(ctx, now, Uses{Task: me, User: me, Orchestrator: me}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
