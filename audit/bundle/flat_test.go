package bundle_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
)

// longLog is a log of any size that is made as it is read: agents of ever new users, and what they were allowed. Its first user does no more in a
// longer one.
type longLog struct {
	first record.Stored
	head  checkpoint.Sealed
}

const (
	firstUser = 4000 // of these entries, some are the first user's
	payload   = "what the agent was asked for, and what it said about itself"
)

func newLongLog(t *testing.T, size uint64) *longLog {
	t.Helper()
	w := newWorld(t, newSoftTPM(t))
	seal := w.next()
	seal.Size = size
	return &longLog{first: w.entries[0], head: checkpoint.Sealed{Number: 1, Text: seal.Text(), Checkpoint: []byte("a note")}}
}

// envelope is entry n: of four, one issues an agent under a key of its own, whose delegator's key nobody else has.
func (l *longLog) envelope(n uint64) []byte {
	user := fmt.Sprintf("%064x", n/8)
	if n < firstUser && n%8 < 4 {
		user = otherUser
	}
	head := fmt.Sprintf(`"time":"2026-03-01T09:00:00.000Z","task":"%s","grant":"%s","agent":"%s","user":"%s","payload_hash":"%s"`,
		id(int(n/8)), id(int(n/8)), id(int(n/4)), user, pseudonym)
	switch n % 4 {
	case 0:
		return fmt.Appendf(nil, `{"v":1,"type":"grant",%s,"body":{"grant_id":"%s"}}`, head, id(int(n/8)))
	case 1:
		key, parent := fmt.Sprintf("%064x", n), fmt.Sprintf("%064x", n<<32)
		return fmt.Appendf(nil, `{"v":1,"type":"issue",%s,"body":{"kind":"agent","spki_hash":"%s","hops":[{"id":"%s","spki_hash":"%s"},`+
			`{"id":"spiffe://hospital.example/agent/research/%s","spki_hash":"%s","confirmation":"%s"}]}}`,
			head, key, orchestrator, parent, id(int(n/4)), key, parent)
	default:
		return fmt.Appendf(nil, `{"v":1,"type":"decision",%s,"body":{"allow":true}}`, head)
	}
}

func (l *longLog) EnvelopeRange(ctx context.Context, from, to uint64, fn func(index uint64, envelope []byte) error) error {
	return l.Entries(ctx, from, to, func(e record.Stored) error { return fn(e.Index, e.Envelope) })
}

func (l *longLog) Entries(_ context.Context, from, to uint64, fn func(record.Stored) error) error {
	salt := sha256.Sum256([]byte(payload))
	for n := from; n < to; n++ {
		e := l.first
		if n > 0 {
			e = record.Stored{Index: n, Envelope: l.envelope(n), Payload: []byte(payload), Salt: salt[:]}
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

func (l *longLog) Tile(_ context.Context, _ int, _ uint64, width int) ([]byte, error) {
	return make([]byte, 32*width), nil
}

func (l *longLog) Seal(context.Context, uint64) (checkpoint.Sealed, error) { return l.head, nil }

func (l *longLog) Certificate(context.Context, uint64) ([]byte, error) { return []byte("PEM"), nil }

func (l *longLog) Delegation(context.Context, uint64) (jws, link string, err error) {
	return "jws", "", nil
}

func (l *longLog) Evidence(context.Context, string) ([]byte, error) { return []byte("{}"), nil }

func (l *longLog) Policy(context.Context, string) ([]byte, error) { return nil, nil }

// scales weighs the heap now and then while a bundle is written, and counts the files.
type scales struct{ files, most uint64 }

func (s *scales) Put(_ string, _ int64, content io.Reader) error {
	if s.files++; s.files%64 == 0 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		s.most = max(s.most, m.HeapAlloc)
	}
	_, err := io.Copy(io.Discard, content)
	return err
}

// TestMemoryOfAnExport: what a bundle takes does not grow with the log, and that of one user not with what everybody else does.
func TestMemoryOfAnExport(t *testing.T) {
	one := by(bundle.ByUser, otherUser)
	for name, of := range map[string]*bundle.Selection{"whole": nil, "of one user": one} {
		t.Run(name, func(t *testing.T) {
			weigh := func(size uint64) *scales {
				log, s := newLongLog(t, size), &scales{}
				must(t, bundle.Write(t.Context(), s, log, bundle.WriteOptions{Head: log.head, Selection: of, Attachments: log}))
				if s.files < firstUser/8 {
					t.Errorf("only %d files", s.files)
				}
				return s
			}
			short, long := weigh(5_000), weigh(50_000)
			t.Logf("5,000 entries: %d KiB live at most; 50,000: %d KiB; %d and %d files", short.most>>10, long.most>>10, short.files, long.files)
			if long.most > short.most+1<<20 {
				t.Error("the heap grows with the log")
			}
		})
	}
}
