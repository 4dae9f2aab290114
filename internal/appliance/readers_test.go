package appliance

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sync/errgroup"

	"github.com/signet-pki/signet/api"
	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

const readersOrigin = "signet.test/log"

// served is a real log behind the real API, as software reads it that knows nothing of Signet.
type served struct {
	t        *testing.T
	log      *audit.Log
	url      string
	roots    *x509.CertPool
	auditor  tls.Certificate
	verifier note.Verifier // not ours
}

// serveLog makes a log with that many entries. Its TPM is none: the readers here look at checkpoints, tiles and proofs.
func serveLog(t *testing.T, entries int) *served {
	t.Helper()
	return serveSealedLog(t, entries, time.Hour)
}

// serveSealedLog makes one that is sealed so often.
func serveSealedLog(t *testing.T, entries int, interval time.Duration) *served {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	cfg := audit.Config{
		Dir: filepath.Join(t.TempDir(), "log"), Origin: readersOrigin, Signer: key, Quoter: new(stillTPM), PCRs: []int{0}, IndexKey: make([]byte, 32),
		Now: time.Now, Log: slog.New(slog.DiscardHandler), SealInterval: interval, CheckpointInterval: time.Millisecond,
		Heartbeat: time.Hour, MaxSealAge: time.Hour, MinFree: 1, Ballast: 1 << 20,
	}
	must(t, audit.Create(t.Context(), cfg, []record.Entry{numberedEntry(t, record.TypeCeremony, 0)}))
	s := &served{t: t}
	s.log, err = audit.Open(t.Context(), cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.log.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-ended)
		must(t, s.log.Close())
	})
	vkey, err := checkpoint.VerifierKey(readersOrigin, &key.PublicKey)
	must(t, err)
	s.verifier, err = fnote.NewECDSAVerifier(vkey)
	must(t, err)
	s.listen(&apiLog{log: s.log, witnesses: &witnesses{log: s.log}})
	s.grow(entries - 1)
	return s
}

// listen serves the log's endpoints over TLS.
func (s *served) listen(log api.Log) {
	s.t.Helper()
	s.auditor = clientIdentity(s.t)
	root, err := x509.ParseCertificate(s.auditor.Certificate[0])
	must(s.t, err)
	server, err := api.New(api.Config{
		Domain: auditorsAlone{}, Log: log, Reviews: noReviews{}, Health: func(context.Context) []api.Condition { return nil }, Now: time.Now,
		Logger: slog.New(slog.DiscardHandler), PublicURL: "https://signet.test",
		Trust: api.Trust{
			TrustDomain: "signet.test", Roots: []*x509.Certificate{root}, JWT: []*x509.Certificate{root},
			CRL: func(string) ([]byte, error) { return nil, api.ErrNotFound },
		},
	})
	must(s.t, err)
	http1 := httptest.NewUnstartedServer(server.Handler())
	http1.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS13}
	http1.StartTLS()
	s.t.Cleanup(http1.Close)
	s.url, s.roots = http1.URL+"/", x509.NewCertPool()
	s.roots.AddCert(http1.Certificate())
}

// grow appends entries and returns when a signed checkpoint covers them.
func (s *served) grow(n int) {
	s.t.Helper()
	var g errgroup.Group
	g.SetLimit(2048)
	for i := range n {
		g.Go(func() error {
			_, err := s.log.Append(context.WithoutCancel(s.t.Context()), numberedEntry(s.t, record.TypeAdmin, i))
			return err
		})
	}
	must(s.t, g.Wait())
	want := s.log.Head().Size
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	for tick := time.NewTicker(5 * time.Millisecond); s.signedSize() < want; {
		select {
		case <-ctx.Done():
			s.t.Fatal("no checkpoint covers what was appended")
		case <-tick.C:
		}
	}
}

// signedSize is the size that the log's newest signed checkpoint states.
func (s *served) signedSize() uint64 {
	lines := bytes.Split(s.log.SignedCheckpoint(), []byte("\n"))
	if len(lines) < 2 {
		return 0
	}
	size, err := strconv.ParseUint(string(lines[1]), 10, 64)
	must(s.t, err)
	return size
}

// reader is a client of its own. With a certificate it may read entries.
func (s *served) reader(certs ...tls.Certificate) (*http.Client, *wire) {
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots, Certificates: certs, MinVersion: tls.VersionTLS13}, ForceAttemptHTTP2: true}
	s.t.Cleanup(tr.CloseIdleConnections)
	w := &wire{to: tr}
	return &http.Client{Transport: w, Timeout: time.Minute}, w
}

// wire is what lies between a reader and the log: it sees, and may change, what is answered.
type wire struct {
	to     http.RoundTripper
	alter  func(path string, body []byte) []byte // nil: nothing is changed
	partly atomic.Int64                          // partial tiles that were asked for
	asked  sync.Map                              // path to header
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := w.to.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	w.asked.Store(r.URL.Path, resp.Header)
	if strings.Contains(r.URL.Path, ".p/") {
		w.partly.Add(1)
	}
	if w.alter == nil || resp.StatusCode != http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(w.alter(r.URL.Path, body)))
	return resp, nil
}

// stillTPM is a counter that nobody restarts.
type stillTPM struct{ n atomic.Uint64 }

func (q *stillTPM) State(context.Context) (audit.Anchor, error) {
	return audit.Anchor{Reset: 1, Counter: q.n.Load()}, nil
}

func (q *stillTPM) Increment(context.Context) (uint64, error) { return q.n.Add(1), nil }

func (q *stillTPM) Quote(context.Context, [32]byte) (audit.Statement, error) {
	return audit.Statement{Attest: []byte("quote"), Signature: []byte("signature"), PCRs: make([]byte, 32)}, nil
}

func (q *stillTPM) CertifyCounter(context.Context, [32]byte) (audit.Statement, error) {
	return audit.Statement{Attest: []byte("counter"), Signature: []byte("signature")}, nil
}

// auditorsAlone takes whoever has a certificate for an auditor, and does nothing else.
type auditorsAlone struct{ api.Domain }

func (auditorsAlone) Authenticate(certs []*x509.Certificate) (delegation.Caller, error) {
	if len(certs) == 0 {
		return delegation.Caller{}, &delegation.Error{Kind: delegation.Unauthenticated, Code: "client_certificate_required"}
	}
	id, err := chain.NamedID("signet.test", chain.Operator, "auditor")
	return delegation.Caller{Role: delegation.RoleAuditor, ID: id}, err
}

func (auditorsAlone) RecordRefusal(context.Context, delegation.Refusal) *uint64 { return nil }

type noReviews struct{ api.Reviews }

func numberedEntry(t testing.TB, kind record.Type, n int) record.Entry {
	t.Helper()
	e, err := record.New(record.Envelope{Type: kind, Time: time.Now(), Body: fmt.Appendf(nil, `{"n":%d}`, n)}, nil, [record.SaltSize]byte{})
	must(t, err)
	return e
}

func clientIdentity(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "auditor"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// oneBitOff changes one bit of a body.
func oneBitOff(body []byte) []byte {
	out := bytes.Clone(body)
	out[len(out)/2] ^= 1
	return out
}
