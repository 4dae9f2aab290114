package client_test

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/event"
)

func TestFeedIsFreshWhenAllWasRead(t *testing.T) {
	a := newPublisher(t)
	a.scripts <- []string{a.revokes(1, 4, "a"), a.revokes(1, 9, "b"), hang}
	feed := a.follow()
	if cursor := a.connected(); cursor != "" {
		t.Errorf("the first connection asks from %q", cursor)
	}
	until(t, feed, "both events", func() bool { return feed.Revoked(chain.RevTask, "b") })
	if !feed.FreshAt().IsZero() {
		t.Error("fresh before the appliance said that this was all")
	}
	a.server.CloseClientConnections()
	a.scripts <- []string{a.beats(1, 20), a.revokes(1, 21, "c"), a.beats(1, 21), hang}
	if cursor := a.connected(); cursor != "1.9" {
		t.Errorf("it resumes at %q", cursor)
	}
	until(t, feed, "the third event", func() bool { return feed.Revoked(chain.RevTask, "c") })
	if !feed.FreshAt().Equal(a.clock) || !feed.Revoked(chain.RevTask, "a") || feed.Revoked(chain.RevGrant, "a") || feed.Revoked(chain.RevTask, "d") {
		t.Errorf("fresh at %s", feed.FreshAt())
	}
}

