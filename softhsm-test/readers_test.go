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

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/checkpoint"
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
