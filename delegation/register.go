package delegation

import (
	"bytes"
	"context"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// Register makes a workload or a person known. An orchestrator gets a join token, shown once; a service and an
// operator get their certificate at once, from the CSR in the request.
func (s *Service) Register(ctx context.Context, by Caller, kind chain.Kind, q Registration) (Registered, error) {
	out, err := s.register(ctx, by, kind, q)
	if err != nil {
		return Registered{}, s.denied(ctx, "register."+kind.String(), by, record.Envelope{}, err)
	}
	return out, nil
}

func (s *Service) register(ctx context.Context, by Caller, kind chain.Kind, q Registration) (Registered, error) {
	id, err := s.checkRegistration(by, kind, q)
	if err != nil {
		return Registered{}, err
	}
	if _, ok, err := s.replayed(by, q.Idempotency); err != nil {
		return Registered{}, err
	} else if ok {
		// A join token is kept as a hash and cannot be shown again: an operator replaces the registration.
		return Registered{}, errRegistered()
	}
	if kind == chain.Orchestrator {
		return s.registerOrchestrator(ctx, by, id, q)
	}
	return s.registerWithCSR(ctx, by, id, q)
}

func (s *Service) checkRegistration(by Caller, kind chain.Kind, q Registration) (chain.ID, error) {
	if by.Role != RoleOperator {
		return chain.ID{}, refuse(Forbidden, "operator_required", "", "identities are registered by an operator")
	}
	if !nameForm.MatchString(q.Name) {
		return chain.ID{}, refuse(Invalid, "bad_name", "name", "1 to 64 of a-z 0-9 . _ -, beginning and ending with a letter or digit")
	}
	if kind == chain.Service && q.Name == ListenerName {
		return chain.ID{}, refuse(Conflict, "name_reserved", "name", "this name is the appliance's own")
	}
	if kind == chain.Operator && !slices.Contains(Roles(), q.Role) {
		return chain.ID{}, refuse(Invalid, "bad_role", "role", "one of operator, security_officer, auditor, privacy_officer")
	}
	if q.MaxTTL < 0 || q.MaxTTL > s.cfg.Limits.AgentTTL {
		return chain.ID{}, refuse(Invalid, "bad_ttl", "max_ttl", "longer than this appliance allows for an agent")
	}
	if len(q.AgentTypes) > 64 {
		return chain.ID{}, refuse(Invalid, "bad_agent_types", "agent_types", "at most 64 agent types")
	}
	if err := s.checkTypeLimits(q); err != nil {
		return chain.ID{}, err
	}
	if kind == chain.Orchestrator {
		if err := s.checkMethods(q); err != nil {
			return chain.ID{}, err
		}
	}
	id, err := chain.NamedID(s.cfg.Trust.TrustDomain, kind, q.Name)
	if err != nil {
		return chain.ID{}, refuse(Invalid, "bad_name", "name", err.Error())
	}
	return id, nil
}

// checkTypeLimits refuses limits of types that the orchestrator may not spawn, and limits wider than the appliance's.
func (s *Service) checkTypeLimits(q Registration) error {
	for name, l := range q.TypeLimits {
		switch {
		case !slices.Contains(q.AgentTypes, name):
			return refuse(Invalid, "bad_type_limits", "type_limits", "a limit of an agent type that is not among agent_types")
		case l.MaxTTL < 0 || l.MaxTTL > s.cfg.Limits.AgentTTL:
			return refuse(Invalid, "bad_ttl", "type_limits", "longer than this appliance allows for an agent")
		case l.MaxDepth != nil && (*l.MaxDepth < 0 || *l.MaxDepth > chain.MaxDepth):
			return refuse(Invalid, "bad_type_limits", "type_limits", "max_depth is 0 to 8")
		}
	}
	return nil
}

func (q Registration) state(id chain.ID, registration string) identityState {
	return identityState{
		SPIFFEID: id.String(), AgentTypes: q.AgentTypes, MaxTTL: int64(q.MaxTTL / time.Second), PopRoots: q.PopRoots, Role: q.Role,
		Registration: registration, Methods: q.methods(id.Kind()), OIDCIssuer: q.OIDCIssuer, OIDCSubject: q.OIDCSubject, EKs: q.EKs,
		TypeLimits: q.TypeLimits, RequireConfirmation: q.RequireConfirmation,
	}
}

// detail is the state in the envelope's words, so that the projection can be rebuilt from the log alone. The subject of
// tokens stands in the payload, since it can be a person's: erasing it makes the registration useless.
func (q Registration) detail(registration string) map[string]string {
	out := map[string]string{
		"registration":    registration,
		"methods":         strings.Join(q.methods(chain.Orchestrator), " "),
		"oidc_issuer":     q.OIDCIssuer,
		"tpm_eks":         strings.Join(q.EKs, " "),
		"agent_types":     strings.Join(q.AgentTypes, " "),
		"max_ttl_seconds": strconv.FormatInt(int64(q.MaxTTL/time.Second), 10),
		"x509pop_roots":   string(q.PopRoots),
		"replace":         strconv.FormatBool(q.Replace),
	}
	if q.RequireConfirmation {
		out["require_confirmation"] = "true"
	}
	for name, l := range q.TypeLimits {
		out["max_ttl_seconds."+name] = strconv.FormatInt(int64(l.MaxTTL/time.Second), 10)
		if l.MaxDepth != nil {
			out["max_depth."+name] = itoa(*l.MaxDepth)
		}
	}
	return out
}

// ListenerName is the service name of the appliance's own port. Nobody can register it, and so nobody authenticates as it.
const ListenerName = "signet"

// identityMutation writes a registration: a name is taken once, and changed only by who says so.
func (s *Service) identityMutation(id chain.ID, value []byte, again bool) (record.Mutation, error) {
	key := identityKey(id.Kind(), id.Name())
	if !again {
		return create(key, value, time.Time{}, errRegistered()), nil
	}
	old, ok, err := s.cfg.Log.Get(key)
	if err != nil {
		return record.Mutation{}, internal("read registration", err)
	}
	if !ok {
		return record.Mutation{}, refuse(NotFound, "not_registered", "name", "there is no such registration to replace")
	}
	return replace(key, old, value, time.Time{}, refuse(Conflict, "registration_changed", "name", "the registration changed meanwhile; retry")), nil
}

func errRegistered() *Error {
	return refuse(Conflict, "already_registered", "name", "this name is registered")
}

func (s *Service) registerOrchestrator(ctx context.Context, by Caller, id chain.ID, q Registration) (Registered, error) {
	registration, err := s.newID()
	if err != nil {
		return Registered{}, err
	}
	identity, err := encode(q.state(id, registration))
	if err != nil {
		return Registered{}, err
	}
	out, join, err := s.joinToken(id, q, registration)
	if err != nil {
		return Registered{}, err
	}
	more, err := s.remember(by, q.Idempotency, q.Name)
	if err != nil {
		return Registered{}, err
	}
	known, err := s.identityMutation(id, identity, q.Replace)
	if err != nil {
		return Registered{}, err
	}
	env := record.Envelope{Type: record.TypeAdmin, Orchestrator: q.Name, Operator: by.ID.Name()}
	d := draft{
		env:       env,
		body:      record.AdminBody{Action: "register.orchestrator", Target: id.String(), Detail: q.detail(registration)},
		mutations: append(append(more, known), join...),
	}
	if q.OIDCSubject != "" {
		d.payload = record.AdminPayload{OIDCSubject: q.OIDCSubject}
	}
	out.Position, err = s.append(ctx, d)
	if err != nil {
		return Registered{}, err
	}
	return out, nil
}

// joinToken makes the token of a registration that takes one.
func (s *Service) joinToken(id chain.ID, q Registration, registration string) (Registered, []record.Mutation, error) {
	if !slices.Contains(q.methods(chain.Orchestrator), MethodJoinToken) {
		return Registered{ID: id}, nil, nil
	}
	raw, err := s.secret()
	if err != nil {
		return Registered{}, nil, err
	}
	out := Registered{ID: id, JoinToken: base64.RawURLEncoding.EncodeToString(raw[:]), JoinTokenExpires: s.cfg.Now().UTC().Add(s.cfg.Limits.JoinToken)}
	value, err := encode(joinState{Name: q.Name, Registration: registration, Expires: out.JoinTokenExpires})
	return out, []record.Mutation{create(joinKey(out.JoinToken), value, out.JoinTokenExpires.Add(24*time.Hour), errRegistered())}, err
}

func (s *Service) registerWithCSR(ctx context.Context, by Caller, id chain.ID, q Registration) (Registered, error) {
	if err := s.cfg.Ready(); err != nil {
		return Registered{}, notReady(err)
	}
	ttl := s.cfg.Limits.WorkloadTTL
	if id.Kind() == chain.Operator {
		ttl = s.cfg.Limits.OperatorTTL
	}
	registration, err := s.newID()
	if err != nil {
		return Registered{}, err
	}
	identity, err := encode(q.state(id, registration))
	if err != nil {
		return Registered{}, err
	}
	o := order{
		env:  record.Envelope{Operator: by.ID.Name()},
		body: record.IssueBody{Role: string(q.Role)},
		mutations: func(Prepared) ([]record.Mutation, error) {
			known, err := s.identityMutation(id, identity, q.Replace)
			if err != nil {
				return nil, err
			}
			more, err := s.remember(by, q.Idempotency, q.Name)
			return append(more, known), err
		},
	}
	issued, err := s.issueNamed(ctx, id, q.CSR, ttl, lineState{Registration: registration, At: s.cfg.Now().UTC()}, o)
	if err != nil {
		return Registered{}, err
	}
	return Registered{ID: id, Issued: &issued, Position: issued.Position}, nil
}

// issueNamed issues to an orchestrator, a service or an operator, and writes what the certificate stands on.
func (s *Service) issueNamed(ctx context.Context, id chain.ID, csr []byte, ttl time.Duration, line lineState, o order) (Issued, error) {
	req, err := parseCSR(csr)
	if err != nil {
		return Issued{}, err
	}
	o.template = Template{
		ID: id, SPKI: req.SPKI,
		NotAfter: bounded(s.cfg.Now().Add(ttl), s.cfg.Certifier.Limit(id.Kind())).UTC().Truncate(time.Second),
	}
	o.body.Registration, o.body.Attested, o.until = line.Registration, line.At, line.At.Add(s.cfg.Limits.AttestationAge)
	changes := o.mutations
	o.mutations = func(p Prepared) ([]record.Mutation, error) {
		m, err := changes(p)
		if err != nil {
			return nil, err
		}
		known, err := recordLine(line, p)
		return append(m, known), err
	}
	return s.issue(ctx, o)
}

// parseCSR gives chain's codes to the caller.
func parseCSR(b []byte) (*chain.CSR, error) {
	if len(bytes.TrimSpace(b)) == 0 {
		return nil, refuse(Invalid, "bad_csr", "csr", "a PEM certificate request is required")
	}
	req, err := chain.ParseCSR(b)
	if err != nil {
		return nil, refuse(Invalid, codeOf(err), "csr", err.Error())
	}
	return req, nil
}