// Whatever is wrong on a connection ends it, is not believed, and is read again from the last event that was in order.
func TestFeedRefuses(t *testing.T) {
	for name, wrong := range map[string]func(a *publisher) string{
		"another key": func(a *publisher) string {
			e := event.Event{Epoch: 1, Seq: 2, Kind: chain.RevTask, ID: "x", Time: a.clock}
			return message(a.set(newKey(a.t), e.Claims(testOrigin, testDomain)))
		},
		"forged payload": func(a *publisher) string {
			parts := strings.Split(strings.TrimSpace(strings.TrimPrefix(a.revokes(1, 2, "y"), "data: ")), ".")
			return message(parts[0] + "." + strings.Replace(parts[1], "e", "f", 1) + "." + parts[2])
		},
		"alg none": func(a *publisher) string {
			parts := strings.Split(strings.TrimSpace(strings.TrimPrefix(a.revokes(1, 2, "x"), "data: ")), ".")
			return message(base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"secevent+jwt"}`)) + "." + parts[1] + ".")
		},
		"another issuer": func(a *publisher) string {
			e := event.Event{Epoch: 1, Seq: 2, Kind: chain.RevTask, ID: "x", Time: a.clock}
			return message(a.set(a.key, e.Claims("other.example", testDomain)))
		},
		"another audience": func(a *publisher) string {
			e := event.Event{Epoch: 1, Seq: 2, Kind: chain.RevTask, ID: "x", Time: a.clock}
			return message(a.set(a.key, e.Claims(testOrigin, "other.example")))
		},
		"no token":        func(*publisher) string { return message("x") },
		"replayed":        func(a *publisher) string { return a.revokes(1, 1, "x") },
		"gap":             func(a *publisher) string { return a.revokes(1, 3, "x") },
		"heartbeat's gap": func(a *publisher) string { return a.beats(1, 2) },
		"old heartbeat":   func(a *publisher) string { return a.beats(1, 0) },
		"heartbeat of the past": func(a *publisher) string {
			return a.event(event.Event{Epoch: 1, Seq: 1, Time: a.clock.Add(-time.Minute)})
		},
		"earlier epoch": func(a *publisher) string {
			e := event.Event{Epoch: 0, Seq: 2, Kind: chain.RevTask, ID: "x", Time: a.clock}
			return message(a.set(a.key, e.Claims(testOrigin, testDomain)))
		},
		"later epoch":     func(a *publisher) string { return a.revokes(2, 2, "x") },
		"two lines":       func(a *publisher) string { return "data: x\n" + a.revokes(1, 2, "x") },
		"endless line":    func(*publisher) string { return "data: " + strings.Repeat("x", event.MaxBytes+100) },
		"torn":            func(a *publisher) string { s := a.revokes(1, 2, "x"); return s[:len(s)/2] },
		"torn at its end": func(a *publisher) string { return strings.TrimSuffix(a.revokes(1, 2, "x"), "\n") },
		"nothing more":    func(*publisher) string { return "" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newPublisher(t)
			a.scripts <- []string{a.revokes(1, 1, "a"), a.beats(1, 1), wrong(a)}
			a.scripts <- []string{a.revokes(1, 2, "b"), a.beats(1, 2), hang}
			feed := a.follow()
			a.connected()
			if cursor := a.connected(); cursor != "1.1" {
				t.Errorf("it resumes at %q", cursor)
			}
			until(t, feed, "the second event", func() bool { return feed.Revoked(chain.RevTask, "b") })
			if feed.Revoked(chain.RevTask, "x") || !feed.Revoked(chain.RevTask, "a") {
				t.Error("it believed what it refused, or forgot what it knew")
			}
		})
	}
}

func TestFeedBelievesOnlyACertifiedKey(t *testing.T) {
	for name, keys := range map[string]func(a *publisher) []*x509.Certificate{
		"none": func(*publisher) []*x509.Certificate { return nil },
		"the audit key's purpose": func(a *publisher) []*x509.Certificate {
			c := jwtTemplate()
			c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 36}}
			return []*x509.Certificate{a.certify(a.key, c)}
		},
		"two purposes": func(a *publisher) []*x509.Certificate {
			c := jwtTemplate()
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			return []*x509.Certificate{a.certify(a.key, c)}
		},
		"a CA": func(a *publisher) []*x509.Certificate {
			c := jwtTemplate()
			c.IsCA, c.BasicConstraintsValid = true, true
			return []*x509.Certificate{a.certify(a.key, c)}
		},
		"another root": func(*publisher) []*x509.Certificate {
			other := newPublisher(t)
			return []*x509.Certificate{other.certify(other.key, jwtTemplate())}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newPublisher(t)
			good := a.keys
			a.publish(keys(a)...)
			c, err := client.New(client.Config{URL: a.server.URL, Roots: a.roots})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			got, err := c.Keys(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range got.Keys {
				if key, err := chain.JWTKey(parse(t, k.X5C[0]), a.roots, a.clock); err == nil || key != nil {
					t.Errorf("believed: %v", err)
				}
			}
			if _, err := chain.JWTKey(parse(t, good.Keys[0].X5C[0]), a.roots, a.clock); err != nil {
				t.Error(err)
			}
			if _, err := chain.JWTKey(parse(t, good.Keys[0].X5C[0]), a.roots, a.clock.Add(2*time.Hour)); err == nil {
				t.Error("an expired certificate is believed")
			}
			// No connection is made without a key; one that came would not wait for a script.
			a.scripts <- []string{a.revokes(1, 1, "a"), a.beats(1, 1), hang}
			said := make(recorder, 16)
			feed := a.follow(func(f *client.FeedConfig) { f.Logger = said.logger() })
			if text := <-said; !strings.Contains(text, "no key is certified") {
				t.Errorf("it broke off with %s", text)
			}
			if !feed.FreshAt().IsZero() || feed.Revoked(chain.RevTask, "a") || len(a.cursors) != 0 {
				t.Error("it followed without a certified key")
			}
		})
	}
}

func parse(t *testing.T, text string) *x509.Certificate {
	t.Helper()
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// A restored appliance begins a new epoch. Nothing is un-revoked by it, and the feed is not fresh until it was read whole.
func TestFeedReadsANewEpochWhole(t *testing.T) {
	a := newPublisher(t)
	a.scripts <- []string{a.revokes(1, 5, "a"), a.beats(1, 5)}
	a.scripts <- []string{a.revokes(2, 1, "b"), hang}
	feed := a.follow()
	a.connected()
	if cursor := a.connected(); cursor != "1.5" {
		t.Errorf("it resumes at %q", cursor)
	}
	until(t, feed, "the new epoch's event", func() bool { return feed.Revoked(chain.RevTask, "b") })
	if !feed.FreshAt().IsZero() || !feed.Revoked(chain.RevTask, "a") {
		t.Error("fresh in the middle of a new epoch, or un-revoked by it")
	}
	a.server.CloseClientConnections()
	a.scripts <- []string{a.revokes(2, 2, "c"), a.beats(2, 2)}
	a.scripts <- []string{a.revokes(1, 6, "x"), a.beats(1, 6)}
	a.scripts <- []string{a.beats(2, 2), hang}
	if cursor := a.connected(); cursor != "2.1" {
		t.Errorf("it resumes at %q", cursor)
	}
	a.connected()
	if cursor := a.connected(); cursor != "2.2" {
		t.Errorf("after an earlier epoch it resumes at %q", cursor)
	}
	if !feed.Revoked(chain.RevTask, "c") || feed.Revoked(chain.RevTask, "x") || feed.FreshAt().IsZero() {
		t.Error("the new epoch was not read, or the old one believed again")
	}
}

func TestFeedForgetsWhatIsOver(t *testing.T) {
	a := newPublisher(t)
	over := event.Event{Epoch: 1, Seq: 1, Kind: chain.RevTask, ID: "over", Time: a.clock.Add(-time.Hour), Expires: a.clock}
	lasts := event.Event{Epoch: 1, Seq: 2, Kind: chain.RevTask, ID: "lasts", Time: a.clock, Expires: a.clock.Add(time.Second)}
	a.scripts <- []string{a.event(over), a.event(lasts), a.beats(1, 2), hang}
	feed := a.follow()
	until(t, feed, "the heartbeat", func() bool { return !feed.FreshAt().IsZero() })
	if feed.Revoked(chain.RevTask, "over") || !feed.Revoked(chain.RevTask, "lasts") {
		t.Error("it keeps what is over, or forgot what lasts")
	}
}

func TestFeedIsNeverFreshWithMoreThanItHolds(t *testing.T) {
	a := newPublisher(t)
	a.scripts <- []string{a.revokes(1, 1, "a"), a.revokes(1, 2, "b"), a.beats(1, 2)}
	a.scripts <- []string{a.revokes(1, 2, "b"), a.beats(1, 2)}
	feed := a.follow(func(f *client.FeedConfig) { f.Max = 1 })
	a.connected()
	if cursor := a.connected(); cursor != "1.1" {
		t.Errorf("it resumes at %q", cursor)
	}
	a.connected()
	if !feed.FreshAt().IsZero() || !feed.Revoked(chain.RevTask, "a") {
		t.Error("fresh, with a revocation that it does not hold")
	}
}

func TestFeedLeavesADeadConnection(t *testing.T) {
	a := newPublisher(t)
	a.scripts <- []string{a.revokes(1, 1, "a"), a.beats(1, 1), hang}
	a.follow(func(f *client.FeedConfig) { f.Silence = 100 * time.Millisecond })
	a.connected()
	if cursor := a.connected(); cursor != "1.1" {
		t.Errorf("it resumes at %q", cursor)
	}
}

func TestFeedNeedsToKnowWhom(t *testing.T) {
	a := newPublisher(t)
	c, err := client.New(client.Config{URL: a.server.URL, Roots: a.roots})
	if err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []client.FeedConfig{{Origin: testOrigin}, {TrustDomain: testDomain}} {
		if f, err := c.NewFeed(cfg); err == nil || f != nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}
