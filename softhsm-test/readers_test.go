package softhsmtest

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"testing"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/rfc6962"
	tapi "github.com/transparency-dev/tessera/api"
	tclient "github.com/transparency-dev/tessera/client"
	tfsck "github.com/transparency-dev/tessera/fsck"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
)

// foreignersAgree has Tessera's fsck recompute the log over the appliance's own endpoints, as an auditor: entries, tiles and
// root, under the audit key that receipts name.
func foreignersAgree(t *testing.T, c *cast) {
	t.Helper()
	raw, err := c.auditor.Receipt(t.Context(), 0, true)
	must(t, err)
	r, err := bundle.ParseReceipt(raw)
	must(t, err)
	pub, err := x509.ParsePKIXPublicKey(r.Anchors.AuditKey)
	must(t, err)
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		t.Fatalf("the audit key is a %T", pub)
	}
	vkey, err := checkpoint.VerifierKey(c.origin, key)
	must(t, err)
	verifier, err := fnote.NewECDSAVerifier(vkey)
	must(t, err)
	tr := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: c.roots, Certificates: []tls.Certificate{*c.auditor.cert}, MinVersion: tls.VersionTLS13},
		ForceAttemptHTTP2: true,
	}
	defer tr.CloseIdleConnections()
	root, err := url.Parse(c.url + "/")
	must(t, err)
	f, err := tclient.NewHTTPFetcher(root, &http.Client{Transport: tr, Timeout: 30 * time.Second})
	must(t, err)
	if err := tfsck.New(c.origin, verifier, f, leafHashes, tfsck.Opts{N: 4}).Check(t.Context()); err != nil {
		t.Errorf("Tessera's fsck: %v", err)
	}
}

// receiptsAreFound spawns and decides, waits for the seal, and finds the receipts by what they are about.
func receiptsAreFound(t *testing.T, c *cast, task v1.Task) {
	t.Helper()
	key, csr := newKey(t)
	q, err := spawnRequest(task, csr)
	must(t, err)
	out, err := c.orchestrator.Spawn(t.Context(), q, client.WaitSealed())
	must(t, err)
	if r := out.AuditReceipt; r == nil || r.Sealed == nil || !*r.Sealed || r.Seal == nil {
		t.Fatalf("the spawn's receipt is %+v", r)
	}
	cert, err := client.Certificate(out.CertificateChain, key)
	must(t, err)
	d, err := c.service.EvaluateSealed(t.Context(), evaluation(out.SPIFFEID, out.CertificateChain))
	must(t, err)
	if k := d.Context; !d.Decision || k.AuditSealed == nil || !*k.AuditSealed {
		t.Fatalf("the decision is %+v", d)
	}
	decided, issued := *d.Context.AuditID, out.AuditReceipt.Index
	for _, row := range []struct {
		by   *person
		term string
		id   string
		want uint64
	}{
		{c.orchestrator, "serial", chain.Serial(cert.Leaf), issued},
		{c.person(cert), "agent", out.AgentID, issued},
		{c.person(cert), "task", task.TaskID, issued},
		{c.auditor, "decision", d.Context.DecisionID, decided},
		{c.service, "decision", d.Context.DecisionID, decided},
		{c.service, "agent", out.AgentID, decided},
	} {
		query := url.Values{row.term: {row.id}}
		page, err := row.by.Receipts(t.Context(), query)
		must(t, err)
		for len(page.Receipts) == 0 && page.NextCursor != "" { // a page of others' entries
			query.Set("cursor", page.NextCursor)
			page, err = row.by.Receipts(t.Context(), query)
			must(t, err)
		}
		if len(page.Receipts) == 0 || page.Receipts[0].Index != row.want {
			t.Fatalf("by %s: %+v", row.term, page)
		}
		r, err := bundle.ParseReceipt(page.Receipts[0].Receipt)
		must(t, err)
		if report := bundle.VerifyReceipt(r, nil); !report.Valid || r.Seal == nil || (len(r.Payload) > 0) != (row.by == c.auditor) {
			t.Errorf("by %s: %+v, sealed %v", row.term, report.Failed(), r.Seal != nil)
		}
	}
	page, err := c.service.Receipts(t.Context(), url.Values{"serial": {chain.Serial(cert.Leaf)}})
	if err != nil || len(page.Receipts) != 0 {
		t.Errorf("a service that the spawn does not name: %+v, %v", page, err)
	}
}

// leafHashes hashes the entries of a C2SP entry bundle.
func leafHashes(raw []byte) ([][]byte, error) {
	var b tapi.EntryBundle
	if err := b.UnmarshalText(raw); err != nil {
		return nil, err
	}
	out := make([][]byte, len(b.Entries))
	for i, e := range b.Entries {
		out[i] = rfc6962.DefaultHasher.HashLeaf(e)
	}
	return out, nil
}
