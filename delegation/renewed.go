package delegation

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// maxRenewed bounds the certificates that go back to one first by renewals, in a row or side by side: revoking that one
// revokes so many, and each is a revocation that every follower keeps. Renewals at the same moment can exceed it by their number.
const maxRenewed = 1024

// renewedPage is how many renewals are read at once.
const renewedPage = 1000

// roomToRenew refuses one renewal more than can be revoked together.
func (s *Service) roomToRenew(ctx context.Context, first string) error {
	all, err := s.renewals(ctx, first)
	if err != nil {
		return internal("read renewals", err)
	}
	if len(all) >= maxRenewed {
		return refuse(Forbidden, "attestation_too_old", "", "renewed too often since the attestation; attest again")
	}
	return nil
}

// renewedMutation notes over what a certificate is renewed. It stays for as long as anything renewed over it can be valid.
func (s *Service) renewedMutation(line lineState, p Prepared) (record.Mutation, error) {
	f := p.Facts()
	value, err := encode(renewedOverState{Over: line.Serials[len(line.Serials)-1], NotAfter: f.NotAfter})
	return record.Mutation{
		Key: keyRenewed + line.Serials[0] + "/" + f.Serial, Value: value,
		Expires: later(f.NotAfter, line.At.Add(s.cfg.Limits.AttestationAge)).Add(grace),
	}, err
}

// endRenewed revokes each certificate that was renewed over a revoked one: relying services and stock software know a
// certificate by its serial alone. What is revoked is renewed no more, and that is asked at the commit; so a renewal that
// came after a look is found by the next one, and when a look finds nothing, nothing more comes.
//
// If it fails on the way, asking again does what is left, and so does the next start.
func (s *Service) endRenewed(ctx context.Context, by Caller, serial string) error {
	ctx = context.WithoutCancel(ctx)
	st, ok, err := load[serialState](s.cfg.Log, keySerial+serial)
	if err != nil {
		return internal("read serial", err)
	}
	if !ok || st.Kind == chain.Agent.String() {
		return nil
	}
	first := st.First
	if first == "" {
		first = serial
	}
	for {
		left, err := s.renewedOver(ctx, first, serial)
		if err != nil || len(left) == 0 {
			return err
		}
		if err := s.endCertificates(ctx, by, left, "renewed over "+serial); err != nil {
			return err
		}
	}
}

// endCertificates revokes certificates together.
func (s *Service) endCertificates(ctx context.Context, by Caller, serials []string, reason string) error {
	var begun []*ending
	for _, serial := range serials {
		end, err := s.certificateEnd(serial)
		if err != nil {
			return err
		}
		begun = append(begun, s.begin(ctx, by, RevokeRequest{Kind: chain.RevCertificate, ID: serial, Reason: reason}, revocable{end: end}))
	}
	var failed error
	for _, e := range begun {
		if _, err := s.ended(e); err != nil {
			failed = err
		}
	}
	return failed
}

// renewedOver lists what goes back to a certificate by renewals, is not revoked and not long over.
func (s *Service) renewedOver(ctx context.Context, first, serial string) ([]string, error) {
	all, err := s.renewals(ctx, first)
	if err != nil {
		return nil, internal("read renewals", err)
	}
	now := s.cfg.Now()
	var out []string
	for id, st := range all {
		if now.Before(st.NotAfter.Add(grace)) && goesBack(all, id, serial) && !s.revoked.has(chain.RevCertificate, id) {
			out = append(out, id)
		}
	}
	return out, nil
}

// goesBack says whether id was renewed over serial, or over one that was.
func goesBack(all map[string]renewedOverState, id, serial string) bool {
	for range maxRenewals {
		st, ok := all[id]
		if !ok {
			return false
		}
		if id = st.Over; id == serial {
			return true
		}
	}
	return false
}

// renewals reads all that go back to a first certificate.
func (s *Service) renewals(ctx context.Context, first string) (map[string]renewedOverState, error) {
	prefix, after := keyRenewed+first+"/", ""
	out := map[string]renewedOverState{}
	for {
		n := 0
		err := s.cfg.Log.Scan(ctx, prefix, after, renewedPage, func(key string, value []byte) error {
			n, after = n+1, key
			var st renewedOverState
			if err := json.Unmarshal(value, &st); err != nil {
				return fmt.Errorf("delegation: state %q: %w", key, err)
			}
			out[strings.TrimPrefix(key, prefix)] = st
			return nil
		})
		if err != nil || n < renewedPage {
			return out, err
		}
	}
}

// endAllRenewed does what a crash, or a log that took nothing, left undone.
func (s *Service) endAllRenewed(ctx context.Context) error {
	for at := (Cursor{}); ; {
		page := s.revoked.page(at, renewedPage)
		for _, v := range page.Revocations {
			if v.Kind != chain.RevCertificate {
				continue
			}
			if err := s.endRenewed(ctx, Caller{}, v.ID); err != nil {
				return err
			}
		}
		if len(page.Revocations) == 0 {
			return nil
		}
		at = page.Next
	}
}
