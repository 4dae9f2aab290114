package ca_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/ca"
	"github.com/signet-pki/signet/ca/lint"
)

func broke(err error, rule string) bool {
	var p *ca.ProfileError
	if !errors.As(err, &p) {
		return false
	}
	for _, f := range p.Findings {
		if f.Rule == rule {
			return true
		}
	}
	return false
}

func TestPrepareAgentRefuses(t *testing.T) {
	r := newRig(t)
	i := r.agents(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	type req = *ca.AgentRequest
	for name, c := range map[string]struct {
		change func(req)
		err    error
		rule   string
	}{
		"past":                 {change: func(q req) { q.NotAfter = start }, err: ca.ErrNotAfter},
		"too long":             {change: func(q req) { q.NotAfter = start.Add(25 * time.Hour) }, err: ca.ErrNotAfter},
		"no NotAfter":          {change: func(q req) { q.NotAfter = time.Time{} }, err: ca.ErrNotAfter},
		"no key":               {change: func(q req) { q.SPKI = nil }, err: ca.ErrKey},
		"RSA":                  {change: func(q req) { q.SPKI = marshalKey(t, rsaKey.Public()) }, err: ca.ErrKey},
		"key and more":         {change: func(q req) { q.SPKI = append(bytes.Clone(q.SPKI), 0xa3, 0x00) }, err: ca.ErrKey},
		"point off its curve":  {change: func(q req) { q.SPKI = bytes.Clone(q.SPKI); q.SPKI[60] ^= 1 }, err: ca.ErrMalformed},
		"key of the CA":        {change: func(q req) { q.SPKI = r.result.AgentCAs[0].Leaf.RawSubjectPublicKeyInfo }, rule: "key_identifiers"},
		"no delegation":        {change: func(q req) { q.Delegation = nil }, rule: "delegation"},
		"delegation not DER":   {change: func(q req) { q.Delegation = []byte{0x30, 0x80, 0, 0} }, rule: "delegation"},
		"delegation and more":  {change: func(q req) { q.Delegation = append(bytes.Clone(q.Delegation), 0) }, rule: "delegation"},
		"large delegation":     {change: func(q req) { q.Delegation = make([]byte, 12<<10+1) }, err: ca.ErrTooLarge},
		"other trust domain":   {change: func(q req) { q.SPIFFEID = strings.Replace(agentID, "hospital", "evil", 1) }, rule: "leaf_san"},
		"subdomain":            {change: func(q req) { q.SPIFFEID = strings.Replace(agentID, "hospital", "a.hospital", 1) }, rule: "leaf_san"},
		"a service":            {change: func(q req) { q.SPIFFEID = "spiffe://hospital.example/service/x" }, rule: "leaf_san"},
		"other name":           {change: func(q req) { q.CommonName = "01890a5d-ac96-774b-bcce-b302099a8058" }, rule: "leaf_san"},
		"no name":              {change: func(q req) { q.CommonName = "" }, rule: "leaf_subject"},
		"no id":                {change: func(q req) { q.SPIFFEID = "" }, rule: "leaf_san"},
		"a long id":            {change: func(q req) { q.SPIFFEID += strings.Repeat("x", 2048) }, err: ca.ErrTooLarge},
		"type with a space":    {change: func(q req) { q.SPIFFEID = "spiffe://hospital.example/agent/a b/" + agentUUID }, rule: "leaf_san"},
		"type that is too far": {change: func(q req) { q.SPIFFEID = "spiffe://hospital.example/agent/a/b/" + agentUUID }, rule: "leaf_san"},
	} {
		q := r.agentRequest(t)
		c.change(&q)
		p, err := i.PrepareAgent(q, start)
		if p != nil || (c.err != nil && !errors.Is(err, c.err)) || (c.rule != "" && !broke(err, c.rule)) {
			t.Errorf("%s: %v, want %v %s", name, err, c.err, c.rule)
		}
	}
	if _, err := r.services(t).PrepareAgent(r.agentRequest(t), start); !errors.Is(err, ca.ErrKind) {
		t.Errorf("agent from a service CA: %v", err)
	}
	if _, err := i.PrepareService(r.serviceRequest(), start); !errors.Is(err, ca.ErrKind) {
		t.Errorf("service from an agent CA: %v", err)
	}
}

func longName() string { return strings.Repeat(strings.Repeat("a", 62)+".", 4) + "xyz" }

func TestPrepareServiceRefuses(t *testing.T) {
	r := newRig(t)
	i := r.services(t)
	type req = *ca.ServiceRequest
	for name, c := range map[string]struct {
		change func(req)
		err    error
		rule   string
	}{
		"an agent's id":      {change: func(q req) { q.SPIFFEID = agentID }, rule: "leaf_san"},
		"DNS of others":      {change: func(q req) { q.DNSNames = []string{"www.example"} }, rule: "issuer_constraints"},
		"IP of others":       {change: func(q req) { q.IPs = []net.IP{net.IPv4(192, 168, 0, 1)} }, rule: "issuer_constraints"},
		"wildcard":           {change: func(q req) { q.DNSNames = []string{"*.signet.example"} }, rule: "leaf_san"},
		"IP of three octets": {change: func(q req) { q.IPs = []net.IP{{1, 2, 3}} }, err: ca.ErrMalformed},
		"dotted name":        {change: func(q req) { q.CommonName = "a.b" }, rule: "leaf_subject"},
		"CRL is no http":     {change: func(q req) { q.CRLURL = "file:///etc/passwd" }, rule: "revocation"},
		"too many names":     {change: func(q req) { q.DNSNames = make([]string, 64) }, err: ca.ErrTooLarge},
		"names over 16 KiB": {change: func(q req) {
			q.DNSNames = slices.Repeat([]string{longName()}, 63)
			q.SPIFFEID += strings.Repeat("x", 500)
		}, err: ca.ErrTooLarge},
		"an empty DNS name":   {change: func(q req) { q.DNSNames = []string{""} }, rule: "leaf_san"},
		"name not UTF-8":      {change: func(q req) { q.CommonName = "a\xff" }, err: ca.ErrMalformed},
		"other trust domain":  {change: func(q req) { q.SPIFFEID = "spiffe://evil.example/service/records" }, rule: "leaf_san"},
		"too long a life":     {change: func(q req) { q.NotAfter = start.Add(31 * 24 * time.Hour) }, err: ca.ErrNotAfter},
		"upper-case DNS name": {change: func(q req) { q.DNSNames = []string{"A.signet.example"} }, rule: "leaf_san"},
	} {
		q := r.serviceRequest()
		c.change(&q)
		p, err := i.PrepareService(q, start)
		if p != nil || err == nil || (c.err != nil && !errors.Is(err, c.err)) || (c.rule != "" && !broke(err, c.rule)) {
			t.Errorf("%s: %v, want %v %s", name, err, c.err, c.rule)
		}
	}
	q := r.serviceRequest()
	q.CommonName = "records.signet.example"
	if _, err := i.PrepareService(q, start); err != nil {
		t.Errorf("a common name that is a DNS name: %v", err)
	}
}

func TestTheIssuingCABoundsEverything(t *testing.T) {
	r := newRig(t)
	i := r.agents(t)
	from, to := i.Validity()
	if !to.Equal(r.result.AgentCAs[0].Leaf.NotAfter) {
		t.Errorf("limit %v", to)
	}
	q := r.agentRequest(t)
	for name, c := range map[string]struct {
		now, notAfter time.Time
		want          error
	}{
		"expired CA":   {now: to.Add(time.Second), notAfter: to.Add(time.Minute), want: ca.ErrOutside},
		"CA too young": {now: from.Add(-time.Second), notAfter: from.Add(time.Minute), want: ca.ErrOutside},
		"beyond":       {now: to.Add(-time.Minute), notAfter: to.Add(time.Second), want: ca.ErrNotAfter},
		"to the end":   {now: to.Add(-time.Minute), notAfter: to},
		"at the start": {now: from, notAfter: from.Add(time.Minute)},
	} {
		q.NotAfter = c.notAfter
		p, err := i.PrepareAgent(q, c.now)
		if !errors.Is(err, c.want) || (err == nil) != (p != nil) {
			t.Errorf("%s: %v", name, err)
		}
		if p != nil && (p.NotBefore().Before(from) || p.NotAfter().After(to)) {
			t.Errorf("%s: %v to %v", name, p.NotBefore(), p.NotAfter())
		}
	}
}

func TestNewIssuerRefuses(t *testing.T) {
	r := newRig(t)
	agent, key := r.result.AgentCAs[0].Leaf, r.keys["agent-ca-1"]
	other := newRig(t).result.Root.Leaf
	_, leaf := issueAgent(t, r.agents(t), r.agentRequest(t))
	type args struct {
		cert    *x509.Certificate
		signer  crypto.Signer
		parents []*x509.Certificate
		profile func(*ca.Profile)
	}
	for name, c := range map[string]struct {
		args
		want error
	}{
		"other key":      {args: args{agent, r.keys["root"], r.roots(), nil}, want: ca.ErrKey},
		"no signer":      {args: args{agent, nil, r.roots(), nil}},
		"no certificate": {args: args{nil, key, r.roots(), nil}},
		"no parents":     {args: args{agent, key, nil, nil}, want: ca.ErrPath},
		"other root":     {args: args{agent, key, []*x509.Certificate{other}, nil}, want: ca.ErrPath},
		"not to a root":  {args: args{leaf.Leaf, r.leaf, []*x509.Certificate{agent}, nil}, want: ca.ErrPath},
		"a leaf":         {args: args{leaf.Leaf, r.leaf, append([]*x509.Certificate{agent}, r.roots()...), nil}},
		"a service CA":   {args: args{r.result.ServiceCAs[0].Leaf, r.keys["service-ca-1"], r.roots(), nil}},
		"zero kind":      {args: args{agent, key, r.roots(), func(p *ca.Profile) { p.Issues = lint.KindUnknown }}, want: ca.ErrKind},
		"CA kind":        {args: args{agent, key, r.roots(), func(p *ca.Profile) { p.Issues = lint.AgentCA }}, want: ca.ErrKind},
		"no lifetime":    {args: args{agent, key, r.roots(), func(p *ca.Profile) { p.MaxLifetime = 0 }}},
		"no delegation":  {args: args{agent, key, r.roots(), func(p *ca.Profile) { p.DelegationOID = nil }}},
		"trust domain":   {args: args{agent, key, r.roots(), func(p *ca.Profile) { p.TrustDomain = "evil.example" }}},
	} {
		profile := agentProfile()
		if c.profile != nil {
			c.profile(&profile)
		}
		i, err := ca.NewIssuer(c.cert, c.signer, c.parents, profile)
		if i != nil || err == nil || (c.want != nil && !errors.Is(err, c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
