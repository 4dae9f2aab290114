package delegation

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// Replay compares the state that the appliance works with with what the entries of its log say: who is registered, what was
// granted, opened and issued, what has ended, and which policy decides. A line that somebody wrote into the store, changed or
// took out, without an entry, shows. Not compared is what only answers retries and renewals (idem/, open/, cert/, line/, …), which
// names no right that the compared keys do not name.
//
// First State is called for each live key, then Entry for each entry in order, then Findings. Memory grows with the live
// keys. Not safe for concurrent use.
type Replay struct {
	now       time.Time
	pseudonym func(issuer, subject string) string
	live      map[string]*replayed
	missing   map[string][]uint64        // keys that must be there, with the entries that say so
	approved  map[string]map[string]bool // operators by candidate, since it was pushed
	unread    []string
	pruned    bool   // what earlier entries made is not missed
	feed      uint64 // the highest number of the feed's head
}

// replayed is a live key.
type replayed struct {
	value []byte
	index uint64 // of the newest entry about it
	known bool   // there is one
	wrong error  // what that entry says differently
}

// NewReplay makes a Replay at a moment. pseudonym is the one that envelopes have for a user.
func NewReplay(now time.Time, pseudonym func(issuer, subject string) string) *Replay {
	return &Replay{now: now, pseudonym: pseudonym, live: map[string]*replayed{}, missing: map[string][]uint64{}, approved: map[string]map[string]bool{}}
}

// State takes a live key.
func (r *Replay) State(key string, value []byte) {
	if key == keyFeed {
		st, err := read[feedState](key, value)
		if err != nil {
			r.unread = append(r.unread, err.Error())
			return
		}
		r.feed = st.Seq
		return
	}
	for _, prefix := range []string{keyIdentity, keyGrant, keyTask, keyAgent, keySPKI, keyRevoked, keyCredential, keyPolicyActive, keyCandidate} {
		if strings.HasPrefix(key, prefix) {
			r.live[r.name(key)] = &replayed{value: bytes.Clone(value)}
			return
		}
	}
}

// Pruned says that the entries do not begin at the first.
func (r *Replay) Pruned() { r.pruned = true }

// name is the key as an entry can name it: envelopes have a user's pseudonym alone.
func (r *Replay) name(key string) string {
	user, found := strings.CutPrefix(key, revKey(chain.RevUser, ""))
	if !found {
		return key
	}
	return revKey(chain.RevUser, r.pseudonym(chain.SplitUserID(user)))
}

// Entry takes the next entry; payload is nil where there is none or it was erased. The error is about an entry that cannot be
// read.
func (r *Replay) Entry(index uint64, env record.Envelope, payload []byte) error {
	switch env.Type { //nolint:exhaustive // the others change nothing that is compared
	case record.TypeRevoke:
		return body(env, func(b record.RevokeBody) { r.revoke(index, b) })
	case record.TypeGrant:
		return body(env, func(b record.GrantBody) { r.grant(index, env, b, payload) })
	case record.TypeTask:
		return body(env, func(b record.TaskBody) { r.task(index, env, b) })
	case record.TypeIssue:
		return body(env, func(b record.IssueBody) { r.issue(index, env, b) })
	case record.TypeEnrollment:
		return body(env, func(b record.EnrollmentBody) { r.agent(index, env, b.SPIFFEID, b.Expires, nil) })
	case record.TypeAdmin:
		return body(env, func(b record.AdminBody) { r.admin(index, env, b, payload) })
	case record.TypePolicy:
		return body(env, func(b record.PolicyBody) { r.policy(index, b) })
	case record.TypeRedact:
		return body(env, func(b record.RedactBody) { r.redact(b) })
	}
	return nil
}

func body[T any](env record.Envelope, then func(T)) error {
	b, err := record.DecodeBody[T](env)
	if err == nil {
		then(b)
	}
	return err
}

// Findings reports what differs, by entry; of keys that no entry explains the index is 0, which is the ceremony's.
func (r *Replay) Findings(report func(index uint64, detail string)) {
	for _, detail := range r.unread {
		report(0, detail)
	}
	first := func(key string) uint64 { return r.missing[key][0] }
	keys := slices.SortedFunc(maps.Keys(r.missing), func(a, b string) int {
		return cmp.Or(cmp.Compare(first(a), first(b)), strings.Compare(a, b))
	})
	for _, key := range keys {
		report(first(key), fmt.Sprintf("the state has no %s, which this entry makes", shown(key)))
	}
	for _, key := range slices.Sorted(maps.Keys(r.live)) {
		switch st := r.live[key]; {
		case !st.known && !st.pending(key) && !r.pruned:
			report(0, fmt.Sprintf("the state has %s, which no entry makes", shown(key)))
		case st.wrong != nil:
			report(st.index, fmt.Sprintf("the state of %s differs from this entry: %v", shown(key), st.wrong))
		}
	}
}

