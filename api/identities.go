package api

import (
	"encoding/hex"
	"encoding/pem"
	"math"
	"strconv"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

func (s *Server) registerOrchestrator(c *call, q *v1.OrchestratorRegistration) (v1.OrchestratorRegistered, error) {
	ttl, err := seconds("max_ttl", q.MaxTTL)
	if err != nil {
		return v1.OrchestratorRegistered{}, err
	}
	byType, err := typeLimits(q.TypeLimits)
	if err != nil {
		return v1.OrchestratorRegistered{}, err
	}
	out, err := s.cfg.Domain.Register(c.ctx, c.by, chain.Orchestrator, delegation.Registration{
		Name: q.Name, AgentTypes: q.AgentTypes, MaxTTL: ttl, TypeLimits: byType, RequireConfirmation: q.RequireConfirmation,
		Methods: q.Methods, PopRoots: []byte(q.X509PopRoots), OIDCIssuer: q.OIDCIssuer, OIDCSubject: q.OIDCSubject, EKs: q.TPMEKs,
		Replace: q.Replace, Idempotency: c.idem,
	})
	if err != nil {
		return v1.OrchestratorRegistered{}, err
	}
	return v1.OrchestratorRegistered{
		SPIFFEID: out.ID.String(), JoinToken: out.JoinToken, JoinTokenExpires: wireTime(out.JoinTokenExpires),
		AuditReceipt: s.receipt(out.Position),
	}, nil
}

func typeLimits(limits map[string]v1.TypeLimit) (map[string]delegation.TypeLimit, error) {
	if limits == nil {
		return nil, nil //nolint:nilnil // no limits
	}
	out := make(map[string]delegation.TypeLimit, len(limits))
	for name, l := range limits {
		ttl, err := seconds("type_limits", l.MaxTTL)
		if err != nil {
			return nil, err
		}
		out[name] = delegation.TypeLimit{MaxTTL: ttl, MaxDepth: l.MaxDepth}
	}
	return out, nil
}

func (s *Server) registerService(c *call, q *v1.ServiceRegistration) (v1.Certificate, error) {
	return s.registerPerson(c, chain.Service, delegation.Registration{Name: q.Name, CSR: []byte(q.CSR), Replace: q.Replace})
}

func (s *Server) registerOperator(c *call, q *v1.OperatorRegistration) (v1.Certificate, error) {
	return s.registerPerson(c, chain.Operator, delegation.Registration{Name: q.Name, Role: delegation.Role(q.Role), CSR: []byte(q.CSR), Replace: q.Replace})
}

// registerPerson registers who gets a certificate at once.
func (s *Server) registerPerson(c *call, kind chain.Kind, q delegation.Registration) (v1.Certificate, error) {
	q.Idempotency = c.idem
	out, err := s.cfg.Domain.Register(c.ctx, c.by, kind, q)
	if err != nil {
		return v1.Certificate{}, err
	}
	return s.certificate(*out.Issued), nil
}

// attest serves workloads that have no identity yet: the proof is in the body, or in the connection's certificate.
func (s *Server) attest(c *call, q *v1.Attestation) (v1.Certificate, error) {
	out, err := s.cfg.Domain.Attest(c.ctx, delegation.Attestation{
		Name: c.param("name"), Method: q.Method, Token: q.Token, Peer: c.peer(), CSR: []byte(q.CSR), Challenge: q.Challenge, Secret: q.Secret,
		Certification: delegation.Certification{Public: q.KeyPublic, Attest: q.CertifyInfo, Signature: q.CertifySignature},
	})
	if err != nil {
		return v1.Certificate{}, err
	}
	return s.certificate(out), nil
}

func (s *Server) challenge(c *call, q *v1.ChallengeRequest) (v1.Challenge, error) {
	out, err := s.cfg.Domain.ChallengeTPM(c.ctx, delegation.ChallengeRequest{
		Name: c.param("name"), CSR: []byte(q.CSR),
		Endorsement: delegation.Endorsement{EKCertificate: q.EKCertificate, EKPublic: q.EKPublic, AKPublic: q.AKPublic},
	})
	if err != nil {
		return v1.Challenge{}, err
	}
	return v1.Challenge{Challenge: out.Token, CredentialBlob: out.Blob, EncryptedSecret: out.Secret, Expires: wireTime(out.Expires)}, nil
}

func (s *Server) renewService(c *call, q *v1.Renewal) (v1.Certificate, error) {
	out, err := s.cfg.Domain.Renew(c.ctx, c.by, c.param("name"), []byte(q.CSR))
	if err != nil {
		return v1.Certificate{}, err
	}
	return s.certificate(out), nil
}

func (s *Server) certificate(i delegation.Issued) v1.Certificate {
	return v1.Certificate{
		SPIFFEID: i.ID.String(), CertificateChain: pemChain(i.Chain), NotAfter: wireTime(i.NotAfter), AuditReceipt: s.receipt(i.Position),
	}
}

// receipt names an entry; nil where the domain names none, as it does on a retry.
func (s *Server) receipt(p delegation.Position) *v1.AuditReceipt {
	if p.LeafHash == [32]byte{} {
		return nil
	}
	return &v1.AuditReceipt{
		Index: p.Index, LeafHash: hex.EncodeToString(p.LeafHash[:]),
		ReceiptURL: s.cfg.PublicURL + "/v1/audit/entries/" + strconv.FormatUint(p.Index, 10) + "/receipt",
	}
}

func pemChain(ders [][]byte) []string {
	out := make([]string, len(ders))
	for i, der := range ders {
		out[i] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return out
}

// seconds bounds a duration before it can overflow.
func seconds(field string, n int64) (time.Duration, error) {
	if n < 0 || n > math.MaxInt32 {
		return 0, invalid(codeBadTTL, field, "a number of seconds that is not negative")
	}
	return time.Duration(n) * time.Second, nil
}

func wireTime(t time.Time) time.Time { return t.UTC() }
