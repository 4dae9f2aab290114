package softhsmtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	collogs "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/signet-pki/signet/internal/appliance"
)

// events are what a collector got, by index.
type events struct {
	mu  sync.Mutex
	raw map[uint64]string // the envelope
	all bytes.Buffer
}

func (e *events) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var v collogs.ExportLogsServiceRequest
	if err != nil || proto.Unmarshal(body, &v) != nil {
		http.Error(w, "not OTLP", http.StatusBadRequest)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all.Write(body)
	for _, l := range v.GetResourceLogs()[0].GetScopeLogs()[0].GetLogRecords() {
		var event struct {
			Unmapped struct {
				Index uint64 `json:"index"`
			} `json:"unmapped"`
			RawData string `json:"raw_data"`
		}
		if json.Unmarshal([]byte(l.GetBody().GetStringValue()), &event) == nil {
			e.raw[event.Unmapped.Index] = event.RawData
		}
	}
}

// has says what of the entries did not come as it stands in the log.
func (e *events) has(entries []logged) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, entry := range entries {
		if got := e.raw[uint64(i)]; got != string(entry.raw) {
			return fmt.Errorf("entry %d of %d came as %q", i, len(entries), got)
		}
	}
	return nil
}

// TestSIEM hands the log of a whole appliance to a collector that works, and to one that takes connections and ends them.
func TestSIEM(t *testing.T) {
	got := &events{raw: map[uint64]string{}}
	otel := httptest.NewServer(got)
	t.Cleanup(otel.Close)
	dead, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = dead.Close() })
	go func() {
		for {
			conn, err := dead.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	dir := made(t)
	with := func(c *appliance.Config) {
		c.SIEM = []appliance.SIEM{
			{Name: "otel", URL: otel.URL + "/v1/logs", From: "start"},
			{Name: "dead", URL: "syslog+tcp://" + dead.Addr().String(), From: "start"},
		}
	}
	i := runInside(t, dir, with)
	c := newCast(t, dir, i.url)
	_, task := c.task(c.orchestrator)
	must(t, c.works(task))
	within(t, 30*time.Second, "all entries at the collector", func() error { return got.has(c.entries(0)) })
	got.mu.Lock()
	if bytes.Contains(got.all.Bytes(), []byte("/idp")) { // where users have their accounts: in every payload about one
		t.Error("a payload left")
	}
	had := len(got.raw)
	got.mu.Unlock()
	within(t, time.Minute, "a warning about the other one", func() error {
		r, err := c.operator.Ready(t.Context())
		must(t, err)
		for _, k := range r.Conditions {
			if k.Name == "siem" && k.Severity == "warning" && strings.HasPrefix(k.Reason, "dead, ") && !strings.Contains(k.Reason, "otel") {
				return nil
			}
		}
		return fmt.Errorf("%+v", r.Conditions)
	})
	must(t, c.works(task)) // it is only that
	i.stop()

	// Another run goes on where this one ended.
	i = runInside(t, dir, with)
	c = c.moved(i.url)
	within(t, 30*time.Second, "the entries of the next run", func() error { return got.has(c.entries(0)) })
	got.mu.Lock()
	defer got.mu.Unlock()
	if len(got.raw) <= had {
		t.Errorf("%d entries, as before", had)
	}
}
