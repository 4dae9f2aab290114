package appliance

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/checkpoint"
)

func TestConfigNamesEveryProblemOfSIEM(t *testing.T) {
	good := SIEM{Name: "soc", URL: "syslog+tls://siem.example", From: "now"}
	for _, c := range []struct {
		change func(*SIEM)
		want   string // "" = accepted
	}{
		{func(*SIEM) {}, ""},
		{func(s *SIEM) { s.CertFile, s.KeyFile, s.CAFile = "a", "b", "c" }, ""},
		{func(s *SIEM) { s.URL, s.TokenFile = "https://otel.example/v1/logs", "t" }, ""},
		{func(s *SIEM) { s.URL = "syslog+tcp://127.0.0.1:514" }, ""},
		{func(s *SIEM) { s.Name = "" }, "siem[0].name"},
		{func(s *SIEM) { s.Name = "../soc" }, "siem[0].name"},
		{func(s *SIEM) { s.From = "" }, "siem[0].from"},
		{func(s *SIEM) { s.From = "Start" }, "siem[0].from"},
		{func(s *SIEM) { s.URL = "" }, "siem[0].url"},
		{func(s *SIEM) { s.URL = "syslog+tcp://siem.example:514" }, "siem[0].url"},
		{func(s *SIEM) { s.URL = "http://siem.example/v1/logs" }, "siem[0].url"},
		{func(s *SIEM) { s.KeyFile = "k" }, "siem[0].key_file"},
		{func(s *SIEM) { s.TokenFile = "t" }, "siem[0].token_file"},
		{func(s *SIEM) { s.URL, s.CAFile = "syslog+tcp://127.0.0.1:514", "c" }, "siem[0].ca_file"},
	} {
		s := good
		c.change(&s)
		var p problems
		(&Config{SIEM: []SIEM{s}}).checkSIEM(&p)
		if got := joined(p); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q, want %q", s, got, c.want)
		}
	}
	var p problems
	(&Config{SIEM: []SIEM{good, good}}).checkSIEM(&p)
	if got := joined(p); !strings.Contains(got, "siem[1].name") {
		t.Errorf("two of one name: %q", got)
	}
	p = nil
	(&Config{SIEM: make([]SIEM, maxSinks+1)}).checkSIEM(&p)
	if got := joined(p); !strings.Contains(got, "at most 8") {
		t.Errorf("nine: %q", got)
	}
	p = nil
	(&Config{Development: true, SIEM: []SIEM{{Name: "a", URL: "http://siem.example/v1/logs", From: "start"}}}).checkSIEM(&p)
	if len(p) != 0 {
		t.Errorf("in development: %v", p)
	}
}

func joined(p problems) string {
	var out []string
	for _, err := range p {
		out = append(out, err.Error())
	}
	return strings.Join(out, "; ")
}

type noLog struct{}

func (noLog) Head() checkpoint.Checkpoint { return checkpoint.Checkpoint{Size: 3} }

func (noLog) Minimum() uint64 { return 0 }

func (noLog) EnvelopeRange(_ context.Context, from, _ uint64, fn func(uint64, []byte) error) error {
	return fn(from, []byte(`{"v":1,"type":"task","time":"2026-03-01T12:00:00.120Z"}`))
}

// A collector that is not there is a warning with its name and lag, in metrics too, and nothing else.
func TestSenders(t *testing.T) {
	c := Config{Dir: t.TempDir(), Origin: "signet.test/log", SIEM: []SIEM{{Name: "soc", URL: "syslog+tls://127.0.0.1:1", From: "start", CAFile: "ca.pem"}}}
	log := slog.New(slog.DiscardHandler)
	if _, err := c.newSenders(noLog{}, log); err == nil || !strings.Contains(err.Error(), "siem[0].ca_file") {
		t.Errorf("without its CA: %v", err)
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "ca.pem"), []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.newSenders(noLog{}, log); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("without a certificate: %v", err)
	}
	c.SIEM[0].CAFile = ""
	s, err := c.newSenders(noLog{}, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(time.Minute)
	for err = s.check(ctx); err == nil; err = s.check(ctx) {
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("no warning")
		}
	}
	cancel()
	if !strings.Contains(err.Error(), "soc, 3 entries behind: dial") || <-done != nil {
		t.Error(err)
	}
	families, err := s.metrics().Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, f := range families {
		if m := f.GetMetric()[0]; strings.HasPrefix(f.GetName(), "signet_siem_") && m.GetLabel()[0].GetValue() == "soc" {
			found[f.GetName()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	if found["signet_siem_lag_entries"] != 3 || found["signet_siem_failures_total"] < 1 {
		t.Error(found)
	}
	if none, err := new(Config).newSenders(noLog{}, log); err != nil || none.metrics() != nil || none.check(ctx) != nil || none.Run(ctx) != nil {
		t.Error("without collectors")
	}
}
