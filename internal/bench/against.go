package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

// rounds of a comparison: the machine changes from one minute to the next, so both servers take short turns.
const rounds = 10

// contender is one of two servers that are compared.
type contender struct {
	name   string
	server *child
	world  *world
}

// compare prints what a spawn costs two builds of signetd that run at the same time and are asked in turn.
func (b *bench) compare(ctx context.Context) (err error) {
	ours, err := b.build(ctx)
	if err != nil {
		return err
	}
	theirs, err := filepath.Abs(b.against)
	if err != nil {
		return err
	}
	pair := make([]contender, 0, 2)
	defer func() {
		for _, c := range pair {
			err = joined(err, c.server.stop())
		}
	}()
	for _, c := range [][2]string{{"this", ours}, {"other", theirs}} {
		c, err := b.contend(ctx, c[0], c[1])
		if err != nil {
			return err
		}
		pair = append(pair, c)
	}
	fmt.Printf("\n| what | callers | CPU µs each, this | other | this / other (least–most of %d rounds) | p99, this / other |\n|---|--:|--:|--:|--:|--:|\n", rounds)
	var total [2]time.Duration
	for _, kind := range spawnKinds {
		for _, l := range loads {
			if kind.http2 && l.callers != 8 {
				continue
			}
			if err := b.compareRow(ctx, pair, kind, l.callers, max(l.spawns*3/rounds/b.scale, l.callers), &total); err != nil {
				return err
			}
		}
	}
	_, err = fmt.Printf("| all | | | | %.3f | |\n\n%s.\n", ratio(total[0], total[1]), machine())
	return err
}

func (b *bench) contend(ctx context.Context, name, program string) (contender, error) {
	dir := filepath.Join(b.tmp, name)
	server, err := startChild(ctx, dir+".log", program, "dev", "--dir", dir, "--listen", "127.0.0.1:0")
	if err != nil {
		return contender{}, err
	}
	w, err := newWorld(ctx, server.url, dir)
	if err != nil {
		return contender{}, joined(fmt.Errorf("prepare: %w", err), server.stop())
	}
	return contender{name: name, server: server, world: w}, nil
}

// compareRow runs n spawns at a time against one and the other. total adds up their CPU.
func (b *bench) compareRow(ctx context.Context, pair []contender, kind spawnKind, callers, n int, total *[2]time.Duration) error {
	var cpu [2][]time.Duration
	var late [2][]time.Duration
	runs := make([]func(int) (sample, error), len(pair))
	for i, c := range pair {
		run, done := spawner(ctx, c.server, c.world, kind, callers)
		defer done()
		runs[i] = run
		if _, err := run(10 * callers); err != nil {
			return err
		}
	}
	for r := range rounds {
		for k := range pair {
			i := (r + k) % len(pair) // who begins changes
			s, err := runs[i](n)
			if err != nil {
				return err
			}
			cpu[i], late[i] = append(cpu[i], s.cost()), append(late[i], s.percentile(0.99))
			total[i] += s.cpu
		}
	}
	ratios := make([]float64, rounds)
	for r := range rounds {
		ratios[r] = ratio(cpu[0][r], cpu[1][r])
	}
	fmt.Printf("| %s | %d | %d | %d | %.2f (%.2f–%.2f) | %.2f |\n", kind.name, callers, mean(cpu[0]).Microseconds(), mean(cpu[1]).Microseconds(),
		ratio(mean(cpu[0]), mean(cpu[1])), slices.Min(ratios), slices.Max(ratios), ratio(mean(late[0]), mean(late[1])))
	return nil
}

func mean(l []time.Duration) time.Duration {
	var sum time.Duration
	for _, d := range l {
		sum += d
	}
	return sum / time.Duration(len(l))
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }
