package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation/chain"
)

const (
	domain = "spiffe://test.example"
	origin = "log.test.example"
	task   = "01890a5d-ac96-774b-bcce-b302099a8001"
	grant  = "01890a5d-ac96-774b-bcce-b302099a8002"
	parent = "01890a5d-ac96-774b-bcce-b302099a8003"
)

// fake stands for an appliance: it certifies what is asked, gives canned answers, and notes each request.
type fake struct {
	key  crypto.Signer
	cert *x509.Certificate
	srv  *httptest.Server

	mu      sync.Mutex
	log     bytes.Buffer
	answers []canned // for the next requests, in place of the usual answers
}

type canned struct {
	status int
	body   []byte
}

func startFake() (*fake, error) {
	f := &fake{}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	f.key = key
	f.cert, err = f.certify(domain+"/service/appliance", key.Public())
	if err != nil {
		return nil, err
	}
	f.srv = httptest.NewUnstartedServer(f)
	f.srv.TLS = &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{f.cert.Raw}, PrivateKey: key, Leaf: f.cert}},
	}
	f.srv.StartTLS()
	return f, nil
}

// certify makes a certificate; the first one, made when there is no other, is the server's own and the root.
func (f *fake) certify(id string, key crypto.PublicKey, extensions ...pkix.Extension) (*x509.Certificate, error) {
	u, err := url.Parse(id)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), URIs: []*url.URL{u}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		ExtraExtensions: extensions,
	}
	issuer := f.cert
	if issuer == nil {
		template.IsCA, template.BasicConstraintsValid, template.DNSNames = true, true, []string{"localhost"}
		template.IPAddresses = append(template.IPAddresses, []byte{127, 0, 0, 1})
		issuer = template
	} else {
		template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key, f.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// write leaves the certificate and key of a caller in a script's directory.
func (f *fake) write(dir, name, id string, extensions ...pkix.Extension) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	cert, err := f.certify(id, key.Public(), extensions...)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, name+".pem"), certPEM(cert), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	f.note(r, body)
	if len(f.answers) > 0 {
		next := f.answers[0]
		f.answers = f.answers[1:]
		w.WriteHeader(next.status)
		_, _ = w.Write(next.body)
		return
	}
	status, out := f.answer(r, body)
	w.WriteHeader(status)
	if text, ok := out.(string); ok {
		_, _ = io.WriteString(w, text)
		return
	}
	_ = json.NewEncoder(w).Encode(out)
}

// note writes down a request in a form that is the same in every run.
func (f *fake) note(r *http.Request, body []byte) {
	by := "nobody"
	if len(r.TLS.PeerCertificates) > 0 {
		by = strings.TrimPrefix(r.TLS.PeerCertificates[0].URIs[0].String(), domain)
	}
	fmt.Fprintf(&f.log, "%s %s by %s\n", r.Method, r.URL.RequestURI(), by)
	if key := r.Header.Get("Idempotency-Key"); key != "" {
		fmt.Fprintf(&f.log, "  idempotency key %s\n", key)
	}
	if len(body) == 0 {
		return
	}
	var q map[string]any
	if err := json.Unmarshal(body, &q); err != nil {
		fmt.Fprintf(&f.log, "  bad body: %v\n", err)
		return
	}
	csr, err := chain.ParseCSR([]byte(text(q, "csr")))
	if text(q, "csr") != "" {
		q["csr"] = verdict(err)
	}
	if list, ok := q["spawns"].([]any); ok {
		q["spawns"] = len(list)
	}
	if jws := text(q, "confirmation"); jws != "" {
		q["confirmation"] = confirmation(jws, r.TLS.PeerCertificates[0].PublicKey, csr, text(q, "enrollment_hash"))
	}
	if link := text(q, "link"); link != "" && csr != nil {
		q["link"] = rekey(link, r.TLS.PeerCertificates[0].PublicKey, csr.Public)
	}
	for _, secret := range []string{"enrollment_hash", "enrollment_token"} {
		if n := len(text(q, secret)); n > 0 {
			q[secret] = fmt.Sprintf("%d characters", n)
		}
	}
	if at, err := time.Parse(time.RFC3339, text(q, "not_after")); err == nil && time.Until(at) < 48*time.Hour {
		q["not_after"] = relative(at)
	}
	if list, ok := q["certificate_chain"].([]any); ok {
		q["certificate_chain"] = len(list)
	}
	out, err := json.MarshalIndent(q, "  ", "  ")
	fmt.Fprintf(&f.log, "  %s\n%s", out, verdictLine(err))
}

