package workload

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// ErrEnded means that the certificate ended and there is no next one.
var ErrEnded = errors.New("workload: the certificate has ended")

const (
	firstRetry = time.Second
	lastRetry  = 15 * time.Second
)

// Renewal keeps an identity alive that the process holds itself.
type Renewal struct {
	Roots []*x509.Certificate
	// Next gets the certificate that follows. It is asked again after an error, which may mean that it was issued all the same.
	Next func(ctx context.Context, current *tls.Certificate) (*tls.Certificate, error)
	Warn func(error) // told why there is no next certificate yet
}

// Run serves cert and what follows it, each asked for when two thirds of the life of the one before have passed, until ctx ends or
// the last one does: a task has an end, and its agents end with it.
func (r Renewal) Run(ctx context.Context, s *Server, cert *tls.Certificate) error {
	for more := true; ; {
		i, err := NewIdentity(cert, r.Roots, time.Now())
		if err != nil {
			return err
		}
		s.Set(i)
		if !more {
			if err := wait(ctx, time.Until(i.notAfter)); err != nil {
				return err
			}
			return fmt.Errorf("%w: %s", ErrEnded, i.notAfter.UTC().Format(time.RFC3339))
		}
		next, err := r.follow(ctx, cert)
		if err != nil {
			return err
		}
		// What ends no later than the one before is the last: whoever bounds it will not give more.
		more = next.Leaf.NotAfter.After(cert.Leaf.NotAfter)
		cert = next
	}
}

// follow waits until it is time, and asks until there is an answer or the certificate has ended.
func (r Renewal) follow(ctx context.Context, cert *tls.Certificate) (*tls.Certificate, error) {
	if err := wait(ctx, 2*time.Until(cert.Leaf.NotAfter)/3); err != nil {
		return nil, err
	}
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		next, err := r.Next(ctx, cert)
		if err == nil {
			return next, nil
		}
		left := time.Until(cert.Leaf.NotAfter)
		if left <= 0 {
			return nil, fmt.Errorf("%w, and there is no next one: %w", ErrEnded, err)
		}
		r.Warn(err)
		if err := wait(ctx, min(pause, left)); err != nil {
			return nil, err
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
