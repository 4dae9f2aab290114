package client_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"net/http"
	"slices"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
)

func TestSignSpawn(t *testing.T) {
	parent := identity(t, "spiffe://"+testDomain+"/orchestrator/o")
	childKey := newKey(t)
	hash, err := client.ParentHash(parent.Leaf, grantHash)
	if err != nil {
		t.Fatal(err)
	}
	expiry := time.Now().Add(time.Hour)
	jws, err := client.SignSpawn(parent, testOrigin, hash, childKey.Public(), testDomain, spawnRequest(), expiry)
	if err != nil {
		t.Fatal(err)
	}
	got, err := chain.VerifyDelegation(jws, parent.Leaf.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	jkt, err := chain.Thumbprint(childKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		claim     string
		got, want any
	}{
		{"iss", got.Issuer, "spiffe://" + testDomain + "/orchestrator/o"},
		{"sub", got.Subject, "spiffe://" + testDomain + "/agent/research/" + testSpawn},
		{"aud", got.Audience, testOrigin},
		{"jti", got.JTI, testSpawn},
		{"task_id", got.TaskID, testTask},
		{"scope", got.Scope.String(), "database:read:a x"},
		{"del_max_depth", got.MaxDepth, 1},
		{"exp", got.Expiry.Unix(), expiry.Unix()},
		{"par_hash", hex.EncodeToString(got.ParentHash[:]), grantHash},
		{"cnf.jkt", got.KeyHash, jkt},
		{"cnf.enrol", got.EnrolHash == nil, true},
	} {
		if c.got != c.want {
			t.Errorf("%s = %v, want %v", c.claim, c.got, c.want)
		}
	}
	if since := time.Since(got.IssuedAt); since < 0 || since > time.Minute {
		t.Errorf("iat is %s ago", since)
	}
	if _, err := chain.VerifyDelegation(jws, newKey(t).Public()); err == nil {
		t.Error("verifies under another key")
	}
}

func TestSignSpawnRefuses(t *testing.T) {
	good := identity(t, "spiffe://"+testDomain+"/orchestrator/o")
	noKey := *good
	noKey.PrivateKey = nil
	for name, c := range map[string]struct {
		cert   *tls.Certificate
		change func(*v1.SpawnRequest)
		domain string
		parent [32]byte
		expiry time.Time
	}{
		"no certificate":   {cert: nil},
		"no leaf":          {cert: &tls.Certificate{PrivateKey: good.PrivateKey}},
		"no key":           {cert: &noKey},
		"no SPIFFE ID":     {cert: identity(t, "")},
		"a service signs":  {cert: identity(t, "spiffe://"+testDomain+"/service/s")},
		"no scope":         {cert: good, change: func(q *v1.SpawnRequest) { q.Scope = nil }},
		"bad token":        {cert: good, change: func(q *v1.SpawnRequest) { q.Scope = []string{"a b"} }},
		"bad spawn id":     {cert: good, change: func(q *v1.SpawnRequest) { q.SpawnID = "x" }},
		"bad agent type":   {cert: good, change: func(q *v1.SpawnRequest) { q.AgentType = "a/b" }},
		"bad task":         {cert: good, change: func(q *v1.SpawnRequest) { q.TaskID = "" }},
		"negative depth":   {cert: good, change: func(q *v1.SpawnRequest) { q.MaxDepth = -1 }},
		"another domain":   {cert: good, domain: "other.example"},
		"zero parent hash": {cert: good, parent: [32]byte{}, expiry: time.Now().Add(time.Minute)},
		"in the past":      {cert: good, expiry: time.Now().Add(-time.Minute)},
	} {
		t.Run(name, func(t *testing.T) {
			q := spawnRequest()
			if c.change != nil {
				c.change(&q)
			}
			if c.domain == "" {
				c.domain = testDomain
			}
			if name != "zero parent hash" {
				c.parent = [32]byte{1}
			}
			if c.expiry.IsZero() {
				c.expiry = time.Now().Add(time.Minute)
			}
			if jws, err := client.SignSpawn(c.cert, testOrigin, c.parent, newKey(t).Public(), c.domain, q, c.expiry); err == nil || jws != "" {
				t.Errorf("signed: %q, %v", jws, err)
			}
		})
	}
	if _, err := client.SignSpawn(good, testOrigin, [32]byte{1}, ed25519.PublicKey{1}, testDomain, spawnRequest(), time.Now().Add(time.Minute)); err == nil {
		t.Error("signed for a key that is none")
	}
}

func TestParentHash(t *testing.T) {
	agent := "spiffe://" + testDomain + "/agent/research/" + testParent
	own := [32]byte{9}
	fromGrant := [32]byte{}
	if _, err := hex.Decode(fromGrant[:], []byte(grantHash)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		leaf  *x509.Certificate
		grant string
		want  [32]byte
		bad   bool
	}{
		"orchestrator":             {leaf: identity(t, "spiffe://"+testDomain+"/orchestrator/o").Leaf, grant: grantHash, want: fromGrant},
		"confirmed agent":          {leaf: identity(t, agent, delegated(t, agent, &own)).Leaf, grant: grantHash, want: own},
		"confirmed agent, alone":   {leaf: identity(t, agent, delegated(t, agent, &own)).Leaf, want: own},
		"unconfirmed agent":        {leaf: identity(t, agent, delegated(t, agent, nil)).Leaf, grant: grantHash, want: fromGrant},
		"unconfirmed agent, alone": {leaf: identity(t, agent, delegated(t, agent, nil)).Leaf, bad: true},
		"unreadable delegation":    {leaf: identity(t, agent, pkix.Extension{Id: chain.OID(), Value: []byte{1}}).Leaf, grant: grantHash, bad: true},
		"no certificate":           {grant: grantHash, bad: true},
		"short hash":               {leaf: identity(t, agent).Leaf, grant: grantHash[2:], bad: true},
		"long hash":                {leaf: identity(t, agent).Leaf, grant: grantHash + "00", bad: true},
		"no hex":                   {leaf: identity(t, agent).Leaf, grant: "zz" + grantHash[2:], bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := client.ParentHash(c.leaf, c.grant)
			if (err != nil) != c.bad || err == nil && got != c.want {
				t.Errorf("got %x, %v", got, err)
			}
		})
	}
}

