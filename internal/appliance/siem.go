package appliance

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/signet-pki/signet/internal/durable"
	"github.com/signet-pki/signet/internal/siem"
)

// maxSinks bounds the collectors: each reads the log for itself.
const maxSinks = 8

// SIEM is a collector that gets every entry of the log as an OCSF event, without its payload, at least once and in order.
type SIEM struct {
	// Name is the collector's in metrics and log lines, and of its cursor, DIR/siem/NAME.json: [a-z0-9-]{1,32}.
	Name string `yaml:"name"`
	// URL is syslog+tls://HOST[:6514] (RFC 5425) or the whole URL of OTLP logs, https://HOST/v1/logs. syslog+tcp://HOST:PORT and
	// http:// are for loopback addresses, and for development.
	URL string `yaml:"url"`
	// From says where a new collector begins: start (entry 0) or now.
	From string `yaml:"from"`
	// CAFile holds the PEM certificates to trust for the collector, in place of the system's.
	CAFile string `yaml:"ca_file"`
	// CertFile and KeyFile are the client certificate, PEM, read at each connection.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	// TokenFile holds a bearer token for OTLP, read at each request.
	TokenFile string `yaml:"token_file"`
}

var sinkName = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

func (c *Config) checkSIEM(p *problems) {
	p.unless(len(c.SIEM) <= maxSinks, "siem", "at most 8")
	names := map[string]bool{}
	for i, s := range c.SIEM {
		field := fmt.Sprintf("siem[%d]", i)
		p.unless(sinkName.MatchString(s.Name) && !names[s.Name], field+".name", "[a-z0-9-]{1,32}, each once")
		names[s.Name] = true
		p.unless(s.From == "start" || s.From == "now", field+".from", "start or now")
		target, err := siem.ParseTarget(s.URL, c.Development)
		if err != nil {
			*p = append(*p, fmt.Errorf("%s.url: %w", field, err))
			continue
		}
		p.unless((s.CertFile == "") == (s.KeyFile == ""), field+".key_file", "cert_file and key_file go together")
		p.unless(s.TokenFile == "" || target.OTLP(), field+".token_file", "for OTLP alone")
		p.unless(!target.Plain() || s.CAFile == "" && s.CertFile == "", field+".ca_file", "no TLS, no certificates")
	}
}

// senders are the log's ways out.
type senders []*siem.Sender

func (c *Config) newSenders(log siem.Log, logger *slog.Logger) (senders, error) {
	if len(c.SIEM) == 0 {
		return nil, nil
	}
	dir := filepath.Join(c.Dir, "siem")
	// Without its cursor a collector would begin anew, with a gap.
	if err := errors.Join(os.MkdirAll(dir, 0o700), durable.SyncDir(c.Dir)); err != nil {
		return nil, fmt.Errorf("siem: %w", err)
	}
	var out senders
	for i, s := range c.SIEM {
		target, err := siem.ParseTarget(s.URL, c.Development)
		if err != nil {
			return nil, fmt.Errorf("configuration: siem[%d].url: %w", i, err)
		}
		cfg := siem.Config{
			Name: s.Name, Target: target, FromStart: s.From == "start", Cursor: filepath.Join(dir, s.Name+".json"), Log: log, Origin: c.Origin,
			Jitter: fraction, Logger: logger,
		}
		if s.CAFile != "" {
			if cfg.Roots, err = readRoots(c.path(s.CAFile)); err != nil {
				return nil, fmt.Errorf("configuration: siem[%d].ca_file: %w", i, err)
			}
		}
		for from, to := range map[*string]*string{&s.CertFile: &cfg.CertFile, &s.KeyFile: &cfg.KeyFile, &s.TokenFile: &cfg.TokenFile} {
			if *from != "" {
				*to = c.path(*from)
			}
		}
		sender, err := siem.New(cfg)
		if err != nil {
			return nil, err
		}
		out = append(out, sender)
	}
	return out, nil
}

func readRoots(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, errors.New("no certificate in it")
	}
	return roots, nil
}

// Run hands the log to all collectors until ctx ends.
func (s senders) Run(ctx context.Context) error {
	var g errgroup.Group
	for _, sender := range s {
		g.Go(func() error { return sender.Run(ctx) })
	}
	return g.Wait()
}

// check is a warning: a collector that is away stops nothing.
func (s senders) check(context.Context) error {
	var all []error
	for _, sender := range s {
		if st := sender.Status(); st.Reason != "" {
			all = append(all, fmt.Errorf("%s, %d entries behind: %s", sender.Name(), st.Lag, st.Reason))
		}
	}
	return errors.Join(all...)
}

// metrics is a registry with how far each is, and with what the server's own has otherwise; nil where there is none.
func (s senders) metrics() *prometheus.Registry {
	if len(s) == 0 {
		return nil
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, sender := range s {
		label := prometheus.Labels{"sink": sender.Name()}
		reg.MustRegister(
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "signet_siem_lag_entries", Help: "Entries that a collector does not have yet.", ConstLabels: label,
			}, func() float64 { return float64(sender.Status().Lag) }),
			prometheus.NewCounterFunc(prometheus.CounterOpts{
				Name: "signet_siem_failures_total", Help: "Attempts to hand entries over that failed.", ConstLabels: label,
			}, func() float64 { return float64(sender.Status().Failures) }),
		)
	}
	return reg
}
