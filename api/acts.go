package api

import (
	"context"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
)

// maxActBody has room for an act of 16 KiB and 16 signatures of 4 KiB.
const maxActBody = 128 << 10

// Acts carries out what custodians agreed to. Its refusals are *delegation.Error.
type Acts interface {
	// Submit takes the act's exact bytes, and armored signatures.
	Submit(ctx context.Context, by delegation.Caller, act []byte, signatures [][]byte) (ActDone, error)
	// Custodians is the set in force as package custody writes it, and its digest.
	Custodians(ctx context.Context) (set []byte, id string, err error)
}

// ActDone is an act that was carried out.
type ActDone struct {
	delegation.Position // of the act's entry

	Kind   string
	Agreed []string          // custodians
	Result map[string]string // by kind
}

func (s *Server) submitAct(c *call, q *v1.ActRequest) (v1.ActDone, error) {
	if s.cfg.Acts == nil {
		return v1.ActDone{}, ErrNotFound
	}
	signatures := make([][]byte, len(q.Signatures))
	for i, armored := range q.Signatures {
		signatures[i] = []byte(armored)
	}
	done, err := s.cfg.Acts.Submit(c.ctx, c.by, q.Act, signatures)
	if err != nil {
		return v1.ActDone{}, err
	}
	return v1.ActDone{Kind: done.Kind, Agreed: done.Agreed, Result: done.Result, AuditReceipt: s.receipt(done.Position)}, nil
}

func (s *Server) readCustodians(c *call) (v1.Custodians, error) {
	if s.cfg.Acts == nil {
		return v1.Custodians{}, ErrNotFound
	}
	set, id, err := s.cfg.Acts.Custodians(c.ctx)
	return v1.Custodians{ID: id, Set: set}, err
}