func TestNewSpawnID(t *testing.T) {
	var ids []string
	for range 20 {
		id, err := client.NewSpawnID()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := chain.ParseUUID(id); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != 20 {
		t.Error("an id came twice")
	}
}

func TestOrigin(t *testing.T) {
	for body, want := range map[string]string{
		testOrigin + "\n17\nAAAA\n\n— x y\n": testOrigin,
		"":                                   "",
		"\nnothing":                          "",
		"no line end":                        "",
	} {
		c := connect(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/checkpoint" {
				t.Errorf("asked for %s", r.URL.Path)
			}
			if _, err := w.Write([]byte(body)); err != nil {
				t.Error(err)
			}
		})
		if got, err := c.Origin(t.Context()); got != want || (err != nil) != (want == "") {
			t.Errorf("%q: got %q, %v", body, got, err)
		}
	}
}

func TestSignSpawnWithToken(t *testing.T) {
	parent := identity(t, "spiffe://"+testDomain+"/orchestrator/o")
	token, hash, err := client.NewEnrollmentToken()
	if err != nil || len(token) != 43 {
		t.Fatalf("%q %v", token, err)
	}
	sign := func(hash string) (string, error) {
		q := spawnRequest()
		q.EnrollmentHash = hash
		return client.SignSpawn(parent, testOrigin, [32]byte{1}, nil, testDomain, q, time.Now().Add(time.Minute))
	}
	jws, err := sign(hash)
	if err != nil {
		t.Fatal(err)
	}
	got, err := chain.VerifyDelegation(jws, parent.Leaf.PublicKey)
	if err != nil || got.EnrolHash == nil || *got.EnrolHash != sha256.Sum256([]byte(token)) {
		t.Errorf("%+v %v", got, err)
	}
	for _, bad := range []string{"", "x", hash + "A"} {
		if _, err := sign(bad); err == nil {
			t.Errorf("%q was signed", bad)
		}
	}
}

func TestSignRekeyRefuses(t *testing.T) {
	service := identity(t, "spiffe://"+testDomain+"/service/s")
	noKey := *service
	noKey.PrivateKey = nil
	for name, cert := range map[string]*tls.Certificate{"none": nil, "no key": &noKey, "no SPIFFE ID": identity(t, ""), "no agent": service} {
		if link, err := client.SignRekey(cert, testOrigin, newKey(t).Public()); err == nil || link != "" {
			t.Errorf("%s: %q, %v", name, link, err)
		}
	}
}
