package softhsmtest

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/merkle"
)

// acks are the entries that the appliance acknowledged: the leaf hash by index, "" where the answer named none.
type acks struct {
	mu   sync.Mutex
	leaf map[uint64]string
}

func (a *acks) note(index uint64, leaf string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.leaf[index] == "" {
		a.leaf[index] = leaf
	}
}

func (a *acks) len() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.leaf)
}

// TestSoakKill kills the appliance at random moments under load. Whatever it had acknowledged is there afterwards, with its
// proof; 3 times in an ordinary run, 25 times in a long one.
func TestSoakKill(t *testing.T) {
	rounds := 3
	if os.Getenv("SIGNET_SOAK") != "" {
		rounds = 25
	}
	dir := newDir(t)
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	_, task := c.task(c.orchestrator)
	all := map[uint64]string{}
	for round := range rounds {
		got := &acks{leaf: map[uint64]string{}}
		underLoad(t, c, task, got, d.kill)
		fsck(t, dir)
		d = start(t, dir)
		c = c.moved(d.url)
		proven(t, c, got.leaf)
		for index, leaf := range got.leaf {
			if all[index] != "" && all[index] != leaf {
				t.Errorf("entry %d was acknowledged twice, differently", index)
			}
			all[index] = leaf
		}
		t.Logf("round %d: %d entries were acknowledged", round+1, len(got.leaf))
	}
	must(t, c.works(task))
	hashesAgree(t, c, all)
	receiptsAreFound(t, c, task)
	foreignersAgree(t, c)
	if out, code := command(t, "", nil, program("signet-verify"), "bundle", exported(t, c)); code != 0 {
		t.Errorf("signet-verify: exit %d\n%s", code, out)
	}
	d.stop()
	fsck(t, dir)
}

// underLoad spawns and decides from several goroutines, and kills at a random moment once there is something to lose.
func underLoad(t *testing.T, c *cast, task v1.Task, got *acks, kill func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for ctx.Err() == nil {
				if work(ctx, c, task, got) != nil {
					return // killed
				}
			}
		})
	}
	within(t, 20*time.Second, "load", func() error {
		if got.len() < 8 {
			return fmt.Errorf("%d entries acknowledged", got.len())
		}
		return nil
	})
	// At any point of commit, signature, seal and idle time between.
	timer := time.NewTimer(time.Duration(rand.IntN(1200)) * time.Millisecond)
	<-timer.C
	kill()
	cancel()
	workers.Wait()
}

func work(ctx context.Context, c *cast, task v1.Task, got *acks) error {
	a, err := spawn(ctx, c.orchestrator, task)
	if err != nil {
		return err
	}
	if r := a.issued.AuditReceipt; r != nil {
		got.note(r.Index, r.LeafHash)
	}
	d, err := decide(ctx, c.service, a)
	if err != nil {
		return err
	}
	if d.Context.AuditID != nil {
		got.note(*d.Context.AuditID, "")
	}
	return nil
}

// proven checks every acknowledged entry: it is there, it is the one acknowledged, and its receipt verifies.
func proven(t *testing.T, c *cast, acked map[uint64]string) {
	t.Helper()
	hashesAgree(t, c, acked)
	indexes := make(chan uint64)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for index := range indexes {
				if err := receiptVerifies(t.Context(), c, index); err != nil {
					t.Errorf("entry %d: %v", index, err)
				}
			}
		})
	}
	for index := range acked {
		indexes <- index
	}
	close(indexes)
	workers.Wait()
}

func receiptVerifies(ctx context.Context, c *cast, index uint64) error {
	raw, err := c.auditor.Receipt(ctx, index, true)
	if err != nil {
		return err
	}
	r, err := bundle.ParseReceipt(raw)
	if err != nil {
		return err
	}
	if r.Index != index || r.Seal == nil {
		return fmt.Errorf("the receipt is of entry %d, sealed %v", r.Index, r.Seal != nil)
	}
	if report := bundle.VerifyReceipt(r, nil); !report.Valid {
		return fmt.Errorf("the receipt does not verify: %+v", report.Failed())
	}
	return nil
}

func hashesAgree(t *testing.T, c *cast, acked map[uint64]string) {
	t.Helper()
	have := map[uint64]string{}
	for _, e := range c.entries(0) {
		leaf := merkle.LeafHash(e.raw)
		have[e.index] = hex.EncodeToString(leaf[:])
	}
	for index, leaf := range acked {
		if have[index] == "" || leaf != "" && have[index] != leaf {
			t.Errorf("entry %d was acknowledged as %q and is %q", index, leaf, have[index])
		}
	}
}
