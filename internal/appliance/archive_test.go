package appliance

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
)

func TestConfigRetention(t *testing.T) {
	for text, field := range map[string]string{
		"archive: /var/lib/signet-archive\n  keep: 24h": "",
		"archive: archive\n  keep: 24h":                 "retention.archive",
		"archive: /a\n  keep: 1h":                       "retention.keep",
		"archive: /a":                                   "retention.keep",
		"keep: 24h":                                     "retention.archive",
	} {
		whole := strings.Replace(example(t), "archive: /var/lib/signet-archive\n  keep: 8760h", text, 1)
		_, err := ParseConfig([]byte(whole))
		if (err == nil) != (field == "") || err != nil && !strings.Contains(err.Error(), field) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// archiveOf is an archive of a log that was served.
func archiveOf(t *testing.T, s *served) *archive {
	t.Helper()
	a := newArchive(Retention{Archive: t.TempDir(), Keep: time.Minute}, s.log, nil, func() time.Time { return time.Now().Add(time.Hour) })
	a.serveFrom(&apiLog{log: s.log, witnesses: &witnesses{log: s.log}})
	return a
}

// sealAll waits for a seal over all that there is. The last entry may be that of a seal, for which none is made.
func (s *served) sealAll() {
	s.t.Helper()
	pos, err := s.log.Append(s.t.Context(), numberedEntry(s.t, record.TypeAdmin, 0))
	must(s.t, err)
	_, err = s.log.WaitSealed(s.t.Context(), pos.Index)
	must(s.t, err)
}

func wantRefusal(t *testing.T, err error, code, detail string) {
	t.Helper()
	var e *delegation.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Detail, detail) {
		t.Errorf("%v, want %s with %q", err, code, detail)
	}
}

// A plan ends before the first entry that somebody else needs.
func TestArchivePlan(t *testing.T) {
	s := serveSealedLog(t, 300, time.Millisecond)
	old := time.Now()
	issue, err := record.New(record.Envelope{Type: record.TypeIssue, Time: time.Now(), Body: []byte(`{"serial":"0a"}`)}, nil, [32]byte{})
	must(t, err)
	issue.Terms = []record.Term{{Kind: "serial", ID: "0a"}}
	pos, err := s.log.Append(t.Context(), issue)
	must(t, err)
	s.grow(500)
	s.sealAll()
	a, after := archiveOf(t, s), time.Now().Add(time.Second)
	plan, err := a.Plan(t.Context(), after, nil)
	if err != nil || plan.From != 0 || plan.To != 768 || plan.Previous != nil {
		t.Errorf("%+v %v", plan, err)
	}
	if plan, err := a.Plan(t.Context(), after, []string{"0b"}); err != nil || plan.To != 768 {
		t.Errorf("another's open issuance: %+v %v", plan, err)
	}
	_, err = a.Plan(t.Context(), after, []string{"0b", "0a"})
	if pos.Index < 300 || pos.Index >= 512 {
		t.Fatalf("the issue entry is %d", pos.Index)
	}
	wantRefusal(t, err, "nothing_to_prune", "does not tell yet")
	_, err = a.Plan(t.Context(), old, nil)
	wantRefusal(t, err, "nothing_to_prune", "not all from before then")
	_, err = a.Plan(t.Context(), time.Now().Add(time.Hour), nil)
	wantRefusal(t, err, "too_recent", "1m0s")

	c := Config{Dir: t.TempDir(), Origin: readersOrigin, SIEM: []SIEM{{Name: "soc", URL: "syslog+tls://127.0.0.1:1", From: "start"}}}
	a.senders, err = c.newSenders(s.log, slog.New(slog.DiscardHandler))
	must(t, err)
	_, err = a.Plan(t.Context(), after, nil)
	wantRefusal(t, err, "nothing_to_prune", "the collector soc has those before 0 alone")
}

// What cannot be written whole is not there, and what is there and not what was written is no archive, but stays. This log begins with no
// ceremony, so that there is no bundle of it.
func TestArchiveIsReadBack(t *testing.T) {
	s := serveSealedLog(t, 600, time.Millisecond)
	s.sealAll()
	a := archiveOf(t, s)
	must(t, os.WriteFile(filepath.Join(a.cfg.Archive, ".archive-left"), nil, 0o600))
	plan := record.PruneBody{To: 512, Archive: "entries.tar"}
	_, err := a.Store(t.Context(), plan)
	wantRefusal(t, err, "archive_failed", "nothing was pruned")
	if left, err := os.ReadDir(a.cfg.Archive); err != nil || len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
	path, other := filepath.Join(a.cfg.Archive, plan.Archive), []byte("another")
	must(t, os.WriteFile(path, other, 0o600))
	wantRefusal(t, a.readBack(t.Context(), plan, sha256.Sum256([]byte("what was written"))), "archive_invalid", "not what was written")
	if err := a.readBack(t.Context(), plan, sha256.Sum256(other)); err == nil {
		t.Error("what is no bundle was taken for one")
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, other) {
		t.Errorf("%q %v", b, err)
	}
	a.cfg.Archive = filepath.Join(a.cfg.Archive, "none")
	_, err = a.Store(t.Context(), plan)
	wantRefusal(t, err, "archive_failed", "nothing was pruned")
}

// Software that knows C2SP tlog-tiles proves everything of a pruned log, and is told which entries are gone.
func TestForeignReadersOfAPrunedLog(t *testing.T) {
	s := serveSealedLog(t, 900, time.Millisecond)
	s.sealAll()
	body, err := json.Marshal(record.PruneBody{Reason: "old", To: 512, Archive: "a.tar", SHA256: strings.Repeat("ab", 32)})
	must(t, err)
	e, err := record.New(record.Envelope{Type: record.TypePrune, Time: time.Now(), Body: body}, nil, [32]byte{})
	must(t, err)
	pos, err := s.log.Prune(t.Context(), e)
	must(t, err)
	for tick := time.NewTicker(5 * time.Millisecond); s.log.Pruning(); {
		select {
		case <-t.Context().Done():
			t.Fatal("not pruned")
		case <-tick.C:
		}
	}
	s.grow(1) // so that a checkpoint covers it
	public, _ := s.reader()
	must(t, (&sumdb{s: s, c: public}).checks())
	auditor, _ := s.reader(s.auditor)
	if err := s.fsck(auditor); err == nil {
		t.Error("Tessera has read every entry")
	}
	f := s.fetcher(auditor)
	for index, want := range map[uint64]bool{0: true, 1: false, 2: true} {
		if _, err := f.ReadEntryBundle(t.Context(), index, 0); (err == nil) != want {
			t.Errorf("entry bundle %d: %v", index, err)
		}
	}
	status, _, raw, err := get(t.Context(), public, s.url+"v1/audit/retention")
	var told struct {
		Minimum uint64  `json:"minimum_index"`
		Entry   *uint64 `json:"prune_entry"`
	}
	if err != nil || status != http.StatusOK || json.Unmarshal(raw, &told) != nil || told.Minimum != 512 || told.Entry == nil || *told.Entry != pos.Index {
		t.Errorf("%d %s %v", status, raw, err)
	}
	if err := s.log.Entries(t.Context(), 300, 301, func(record.Stored) error { return io.EOF }); !errors.Is(err, audit.ErrPruned) {
		t.Error(err)
	}
}
