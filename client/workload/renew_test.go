package workload

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// ends gives a certificate its end.
func ends(at time.Time) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotAfter = at }
}

// Three certificates of a task: the second and third come when two thirds of the one before have passed, and the third, which ends
// when the second does, is the last.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, s, begin := newAuthority(t), New(), time.Now()
		after := func(minutes int) time.Time { return begin.Add(time.Duration(minutes) * time.Minute) }
		following := []*tls.Certificate{a.issue(agent2, ends(after(18))), a.issue(agent1, ends(after(18)))}
		var asked []time.Duration
		warned := 0
		r := Renewal{
			Roots: []*x509.Certificate{a.root}, Warn: func(error) { warned++ },
			Next: func(context.Context, *tls.Certificate) (*tls.Certificate, error) {
				asked = append(asked, time.Since(begin))
				if len(asked) == 2 { // once, and then the answer
					return nil, errors.New("away")
				}
				next := following[0]
				following = following[1:]
				return next, nil
			},
		}
		err := r.Run(t.Context(), s, a.issue(agent1, ends(after(9))))
		if !errors.Is(err, ErrEnded) || time.Since(begin) != 18*time.Minute || warned != 1 {
			t.Errorf("%v after %s, %d warnings", err, time.Since(begin), warned)
		}
		want := []time.Duration{6 * time.Minute, 14 * time.Minute, 14*time.Minute + firstRetry}
		for i, at := range want {
			if len(asked) != len(want) || asked[i] != at {
				t.Fatalf("asked at %v, want %v", asked, want)
			}
		}
		if i, _ := s.get(); i.ID().String() != agent1 {
			t.Errorf("serving %s at the end", i.ID())
		}
	})
}

// Without a next certificate the last one is served until it ends, and no longer.
func TestRenewalFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, begin := newAuthority(t), time.Now()
		away := errors.New("away")
		tries := 0
		r := Renewal{
			Roots: []*x509.Certificate{a.root}, Warn: func(error) {},
			Next: func(context.Context, *tls.Certificate) (*tls.Certificate, error) {
				tries++
				return nil, away
			},
		}
		err := r.Run(t.Context(), New(), a.issue(agent1, ends(begin.Add(3*time.Minute))))
		if !errors.Is(err, ErrEnded) || !errors.Is(err, away) || time.Since(begin) != 3*time.Minute || tries < 5 || tries > 10 {
			t.Errorf("%v after %s and %d tries", err, time.Since(begin), tries)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := r.Run(ctx, New(), a.issue(agent1, ends(time.Now().Add(time.Minute)))); !errors.Is(err, context.Canceled) {
			t.Errorf("interrupted: %v", err)
		}
		r.Next = func(context.Context, *tls.Certificate) (*tls.Certificate, error) {
			return newAuthority(t).issue(agent1, ends(time.Now().Add(time.Hour))), nil
		}
		if err := r.Run(t.Context(), New(), a.issue(agent1, ends(time.Now().Add(time.Minute)))); !errors.Is(err, ErrIdentity) {
			t.Errorf("a stranger's certificate: %v", err)
		}
	})
}
