package softhsmtest

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/tpm/quote"
)

// question is what a relying party asks about a chain, in the words of none of the three surfaces.
type question struct {
	certs        []*x509.Certificate // leaf first
	at           time.Time
	scope        []string
	user         *v1.User
	orchestrator string
	delegations  []string
	keys         [][]byte
	links        [][]v1.Link
	grant        []byte
	receipt      []byte // the appliance needs none: it asks its own log
	staleness    time.Duration
	require      []chain.CheckName
}

// verdict is what a surface says: validity, and of each check the status and the code.
type verdict struct {
	valid  bool
	checks map[string]string
}

func (v verdict) add(name, status, code string) {
	v.checks[name] = strings.TrimSuffix(status+" "+code, " ")
}

// surfaces are the three places that verify: the library, the appliance's API and the auditor's command.
type surfaces struct {
	c     *cast
	dir   string // files of the command
	root  *x509.Certificate
	ca    *x509.Certificate // issuing
	trust *bundle.Trust
}

// newSurfaces writes down an auditor's anchors. receipt is any of the log's.
func newSurfaces(c *cast, applianceDir string, ca *x509.Certificate, receipt []byte) *surfaces {
	c.t.Helper()
	s := &surfaces{c: c, dir: c.t.TempDir(), ca: ca}
	rootPEM, err := os.ReadFile(filepath.Join(applianceDir, "pki", "root.pem"))
	must(c.t, err)
	roots, err := chain.ParsePEM(rootPEM, 1)
	must(c.t, err)
	s.root = roots[0]
	text := trustFile(c.t, receipt)
	s.trust, err = bundle.ParseTrust(text)
	must(c.t, err)
	s.write("trust.yaml", text)
	s.write("root.pem", rootPEM)
	return s
}

// trustFile is what an auditor writes down at the ceremony.
func trustFile(t testing.TB, receipt []byte) []byte {
	t.Helper()
	r, err := bundle.ParseReceipt(receipt)
	must(t, err)
	ak, err := quote.ParseAK(r.Anchors.AKPublic)
	must(t, err)
	text, err := bundle.TrustFile{
		Format: bundle.TrustFormat, Origin: r.Anchors.Origin, TrustDomain: r.Anchors.TrustDomain, Roots: pemOf("CERTIFICATE", r.Anchors.Root),
		AuditKey: pemOf("PUBLIC KEY", r.Anchors.AuditKey), AKName: hex.EncodeToString(ak.Name()), NVName: r.Anchors.NVName, PCRs: r.Anchors.PCRs,
	}.Marshal()
	must(t, err)
	return text
}

func (s *surfaces) write(name string, data []byte) string {
	s.c.t.Helper()
	path := filepath.Join(s.dir, name)
	must(s.c.t, os.WriteFile(path, data, 0o600))
	return path
}

func (s *surfaces) writeJSON(name string, v any) string {
	s.c.t.Helper()
	data, err := json.Marshal(v)
	must(s.c.t, err)
	return s.write(name, data)
}

func pems(certs []*x509.Certificate) []string {
	out := make([]string, len(certs))
	for i, c := range certs {
		out[i] = pemOf("CERTIFICATE", c.Raw)
	}
	return out
}

// revocations reads the whole list.
func (s *surfaces) revocations() []v1.Revocation {
	s.c.t.Helper()
	var out []v1.Revocation
	for cursor := ""; ; {
		page, err := s.c.service.Revocations(s.c.t.Context(), cursor)
		must(s.c.t, err)
		if len(page.Revocations) == 0 {
			return out
		}
		out, cursor = append(out, page.Revocations...), page.NextCursor
	}
}

// ask puts one question to all three and wants one answer.
func (s *surfaces) ask(t *testing.T, q question) verdict {
	t.Helper()
	// Read after the moment of the question, it is complete as of then; of the future nobody knows.
	list, fresh := s.revocations(), time.Now().UTC()
	if q.at.Before(fresh) {
		fresh = q.at
	}
	answers := map[string]verdict{"chain.Verify": s.library(t, q, list, fresh), "POST /v1/verify": s.api(t, q), "signet-verify": s.command(t, q, list, fresh)}
	want := answers["chain.Verify"]
	for name, got := range answers {
		if got.valid != want.valid || !maps.Equal(got.checks, want.checks) {
			t.Errorf("%s says %v %v,\nand chain.Verify %v %v", name, got.valid, got.checks, want.valid, want.checks)
		}
	}
	return want
}

// feed is a relying party's copy of the revocations.
type feed struct {
	set   map[string]bool
	fresh time.Time
}

func (f feed) Revoked(kind chain.RevKind, id string) bool { return f.set[fmt.Sprint(kind, " ", id)] }

func (f feed) FreshAt() time.Time { return f.fresh }

