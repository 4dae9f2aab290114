package delegation

import (
	"context"

	"github.com/signet-pki/signet/audit/record"
)

// RecordReview records that somebody has what policy was asked evaluated again. It comes before: a review that cannot be
// recorded is none.
func (s *Service) RecordReview(ctx context.Context, by Caller, action, target string, detail map[string]string) (Position, error) {
	env := record.Envelope{Type: record.TypeAdmin}
	nameCaller(&env, by)
	return s.append(ctx, draft{env: env, body: record.AdminBody{Action: action, Target: target, Detail: detail}})
}
