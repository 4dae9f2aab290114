package audit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
)

// faultAcks is set for a child of the fault suite: how many entries it appends before it closes its log and ends.
const faultAcks = "SIGNET_AUDIT_FAULT_ACKS"

// TestFaultChild is no test of its own: the fault suite starts it, under strace.
func TestFaultChild(t *testing.T) {
	dir := os.Getenv(childDir)
	want, err := strconv.ParseInt(os.Getenv(faultAcks), 10, 64)
	if dir == "" || err != nil {
		return
	}
	cfg := childConfig(t, dir)
	l, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	var out sync.Mutex
	var acks atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for acks.Add(1) <= want {
				pos, err := l.Append(ctx, entry(t, time.Now(), record.TypeTask, "", map[string]string{"text": strings.Repeat("x", 2000)}))
				if err != nil {
					t.Log(err)
					return
				}
				out.Lock()
				fmt.Printf("ack %d %x\n", pos.Index, pos.LeafHash)
				out.Unlock()
			}
		})
	}
	wg.Wait()
	cancel()
	if err := errors.Join(<-ended, l.Close()); err != nil {
		t.Log(err)
	}
}

// fault is something that happens to the n-th call of a thread.
type fault struct {
	call, what string
	n          int
}

// noFault never comes.
var noFault = fault{"getpid", "error=EIO", 60_000}

func (f fault) String() string { return fmt.Sprintf("%s:%s:when=%d", f.call, f.what, f.n) }

// runFaulty runs a child with a fault, of calls about one file only if that is given, and returns what it acknowledged, and how
// often the fault came.
func runFaulty(t *testing.T, dir string, f fault, acks int, only ...string) (acked map[uint64]string, injected int) {
	t.Helper()
	trace := filepath.Join(t.TempDir(), "trace")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	args := []string{"-f", "-qq", "-o", trace, "-e", "trace=" + f.call, "-e", "inject=" + f.String()}
	for _, file := range only {
		args = append(args, "-P", file)
	}
	cmd := exec.CommandContext(ctx, "strace", append(args, os.Args[0], "-test.run=^TestFaultChild$", "-test.v")...) // #nosec G204 -- this test's own
	cmd.Env = append(os.Environ(), childDir+"="+dir, faultAcks+"="+strconv.Itoa(acks))
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatal("strace is missing: apt-get install strace")
	}
	if ctx.Err() != nil {
		t.Errorf("%s: the child hangs\n%s", f, out)
	}
	acked = map[uint64]string{}
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		var index uint64
		var leaf string
		if n, err := fmt.Sscanf(lines.Text(), "ack %d %s", &index, &leaf); n == 2 && err == nil && len(leaf) == 64 {
			acked[index] = leaf
		}
	}
	log, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	injected = bytes.Count(log, []byte("(INJECTED)")) + bytes.Count(log, []byte("killed by SIGKILL"))
	if f.what == "signal=SIGKILL" {
		injected = min(injected, 1)
	}
	return acked, injected
}

// faults are those of one kind of call: its first, and then more and more seldom ones, until a child ends without it.
func faults(t *testing.T, call, what string, each func(f fault) (injected int)) (total int) {
	t.Helper()
	for n, missed := 1, 0; n <= 200 && missed < 2; n += 1 + n/12 {
		hit := each(fault{call, what, n})
		if total += hit; hit == 0 {
			missed++
		}
	}
	return total
}

// survives has a child die or fail of f, and wants everything that it acknowledged in a log that goes on.
func survives(t *testing.T, f fault) (injected int) {
	t.Helper()
	dir := t.TempDir()
	create(t, childConfig(t, dir))
	acked, injected := runFaulty(t, dir, f, 300)
	checkAcked(t, dir, acked)
	if t.Failed() {
		t.Fatalf("%s, %d acknowledged", f, len(acked))
	}
	return min(injected, 1)
}

// Whatever a write, a sync or a rename answers, and wherever the process dies, nothing that was acknowledged is lost.
func TestFaults(t *testing.T) {
	for _, f := range []fault{
		{"fdatasync", "error=EIO", 3},
		{"fsync", "error=EIO", 1},
		{"msync", "error=EIO", 3},
		{"write", "error=ENOSPC", 30},
		{"ftruncate", "error=EIO", 3},
		{"fdatasync", "signal=SIGKILL", 4},
		{"msync", "signal=SIGKILL", 4},
		{"renameat", "signal=SIGKILL", 3},
		{"unlinkat", "signal=SIGKILL", 1},
	} {
		survives(t, f)
	}
}

