package main

import (
	"fmt"
	"io"
	"time"
)

// row is one line of the table.
type row struct {
	what    string
	at      string // how many callers, or what else tells rows of one kind apart
	samples []sample
	floor   floor
}

// floor is the least that an operation could cost on this machine.
type floor struct {
	name string
	// cost is what the row's own figure is divided by: CPU time of an operation, or with wall the time that passes.
	cost time.Duration
	wall bool
}

type table struct{ rows []row }

func (t *table) add(r row) { t.rows = append(t.rows, r) }

func (t *table) print(w io.Writer) {
	_, _ = fmt.Fprint(w, "\n| what | callers | per second (min–max) | p50 ms | p99 ms | CPU µs each (min–max) | late | floor | × floor | other processes |\n",
		"|---|--:|--:|--:|--:|--:|--:|---|--:|--:|\n")
	for _, r := range t.rows {
		_, _ = fmt.Fprintln(w, r)
	}
}

// String is the row in Markdown.
func (r row) String() string {
	rate := medianOf(r.samples, sample.rate)
	cpu := medianOf(r.samples, func(s sample) float64 { return micros(s.cost()) })
	at := func(p float64) string {
		ms := medianOf(r.samples, func(s sample) float64 { return micros(s.percentile(p)) / 1000 }).mid
		if ms == 0 {
			return "–"
		}
		return fmt.Sprintf("%.2f", ms)
	}
	late := 0
	for _, s := range r.samples {
		late += s.late
	}
	own, unit := cpu.mid, "µs CPU"
	if r.floor.wall {
		own, unit = 1e6/rate.mid, "µs"
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %d | %s: %s %s | %.1f | %.0f %% |", r.what, r.at, rate, at(0.5), at(0.99), cpu, late,
		r.floor.name, digits(micros(r.floor.cost)), unit, own/micros(r.floor.cost), 100*medianOf(r.samples, func(s sample) float64 { return s.others }).mid)
}

func (s spread) String() string {
	return fmt.Sprintf("%s (%s–%s)", digits(s.mid), digits(s.low), digits(s.high))
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// digits is a number with as many digits as it deserves.
func digits(v float64) string {
	if v < 10 {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}
