package softhsmtest

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/store"
)

// TestStateIsHeldToTheLog: whoever can write the store of a stopped appliance can neither take a revocation back nor
// make themselves an operator without fsck saying so.
func TestStateIsHeldToTheLog(t *testing.T) {
	dir := newDir(t)
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	grant, task := c.task(c.orchestrator)
	must(t, c.works(task))
	_, err := c.operator.Revoke(t.Context(), v1.RevocationRequest{Kind: "grant", ID: grant.GrantID})
	must(t, err)
	d.stop()
	fsck(t, dir)

	db, err := store.Open(filepath.Join(dir, "log", "db"), store.Options{Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	must(t, db.Update(func(tx *store.Txn) error {
		// The layout of docs/formats/log.md: s/<key>, with 8 bytes of expiry before the value.
		if err := tx.Delete([]byte("s/rev/grant/" + grant.GrantID)); err != nil {
			return err
		}
		return tx.Set([]byte("s/id/operator/eve"), append(make([]byte, 8), `{"spiffe_id":"spiffe://dev.signet.example/operator/eve","role":"operator"}`...))
	}))
	must(t, db.Close())

	for _, args := range [][]string{{"fsck"}, {"fsck", "--repair"}} {
		out, code := command(t, "", nil, program("signetd"), append(args, "--config", filepath.Join(dir, "signet.yaml"))...)
		for _, want := range []string{`the state has no "rev/grant/` + grant.GrantID, `the state has "id/operator/eve", which no entry makes`, " 2 findings"} {
			if code == 0 || !strings.Contains(out, want) {
				t.Errorf("%v: exit %d, no %q in: %s", args, code, want, out)
			}
		}
	}
}
