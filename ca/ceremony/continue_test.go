package ceremony_test

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/ca/ceremony"
)

// sameKeys gives the key that was made under a label before.
type sameKeys struct {
	softKeys
	have map[string]crypto.Signer
}

func (k *sameKeys) Generate(ctx context.Context, role ceremony.Role, label string) (crypto.Signer, string, error) {
	if key, ok := k.have[label]; ok {
		return key, "soft:" + label, nil
	}
	key, uri, err := k.softKeys.Generate(ctx, role, label)
	k.have[label] = key
	return key, uri, err
}

// shelf are records in memory, with room for so many more.
type shelf struct {
	certs map[string][]byte
	room  int
}

func (s *shelf) Certificate(name string) ([]byte, error) { return s.certs[name], nil }

func (s *shelf) Keep(name string, der []byte) error {
	if s.room--; s.room < 0 {
		return errors.New("no room")
	}
	s.certs[name] = der
	return nil
}

func TestCeremonyContinues(t *testing.T) {
	plan, ak := mustPlan(t, config(t)), newKey(t).Public()
	keys, records := &sameKeys{have: map[string]crypto.Signer{}}, &shelf{certs: map[string][]byte{}}
	for n := 0; ; n++ {
		kept := maps.Clone(records.certs)
		records.room = 1
		r, err := ceremony.Continue(t.Context(), plan, keys, records, ak, start)
		for name, der := range kept {
			if !bytes.Equal(records.certs[name], der) {
				t.Fatalf("%s was certified twice", name)
			}
		}
		if err == nil {
			if n != 9 || len(keys.made) != 8 || len(records.certs) != 10 {
				t.Errorf("after %d interruptions %d keys and %d certificates", n, len(keys.made), len(records.certs))
			}
			again, err := ceremony.Continue(t.Context(), plan, keys, records, ak, start)
			if err != nil || !slices.Equal(again.Transcript, r.Transcript) || !bytes.Equal(again.Operator.DER, r.Operator.DER) {
				t.Errorf("once more: %v", err)
			}
			return
		}
		if !strings.Contains(err.Error(), "no room") {
			t.Fatal(err)
		}
	}
}

func TestContinueRefusesWhatIsNotOfIt(t *testing.T) {
	plan, ak := mustPlan(t, config(t)), newKey(t).Public()
	keys, records := &sameKeys{have: map[string]crypto.Signer{}}, &shelf{certs: map[string][]byte{}, room: 99}
	good, err := ceremony.Continue(t.Context(), plan, keys, records, ak, start)
	if err != nil {
		t.Fatal(err)
	}
	with := func(name string, der []byte) *shelf {
		s := &shelf{certs: maps.Clone(records.certs), room: 99}
		s.certs[name] = der
		return s
	}
	other := hold(t, config(t), &softKeys{})
	signature := bytes.Clone(good.Audit.DER)
	signature[len(signature)-1] ^= 1
	for name, c := range map[string]struct {
		records *shelf
		ak      crypto.PublicKey
		at      time.Time
	}{
		"another time":             {records, ak, start.Add(time.Hour)},
		"another attestation key":  {records, newKey(t).Public(), start},
		"no certificate":           {with("jwt", []byte("x")), ak, start},
		"another ceremony's":       {with("root", other.Root.DER), ak, start},
		"one in another's place":   {with("agent-ca-2", good.AgentCAs[0].DER), ak, start},
		"a signature that is none": {with("audit", signature), ak, start},
	} {
		if _, err := ceremony.Continue(t.Context(), plan, keys, c.records, c.ak, c.at); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestWriteGoesOn(t *testing.T) {
	r, dir := hold(t, config(t), &softKeys{}), t.TempDir()
	for range 2 {
		if err := r.Write(dir); err != nil {
			t.Fatal(err)
		}
	}
}

// A plan is described the same each time, and differently when anything in it is another.
func TestDescribe(t *testing.T) {
	cfg := config(t)
	cfg.Operator.CRLURL = "http://crl.example/service.crl"
	was := mustPlan(t, cfg).Describe()
	if !slices.Equal(was, mustPlan(t, cfg).Describe()) {
		t.Error("the same plan is described in two ways")
	}
	for name, change := range map[string]func(c *ceremony.Config){
		"trust domain":     func(c *ceremony.Config) { c.TrustDomain = "other.example" },
		"origin":           func(c *ceremony.Config) { c.Origin += "x" },
		"root":             func(c *ceremony.Config) { c.Root.CommonName += "x" },
		"organization":     func(c *ceremony.Config) { c.Root.Organization += "x" },
		"root's life":      func(c *ceremony.Config) { c.Root.ValidityDays++ },
		"agent CAs":        func(c *ceremony.Config) { c.AgentCAs.Count++ },
		"agent CAs' life":  func(c *ceremony.Config) { c.AgentCAs.ValidityDays++ },
		"overlap":          func(c *ceremony.Config) { c.AgentCAs.OverlapDays++ },
		"service CAs":      func(c *ceremony.Config) { c.ServiceCAs.Count++ },
		"DNS":              func(c *ceremony.Config) { c.ServiceCAs.DNS = c.ServiceCAs.DNS[:1] },
		"IP":               func(c *ceremony.Config) { c.ServiceCAs.IPs = c.ServiceCAs.IPs[:1] },
		"operator":         func(c *ceremony.Config) { c.Operator.Name += "x" },
		"operator's key":   func(c *ceremony.Config) { c.Operator.PublicKey = publicPEM(t, newKey(t).Public()) },
		"operator's life":  func(c *ceremony.Config) { c.Operator.ValidityDays++ },
		"operator's CRL":   func(c *ceremony.Config) { c.Operator.CRLURL += "x" },
		"service CAs' end": func(c *ceremony.Config) { c.ServiceCAs.OverlapDays++ },
	} {
		c := cfg
		change(&c)
		if slices.Equal(was, mustPlan(t, c).Describe()) {
			t.Errorf("%s: described as before", name)
		}
	}
}
