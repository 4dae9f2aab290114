package consent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestFlowsAreBounded(t *testing.T) {
	f, now := newFlows(), time.Unix(1000, 0)
	for i := range 100 {
		at := now.Add(time.Duration(i) * time.Second)
		if err := f.put(fmt.Sprint("a", i), flow{grantID: "a", stage: stageLogin, expires: at.Add(flowLife)}, at); err != nil {
			t.Fatal(err)
		}
	}
	if len(f.all) != maxFlowsPerGrant {
		t.Errorf("%d flows of one grant", len(f.all))
	}
	if _, ok := f.get("a99", now); !ok {
		t.Error("the newest flow of the grant gave way")
	}
	var full *refusedError
	for i := range 2 * maxFlows {
		err := f.put(fmt.Sprint("b", i), flow{grantID: fmt.Sprint(i), expires: now.Add(flowLife)}, now)
		if err != nil && (!errors.As(err, &full) || full.code != "too_many_flows") {
			t.Fatal(err)
		}
	}
	if full == nil || len(f.all) != maxFlows {
		t.Errorf("%d flows, refusal %v", len(f.all), full)
	}
	later := now.Add(flowLife + 2*time.Minute)
	if err := f.put("c", flow{grantID: "c", expires: later.Add(flowLife)}, later); err != nil || len(f.all) != 1 {
		t.Errorf("after their time: %v, %d flows", err, len(f.all))
	}
}

func TestTakeOnce(t *testing.T) {
	f, now := newFlows(), time.Unix(1000, 0)
	if err := f.put("c", flow{grantID: "g", expires: now.Add(time.Minute)}, now); err != nil {
		t.Fatal(err)
	}
	no := errors.New("no")
	if _, err := f.take("c", now, func(flow) error { return no }); !errors.Is(err, no) {
		t.Fatal(err)
	}
	yes := func(flow) error { return nil }
	if _, err := f.take("c", now, yes); err != nil {
		t.Fatal(err)
	}
	if _, err := f.take("c", now, yes); err == nil {
		t.Fatal("taken twice")
	}
}

func TestConfigRefuses(t *testing.T) {
	good := Config{
		Name: "idp", Issuer: "https://idp.example", ClientID: "c", RedirectURL: "https://signet.example/v1/grants/callback/idp",
		Now: time.Now, Rand: zero{},
	}
	empty := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewProvider(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"plain issuer":   func(c *Config) { c.Issuer = "http://idp.example" },
		"issuer query":   func(c *Config) { c.Issuer += "?x" },
		"no issuer":      func(c *Config) { c.Issuer = "" },
		"no client":      func(c *Config) { c.ClientID = "" },
		"plain redirect": func(c *Config) { c.RedirectURL = "http://signet.example/v1/grants/callback/idp" },
		"wide skew":      func(c *Config) { c.Skew = time.Hour },
		"negative skew":  func(c *Config) { c.Skew = -1 },
		"no clock":       func(c *Config) { c.Now = nil },
		"no randomness":  func(c *Config) { c.Rand = nil },
		"no secret file": func(c *Config) { c.ClientSecretFile = empty + "x" },
		"empty secret":   func(c *Config) { c.ClientSecretFile = empty },
	} {
		c := good
		change(&c)
		if _, err := NewProvider(c); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

type zero struct{}

func (zero) Read(b []byte) (int, error) { clear(b); return len(b), nil }
