package appliance

import (
	"context"
	"errors"
	"fmt"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/record"
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
	if errors.Is(err, audit.ErrNotFound) {
		return fmt.Errorf("%w: %w", review.ErrNotFound, err)
	}
	return err
}

// reviewBundles finds the bundle of a review.
type reviewBundles struct{ active *opa.Engine }

// Engine gives the active bundle, apart from the decisions.
func (b reviewBundles) Engine(_ context.Context, name, digest string) (review.Engine, error) {
	if name != "" && name != review.Active || digest != "" && digest != b.active.Digest() {
		return nil, review.ErrNoBundle
	}
	return b.active.Apart(), nil
}
