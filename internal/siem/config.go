package siem

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"strings"
)

// Config is one sender's. All but the paths is required.
type Config struct {
	Name   string // in its status, metrics and log lines
	Target Target
	// FromStart says where a collector without a cursor begins: at entry 0, or at the head.
	FromStart bool
	Cursor    string // path of the file with the cursor; its folder exists

	Roots     *x509.CertPool // nil: the system's
	CertFile  string         // PEM; with KeyFile: who the sender is, read at each connection
	KeyFile   string
	TokenFile string // OTLP: a bearer token, read at each request

	Log    Log
	Origin string
	Jitter func() float64 // in [0,1)
	Logger *slog.Logger
}

// Target is where a collector is. The zero Target is refused.
type Target struct {
	url   string
	host  string // host:port
	name  string // the certificate's
	otlp  bool
	plain bool
}

// ParseTarget reads syslog+tls://HOST[:6514], syslog+tcp://HOST:PORT, https://… or http://…. Without TLS, events can be read and
// changed on the way, so that plain is for loopback alone, or for anywhere if anywhere is true.
func ParseTarget(text string, anywhere bool) (Target, error) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
		return Target{}, errors.New("a URL with a host, without user and fragment")
	}
	t := Target{url: text, host: u.Host, name: u.Hostname()}
	switch u.Scheme {
	case "https", "http":
		t.otlp, t.plain = true, u.Scheme == "http"
	case "syslog+tls", "syslog+tcp":
		if u.Path != "" || u.RawQuery != "" || u.ForceQuery {
			return Target{}, errors.New("syslog has a host and a port alone")
		}
		t.plain = u.Scheme == "syslog+tcp"
		if u.Port() == "" {
			if t.plain {
				return Target{}, errors.New("syslog+tcp needs a port")
			}
			t.host = strings.TrimSuffix(u.Host, ":") + ":6514" // RFC 5425 §4.1
		}
	default:
		return Target{}, errors.New("one of syslog+tls, syslog+tcp, https and http")
	}
	if t.plain && !anywhere {
		if at, err := netip.ParseAddr(t.name); err != nil || !at.IsLoopback() {
			return Target{}, errors.New("without TLS to a loopback address alone")
		}
	}
	return t, nil
}

// OTLP says whether events go there by OTLP, else by syslog.
func (t Target) OTLP() bool { return t.otlp }

// Plain says whether they go without TLS.
func (t Target) Plain() bool { return t.plain }

// New makes a sender, which starts nothing.
func New(c Config) (*Sender, error) {
	if c.Target.url == "" || c.Name == "" || c.Cursor == "" || c.Log == nil || c.Origin == "" || c.Jitter == nil || c.Logger == nil {
		return nil, errors.New("siem: Name, Target, Cursor, Log, Origin, Jitter and Logger are required")
	}
	s := &Sender{cfg: c}
	if c.Target.otlp {
		s.sink = newOTLP(c)
	} else {
		s.sink = newSyslog(c)
	}
	return s, nil
}

// tls verifies the collector, by its name.
func (c Config) tls() *tls.Config {
	out := &tls.Config{RootCAs: c.Roots, ServerName: c.Target.name, MinVersion: tls.VersionTLS12}
	if c.CertFile != "" {
		out.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("client certificate: %w", err)
			}
			return &cert, nil
		}
	}
	return out
}
