package softhsmtest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/internal/devkit/idp"
)

// TestErasure erases a user from a running appliance. Afterwards no file of its log, no bundle and no copy that is made has
// their name, and everything verifies, also when the process died in between.
func TestErasure(t *testing.T) {
	dir := newDir(t)
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	privacy := c.named("privacy", func(name, csr string) (v1.Certificate, error) {
		return c.operator.RegisterOperator(t.Context(), v1.OperatorRegistration{Name: name, Role: "privacy_officer", CSR: csr})
	})
	grant, task := c.task(c.orchestrator)
	must(t, c.works(task))
	_, other := c.taskOf(c.orchestrator, "clerk")
	gone, kept := idp.Users()[0].Subject, idp.Users()[1].Subject
	if n := payloadsWith(t, c, gone); n < 3 {
		t.Fatalf("%d entries about the user", n)
	}
	log := filepath.Join(dir, "log")
	wantAbsent(t, log, gone) // what is personal is sealed from the start

	q := v1.ErasureRequest{User: &v1.User{Issuer: issuerOf(t, c, gone), Subject: gone}, Reason: "asked for by the user"}
	if err := refusedWith(second(privacy.Erase(t.Context(), q)), "user_active"); err != nil {
		t.Fatal(err)
	}
	if err := refusedWith(second(c.operator.Erase(t.Context(), q)), "role_not_allowed"); err != nil {
		t.Fatal(err)
	}
	_, err := c.operator.Revoke(t.Context(), v1.RevocationRequest{Kind: "grant", ID: grant.GrantID})
	must(t, err)
	done, err := privacy.Erase(t.Context(), q)
	must(t, err)
	if done.Entries < 4 || len(done.Redactions) != 1 {
		t.Fatalf("%+v", done)
	}
	check := func(c *cast) {
		if n := payloadsWith(t, c, gone); n != 0 {
			t.Errorf("%d entries still have the user", n)
		}
		if payloadsWith(t, c, kept) == 0 {
			t.Error("the other user is gone too")
		}
		if wantVerified(t, exported(t, c), gone) < 3 {
			t.Error("the bundle does not say what was erased")
		}
	}
	_, err = c.auditor.Receipt(t.Context(), done.Redactions[0].Index, true)
	must(t, err)
	check(c)
	_, err = spawn(t.Context(), c.orchestrator, other)
	must(t, err)
	wantAbsent(t, log, gone)

	d.kill()
	d = start(t, dir)
	c = c.moved(d.url)
	check(c)
	_, again := c.task(c.orchestrator) // the user can come back
	must(t, c.works(again))
	d.stop()
	fsck(t, dir)
}

func second[T any](_ T, err error) error { return err }

// payloadsWith counts the entries whose payload has a text.
func payloadsWith(t *testing.T, c *cast, text string) (n int) {
	t.Helper()
	for _, e := range c.entries(0) {
		whole, err := c.auditor.Entry(t.Context(), e.index)
		must(t, err)
		if bytes.Contains(whole.Payload, []byte(text)) {
			n++
		}
	}
	return n
}

// issuerOf is the user's provider, as a grant's payload names it.
func issuerOf(t *testing.T, c *cast, subject string) string {
	t.Helper()
	for _, e := range c.entries(0) {
		whole, err := c.auditor.Entry(t.Context(), e.index)
		must(t, err)
		var p v1.User
		if json.Unmarshal(whole.Payload, &p) == nil && p.Subject == subject {
			return p.Issuer
		}
	}
	t.Fatal("no grant of the user")
	return ""
}

// wantAbsent looks for a text, plain or in base64, in all files below dir.
func wantAbsent(t *testing.T, dir, text string) {
	t.Helper()
	looked := 0
	must(t, fs.WalkDir(os.DirFS(dir), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := fs.ReadFile(os.DirFS(dir), path)
		if has(b, text) {
			t.Errorf("%s names the user", path)
		}
		looked++
		return err
	}))
	if looked < 5 {
		t.Errorf("only %d files in %s", looked, dir)
	}
}

func has(b []byte, text string) bool {
	if bytes.Contains(b, []byte(text)) {
		return true
	}
	for shift := range 3 {
		coded := base64.StdEncoding.EncodeToString(append(make([]byte, shift), text...))
		// Without the characters that neighbours have a part in.
		if bytes.Contains(b, []byte(coded[(shift*8+5)/6:len(coded)-4])) {
			return true
		}
	}
	return false
}

// wantVerified verifies a bundle, and gives how many payloads it says were erased.
func wantVerified(t *testing.T, path, gone string) uint64 {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	if has(b, gone) {
		t.Error("the bundle names the user")
	}
	var r struct {
		Valid  bool   `json:"valid"`
		Erased uint64 `json:"erased"`
	}
	within(t, 5*time.Second, "a report", func() error {
		out, _ := command(t, "", nil, program("signet-verify"), "bundle", "--json", path)
		return json.NewDecoder(strings.NewReader(out)).Decode(&r)
	})
	if !r.Valid {
		t.Errorf("%+v", r)
	}
	return r.Erased
}
