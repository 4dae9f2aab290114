package audit

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
)

// BenchmarkAppend measures durable entries per second with that many callers that each wait for their own, with an
// entry like that of an issuance: envelope and payload of 1 KiB each, four terms, four state changes.
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 16, 128} {
		b.Run(fmt.Sprint("writers=", writers), func(b *testing.B) {
			cfg := testConfig(b, newTPM())
			cfg.Dir = filepath.Join(b.TempDir(), "log")
			cfg.SealInterval, cfg.Heartbeat = 5*time.Second, time.Minute
			create(b, cfg)
			l := start(b, cfg)
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range writers {
				wg.Go(func() {
					for {
						i := next.Add(1)
						if i > int64(b.N) {
							return
						}
						if _, err := l.Append(b.Context(), issuance(b, i)); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

func issuance(b *testing.B, i int64) record.Entry {
	random := make([]byte, 2048)
	if _, err := rand.Read(random); err != nil {
		b.Fatal(err)
	}
	body := fmt.Appendf(nil, `{"filler":"%s"}`, base64.StdEncoding.EncodeToString(random[:675]))
	e, err := record.New(record.Envelope{Type: record.TypeIssue, Time: time.Now(), Body: body}, base64.StdEncoding.EncodeToString(random[675:1425]), [32]byte{byte(i)})
	if err != nil {
		b.Fatal(err)
	}
	for _, kind := range []string{"user", "agent", "task", "serial"} {
		e.Terms = append(e.Terms, record.Term{Kind: kind, ID: fmt.Sprint(i)})
	}
	absent := record.Precondition{Op: record.Absent}
	e.Mutations = []record.Mutation{
		{Key: fmt.Sprint("agent/", i), Value: random[:1500], Expires: time.Now().Add(time.Hour), Pre: absent},
		{Key: fmt.Sprint("spki/", i), Value: []byte{1}, Expires: time.Now().Add(time.Hour), Pre: absent},
		{Key: fmt.Sprint("idem/", i), Value: make([]byte, 64), Expires: time.Now().Add(time.Hour), Pre: absent},
		{Key: "revoked/x", CheckOnly: true, Pre: absent},
	}
	return e
}
