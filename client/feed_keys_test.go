package client_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
)

// replaceKey makes the appliance sign with a new key, which issuer certifies.
func (w *wire) replaceKey(issuer *authority) (old *ecdsa.PrivateKey) {
	w.t.Helper()
	old, w.key = w.key, newKey(w.t)
	w.change(func() { w.publish(issuer.certify(w.key, jwtTemplate())) })
	return old
}

// The key is asked for at each connection: the one that has replaced it is believed, and it is not any more.
func TestFeedAsksForTheKeyAgain(t *testing.T) {
	onWire(t, func(w *wire) {
		conn := w.connect("")
		conn.say(w.revokes(1, 1, "a"), w.beats(1, 1))
		w.fresh(w.clock, "a")
		old := w.replaceKey(w.authority)
		conn.say(w.revokes(1, 2, "x"))
		if !conn.over() {
			t.Error("on one connection it follows two keys")
		}
		conn = w.connect("1.1")
		conn.say(w.revokes(1, 2, "b"), w.beatsAt(1, 2, time.Second))
		w.fresh(w.clock.Add(time.Second), "a", "b")
		conn.end()
		w.key = old
		conn = w.connect("1.2")
		conn.say(w.revokes(1, 3, "x"))
		if !conn.over() {
			t.Error("it believes the key that was replaced")
		}
		w.fresh(w.clock.Add(time.Second), "a", "b")
	})
}

// Any key of the set may be the certified one; whatever stands before it takes nothing from it.
func TestFeedFindsTheCertifiedKey(t *testing.T) {
	for name, other := range map[string]func(w *wire, good string) v1.Key{
		"no certificate": func(*wire, string) v1.Key { return v1.Key{} },
		"two":            func(_ *wire, good string) v1.Key { return v1.Key{X5C: []string{good, good}} },
		"not base64":     func(*wire, string) v1.Key { return v1.Key{X5C: []string{"-"}} },
		"not DER":        func(*wire, string) v1.Key { return v1.Key{X5C: []string{"eA=="}} },
		"another purpose": func(w *wire, _ string) v1.Key {
			return x5c(w.certify(newKey(w.t), &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature}))
		},
		"another root": func(w *wire, _ string) v1.Key { return x5c(newAuthority(w.t).certify(newKey(w.t), jwtTemplate())) },
	} {
		t.Run(name, func(t *testing.T) {
			onWire(t, func(w *wire) {
				conn := w.connect("")
				w.change(func() {
					good := w.keys.Keys[0]
					w.keys.Keys = []v1.Key{other(w, good.X5C[0]), good}
				})
				conn.end()
				w.connect("").say(w.revokes(1, 1, "a"), w.beats(1, 1))
				w.fresh(w.clock, "a")
			})
		})
	}
}

// A key that was certified once is judged again at each connection: by its path, and by the clock that the follower was
// given. Without one no stream is asked for, and what is known stays as it was.
func TestFeedStopsWhenItsKeyIsCertifiedNoMore(t *testing.T) {
	for name, spoil := range map[string]func(w *wire, ahead *atomic.Int64){
		"expired":       func(_ *wire, ahead *atomic.Int64) { ahead.Store(int64(2 * time.Hour)) },
		"not yet valid": func(_ *wire, ahead *atomic.Int64) { ahead.Store(int64(-2 * time.Hour)) },
		"none":          func(w *wire, _ *atomic.Int64) { w.change(func() { w.publish() }) },
		// Its name is the root's, and its key another.
		"another root": func(w *wire, _ *atomic.Int64) { w.replaceKey(newAuthority(w.t)) },
		// Its certificate comes with that of its issuer.
		"another root, in two": func(w *wire, _ *atomic.Int64) {
			other := newAuthority(w.t)
			w.replaceKey(other)
			w.change(func() { w.keys.Keys[0].X5C = append(w.keys.Keys[0].X5C, x5c(other.root).X5C...) })
		},
		"good, in two": func(w *wire, _ *atomic.Int64) {
			w.change(func() {
				good := w.keys.Keys[0].X5C[0]
				w.keys = v1.KeySet{Keys: []v1.Key{{X5C: []string{good, good}}}}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			var ahead atomic.Int64
			onWire(t, func(w *wire) {
				conn := w.connect("")
				conn.say(w.revokes(1, 1, "a"), w.beats(1, 1))
				keys, key := w.keys, w.key
				spoil(w, &ahead)
				conn.end()
				w.nobody(name)
				w.fresh(w.clock, "a")
				w.change(func() { w.keys, w.key = keys, key })
				ahead.Store(0)
				w.connect("1.1").say(w.revokes(1, 2, "b"), w.beatsAt(1, 2, time.Second))
				w.fresh(w.clock.Add(time.Second), "a", "b")
			}, func(f *client.FeedConfig) {
				f.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
			})
		})
	}
}
