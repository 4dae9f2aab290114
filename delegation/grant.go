package delegation

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// RequestGrant notes what an orchestrator wants a user to consent to. Nothing is granted, and nothing is in the log,
// until the user has consented.
func (s *Service) RequestGrant(ctx context.Context, by Caller, q GrantRequest) (Grant, error) {
	g, err := s.requestGrant(ctx, by, q)
	if err != nil {
		return Grant{}, s.denied(ctx, "grant.request", by, record.Envelope{}, err)
	}
	return g, nil
}

func (s *Service) requestGrant(ctx context.Context, by Caller, q GrantRequest) (Grant, error) {
	if by.ID.Kind() != chain.Orchestrator {
		return Grant{}, refuse(Forbidden, "orchestrator_required", "", "grants are asked for by orchestrators")
	}
	if err := s.takeCaller(ctx, by); err != nil {
		return Grant{}, err
	}
	ref, ok, err := s.replayed(by, q.Idempotency)
	if err != nil {
		return Grant{}, err
	}
	if ok {
		return s.Grant(by, ref)
	}
	if err := s.cfg.Provider(ctx); err != nil {
		return Grant{}, &Error{Kind: Unavailable, Code: "idp_unavailable", Detail: "the identity provider does not answer, so nobody can consent", Err: err}
	}
	g, err := s.newGrant(by, q)
	if err != nil {
		return Grant{}, err
	}
	return g.public(s.cfg.Now()), s.keepPending(ctx, by, q.Idempotency, g)
}

func (s *Service) newGrant(by Caller, q GrantRequest) (*grantState, error) {
	now := s.cfg.Now().UTC()
	if err := s.checkGrant(q, now); err != nil {
		return nil, err
	}
	id, err := s.newID()
	if err != nil {
		return nil, err
	}
	taskID, err := s.newID()
	if err != nil {
		return nil, err
	}
	random, err := s.secret()
	if err != nil {
		return nil, err
	}
	key := sha256.Sum256(by.Certs[0].RawSubjectPublicKeyInfo)
	return &grantState{
		ID: id, TaskID: taskID, Status: GrantPending, Purpose: q.Purpose, Scope: q.Scope.Strings(),
		NotAfter: q.NotAfter.UTC().Truncate(time.Second), MaxDepth: q.MaxDepth, AgentTypes: q.AgentTypes,
		Orchestrator: by.ID.String(), Registration: by.registration, OrchKey: key[:], Random: random[:], PendingUntil: now.Add(s.cfg.Limits.PendingGrant),
	}, nil
}

func (s *Service) checkGrant(q GrantRequest, now time.Time) error {
	switch {
	case q.Purpose == "":
		return refuse(Invalid, "bad_request", "task", "say in plain words what the user consents to")
	case len(q.Scope) == 0:
		return refuse(Invalid, "bad_scope", "scope", "at least one scope token")
	case !q.NotAfter.After(now):
		return refuse(Invalid, "deadline_passed", "not_after", "the deadline is in the past")
	case q.NotAfter.After(now.Add(s.cfg.Limits.GrantLife)):
		return refuse(Invalid, "deadline_too_late", "not_after", "the deadline is later than this appliance allows")
	case q.MaxDepth < 1 || q.MaxDepth > s.cfg.Limits.MaxDepth:
		return refuse(Invalid, "bad_depth", "max_depth", "the depth is outside 1 and this appliance's limit")
	case len(q.AgentTypes) == 0 || len(q.AgentTypes) > 16:
		return refuse(Invalid, "bad_agent_types", "agent_types", "1 to 16 agent types")
	}
	return nil
}

// keepPending stores what waits for consent. It is state without an entry: a crash may lose it, and the orchestrator asks again.
func (s *Service) keepPending(ctx context.Context, by Caller, idem Idempotency, g *grantState) error {
	v, err := encode(g)
	if err != nil {
		return err
	}
	m := []record.Mutation{create(keyGrant+g.ID, v, g.PendingUntil.Add(grace), errRaced)}
	more, err := s.remember(by, idem, g.ID)
	if err != nil {
		return err
	}
	return s.put(ctx, append(m, more...))
}

// Grant shows a grant to the orchestrator that asked for it and to staff.
func (s *Service) Grant(by Caller, id string) (Grant, error) {
	g, err := s.grant(id)
	if err != nil {
		return Grant{}, err
	}
	if by.Role == RoleNone && by.ID.String() != g.Orchestrator {
		return Grant{}, refuse(NotFound, "grant_not_found", "id", "no such grant")
	}
	out := g.public(s.cfg.Now())
	if s.revoked.has(chain.RevGrant, id) {
		out.Status = GrantRevoked
	}
	return out, nil
}

// PendingGrant is what the consent page shows; only a grant that still waits has one.
func (s *Service) PendingGrant(id string) (Grant, error) {
	g, err := s.grant(id)
	if err != nil {
		return Grant{}, err
	}
	out := g.public(s.cfg.Now())
	if out.Status != GrantPending {
		return Grant{}, refuse(Conflict, "grant_not_pending", "id", "this grant does not wait for consent")
	}
	return out, nil
}

