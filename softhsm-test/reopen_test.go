package softhsmtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/client"
)

// A sync fails once, at the worst place: the store has the entry, and nobody was told. The appliance says that it does not know,
// ends with the status that asks to be started again, and comes back by itself: the retry finds the one agent that there is.
func TestReopens(t *testing.T) {
	for name, at := range map[string]struct {
		call, file string
		when       int
	}{
		"heads.log":           {"fdatasync", "heads.log", 6},
		"the write-ahead log": {"msync", "", 40},
	} {
		t.Run(name, func(t *testing.T) { reopens(t, at.call, at.file, at.when) })
	}
}

func reopens(t *testing.T, call, file string, when int) {
	dir := newDir(t)
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	_, task := c.task(c.orchestrator)
	d.stop()

	d = launchUnder(t, dir, faulty(t, dir, call, file, when)).serving()
	c = c.moved(d.url)
	got := &acks{leaf: map[uint64]string{}}
	lost := untilUnknown(t, c, task, got)
	if code := d.wait(30 * time.Second); code != 75 {
		t.Fatalf("signetd ended with %d", code)
	}
	fsck(t, dir)

	d = start(t, dir)
	c = c.moved(d.url)
	within(t, 20*time.Second, "readiness", func() error {
		if bad := unwell(t, c.auditor); len(bad) > 0 {
			return fmt.Errorf("%v", bad)
		}
		return nil
	})
	first, err := c.orchestrator.Spawn(t.Context(), lost)
	must(t, err)
	second, err := c.orchestrator.Spawn(t.Context(), lost)
	must(t, err)
	if first.AuditReceipt == nil || second.AuditReceipt == nil || first.AuditReceipt.Index != second.AuditReceipt.Index {
		t.Errorf("the retry's entry is %+v, then %+v", first.AuditReceipt, second.AuditReceipt)
	}
	if certs := c.issued(lost.SpawnID); len(certs) != 1 {
		t.Errorf("it was issued as %v", certs)
	}
	proven(t, c, got.leaf)
	must(t, c.works(task))
	if out, code := command(t, "", nil, program("signet-verify"), "bundle", exported(t, c)); code != 0 {
		t.Errorf("signet-verify: exit %d\n%s", code, out)
	}
	d.stop()
	fsck(t, dir)
}

// faulty is a strace that fails some later call, of each thread, with EIO, once.
func faulty(t *testing.T, dir, call, file string, when int) []string {
	t.Helper()
	args := []string{"strace", "-f", "-qq", "-o", filepath.Join(t.TempDir(), "trace"), "-e", "trace=" + call, "-e", fmt.Sprintf("inject=%s:error=EIO:when=%d", call, when)}
	if file != "" {
		args = append(args, "-P", filepath.Join(dir, "log", file))
	}
	return args
}

// untilUnknown spawns until an answer says that nobody knows, and returns what was asked for then.
func untilUnknown(t *testing.T, c *cast, task v1.Task, got *acks) (lost v1.SpawnRequest) {
	t.Helper()
	within(t, 60*time.Second, "a failed sync", func() error {
		for range 50 {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			must(t, err)
			csr, err := client.CSR(key)
			must(t, err)
			lost, err = spawnRequest(task, csr)
			must(t, err)
			a, err := c.orchestrator.Spawn(t.Context(), lost)
			if err != nil {
				return unknown(err)
			}
			got.note(a.AuditReceipt.Index, a.AuditReceipt.LeafHash)
		}
		return errors.New("none yet")
	})
	return lost
}

// unknown accepts 503, and the end of the connection, after which it may be either too.
func unknown(err error) error {
	var p *client.Problem
	if errors.As(err, &p) && p.Status != 503 {
		return fmt.Errorf("want 503, got %w", err)
	}
	return nil
}

// issued are the certificates that the log knows of an agent, by hash.
func (c *cast) issued(id string) map[string]bool {
	out := map[string]bool{}
	for _, e := range c.entries(0) {
		if e.Type == record.TypeIssue && strings.HasSuffix(e.Body.SPIFFEID, "/"+id) {
			out[e.Body.TBSHash] = true
		}
	}
	return out
}