// shown bounds a key for a report.
func shown(key string) string { return fmt.Sprintf("%.120q", key) }

// pending says whether this is a request for a grant, which leaves no entry until its user consents.
func (st *replayed) pending(key string) bool {
	if !strings.HasPrefix(key, keyGrant) {
		return false
	}
	g, err := read[grantState](key, st.value)
	return err == nil && g.Status == GrantPending && g.Hash == nil
}

// says notes that an entry makes a key, which must be there until a time (zero: for good) with a value that same accepts.
func (r *Replay) says(index uint64, key string, until time.Time, same func(value []byte) error) {
	st := r.live[key]
	if st == nil {
		if until.IsZero() || r.now.Before(until) {
			r.missing[key] = append(r.missing[key], index)
		}
		return
	}
	st.index, st.known, st.wrong = index, true, same(st.value)
}

// ends notes that an entry takes a key away.
func (r *Replay) ends(index uint64, key string) {
	delete(r.missing, key)
	if st := r.live[key]; st != nil {
		st.index, st.known, st.wrong = index, true, errors.New("it takes the key away")
	}
}

// as decodes a state and compares a part of it.
func as[T any](key string, differs func(*T) string) func([]byte) error {
	return func(value []byte) error {
		st, err := read[T](key, value)
		if err != nil {
			return err
		}
		if what := differs(st); what != "" {
			return errors.New(what)
		}
		return nil
	}
}

// unlike names the first part that is not the same.
func unlike(parts map[string]bool) string {
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		if !parts[name] {
			return name
		}
	}
	return ""
}

func (r *Replay) revoke(index uint64, b record.RevokeBody) {
	key := keyRevoked + b.Kind + "/" + b.ID
	if b.Seq > r.feed {
		r.missing[keyFeed] = append(r.missing[keyFeed], index)
	}
	r.says(index, key, b.Expires, as(key, func(st *revokedState) string {
		return unlike(map[string]bool{"number": st.Seq == b.Seq, "reason": st.Reason == b.Reason, "expiry": st.Expires.Equal(b.Expires)})
	}))
}

func (r *Replay) grant(index uint64, env record.Envelope, b record.GrantBody, payload []byte) {
	key := keyGrant + b.GrantID
	var user record.GrantPayload
	told := payload != nil && json.Unmarshal(payload, &user) == nil
	r.says(index, key, b.NotAfter, as(key, func(st *grantState) string {
		return unlike(map[string]bool{
			"status": st.Status == GrantStatus(b.Status), "task": st.TaskID == b.TaskID, "hash": hex.EncodeToString(st.Hash) == b.GrantHash,
			"consent": st.Consent == b.ConsentType, "evidence": hex.EncodeToString(st.EvidenceHash) == b.EvidenceHash,
			"scope": slices.Equal(st.Scope, b.Scope), "deadline": st.NotAfter.Equal(b.NotAfter), "depth": st.MaxDepth == b.MaxDepth,
			"agent types": slices.Equal(st.AgentTypes, b.AgentTypes), "orchestrator": st.Orchestrator == b.OrchestratorID,
			"orchestrator's key": hex.EncodeToString(st.OrchKey) == b.OrchestratorKey,
			"user":               r.pseudonym(st.User.Issuer, st.User.Subject) == env.User,
			"roles and groups":   !told || slices.Equal(st.User.Roles, user.Roles) && slices.Equal(st.User.Groups, user.Groups),
		})
	}))
}

func (r *Replay) task(index uint64, env record.Envelope, b record.TaskBody) {
	key := keyTask + b.TaskID
	r.says(index, key, b.NotAfter, as(key, func(st *taskState) string {
		return unlike(map[string]bool{
			"grant": st.GrantID == b.GrantID, "scope": slices.Equal(st.Scope, b.Scope), "deadline": st.NotAfter.Equal(b.NotAfter),
			"depth": st.MaxDepth == b.MaxDepth, "orchestrator": nameOf(st.Orchestrator) == env.Orchestrator,
		})
	}))
}

// issue: an agent is what its first entry says, and its newest key that of the last re-key. Services and operators are registered
// by the certificate that renews none.
func (r *Replay) issue(index uint64, env record.Envelope, b record.IssueBody) {
	switch b.Kind {
	case chain.Agent.String():
		r.agent(index, env, b.SPIFFEID, b.NotAfter, b.Rekey, b.SPKIHash)
		key := keySPKI + b.SPKIHash
		r.says(index, key, b.NotAfter, func(value []byte) error {
			if string(value) != env.Agent {
				return errors.New("agent")
			}
			return nil
		})
	case chain.Service.String(), chain.Operator.String():
		if b.Renews == "" && nameOf(b.SPIFFEID) != ListenerName {
			key := keyIdentity + b.Kind + "/" + nameOf(b.SPIFFEID)
			r.says(index, key, time.Time{}, as(key, func(st *identityState) string {
				return unlike(map[string]bool{"name": st.SPIFFEID == b.SPIFFEID, "role": string(st.Role) == b.Role, "registration": st.Registration == b.Registration})
			}))
		}
	}
}