// GrantDocument is the canonical grant (RFC 8785) that user is asked to consent to.
func (s *Service) GrantDocument(id, issuer, subject string) ([]byte, error) {
	g, err := s.grant(id)
	if err != nil {
		return nil, err
	}
	return s.document(g, issuer, subject)
}

func (s *Service) document(g *grantState, issuer, subject string) ([]byte, error) {
	scope, err := chain.ParseScope(g.Scope)
	if err != nil {
		return nil, internal("read grant", err)
	}
	clientID, ok := s.cfg.Clients[issuer]
	if !ok {
		return nil, refuse(Forbidden, "issuer_unknown", "issuer", "no identity provider of this appliance has that issuer")
	}
	doc := chain.GrantDocument{
		GrantID: g.ID, Random: [32]byte(g.Random), Origin: s.cfg.Origin, Issuer: issuer,
		ClientID: clientID, Subject: subject, TaskID: g.TaskID, Task: g.Purpose, Scope: scope, MaxDepth: g.MaxDepth,
		NotAfter: g.NotAfter, AgentTypes: g.AgentTypes, Orchestrator: g.Orchestrator,
		OrchestratorKey: [32]byte(g.OrchKey),
	}
	b, err := doc.Canonical()
	if err != nil {
		return nil, refuse(Invalid, "bad_grant", "", err.Error())
	}
	return b, nil
}

// Approve makes a pending grant active. The approval must be over exactly the document that GrantDocument gives for
// its user; a second approval is refused.
func (s *Service) Approve(ctx context.Context, id string, a Approval) error {
	if err := s.approve(ctx, id, a); err != nil {
		return s.deniedTo(ctx, "grant.approve", chain.User{Issuer: a.User.Issuer, Subject: a.User.Subject}, id, err)
	}
	return nil
}

func (s *Service) approve(ctx context.Context, id string, a Approval) error {
	if err := s.cfg.Ready(); err != nil {
		return notReady(err)
	}
	g, raw, err := s.pending(id)
	if err != nil {
		return err
	}
	want, err := s.document(g, a.User.Issuer, a.User.Subject)
	if err != nil {
		return err
	}
	if a.Type == chain.ConsentUnknown {
		return refuse(Forbidden, "consent_type_unknown", "", "the consent is of no known type")
	}
	if string(want) != string(a.Document) {
		return refuse(Forbidden, "consent_mismatch", "", "the consent is not over this grant")
	}
	return s.activate(ctx, g, raw, a)
}

// pending reads a grant that waits for consent, and the exact bytes that must still stand when it is answered.
func (s *Service) pending(id string) (*grantState, []byte, error) {
	if _, err := chain.ParseUUID(id); err != nil {
		return nil, nil, refuse(NotFound, "grant_not_found", "id", "no such grant")
	}
	raw, ok, err := s.cfg.Log.Get(keyGrant + id)
	if err != nil {
		return nil, nil, internal("read grant", err)
	}
	if !ok {
		return nil, nil, refuse(NotFound, "grant_not_found", "id", "no such grant")
	}
	g := new(grantState)
	if err := json.Unmarshal(raw, g); err != nil {
		return nil, nil, internal("read grant", err)
	}
	if g.Status != GrantPending || !s.cfg.Now().Before(g.PendingUntil) {
		return nil, nil, errNotPending()
	}
	return g, raw, nil
}

func errNotPending() *Error {
	return refuse(Conflict, "grant_not_pending", "id", "this grant does not wait for consent")
}

func (s *Service) activate(ctx context.Context, pending *grantState, raw []byte, a Approval) error {
	g := *pending
	doc, evidence := sha256.Sum256(a.Document), sha256.Sum256(a.Evidence)
	g.Status, g.User, g.Consent = GrantActive, a.User, a.Type.String()
	g.Document, g.Hash, g.EvidenceHash = a.Document, doc[:], evidence[:]
	value, err := encode(g)
	if err != nil {
		return err
	}
	d := s.grantDraft(&g, a, replace(keyGrant+g.ID, raw, value, g.NotAfter.Add(grace), errNotPending()))
	present, err := s.signedIn(d.env.User, a.SignedIn)
	if err != nil {
		return err
	}
	d.mutations = append(append(d.mutations, unrevokedGrant(&g)...), present)
	d.mutations = append(d.mutations, record.Mutation{Key: givenKey(d.env.User, g.ID), Value: []byte(g.ID), Expires: g.NotAfter.Add(grace)})
	if a.Type == chain.WebAuthn {
		d.mutations = append(d.mutations, must(record.Present, credentialOf(d.env.User, a.Credential),
			refuse(Forbidden, "credential_removed", "credential", "the user does not have this credential any more")))
	}
	if a.Once != nil {
		d.mutations = append(d.mutations, spend(a.Once))
	}
	if _, err := s.appendFirmly(ctx, d); err != nil {
		return err
	}
	return nil
}