func (s *surfaces) library(t *testing.T, q question, list []v1.Revocation, fresh time.Time) verdict {
	t.Helper()
	trust, err := chain.NewTrust(trustDomain, []*x509.Certificate{s.root}, []*x509.Certificate{s.ca})
	must(t, err)
	scope, err := chain.ParseScope(q.scope)
	must(t, err)
	known := feed{map[string]bool{}, fresh}
	for _, r := range list {
		kind, err := chain.ParseRevKind(r.Kind)
		must(t, err)
		id := r.ID
		if r.User != nil {
			id = chain.UserID(r.User.Issuer, r.User.Subject)
		}
		known.set[fmt.Sprint(kind, " ", id)] = true
	}
	in := chain.Input{
		Chain: q.certs, Trust: trust, Now: q.at, RequiredScope: scope, ExpectUser: &chain.User{Issuer: q.user.Issuer, Subject: q.user.Subject},
		ExpectOrchestrator: q.orchestrator, Origin: s.c.origin, Delegations: q.delegations, Keys: q.keys, GrantDocument: q.grant,
		Revocation: known, MaxStaleness: q.staleness, Require: q.require,
	}
	for _, hop := range q.links {
		var links []chain.Link
		for _, l := range hop {
			links = append(links, chain.Link{JWS: l.Link, Key: l.Key})
		}
		in.Links = append(in.Links, links)
	}
	if q.receipt != nil {
		receipt, err := bundle.ParseReceipt(q.receipt)
		must(t, err)
		in.Logged = func(tbs [32]byte) error { return receipt.Covers(tbs, s.trust) }
	}
	r := chain.Verify(in)
	out := verdict{r.Valid, map[string]string{}}
	for _, c := range r.Checks {
		out.add(string(c.Name), c.Status.String(), c.Code)
	}
	return out
}

func (s *surfaces) api(t *testing.T, q question) verdict {
	t.Helper()
	request := v1.VerifyRequest{
		CertificateChain: pems(q.certs), RequiredScope: q.scope, At: q.at, ExpectedUser: q.user, ExpectedOrchestrator: q.orchestrator,
		Delegations: q.delegations, Keys: q.keys, Links: q.links, MaxStaleness: int64(q.staleness / time.Second),
	}
	if q.grant != nil {
		request.Grant = base64.RawURLEncoding.EncodeToString(q.grant)
	}
	for _, n := range q.require {
		request.Require = append(request.Require, string(n))
	}
	r, err := s.c.service.Verify(t.Context(), request)
	must(t, err)
	out := verdict{r.Valid, map[string]string{}}
	for name, c := range r.Checks {
		out.add(name, c.Status, c.Code)
	}
	return out
}

func (s *surfaces) command(t *testing.T, q question, list []v1.Revocation, fresh time.Time) verdict {
	t.Helper()
	grant := ""
	if q.grant != nil {
		grant = base64.RawURLEncoding.EncodeToString(q.grant)
	}
	if list == nil {
		list = []v1.Revocation{}
	}
	args := []string{
		"cert", "--json", "--root", filepath.Join(s.dir, "root.pem"), "--trust-domain", trustDomain, "--at", q.at.Format(time.RFC3339),
		"--user", q.user.Issuer + "," + q.user.Subject, "--orchestrator", q.orchestrator, "--origin", s.c.origin, "--scope", strings.Join(q.scope, " "),
		"--delegations", s.writeJSON("delegations.json", map[string]any{"delegations": q.delegations, "keys": q.keys, "links": q.links, "grant": grant}),
		"--revocations", s.writeJSON("revocations.json", map[string]any{"fresh_at": fresh, "revocations": list}),
	}
	if q.staleness > 0 {
		args = append(args, "--max-staleness", q.staleness.String())
	}
	if q.receipt != nil {
		args = append(args, "--receipt", s.write("receipt.json", q.receipt), "--trust", filepath.Join(s.dir, "trust.yaml"))
	}
	for _, n := range q.require {
		args = append(args, "--require", string(n))
	}
	if len(q.certs) > 1 {
		args = append(args, "--untrusted", s.write("issuing.pem", []byte(strings.Join(pems(q.certs[1:]), ""))))
	}
	printed, code := command(t, "", nil, program("signet-verify"), append(args, s.write("leaf.pem", []byte(pems(q.certs)[0])))...)
	var r struct {
		Valid  bool
		Checks []struct{ Name, Status, Code string }
	}
	if err := json.Unmarshal([]byte(printed), &r); err != nil || code == 0 != r.Valid || code > 1 {
		t.Fatalf("signet-verify exits with %d: %v\n%s", code, err, printed)
	}
	out := verdict{r.Valid, map[string]string{}}
	for _, c := range r.Checks {
		out.add(c.Name, c.Status, c.Code)
	}
	return out
}

// grantDocument is what the user consented to, out of the evidence.
func (c *cast) grantDocument(id string) []byte {
	c.t.Helper()
	var tar bytes.Buffer
	must(c.t, c.auditor.Export(c.t.Context(), &tar))
	files, err := bundle.OpenTar(bytes.NewReader(tar.Bytes()), int64(tar.Len()))
	must(c.t, err)
	f, err := files.Open("evidence/" + id + ".json")
	must(c.t, err)
	defer f.Close()
	var e struct{ Grant string }
	must(c.t, json.NewDecoder(f).Decode(&e))
	out, err := base64.RawURLEncoding.DecodeString(e.Grant)
	must(c.t, err)
	return out
}

// failures are the checks that failed, in the order of reports.
func (v verdict) failures() []string {
	var out []string
	for _, n := range chain.CheckNames() {
		if code, failed := strings.CutPrefix(v.checks[string(n)], "fail "); failed {
			out = append(out, string(n)+" "+code)
		}
	}
	return out
}

func spki(t testing.TB, der []byte) []byte {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert.RawSubjectPublicKeyInfo
}

func certificate(t testing.TB, text string) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatal("no PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	return cert
}

func clone(d chain.Delegation) chain.Delegation {
	d.Hops = slices.Clone(d.Hops)
	return d
}
