package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
)

const maxPEM = 256 << 10

type certCommand struct {
	Root         []string      `required:"" help:"PEM file of the root CA." type:"path" placeholder:"FILE"`
	Untrusted    []string      `help:"PEM file of issuing CAs." type:"path" placeholder:"FILE"`
	TrustDomain  string        `help:"The SPIFFE trust domain that counts. Default: the leaf's own, as far as the CA's name constraints allow it." placeholder:"NAME"`
	Scope        []string      `help:"Scope token that must be covered; repeat for more." sep:"none"`
	At           time.Time     `help:"The moment to judge at (RFC 3339). Default: now." format:"2006-01-02T15:04:05Z07:00" placeholder:"TIME"`
	User         string        `help:"The user that must stand behind it." placeholder:"ISS,SUB"`
	Orchestrator string        `help:"SPIFFE ID of the orchestrator that must stand behind it." placeholder:"ID"`
	Origin       string        `help:"Name of the log that delegations must be addressed to." placeholder:"NAME"`
	Delegations  string        `help:"JSON file with the delegators' statements and keys, by hop." type:"path" placeholder:"FILE"`
	Revocations  string        `help:"JSON file with revocations and the time at which they were complete." type:"path" placeholder:"FILE"`
	MaxStaleness time.Duration `help:"How old the revocations may be." placeholder:"DURATION"`
	Receipt      string        `help:"Receipt of the entry that records the certificate; needs --trust." type:"path" placeholder:"FILE"`
	Trust        string        `help:"Trust file for the receipt." type:"path" placeholder:"FILE"`
	Require      []string      `help:"Checks that must pass, besides those that always must." placeholder:"CHECK"`
	JSON         bool          `help:"Print the report as JSON."`
	Leaf         string        `arg:"" help:"PEM file of the certificate; issuing CAs may follow in it." type:"path"`
}

// Run verifies a certificate.
func (c *certCommand) Run(t terminal) error {
	input, err := c.input(t.now())
	if err != nil {
		return err
	}
	return t.certificate(chain.Verify(input), c.JSON)
}

func (c *certCommand) input(now time.Time) (chain.Input, error) {
	if !c.At.IsZero() {
		now = c.At
	}
	in := chain.Input{Now: now, ExpectOrchestrator: c.Orchestrator, Origin: c.Origin, MaxStaleness: c.MaxStaleness}
	steps := []func(*chain.Input) error{c.certificates, c.expectations, c.delegations, c.revocations, c.receipt}
	for _, step := range steps {
		if err := step(&in); err != nil {
			return chain.Input{}, err
		}
	}
	return in, nil
}

func (c *certCommand) certificates(in *chain.Input) error {
	leaf, err := readCertificates(c.Leaf)
	if err != nil {
		return err
	}
	var roots, untrusted []*x509.Certificate
	for _, group := range []struct {
		paths []string
		to    *[]*x509.Certificate
	}{{c.Root, &roots}, {c.Untrusted, &untrusted}} {
		for _, path := range group.paths {
			certs, err := readCertificates(path)
			if err != nil {
				return err
			}
			*group.to = append(*group.to, certs...)
		}
	}
	in.Chain = append(leaf, untrusted...)
	in.Trust = &chain.Trust{TrustDomain: c.TrustDomain, Roots: roots}
	if c.TrustDomain == "" {
		in.Trust.TrustDomain = ownDomain(leaf[0])
	}
	return nil
}

func readCertificates(path string) ([]*x509.Certificate, error) {
	data, err := readFile(path, maxPEM)
	if err != nil {
		return nil, err
	}
	certs, err := chain.ParsePEM(data, chain.MaxChain)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return certs, nil
}

// ownDomain is the leaf's trust domain, "" if it has none; the check "path" then says what is wrong.
func ownDomain(leaf *x509.Certificate) string {
	if len(leaf.URIs) != 1 {
		return ""
	}
	id, err := chain.ParseID(leaf.URIs[0].String())
	if err != nil {
		return ""
	}
	return id.TrustDomain()
}

func (c *certCommand) expectations(in *chain.Input) error {
	for _, text := range strings.Fields(strings.Join(c.Scope, " ")) {
		token, err := chain.ParseToken(text)
		if err != nil {
			return fmt.Errorf("--scope: %w", err)
		}
		in.RequiredScope = append(in.RequiredScope, token)
	}
	if c.User != "" {
		issuer, subject, found := strings.Cut(c.User, ",")
		if !found || issuer == "" || subject == "" {
			return fmt.Errorf("--user: %q is not ISS,SUB", c.User)
		}
		in.ExpectUser = &chain.User{Issuer: issuer, Subject: subject}
	}
	for _, text := range c.Require {
		name, err := chain.ParseCheckName(text)
		if err != nil {
			return fmt.Errorf("--require: %w", err)
		}
		in.Require = append(in.Require, name)
	}
	// What the caller names, the caller wants.
	for _, wish := range []struct {
		named bool
		check chain.CheckName
	}{
		{len(c.Scope) > 0, chain.CheckScope},
		{c.User != "" || c.Orchestrator != "", chain.CheckPrincipal},
		{c.Revocations != "", chain.CheckRevocation},
		{c.MaxStaleness > 0, chain.CheckFreshness},
		{c.Receipt != "", chain.CheckLogged},
	} {
		if wish.named && !slices.Contains(in.Require, wish.check) {
			in.Require = append(in.Require, wish.check)
		}
	}
	return nil
}

// receipt makes the check "logged": a valid receipt of an entry that records exactly this certificate.
func (c *certCommand) receipt(in *chain.Input) error {
	if c.Receipt == "" {
		return nil
	}
	if c.Trust == "" {
		return errors.New("--receipt needs --trust: a receipt that vouches for itself proves nothing")
	}
	trust, err := readTrust(c.Trust)
	if err != nil {
		return err
	}
	r, err := readReceipt(c.Receipt)
	if err != nil {
		return err
	}
	in.Logged = func(tbs [32]byte) error { return r.Covers(tbs, trust) }
	return nil
}