// unrevokedGrant are the checks at commit that neither a grant nor who gave and who got it is revoked.
func unrevokedGrant(g *grantState) []record.Mutation {
	return []record.Mutation{
		must(record.Absent, revKey(chain.RevGrant, g.ID), refuse(Forbidden, chain.CodeGrantRevoked, "grant_id", "the grant is revoked")),
		must(record.Absent, revKey(chain.RevUser, chain.UserID(g.User.Issuer, g.User.Subject)), refuse(Forbidden, chain.CodeUserRevoked, "", "the user is revoked")),
		must(record.Absent, revKey(chain.RevOrchestrator, nameOf(g.Orchestrator)), refuse(Forbidden, chain.CodeOrchestratorRevoked, "", "the orchestrator is revoked")),
	}
}

func (s *Service) grantDraft(g *grantState, a Approval, m record.Mutation) draft {
	env := record.Envelope{
		Type: record.TypeGrant, Grant: g.ID, Task: g.TaskID, User: s.cfg.Pseudonym(a.User.Issuer, a.User.Subject),
		Orchestrator: nameOf(g.Orchestrator),
	}
	return draft{
		env: env,
		body: record.GrantBody{
			GrantID: g.ID, TaskID: g.TaskID, Status: string(g.Status), ConsentType: g.Consent,
			EvidenceHash: hex.EncodeToString(g.EvidenceHash), GrantHash: hex.EncodeToString(g.Hash),
			Scope: g.Scope, NotAfter: g.NotAfter, MaxDepth: g.MaxDepth, AgentTypes: g.AgentTypes,
			OrchestratorID: g.Orchestrator, OrchestratorKey: hex.EncodeToString(g.OrchKey),
		},
		payload: record.GrantPayload{
			Issuer: a.User.Issuer, Subject: a.User.Subject, Roles: a.User.Roles, Groups: a.User.Groups,
			ACR: a.User.ACR, AMR: a.User.AMR, AuthTime: a.User.AuthTime, Purpose: g.Purpose, Evidence: a.Evidence,
		},
		mutations: []record.Mutation{m},
	}
}

// Decline forgets a pending grant by the word of the user who was asked; nothing of it was ever in the log.
func (s *Service) Decline(ctx context.Context, u chain.User, id string) error {
	if err := s.decline(ctx, id); err != nil {
		return s.deniedTo(ctx, "grant.decline", u, id, err)
	}
	return nil
}

func (s *Service) decline(ctx context.Context, id string) error {
	_, raw, err := s.pending(id)
	if err != nil {
		return err
	}
	return s.put(ctx, []record.Mutation{{
		Key: keyGrant + id, Delete: true, Pre: record.Precondition{Op: record.Equal, Value: raw, Err: errNotPending()},
	}})
}

// put writes state without an entry. A precondition's own *Error comes back as it is.
func (s *Service) put(ctx context.Context, m []record.Mutation) error {
	err := s.cfg.Log.Put(ctx, m)
	var refused *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		return refused
	}
	return &Error{Kind: Unavailable, Code: "state_unavailable", Detail: "the request could not be kept", Err: err}
}

// grant reads a grant; an active one never changes and is kept in memory.
func (s *Service) grant(id string) (*grantState, error) {
	if g, ok := s.grants.get(id); ok {
		return g, nil
	}
	if _, err := chain.ParseUUID(id); err != nil {
		return nil, refuse(NotFound, "grant_not_found", "id", "no such grant")
	}
	g, ok, err := load[grantState](s.cfg.Log, keyGrant+id)
	if err != nil {
		return nil, internal("read grant", err)
	}
	if !ok {
		return nil, refuse(NotFound, "grant_not_found", "id", "no such grant")
	}
	if g.Status == GrantActive {
		s.grants.put(id, g)
	}
	return g, nil
}

func (g *grantState) orchestrator() string {
	if g == nil {
		return ""
	}
	return g.Orchestrator
}

// public shows the state with its expiry.
func (g *grantState) public(now time.Time) Grant {
	// Ours, checked when it was made.
	scope, _ := chain.ParseScope(g.Scope)
	orch, _ := chain.ParseID(g.Orchestrator)
	out := Grant{
		ID: g.ID, TaskID: g.TaskID, Status: g.Status, Purpose: g.Purpose, Scope: scope, NotAfter: g.NotAfter,
		MaxDepth: g.MaxDepth, AgentTypes: g.AgentTypes, Orchestrator: orch,
	}
	copy(out.Hash[:], g.Hash)
	if !now.Before(g.NotAfter) || (g.Status == GrantPending && !now.Before(g.PendingUntil)) {
		out.Status = GrantExpired
	}
	return out
}

// nameOf is the name in an identity of ours.
func nameOf(spiffe string) string {
	id, err := chain.ParseID(spiffe)
	if err != nil {
		return ""
	}
	return id.Name()
}

func notReady(err error) *Error {
	return &Error{Kind: Unavailable, Code: "not_ready", Detail: "the appliance cannot issue or decide now; /readyz tells its staff why", Err: err}
}
