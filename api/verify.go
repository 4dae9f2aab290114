package api

import (
	"encoding/base64"
	"strconv"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// verifyRequest reads what a chain is to be compared with. What the caller names, the caller wants: its check is required.
func verifyRequest(q *v1.VerifyRequest) (delegation.VerifyRequest, error) {
	var none delegation.VerifyRequest
	certs, err := parseChain("certificate_chain", q.CertificateChain)
	if err != nil {
		return none, err
	}
	out := delegation.VerifyRequest{Chain: certs, At: q.At, Orchestrator: q.ExpectedOrchestrator}
	if out.Require, err = parseRequire(q.Require); err != nil {
		return none, err
	}
	if q.RequiredScope != nil {
		if out.RequiredScope, err = parseScope("required_scope", q.RequiredScope); err != nil {
			return none, err
		}
		out.Require = append(out.Require, chain.CheckScope)
	}
	if q.ExpectedUser != nil {
		out.Principal = &chain.User{Issuer: q.ExpectedUser.Issuer, Subject: q.ExpectedUser.Subject}
	}
	if q.ExpectedUser != nil || q.ExpectedOrchestrator != "" {
		out.Require = append(out.Require, chain.CheckPrincipal)
	}
	if q.MaxStaleness != 0 {
		if out.MaxStaleness, err = seconds("max_staleness", q.MaxStaleness); err != nil {
			return none, err
		}
		out.Require = append(out.Require, chain.CheckFreshness)
	}
	if err := signed(&out, q); err != nil {
		return none, err
	}
	return out, nil
}

func parseRequire(names []string) ([]chain.CheckName, error) {
	// Naming one twice is as good as once, but not a hundred times.
	if most := 2 * len(chain.CheckNames()); len(names) > most {
		return nil, invalid(codeBadRequest, "require", "at most "+strconv.Itoa(most)+" checks")
	}
	var out []chain.CheckName
	for i, text := range names {
		name, err := chain.ParseCheckName(text)
		if err != nil {
			return nil, invalid(codeBadRequest, "require["+strconv.Itoa(i)+"]", err.Error())
		}
		out = append(out, name)
	}
	return out, nil
}

// signed reads what the delegators signed. They are judged by the check "confirmation".
func signed(out *delegation.VerifyRequest, q *v1.VerifyRequest) error {
	for _, f := range [...]struct {
		name string
		n    int
	}{{"delegations", len(q.Delegations)}, {"keys", len(q.Keys)}, {"links", len(q.Links)}} {
		if f.n > chain.MaxHops {
			return invalid(codeBadRequest, f.name, "at most "+strconv.Itoa(chain.MaxHops)+", one for each hop")
		}
	}
	out.Delegations = q.Delegations
	for _, key := range q.Keys {
		if len(key) == 0 {
			key = nil
		}
		out.Keys = append(out.Keys, key)
	}
	for _, hop := range q.Links {
		var links []chain.Link
		for _, l := range hop {
			links = append(links, chain.Link{JWS: l.Link, Key: l.Key})
		}
		out.Links = append(out.Links, links)
	}
	if q.Grant == "" {
		return nil
	}
	var err error
	if out.GrantDocument, err = base64.RawURLEncoding.Strict().DecodeString(q.Grant); err != nil {
		return invalid(codeBadRequest, "grant", "base64url of the canonical grant document")
	}
	return nil
}
