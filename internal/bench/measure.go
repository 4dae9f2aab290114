package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// sample is one run of one row.
type sample struct {
	ops       int
	late      int           // of these, how many policy refused because it ran out of time
	wall, cpu time.Duration // cpu of the process that is measured
	latency   []time.Duration
	others    float64 // share of the machine that processes of others had, 0 to 1
}

func (s sample) rate() float64 { return float64(s.ops) / s.wall.Seconds() }

func (s sample) cost() time.Duration { return s.cpu / time.Duration(s.ops) }

// percentile needs latency sorted.
func (s sample) percentile(p float64) time.Duration {
	if len(s.latency) == 0 {
		return 0
	}
	return s.latency[min(int(p*float64(len(s.latency))), len(s.latency)-1)]
}

// process is whose CPU time is measured: this one, or a child.
type process interface{ cpu() (time.Duration, error) }

// self is this process.
type self struct{}

func (self) cpu() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// tick is the unit of /proc: USER_HZ is 100 on every Linux.
const tick = 10 * time.Millisecond

// pid is another process.
type pid int

// cpu is user and system time of all threads, living and gone (proc(5): fields 14 and 15).
func (p pid) cpu() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", int(p)))
	if err != nil {
		return 0, err
	}
	text := string(b)
	// The name may hold anything; it ends at the last parenthesis.
	f := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields", int(p), len(f))
	}
	return ticks(f[11]) + ticks(f[12]), nil
}

func ticks(s string) time.Duration {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0
	}
	return time.Duration(n) * tick
}

// busy is the time that all processors together spent working, and the time that passed on them.
func busy() (working, total time.Duration) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	for i, f := range strings.Fields(line)[1:] {
		if i >= 8 { // guest time is part of user time
			break
		}
		total += ticks(f)
		if i != 3 && i != 4 { // idle, iowait
			working += ticks(f)
		}
	}
	return working, total
}

// errLate is a refusal because the policy's deadline passed: an answer, and counted, but not the one wanted.
var errLate = errors.New("policy_timeout")

// load runs do for each of ops operations on that many workers, each of which waits for its own.
func load(ctx context.Context, workers, ops int, of process, do func(ctx context.Context, worker, op int) error) (sample, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := sample{ops: ops, latency: make([]time.Duration, ops)}
	runtime.GC()
	m, err := begin(of)
	if err != nil {
		return s, err
	}
	var next, late atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				op := int(next.Add(1)) - 1
				if op >= ops {
					return
				}
				t := time.Now()
				if err := do(ctx, w, op); errors.Is(err, errLate) {
					late.Add(1)
				} else if err != nil {
					cancel(fmt.Errorf("operation %d: %w", op, err))
				}
				s.latency[op] = time.Since(t)
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return s, err
	}
	s.late = int(late.Load())
	slices.Sort(s.latency)
	return s, m.end(&s)
}

// meter is a measurement under way.
type meter struct {
	of             process
	cpu, own       time.Duration
	working, total time.Duration
	started        time.Time
}

func begin(of process) (m meter, err error) {
	m.of = of
	if m.own, err = (self{}).cpu(); err != nil {
		return m, err
	}
	m.working, m.total = busy()
	m.started = time.Now()
	m.cpu, err = of.cpu()
	return m, err
}

func (m meter) end(s *sample) error {
	s.wall = time.Since(m.started)
	cpu, err := m.of.cpu()
	if err != nil {
		return err
	}
	own, err := (self{}).cpu()
	if err != nil {
		return err
	}
	working, total := busy()
	s.cpu = cpu - m.cpu
	ours := own - m.own
	if _, same := m.of.(self); !same {
		ours += s.cpu
	}
	if passed := total - m.total; passed > 0 {
		s.others = max(0, float64(working-m.working-ours)/float64(passed))
	}
	return nil
}

// repeat takes a row's runs; prepare makes what one run uses up.
func (b *bench) repeat(what string, run func() (sample, error)) ([]sample, error) {
	var out []sample
	for range b.runs {
		s, err := run()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		out = append(out, s)
	}
	progress("%-60s %9.0f/s", what, medianOf(out, sample.rate).mid)
	return out, nil
}

// spread is the median of several runs, with the least and the most.
type spread struct{ mid, low, high float64 }

func medianOf(samples []sample, of func(sample) float64) spread {
	v := make([]float64, len(samples))
	for i, s := range samples {
		v[i] = of(s)
	}
	slices.Sort(v)
	return spread{v[len(v)/2], v[0], v[len(v)-1]}
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	one, _, _ := strings.Cut(string(b), " ")
	return one
}

func machine() string {
	name := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.SplitSeq(string(b), "\n") {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				name = strings.TrimSpace(v)
				break
			}
		}
	}
	return fmt.Sprintf("%d × %s, %s", runtime.NumCPU(), name, runtime.Version())
}
