package appliance

import (
	"context"
	"errors"
	"fmt"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/policy/opa"
	"github.com/signet-pki/signet/policy/review"
)

// reviewLog is the log as reviews of policy want it.
type reviewLog struct{ *audit.Log }

// Size is the number of durable entries.
func (l reviewLog) Size() uint64 { return l.Head().Size }

// Entries reads a range.
func (l reviewLog) Entries(ctx context.Context, from, to uint64, fn func(record.Stored) error) error {
	err := l.Log.Entries(ctx, from, to, fn)
	if errors.Is(err, audit.ErrPruned) {
		return fmt.Errorf("%w: %w", review.ErrPruned, err)
	}
	if errors.Is(err, audit.ErrNotFound) {
		return fmt.Errorf("%w: %w", review.ErrNotFound, err)
	}
	return err
}

// reviewBundles finds the bundle of a review: what decides now, or one that the domain has stored.
type reviewBundles struct {
	domain *delegation.Service
	active *opa.Active
}

// Engine gives a bundle apart from the decisions.
func (b reviewBundles) Engine(ctx context.Context, name, digest string) (review.Engine, error) {
	if name == review.Active {
		name = ""
	}
	if e := b.active.Engine(); e != nil && name == "" && (digest == "" || digest == e.Digest()) {
		return e.Apart(), nil
	}
	found, err := b.domain.FindBundle(ctx, name, digest)
	if err != nil {
		if delegation.AsError(err).Kind == delegation.NotFound {
			err = fmt.Errorf("%w: %w", review.ErrNoBundle, err)
		}
		return nil, err
	}
	e, ok := found.(*opa.Engine)
	if !ok {
		return nil, review.ErrNoBundle
	}
	return e.Apart(), nil
}
