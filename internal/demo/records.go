package demo

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
)

// recordsService is a service that keeps records and lets agents at them only as the appliance decides.
type recordsService struct {
	url    string
	server *http.Server
	done   sync.WaitGroup
}

// openRecords registers the records service and serves it on loopback.
func (s *story) openRecords(ctx context.Context) error {
	name := "records-" + s.run
	s.step("The operator registers the records service %q, which will ask for decisions.", name)
	key, csr, err := newKey()
	if err != nil {
		return err
	}
	issued, err := s.operator.RegisterService(ctx, v1.ServiceRegistration{Name: name, CSR: csr})
	if err != nil {
		return err
	}
	cert, err := client.Certificate(issued.CertificateChain, key)
	if err != nil {
		return err
	}
	c, err := s.connect(cert)
	if err != nil {
		return err
	}
	s.checked("it holds a certificate for %s", issued.SPIFFEID)
	s.records, err = serveRecords(ctx, c, cert)
	return err
}

func serveRecords(ctx context.Context, decisions *client.Client, cert *tls.Certificate) (*recordsService, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /{database}", client.RequireDecision(decisions, wanted, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "records of %s\n", r.PathValue("database")) //nolint:gosec // plain text, and the client may be gone
	})))
	r := &recordsService{url: "https://" + ln.Addr().String(), server: &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second,
		TLSConfig: client.ServerTLS(func() (*tls.Certificate, error) { return cert, nil }),
	}}
	r.done.Go(func() { _ = r.server.ServeTLS(ln, "", "") }) // ends with close
	return r, nil
}

// wanted reads a request for a database; the records of one physician's patients are for agents of that physician.
func wanted(r *http.Request) (client.Access, error) {
	a := client.Access{Resource: v1.Resource{Type: "database", ID: r.PathValue("database")}, Action: "read"}
	if sub := r.URL.Query().Get("physician"); sub != "" {
		a.User = &v1.User{Issuer: r.URL.Query().Get("issuer"), Subject: sub}
	}
	return a, nil
}

func (r *recordsService) close() {
	_ = r.server.Close() // nothing is left to answer
	r.done.Wait()
}

// refused is what the records service says when it lets nobody in.
type refused struct {
	Status int
	v1.DecisionContext
}

func (e *refused) Error() string { return fmt.Sprintf("status %d: %v", e.Status, e.Reasons) }

// read asks the records service over mutual TLS. The service's certificate names no host: it is known by its SPIFFE
// ID, so that is what is checked.
func (s *story) read(ctx context.Context, a *actor, path string) error {
	transport := &http.Transport{TLSClientConfig: spiffeTLS(s.roots, a.cert, "spiffe://"+trustDomain+"/service/records-"+s.run)}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.records.url+path, nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: transport, Timeout: 15 * time.Second}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	out := &refused{Status: resp.StatusCode}
	if err := json.Unmarshal(body, &out.DecisionContext); err != nil {
		return errors.New("the records service answered " + resp.Status)
	}
	return out
}
