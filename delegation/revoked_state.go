package delegation

import (
	"bytes"
	"context"
	"encoding/hex"
	"strings"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// revKey is the projection's key of a revocation.
func revKey(kind chain.RevKind, id string) string { return keyRevoked + kind.String() + "/" + id }

// serialMutation notes whose a certificate is, and until when it is valid, or one that was renewed over it: a revocation of
// its serial has no longer life, and no shorter one.
func serialMutation(serial string, kind chain.Kind, end time.Time, first string) (record.Mutation, error) {
	value, err := encode(serialState{Kind: kind.String(), End: end.UTC(), First: first})
	return record.Mutation{Key: keySerial + serial, Value: value, Expires: end.Add(grace)}, err
}

// OfAgent says whether a serial is that of an agent's certificate.
func (s *Service) OfAgent(serial string) (bool, error) {
	st, ok, err := load[serialState](s.cfg.Log, keySerial+serial)
	if err != nil {
		return false, internal("read serial", err)
	}
	return ok && st.Kind == chain.Agent.String(), nil
}

// held notes a certificate of an orchestrator, for as long as it is valid.
func held(id chain.ID, p Prepared) record.Mutation {
	f := p.Facts()
	return record.Mutation{Key: keyHeld + id.Name() + "/" + f.Serial, Value: []byte(id.Name()), Expires: f.NotAfter.Add(grace)}
}

// maxHeld bounds how many certificates of an orchestrator are listed.
const maxHeld = 10_000

// CertificatesOf gives the serials of the certificates that an orchestrator holds.
func (s *Service) CertificatesOf(ctx context.Context, orchestrator string) ([]string, error) {
	prefix := keyHeld + orchestrator + "/"
	var out []string
	err := s.cfg.Log.Scan(ctx, prefix, "", maxHeld, func(key string, _ []byte) error {
		out = append(out, strings.TrimPrefix(key, prefix))
		return nil
	})
	if err != nil {
		return nil, internal("read certificates", err)
	}
	return out, nil
}

// certificateEnd is when the certificate of a serial, and all that is renewed over it, ends; for one that is not known, when all that was issued until now has.
func (s *Service) certificateEnd(serial string) (time.Time, error) {
	st, ok, err := load[serialState](s.cfg.Log, keySerial+serial)
	if err != nil {
		return time.Time{}, internal("read serial", err)
	}
	if ok {
		return st.End, nil
	}
	latest := s.cfg.Now().Add(max(s.cfg.Limits.OperatorTTL, s.cfg.Limits.AttestationAge))
	for _, k := range []chain.Kind{chain.Agent, chain.Service} {
		if end := s.cfg.Certifier.Limit(k); end.After(latest) {
			latest = end
		}
	}
	return latest, nil
}

// grantEnd is when the grant of a task ends, and with it everything below.
func (s *Service) grantEnd(t *taskState) (time.Time, error) {
	g, err := s.grant(t.GrantID)
	if err != nil {
		return time.Time{}, err
	}
	return g.NotAfter, nil
}

// kindsText names the kinds, for refusals.
const kindsText = "one of certificate, agent, subtree, task, grant, user, orchestrator"

// maxSerial bounds a serial number, in octets (RFC 5280 §4.1.2.2).
const maxSerial = 20

// revocationID brings what a person typed into the one form that is looked up, and refuses what names nothing: a
// revocation without effect must not look like one.
func (s *Service) revocationID(q RevokeRequest) (string, error) {
	if len(q.Reason) > maxReason {
		return "", refuse(Invalid, "bad_request", "reason", "at most 256 bytes")
	}
	switch q.Kind {
	case chain.RevCertificate:
		return serialID(q.ID)
	case chain.RevOrchestrator:
		return s.orchestratorID(q.ID)
	case chain.RevUser:
		iss, sub := chain.SplitUserID(q.ID)
		if _, known := s.cfg.Clients[iss]; !known || sub == "" || len(sub) > chain.MaxSubjectBytes {
			return "", refuse(Invalid, "unknown_user", "user", "the issuer is exactly that of a configured identity provider, with a subject")
		}
		return q.ID, nil
	case chain.RevAgent, chain.RevSubtree, chain.RevTask, chain.RevGrant:
		if _, err := chain.ParseUUID(q.ID); err != nil {
			return "", refuse(Invalid, "bad_request", "id", "a lower-case UUIDv7")
		}
		return q.ID, nil
	case chain.RevUnknown:
	}
	return "", refuse(Invalid, "bad_revocation_kind", "kind", kindsText)
}

// serialID takes hexadecimal in either case, with or without colons, as tools print it.
func serialID(text string) (string, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	b = bytes.TrimLeft(b, "\x00")
	if err != nil || len(b) == 0 || len(b) > maxSerial {
		return "", refuse(Invalid, "bad_serial", "id", "a positive serial number of at most 20 octets, in hexadecimal")
	}
	return hex.EncodeToString(b), nil
}

// orchestratorID takes a name or a SPIFFE ID.
func (s *Service) orchestratorID(text string) (string, error) {
	name := text
	if id, err := chain.ParseID(text); err == nil && id.Kind() == chain.Orchestrator && id.TrustDomain() == s.cfg.Trust.TrustDomain {
		name = id.Name()
	}
	_, ok, err := load[identityState](s.cfg.Log, identityKey(chain.Orchestrator, name))
	if err != nil {
		return "", internal("read registration", err)
	}
	if !ok {
		return "", refuse(NotFound, "orchestrator_not_found", "id", "no such orchestrator")
	}
	return name, nil
}