func text(q map[string]any, name string) string {
	s, _ := q[name].(string)
	return s
}

func verdict(err error) string {
	if err != nil {
		return "BAD: " + err.Error()
	}
	return "good"
}

func verdictLine(err error) string {
	if err != nil {
		return verdict(err) + "\n"
	}
	return ""
}

// relative rounds the time from now, so that a script can state it.
func relative(t time.Time) string { return "in " + time.Until(t).Round(time.Minute).String() }

// confirmation verifies a delegator's statement as the appliance does, and shows its claims.
func confirmation(jws string, by crypto.PublicKey, csr *chain.CSR, enrollmentHash string) any {
	c, err := chain.VerifyDelegation(jws, by)
	if err != nil {
		return verdict(err)
	}
	if csr != nil {
		jkt, err := chain.Thumbprint(csr.Public)
		if err != nil || jkt != c.KeyHash {
			return "BAD: another child's key"
		}
	} else if c.EnrolHash == nil || base64.RawURLEncoding.EncodeToString(c.EnrolHash[:]) != enrollmentHash {
		return "BAD: another token"
	}
	return map[string]any{
		"iss": c.Issuer, "sub": c.Subject, "aud": c.Audience, "jti": c.JTI, "task_id": c.TaskID, "scope": c.Scope.String(),
		"exp": relative(c.Expiry), "del_max_depth": c.MaxDepth, "par_hash": hex.EncodeToString(c.ParentHash[:2]),
	}
}

// rekey verifies the link of a re-key as the appliance does.
func rekey(link string, by, next crypto.PublicKey) any {
	r, err := chain.VerifyRekey(link, by)
	if err != nil {
		return verdict(err)
	}
	if jkt, err := chain.Thumbprint(next); err != nil || jkt != r.NewKey {
		return "BAD: another next key"
	}
	return map[string]any{"iss": r.Agent, "aud": r.Audience, "task_id": r.TaskID, "exp": relative(r.Expiry)}
}

// files puts the callers' identities into a script's directory.
func (f *fake) files(env *testscript.Env) error {
	dir := env.WorkDir
	confirmed := [32]byte{0xc0, 0xff}
	agent := domain + "/agent/research/" + parent
	signed, err := delegated(agent, &confirmed)
	if err != nil {
		return err
	}
	unsigned, err := delegated(agent, nil)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "root.pem"), certPEM(f.cert), 0o600); err != nil {
		return err
	}
	for _, c := range []struct {
		name, id string
		ext      []pkix.Extension
	}{
		{"operator", domain + "/operator/ada", nil},
		{"orchestrator", domain + "/orchestrator/trials", nil},
		{"records", domain + "/service/records", nil},
		{"agent", agent, []pkix.Extension{signed}},
		{"unsigned", agent, []pkix.Extension{unsigned}},
	} {
		if err := f.write(dir, c.name, c.id, c.ext...); err != nil {
			return err
		}
	}
	env.Setenv("SIGNET_URL", f.srv.URL)
	env.Setenv("SIGNET_ROOT", filepath.Join(dir, "root.pem"))
	return nil
}

func delegated(agent string, confirmation *[32]byte) (pkix.Extension, error) {
	scope, err := chain.ParseScope([]string{"database:read:*"})
	if err != nil {
		return pkix.Extension{}, err
	}
	id, err := chain.ParseUUID(task)
	if err != nil {
		return pkix.Extension{}, err
	}
	end := time.Now().UTC().Truncate(time.Second).Add(time.Hour)
	d := chain.Delegation{
		TaskID: id,
		Grant: chain.Grant{
			Issuer: "https://idp.test.example", Subject: "u-1", GrantID: id, Consent: chain.OIDCNonce, EvidenceHash: [32]byte{1},
			Scope: scope, NotAfter: end, MaxDepth: 3,
		},
		Hops: []chain.Hop{
			{ID: domain + "/orchestrator/trials", SPKIHash: [32]byte{2}, Scope: scope, NotAfter: end, MaxDepth: 3},
			{ID: agent, SPKIHash: [32]byte{3}, Scope: scope, NotAfter: end, MaxDepth: 2, Confirmation: confirmation},
		},
	}
	der, err := d.Marshal()
	return pkix.Extension{Id: chain.OID(), Value: der}, err
}

var day = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func problem(status int, code string) (int, any) {
	return status, v1.Problem{Status: status, Code: code}
}
