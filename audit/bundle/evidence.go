package bundle

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/evidence"
)

// grantFact is a grant as its entries tell it.
type grantFact struct {
	id       string
	user     string // pseudonym
	index    uint64 // of the entry that holds the evidence
	evidence string // hexadecimal; "" until the user consented
	hash     string // of the canonical grant document
	consent  string
	time     time.Time
	document []byte // the canonical grant document; nil if the evidence is not here or is false
	key      hash   // the orchestrator's, as the document names it
}

// names says whether the user's grant is here and names that key of the orchestrator.
func (g *grantFact) names(key hash) bool { return g.document != nil && g.key == key }

func (f *fact) readGrant(env *record.Envelope) error {
	body, err := record.DecodeBody[record.GrantBody](*env)
	if err != nil {
		return err
	}
	if body.GrantID != env.Grant {
		return errors.New("grant_id differs between envelope and body")
	}
	f.grant = &grantFact{
		id: body.GrantID, user: env.User, evidence: body.EvidenceHash, hash: body.GrantHash, consent: body.ConsentType, time: env.Time,
	}
	f.rests.on(chain.RevGrant, env.Grant)
	f.rests.on(chain.RevUser, env.User)
	f.rests.on(chain.RevOrchestrator, env.Orchestrator)
	return nil
}

// noteGrant keeps the entry with the evidence. Later entries of the grant must not contradict it.
func (v *verifier) noteGrant(f *fact) {
	if f.grant.evidence != "" {
		v.stands(f, f.rests)
	}
	v.changes++
	g := *f.grant
	g.index = f.index
	have, known := v.grants[g.id]
	switch {
	case !known || have.evidence == "":
		v.grants[g.id] = &g
	case g.evidence != "" && (g.evidence != have.evidence || g.hash != have.hash):
		v.tally.fail(CheckEvidence, at(f.index, entriesPath(f.index/chunk)), "contradicts the grant in entry %d", have.index)
	}
}

// evidence checks the consent of every grant.
func (v *verifier) evidence() {
	for _, path := range v.files.under(dirEvidence) {
		id := strings.TrimSuffix(strings.TrimPrefix(path, dirEvidence), ".json")
		if v.grants[id] == nil && !v.partial {
			v.tally.fail(CheckEvidence, in(path), "no entry records this grant")
		}
	}
	for id, g := range v.grants {
		where := at(g.index, evidencePath(id))
		if g.evidence == "" {
			continue // asked for and not given
		}
		if !validPath(evidencePath(id)) || !v.files.has(evidencePath(id)) {
			if g.index >= v.from && g.index < v.to && v.choice.consent(id) {
				v.tally.unsure(CheckEvidence, where, "absent: erased or withheld")
			}
			continue
		}
		data, err := v.files.read(evidencePath(id))
		var proof *evidence.Parsed
		if err == nil {
			proof, err = v.consent(g, data)
		}
		if v.tally.check(CheckEvidence, where, err) && v.tally.check(consentCheck(proof.Type), where, proof.Verify(g.time)) {
			g.document, g.key = proof.Document, proof.Grant.OrchestratorKey
			v.shows(g, proof)
		}
	}
}

// consentCheck is the check of the user's proof, which each type of consent has.
func consentCheck(kind chain.ConsentType) CheckName {
	switch kind {
	case chain.WebAuthn:
		return CheckConsentWebAuthn
	case chain.JWS:
		return CheckConsentJWS
	case chain.OIDCNonce:
		return CheckConsentOIDC
	case chain.TokenExchange:
		return CheckConsentToken
	case chain.ConsentUnknown:
	}
	return CheckEvidence
}

// consent reads one evidence file and holds it to the grant's entry.
func (v *verifier) consent(g *grantFact, data []byte) (*evidence.Parsed, error) {
	if sum := sha256.Sum256(data); hexOf(sum) != g.evidence {
		return nil, errors.New("its SHA-256 is not the evidence hash in the entry")
	}
	p, err := evidence.Parse(data)
	if err != nil {
		return nil, err
	}
	if p.Type.String() != g.consent {
		return nil, fmt.Errorf("consent by %s; the entry says %q", p.Type, g.consent)
	}
	if sum := sha256.Sum256(p.Document); hexOf(sum) != g.hash {
		return nil, errors.New("grant: its SHA-256 is not the grant hash in the entry")
	}
	if p.Grant.GrantID != g.id || p.Grant.Origin != v.anchors.origin {
		return nil, errors.New("grant: of another id or log")
	}
	return p, nil
}
