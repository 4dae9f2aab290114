package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/record"
)

// fact is a figure that is no rate.
type fact struct{ what, at, measured, aim string }

func printFacts(w io.Writer, all []fact) {
	if len(all) == 0 {
		return
	}
	_, _ = fmt.Fprint(w, "\n| what | at | measured (min–max) | aim |\n|---|--:|--:|--:|\n")
	for _, f := range all {
		_, _ = fmt.Fprintf(w, "| %s | %s | %s | %s |\n", f.what, f.at, f.measured, f.aim)
	}
}

// history is a long log that a child fills, and that this process opens.
type history struct {
	*bench
	dir string
	cfg audit.Config
}

// historyRows are what grows with a log, or should not: its start, its place on the disk, the memory of an export.
func (b *bench) historyRows(ctx context.Context) (err error) {
	h := history{bench: b, dir: filepath.Join(b.tmp, "history"), cfg: b.logConfig("history")}
	if err := writeKey(h.dir+".key", b.floors.key); err != nil {
		return err
	}
	for _, entries := range []int{100_000, 1_000_000} {
		if err := h.at(ctx, entries/b.scale); err != nil {
			return err
		}
	}
	return os.RemoveAll(h.dir)
}

// at measures a log of that many entries.
func (h *history) at(ctx context.Context, entries int) error {
	at := fmt.Sprintf("%d entries", entries)
	var killed, clean, cold []time.Duration
	for i := range h.runs {
		// What the memory holds that is not in a table yet is replayed.
		if err := h.fill(ctx, entries-(h.runs-1-i)*20_000/h.scale); err != nil {
			return err
		}
		if err := h.start(ctx, &killed); err != nil {
			return err
		}
	}
	for range h.runs {
		if err := h.start(ctx, &clean); err != nil {
			return err
		}
	}
	for range h.runs {
		if err := forget(filepath.Join(h.dir, "db")); err != nil {
			return err
		}
		if err := h.start(ctx, &cold); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		what, aim string
		took      []time.Duration
	}{{"Start of the log", "≤ 2 s", clean}, {"Start of the log after a kill", "", killed}, {"Start of the log, no file in memory", "", cold}} {
		h.facts = append(h.facts, fact{f.what, at, seconds(f.took), f.aim})
	}
	return h.export(ctx, at)
}

func seconds(took []time.Duration) string {
	samples := make([]sample, len(took))
	for i, d := range took {
		samples[i].wall = d
	}
	s := medianOf(samples, func(s sample) float64 { return s.wall.Seconds() })
	return fmt.Sprintf("%.2f s (%.2f–%.2f)", s.mid, s.low, s.high)
}

// start opens the log and notes how long that takes until it may be written to.
func (h *history) start(ctx context.Context, took *[]time.Duration) error {
	var err error
	if h.cfg.Quoter, err = openKept(h.dir + ".tpm"); err != nil {
		return err
	}
	started := time.Now()
	l, err := audit.Open(ctx, h.cfg)
	if err != nil {
		return err
	}
	*took = append(*took, time.Since(started))
	if st := l.Status(); !st.Writable {
		err = fmt.Errorf("the log is read-only: %v", st.Reasons)
	}
	return errors.Join(err, l.Close())
}

// forget has the kernel drop what it holds of the files in dir.
func forget(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		if err := errors.Join(unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// export writes a bundle of the whole log to nowhere, and notes the most that the heap held meanwhile.
func (h *history) export(ctx context.Context, at string) error {
	l, err := audit.Open(ctx, h.cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	head, _, ok := l.LastSeal()
	if !ok {
		return errors.New("the log has no seal")
	}
	debug.FreeOSMemory()
	m := watchHeap()
	src := &counted{Log: l}
	tar := bundle.NewTar(io.Discard)
	started := time.Now()
	err = errors.Join(bundle.Write(ctx, tar, src, bundle.WriteOptions{Head: head, Attachments: certificates{}}), tar.Close())
	most := m.stop()
	if err != nil {
		return err
	}
	disk, err := onDisk(filepath.Join(h.dir, "db"))
	if err != nil {
		return err
	}
	progress("%s: %d MB handed in, exported in %s", at, src.bytes>>20, time.Since(started).Round(time.Second))
	h.facts = append(h.facts,
		fact{"Store on disk, over envelopes, salts and payloads", at, fmt.Sprintf("%.2f of %d MB", float64(disk)/float64(src.bytes), src.bytes>>20), "≤ 2.5"},
		fact{"Heap while a bundle is exported, at most", at, fmt.Sprintf("%d MB", most>>20), "flat"})
	return err
}

// counted adds up what the log was handed.
type counted struct {
	*audit.Log
	bytes int64
}

// Entries is the log's.
func (c *counted) Entries(ctx context.Context, from, to uint64, fn func(record.Stored) error) error {
	return c.Log.Entries(ctx, from, to, func(e record.Stored) error {
		c.bytes += int64(len(e.Envelope) + len(e.Salt) + len(e.Payload))
		return fn(e)
	})
}

// certificates stand beside issuances in the bundle: one file each.
type certificates struct{}

// Certificate is as long as an agent's.
func (certificates) Certificate(context.Context, uint64) ([]byte, error) {
	return make([]byte, 2200), nil
}

// Delegation is as long as one of a few hops.
func (certificates) Delegation(context.Context, uint64) (jws, link string, err error) {
	return string(make([]byte, 700)), "", nil
}

// Evidence is none.
func (certificates) Evidence(context.Context, string) ([]byte, error) { return nil, nil }

// Policy is none.
func (certificates) Policy(context.Context, string) ([]byte, error) { return nil, nil }

// heapWatch samples the heap until it is stopped.
type heapWatch struct{ stopped, most chan uint64 }

func watchHeap() heapWatch {
	w := heapWatch{make(chan uint64), make(chan uint64)}
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		read := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}}
		var most uint64
		for {
			metrics.Read(read)
			most = max(most, read[0].Value.Uint64()+read[1].Value.Uint64())
			select {
			case <-tick.C:
			case <-w.stopped:
				w.most <- most
				return
			}
		}
	}()
	return w
}

func (w heapWatch) stop() uint64 {
	close(w.stopped)
	return <-w.most
}
