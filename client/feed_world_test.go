package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/event"
)

// authority certifies a key, and signs events with it.
type authority struct {
	t       *testing.T
	root    *x509.Certificate
	rootKey *ecdsa.PrivateKey
	key     *ecdsa.PrivateKey // of statements
	keys    v1.KeySet
	clock   time.Time // of events
	roots   *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, rootKey: newKey(t), key: newKey(t), clock: time.Now().UTC().Truncate(time.Second), roots: x509.NewCertPool()}
	a.root = a.certify(a.rootKey, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.roots.AddCert(a.root)
	a.publish(a.certify(a.key, jwtTemplate()))
	return a
}

// publisher is a feed over TLS that says what a test tells it to: one script for each connection.
type publisher struct {
	*authority
	scripts chan []string
	cursors chan string // of the connections, as they come
	server  *httptest.Server
}

// hang keeps a connection open.
const hang = "hang"

func newPublisher(t *testing.T) *publisher {
	t.Helper()
	a := &publisher{authority: newAuthority(t), scripts: make(chan []string, 16), cursors: make(chan string, 64)}
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/jwks", func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(a.keys); err != nil {
			t.Error(err)
		}
	})
	mux.HandleFunc("/v1/revocations/stream", a.stream)
	a.server = httptest.NewUnstartedServer(mux)
	tlsKey := newKey(t)
	listener := a.certify(tlsKey, &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	a.server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{listener.Raw}, PrivateKey: tlsKey}}}
	a.server.StartTLS()
	t.Cleanup(a.server.Close)
	return a
}

func jwtTemplate() *x509.Certificate {
	return &x509.Certificate{
		KeyUsage: x509.KeyUsageDigitalSignature, UnknownExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 37}},
	}
}

func (a *authority) certify(key *ecdsa.PrivateKey, template *x509.Certificate) *x509.Certificate {
	a.t.Helper()
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: "feed"}
	template.NotBefore, template.NotAfter = a.clock.Add(-time.Hour), a.clock.Add(time.Hour)
	parent := a.root
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), a.rootKey)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

func (a *authority) publish(certs ...*x509.Certificate) {
	a.keys = v1.KeySet{}
	for _, c := range certs {
		a.keys.Keys = append(a.keys.Keys, x5c(c))
	}
}

func x5c(c *x509.Certificate) v1.Key {
	return v1.Key{Use: "sig", Kty: "EC", X5C: []string{base64.StdEncoding.EncodeToString(c.Raw)}}
}

// stream plays the next script, and then ends, or hangs until the client leaves.
func (a *publisher) stream(w http.ResponseWriter, r *http.Request) {
	a.cursors <- r.URL.Query().Get("cursor")
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	select {
	case <-r.Context().Done():
	case script := <-a.scripts:
		for _, text := range script {
			if text == hang {
				http.NewResponseController(w).Flush() //nolint:errcheck // the client left
				<-r.Context().Done()
				return
			}
			w.Write([]byte(text)) //nolint:errcheck // likewise
		}
	}
}

// set signs as the appliance does, or as somebody else.
func (a *authority) set(key *ecdsa.PrivateKey, claims any) string {
	a.t.Helper()
	kid, err := chain.KeyID(a.key.Public())
	if err != nil {
		a.t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, new(jose.SignerOptions).WithType(event.Type).WithHeader("kid", kid))
	if err != nil {
		a.t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		a.t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		a.t.Fatal(err)
	}
	compact, err := jws.CompactSerialize()
	if err != nil {
		a.t.Fatal(err)
	}
	return compact
}

func message(set string) string { return "data: " + set + "\n\n" }

func (a *authority) revokes(epoch, seq uint64, id string) string {
	return a.event(event.Event{Epoch: epoch, Seq: seq, Kind: chain.RevTask, ID: id, Time: a.clock})
}

func (a *authority) beats(epoch, seq uint64) string {
	return a.event(event.Event{Epoch: epoch, Seq: seq, Time: a.clock})
}

func (a *authority) event(e event.Event) string {
	return message(a.set(a.key, e.Claims(testOrigin, testDomain)))
}

// follow runs a feed until the test ends.
func (a *publisher) follow(change ...func(*client.FeedConfig)) *client.Feed {
	a.t.Helper()
	c, err := client.New(client.Config{URL: a.server.URL, Roots: a.roots})
	if err != nil {
		a.t.Fatal(err)
	}
	return a.run(c, change...)
}

// run runs a feed of c until the test ends.
func (a *authority) run(c *client.Client, change ...func(*client.FeedConfig)) *client.Feed {
	a.t.Helper()
	cfg := client.FeedConfig{Origin: testOrigin, TrustDomain: testDomain}
	for _, f := range change {
		f(&cfg)
	}
	feed, err := c.NewFeed(cfg)
	if err != nil {
		a.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- feed.Run(ctx) }()
	a.t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			a.t.Errorf("Run ends with %v", err)
		}
		c.Close()
	})
	return feed
}

// connected waits for the next connection and gives its cursor.
func (a *publisher) connected() string {
	a.t.Helper()
	select {
	case c := <-a.cursors:
		return c
	case <-time.After(20 * time.Second):
		a.t.Fatal("no connection came")
		return ""
	}
}

// until waits for a condition that the feed's own news change.
func until(t *testing.T, feed *client.Feed, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		news := feed.Changed()
		if holds() {
			return
		}
		select {
		case <-news:
		case <-deadline:
			t.Fatalf("%s: not in time", what)
		}
	}
}

// recorder takes what a feed logs.
type recorder chan string

func (r recorder) Write(p []byte) (int, error) {
	select {
	case r <- string(p):
	default:
	}
	return len(p), nil
}

func (r recorder) logger() *slog.Logger { return slog.New(slog.NewTextHandler(r, nil)) }

func (r recorder) log(f *client.FeedConfig) { f.Logger = r.logger() }

// expect takes the next line, which must say something.
func (r recorder) expect(t *testing.T, something string) {
	t.Helper()
	select {
	case line := <-r:
		if !strings.Contains(line, something) {
			t.Errorf("it logs %s, want %q", line, something)
		}
	default:
		t.Errorf("it does not log %q", something)
	}
}
