package audit

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
)

// Environment of a re-executed test binary that works on a log until it is killed.
const (
	childDir   = "SIGNET_AUDIT_CHILD_DIR"
	childPoint = "SIGNET_AUDIT_CHILD_POINT" // where it kills itself; "" = it waits to be killed
)

// TestChild is no test of its own: TestKill starts it.
func TestChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		return
	}
	cfg := childConfig(t, dir)
	var reached atomic.Int64
	cfg.hooks.at = func(point string) error {
		// The third time: there is something before.
		if point == os.Getenv(childPoint) && reached.Add(1) == 3 {
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				return err
			}
			select {}
		}
		return nil
	}
	l := start(t, cfg)
	var out sync.Mutex
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				pos, err := l.Append(context.Background(), entry(t, time.Now(), record.TypeTask, "", map[string]int{"a": 1}))
				if err != nil {
					t.Error(err)
					return
				}
				out.Lock()
				fmt.Printf("ack %d %x\n", pos.Index, pos.LeafHash)
				out.Unlock()
			}
		})
	}
	wg.Wait()
}

func childConfig(t testing.TB, dir string) Config {
	cfg := testConfig(t, fileTPM(t, filepath.Join(dir, "tpm")))
	cfg.Dir = filepath.Join(dir, "log")
	return cfg
}

// runChild returns what the child acknowledged before it died.
func runChild(t *testing.T, dir, point string, acks int) map[uint64]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), childDir+"="+dir, childPoint+"="+point)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	acked := map[uint64]string{}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		var index uint64
		var leaf string
		if n, err := fmt.Sscanf(lines.Text(), "ack %d %s", &index, &leaf); n != 2 || err != nil || len(leaf) != 64 {
			continue // the line that death cut off
		}
		acked[index] = leaf
		if point == "" && len(acked) == acks {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the child was not killed: %v", err)
	}
	return acked
}

// killed runs a child that kills itself.
func killed(t *testing.T, test, dir, point string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+test+"$")
	cmd.Env = append(os.Environ(), childDir+"="+dir, childPoint+"="+point)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the child was not killed: %v\n%s", err, out)
	}
}

func TestKill(t *testing.T) {
	for _, point := range []string{"commit", "committed", "headed", "pending", "incremented", "quoted", "sealed", ""} {
		t.Run("at "+point, func(t *testing.T) {
			dir := t.TempDir()
			create(t, childConfig(t, dir))
			acked := map[uint64]string{}
			for round := range 2 {
				for index, leaf := range runChild(t, dir, point, 300*(round+1)) {
					if acked[index] != "" {
						t.Fatalf("entry %d was acknowledged twice", index)
					}
					acked[index] = leaf
				}
				checkAcked(t, dir, acked)
			}
		})
	}
}

// checkAcked verifies everything that was acknowledged, first on what the kill left and then through a reopened log.
func checkAcked(t *testing.T, dir string, acked map[uint64]string) {
	t.Helper()
	cfg := childConfig(t, dir)
	mustFsck(t, cfg)
	l := start(t, cfg)
	if st := l.Status(); !st.Writable {
		t.Fatalf("not writable after the kill: %q", st.Reasons)
	}
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