func (r *Replay) agent(index uint64, env record.Envelope, id string, until time.Time, rekey *record.RekeyBody, spki ...string) {
	key := keyAgent + env.Agent
	if st := r.live[key]; st != nil && st.known && rekey == nil {
		return // issued again
	}
	r.says(index, key, until, as(key, func(st *agentState) string {
		return unlike(map[string]bool{
			"name": st.SPIFFEID == id, "task": st.TaskID == env.Task,
			"newest key": rekey == nil || st.Renewed != nil && slices.Contains(spki, hex.EncodeToString(st.Renewed.Key)),
		})
	}))
}

func (r *Replay) admin(index uint64, env record.Envelope, b record.AdminBody, payload []byte) {
	switch b.Action {
	case "register.orchestrator":
		r.orchestrator(index, b, payload)
	case opRegister, opKeep:
		key := keyCredential + b.Target
		r.says(index, key, time.Time{}, as(key, func(st *credentialState) string {
			if st.User != env.User {
				return "user"
			}
			return differs(credentialDetail(Credential{ID: st.ID, PublicKey: st.PublicKey}), b.Detail)
		}))
	case opForget:
		r.ends(index, keyCredential+b.Target)
	case "policy.push", "policy.pull", "policy.approve":
		r.candidate(index, env, b)
	}
}

func (r *Replay) orchestrator(index uint64, b record.AdminBody, payload []byte) {
	key := keyIdentity + chain.Orchestrator.String() + "/" + nameOf(b.Target)
	var p record.AdminPayload
	told := payload != nil && json.Unmarshal(payload, &p) == nil
	r.says(index, key, time.Time{}, as(key, func(st *identityState) string {
		if told && st.OIDCSubject != p.OIDCSubject {
			return "oidc_subject"
		}
		return differs(st.registration().detail(st.Registration), b.Detail)
	}))
}

// candidate: who approved a bundle stands in an entry of their own.
func (r *Replay) candidate(index uint64, env record.Envelope, b record.AdminBody) {
	if b.Action != "policy.approve" || r.approved[b.Target] == nil {
		r.approved[b.Target] = map[string]bool{}
	}
	approved := r.approved[b.Target]
	if b.Action == "policy.approve" {
		approved[env.Operator] = true
	}
	key := keyCandidate + b.Target
	r.says(index, key, time.Time{}, as(key, func(st *candidateState) string {
		if !r.pruned && slices.ContainsFunc(st.Approvals, func(a approvalState) bool { return !approved[a.Operator] }) {
			return "approvals"
		}
		return differs(st.detail(), b.Detail)
	}))
}

// registration is what was asked for when this state was made.
func (st *identityState) registration() Registration {
	return Registration{
		AgentTypes: st.AgentTypes, MaxTTL: time.Duration(st.MaxTTL) * time.Second, PopRoots: st.PopRoots, Role: st.Role, Methods: st.Methods,
		OIDCIssuer: st.OIDCIssuer, OIDCSubject: st.OIDCSubject, EKs: st.EKs, TypeLimits: st.TypeLimits, RequireConfirmation: st.RequireConfirmation,
	}
}

// differs names the first part of an entry's detail that the state does not have likewise. How a registration came about is no state.
func differs(state, entry map[string]string) string {
	for _, name := range slices.Sorted(maps.Keys(entry)) {
		if name != "replace" && state[name] != entry[name] {
			return name
		}
	}
	for _, name := range slices.Sorted(maps.Keys(state)) {
		if _, known := entry[name]; !known && state[name] != "" {
			return name
		}
	}
	return ""
}

func (r *Replay) policy(index uint64, b record.PolicyBody) {
	if len(b.Approvals) == 0 {
		return // the default bundle decides where none is active
	}
	r.ends(index, keyCandidate+b.Name)
	r.says(index, keyPolicyActive, time.Time{}, as(keyPolicyActive, func(st *activeState) string {
		return unlike(map[string]bool{"name": st.Name == b.Name, "digest": st.Digest == b.Digest, "approvals": len(st.Approvals) == len(b.Approvals)})
	}))
}

// redact: what was erased took its private state with it.
func (r *Replay) redact(b record.RedactBody) {
	erased := map[uint64]bool{}
	for _, index := range b.Leaves() {
		erased[index] = true
	}
	maps.DeleteFunc(r.missing, func(key string, indexes []uint64) bool {
		return Private(key) && slices.ContainsFunc(indexes, func(index uint64) bool { return erased[index] })
	})
}
