package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
)

// Environment of the test's other processes: spaceInside is set in the user namespace that has the tmpfs, spaceWrites where a log is
// written there until it is full.
const (
	spaceInside = "SIGNET_AUDIT_SPACE_INSIDE"
	spaceWrites = "SIGNET_AUDIT_SPACE_WRITES"
)

// The tmpfs and the watermark: a memtable and the table that it becomes have room below it.
const (
	spaceSize    = 320 << 20
	spaceMinFree = 160 << 20
)

// TestSoakFullDisk fills a tmpfs that has a log, in a user namespace, where that needs no root: see TestFullDiskInside.
func TestSoakFullDisk(t *testing.T) {
	if os.Getenv("SIGNET_SOAK") == "" {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestFullDiskInside$", "-test.v") // #nosec G204 -- this test's own
	cmd.Env = append(os.Environ(), spaceInside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS: TestFullDiskInside") {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// TestFullDiskInside is no test of its own: TestSoakFullDisk starts it.
func TestFullDiskInside(t *testing.T) {
	if os.Getenv(spaceInside) == "" {
		return
	}
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%d", spaceSize)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	create(t, spaceConfig(t, disk))
	acked := map[uint64]string{}
	t.Run("the watermark", func(t *testing.T) { fillsToWatermark(t, disk, acked) })
	for round := range 2 {
		t.Run(fmt.Sprintf("filled from outside, %d", round), func(t *testing.T) { filledFromOutside(t, disk, acked) })
	}
	verifyWhole(t, disk, acked)
}

func spaceConfig(t testing.TB, disk string) Config {
	cfg := childConfig(t, disk)
	cfg.hooks.space = space
	cfg.MinFree, cfg.Ballast = spaceMinFree, 72<<20
	cfg.SealInterval, cfg.Heartbeat, cfg.MaxSealAge = 5*time.Millisecond, 5*time.Second, 10*time.Second // nobody waits longer for a seal
	return cfg
}

// writer is a process that appends to the log until it may not.
type spaceWriter struct {
	cmd   *exec.Cmd
	lines chan string
}

func startWriter(t *testing.T, disk string) *spaceWriter {
	t.Helper()
	w := &spaceWriter{cmd: exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFullDiskWriter$"), lines: make(chan string, 1<<16)} // #nosec G204 -- this test's own
	w.cmd.Env = append(os.Environ(), spaceWrites+"="+disk)
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(w.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			w.lines <- lines.Text()
		}
	}()
	return w
}

// take notes what is acknowledged until a line begins with word, or that many are, or the process ends.
func (w *spaceWriter) take(t *testing.T, acked map[uint64]string, word string, more int) (found bool) {
	t.Helper()
	for until := len(acked) + more; len(acked) < until; {
		line, ok := <-w.lines
		if !ok {
			return false
		}
		var index uint64
		var leaf string
		if n, err := fmt.Sscanf(line, "ack %d %s", &index, &leaf); n == 2 && err == nil && len(leaf) == 64 {
			if acked[index] != "" {
				t.Fatalf("entry %d was acknowledged twice", index)
			}
			acked[index] = leaf
		} else if strings.HasPrefix(line, word) {
			return true
		}
	}
	return true
}

// TestFullDiskWriter is no test of its own: the test inside starts it.
func TestFullDiskWriter(t *testing.T) {
	disk := os.Getenv(spaceWrites)
	if disk == "" {
		return
	}
	l, err := Open(t.Context(), spaceConfig(t, disk))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	var out sync.Mutex
	say := func(format string, args ...any) {
		out.Lock()
		defer out.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	say("opened")
	var wg sync.WaitGroup
	for n := range uint64(4) {
		random := rand.NewChaCha8([32]byte{byte(n), byte(os.Getpid()), byte(os.Getpid() >> 8)})
		wg.Go(func() {
			for {
				noise := make([]byte, 48<<10)
				_, _ = random.Read(noise)
				pos, err := l.Append(ctx, entry(t, time.Now(), record.TypeTask, "", noise))
				if err != nil {
					if !errors.Is(err, ErrDiskFull) {
						t.Error(err)
					}
					return
				}
				say("ack %d %x", pos.Index, pos.LeafHash)
			}
		})
	}
	wg.Wait()
	wantReason(t, l, "disk_full")
	say("full")
	size := l.Head().Size
	if _, err := l.WaitSealed(t.Context(), size-1); err == nil {
		say("sealed")
	}
	cancel()
	say("closed %v", errors.Join(<-ended, l.Close()))
}

// fillsToWatermark: callers are refused in time, what they wrote is sealed, and the log closes in order.
func fillsToWatermark(t *testing.T, disk string, acked map[uint64]string) {
	w := startWriter(t, disk)
	if !w.take(t, acked, "full", math.MaxInt32) {
		t.Fatalf("the writer died: %v", w.cmd.Wait())
	}
	if !w.take(t, acked, "sealed", math.MaxInt32) || !w.take(t, acked, "closed <nil>", math.MaxInt32) {
		t.Error("not sealed and closed")
	}
	if err := w.cmd.Wait(); err != nil {
		t.Errorf("the writer: %v", err)
	}
	if len(acked) < 1000 {
		t.Errorf("only %d entries", len(acked))
	}
	grow(t, disk)
}

// grow makes room: a person has given the file system another disk.
func grow(t *testing.T, disk string) {
	t.Helper()
	_, total, err := space(disk)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%d", total+spaceSize/2)); err != nil {
		t.Fatal(err)
	}
}

// filledFromOutside: everything that is free goes to somebody else at once, while entries are written. Badger writes through memory
// and may be killed by it; then too, everything that was acknowledged is there when there is room again. While there is none, the
// log does not open, and says why.
func filledFromOutside(t *testing.T, disk string, acked map[uint64]string) {
	w := startWriter(t, disk)
	before := len(acked)
	if !w.take(t, acked, "opened", math.MaxInt32) {
		t.Fatalf("the writer did not open: %v", w.cmd.Wait())
	}
	w.take(t, acked, "full", 50)
	hog := filepath.Join(disk, "hog")
	takeAll(t, hog)
	closed := w.take(t, acked, "closed", math.MaxInt32)
	t.Logf("%d acknowledged; closed in order: %t; %v", len(acked)-before, closed, w.cmd.Wait())
	if l, err := Open(t.Context(), spaceConfig(t, disk)); err == nil {
		wantReason(t, l, "disk_full")
		if err := l.Close(); err != nil {
			t.Log(err)
		}
	} else if !errors.Is(err, ErrDiskFull) {
		t.Errorf("opened without room: %v", err)
	}
	if err := os.Remove(hog); err != nil {
		t.Fatal(err)
	}
}

// takeAll allocates what is free, down to the last page.
func takeAll(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for size := int64(1) << 30; size >= 4096; {
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if unix.Fallocate(int(f.Fd()), 0, info.Size(), size) != nil {
			size /= 2
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// verifyWhole checks the log, and everything in it that was acknowledged.
func verifyWhole(t *testing.T, disk string, acked map[uint64]string) {
	t.Helper()
	cfg := spaceConfig(t, disk)
	l := start(t, cfg)
	head := l.Head()
	for index, leaf := range acked {
		s, err := l.Read(t.Context(), index)
		if err != nil {
			t.Fatalf("acknowledged entry %d: %v", index, err)
		}
		h := record.LeafHash(s.Envelope)
		p, err := l.Inclusion(t.Context(), index, head.Size)
		if err != nil || fmt.Sprintf("%x", h) != leaf || merkle.VerifyInclusion(p, index, head.Size, h, head.Root) != nil {
			t.Fatalf("acknowledged entry %d is another: %v", index, err)
		}
	}
	sealNow(t, l.Log)
	l.mustStop(t)
	mustFsck(t, cfg)
}