// Badger names a table in its MANIFEST, removes the table when the sync of that fails, and could not be opened again: it would not
// find the table. All that it held is in the write-ahead log.
func TestManifestNotSynced(t *testing.T) {
	dir := t.TempDir()
	create(t, childConfig(t, dir))
	file := filepath.Join(dir, "log", storeDir, "MANIFEST")
	acked, injected := runFaulty(t, dir, fault{"fsync", "error=EIO", 1}, 300, file)
	if injected != 1 || len(acked) < 300 {
		t.Fatalf("%d faults, %d acknowledged", injected, len(acked))
	}
	checkAcked(t, dir, acked)
}

// TestSoakFaults injects some hundreds.
func TestSoakFaults(t *testing.T) {
	if os.Getenv("SIGNET_SOAK") == "" {
		return
	}
	total := 0
	for _, call := range []string{"msync", "fdatasync", "fsync", "write", "pwrite64", "renameat", "ftruncate", "fallocate", "unlinkat", "openat", "mmap", "munmap"} {
		for _, what := range []string{"error=EIO", "error=ENOSPC", "signal=SIGKILL"} {
			n := faults(t, call, what, func(f fault) int { return survives(t, f) })
			t.Logf("%-10s %-14s %3d", call, what, n)
			total += n
		}
	}
	t.Logf("%d faults", total)
	if total < 300 {
		t.Errorf("only %d faults", total)
	}
}

// used is a log whose child was killed, with tables, a write-ahead log that was not flushed, and what was acknowledged.
func used(t *testing.T) (dir string, acked map[uint64]string) {
	t.Helper()
	dir = t.TempDir()
	create(t, childConfig(t, dir))
	first, _ := runFaulty(t, dir, noFault, 600) // closed, so that there are tables
	acked = runChild(t, dir, "", 300)
	for index, leaf := range first {
		acked[index] = leaf
	}
	return dir, acked
}

// flipped copies a log with one bit changed.
func flipped(t *testing.T, dir, file string, bit int64) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	copyDir(t, dir, to)
	path := filepath.Join(to, "log", file)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[bit/8] ^= 1 << (bit % 8)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// judgeFlip says whether a log with a flipped bit was "noticed" or "harmless". It fails if anything that was acknowledged is gone
// without being noticed, or if the counter moved for what was noticed: nothing was sealed then. It opens the log in a process
// of its own, which Badger may end.
func judgeFlip(t *testing.T, name, dir string, acked map[uint64]string) string {
	t.Helper()
	before := fileTPM(t, filepath.Join(dir, "tpm")).now()
	more, _ := runFaulty(t, dir, noFault, 1)
	if len(more) == 0 {
		if fileTPM(t, filepath.Join(dir, "tpm")).now() != before {
			t.Errorf("%s: sealed", name)
		}
		return "noticed"
	}
	for index := range more {
		if acked[index] != "" {
			t.Fatalf("%s: entry %d was acknowledged twice", name, index)
		}
	}
	checkAcked(t, dir, acked)
	if t.Failed() {
		t.Fatalf("%s: not noticed", name)
	}
	return "harmless"
}

// flip judges a copy with that bit flipped, and removes it: hundreds of them fill a disk.
func flip(t *testing.T, dir, file string, bit int64, acked map[uint64]string) string {
	t.Helper()
	changed := flipped(t, dir, file, bit)
	defer os.RemoveAll(changed)
	return judgeFlip(t, fmt.Sprintf("%s bit %d", file, bit), changed, acked)
}

// TestSoakFlips changes bits of every file of a log.
func TestSoakFlips(t *testing.T) {
	if os.Getenv("SIGNET_SOAK") == "" {
		return
	}
	dir, acked := used(t)
	random := rand.New(rand.NewPCG(1, 2)) // #nosec G404 -- places, no secrets
	seen := map[string]map[string]int{}
	err := fs.WalkDir(os.DirFS(filepath.Join(dir, "log")), ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || file == ballastName || file == lockName {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Size() == 0 {
			return err
		}
		kind := filepath.Ext(file)
		if kind == "" {
			kind = filepath.Base(file)
		}
		if seen[kind] == nil {
			seen[kind] = map[string]int{}
		}
		end, err := written(filepath.Join(dir, "log", file))
		if err != nil || end == 0 {
			return err
		}
		for range 24 {
			bit := random.Int64N(8 * end)
			seen[kind][flip(t, dir, file, bit, acked)]++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for kind, n := range seen {
		t.Logf("%-14s %v", kind, n)
	}
	for _, kind := range []string{".mem", ".sst", "MANIFEST", ".log", ".keys"} {
		if n := seen[kind]; n["noticed"] == 0 {
			t.Errorf("%s: no flip was noticed: %v", kind, n)
		}
	}
}

// written is how much of a file is not zeros at its end: Badger makes its files longer than what they hold.
func written(path string) (int64, error) {
	b, err := os.ReadFile(path)
	return int64(len(bytes.TrimRight(b, "\x00"))), err
}
