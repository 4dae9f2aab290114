package bundle

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// Kinds of an issue entry that are not checked like a SPIFFE peer.
const (
	kindAgent    = "agent"
	kindListener = "listener"
)

const issueSkew = time.Minute

// issued verifies every issue entry with its certificate, in parallel, file by file.
func (v *verifier) issued(ctx context.Context) error {
	for _, index := range v.files.numbered(dirIssued, ".pem") {
		if _, found := slices.BinarySearch(v.issues, index); !found {
			v.tally.fail(CheckCertificate, at(index, issuedPath(index)), "a certificate without an issue entry")
		}
	}
	var err error
	if v.trust, err = chain.NewTrust(v.anchors.domain, v.anchors.roots, v.anchors.issuing); err != nil && len(v.issues) > 0 {
		v.tally.fail(CheckCertificate, in(pathRoot), "no path can be verified: %v", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(v.opts.Parallel)
	for rest := v.issues; len(rest) > 0 && ctx.Err() == nil; {
		n := rest[0] / chunk
		end := slices.IndexFunc(rest, func(i uint64) bool { return i/chunk != n })
		if end < 0 {
			end = len(rest)
		}
		indexes := rest[:end]
		rest = rest[end:]
		group.Go(func() error {
			v.issuedChunk(n, indexes)
			return ctx.Err()
		})
	}
	return group.Wait()
}

func (v *verifier) issuedChunk(n uint64, indexes []uint64) {
	data, err := v.files.read(entriesPath(n))
	if err != nil {
		return // reported when the entries were read
	}
	list, err := lines(data, chunk)
	if err != nil {
		return
	}
	for _, index := range indexes {
		if i := index % chunk; i < uint64(len(list)) {
			v.issue(index, list[i])
		}
	}
}

// issue checks one issue entry. The entry itself was checked before.
func (v *verifier) issue(index uint64, line []byte) {
	env, err := record.Check(line)
	if err != nil || env.Type != record.TypeIssue {
		return // lines moved: reported as missing entries
	}
	body, err := record.DecodeBody[record.IssueBody](env)
	if err != nil {
		return
	}
	where := at(index, issuedPath(index))
	if body.Kind == kindAgent {
		v.tally.check(CheckDelegation, at(index, entriesPath(index/chunk)), v.descends(index, &env, &body))
	}
	if !v.choice.beside(index, &env) {
		if v.files.has(issuedPath(index)) {
			v.tally.fail(CheckSelection, where, "%s", notAsked)
		}
		return
	}
	if !v.files.has(issuedPath(index)) {
		switch {
		case v.unsigned(index, body.TBSHash):
			v.tally.pass(CheckCertificate, 1)
		case index >= v.from && index < v.to:
			v.tally.unsure(CheckCertificate, where, "absent, and no later entry says that it was not issued")
		}
		return
	}
	cert, err := v.certificate(index)
	if err != nil {
		v.tally.fail(CheckCertificate, where, "%v", err)
		return
	}
	errs := []error{sameCertificate(cert, &body), v.sameIssuer(cert, &body)}
	if body.Kind == kindAgent {
		errs = append(errs, v.agent(index, cert, &env, &body))
	} else {
		errs = append(errs, v.peer(cert, &env, &body))
	}
	v.tally.check(CheckCertificate, where, errors.Join(errs...))
}

// unsigned says whether a later entry explains that an issue entry has no certificate. After a crash nobody remembers which
// entry it was, so the bytes to be signed say it.
func (v *verifier) unsigned(index uint64, tbsHash string) bool {
	tbs, err := parseHash(tbsHash)
	return err == nil && v.failed[tbs] > index
}

// certificate reads an issued certificate.
func (v *verifier) certificate(index uint64) (*x509.Certificate, error) {
	data, err := v.files.read(issuedPath(index))
	if err != nil {
		return nil, err
	}
	list, err := chain.ParsePEM(data, 1)
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// sameCertificate compares a certificate with the entry that was written before it was signed.
func sameCertificate(cert *x509.Certificate, body *record.IssueBody) error {
	var errs []error
	for _, c := range []struct {
		same bool
		what string
	}{
		{hexOf(chain.TBSHash(cert)) == body.TBSHash, "TBSCertificate"},
		{chain.Serial(cert) == body.Serial, "serial number"},
		{hexOf(chain.SPKIHash(cert)) == body.SPKIHash, "key"},
		{cert.NotBefore.Equal(body.NotBefore) && cert.NotAfter.Equal(body.NotAfter), "validity"},
	} {
		if !c.same {
			errs = append(errs, fmt.Errorf("its %s is not the one in the entry", c.what))
		}
	}
	return errors.Join(errs...)
}

// sameIssuer compares the issuing CA's key with the one in the entry.
func (v *verifier) sameIssuer(cert *x509.Certificate, body *record.IssueBody) error {
	for _, ca := range v.anchors.issuing {
		if hexOf(chain.SPKIHash(ca)) == body.IssuerSPKIHash && bytes.Equal(ca.RawSubject, cert.RawIssuer) {
			return nil
		}
	}
	return errors.New("its issuer is not the one in the entry, or not in the bundle")
}

// peer checks the certificate of an orchestrator, service, operator or listener.
func (v *verifier) peer(cert *x509.Certificate, env *record.Envelope, body *record.IssueBody) error {
	if v.trust == nil {
		return errors.New("no trust anchor to verify with")
	}
	if body.Kind == kindListener {
		pool := x509.NewCertPool()
		for _, ca := range v.anchors.issuing {
			pool.AddCert(ca)
		}
		roots := x509.NewCertPool()
		for _, ca := range v.anchors.roots {
			roots.AddCert(ca)
		}
		_, err := cert.Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: pool, CurrentTime: env.Time, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		return err
	}
	id, check := chain.Identify([]*x509.Certificate{cert}, v.trust, env.Time, issueSkew)
	if check.Status != chain.Pass {
		return fmt.Errorf("%s: %s", check.Code, check.Detail)
	}
	if id.String() != body.SPIFFEID || id.Kind().String() != body.Kind {
		return fmt.Errorf("it is for %s, the entry says %s %s", id, body.Kind, body.SPIFFEID)
	}
	return nil
}

// agent checks an agent's certificate and the chain in it, at the time of its entry, by the rules that relying parties use.
func (v *verifier) agent(index uint64, cert *x509.Certificate, env *record.Envelope, body *record.IssueBody) error {
	d, err := chain.Extract(cert)
	if err != nil {
		v.tally.fail(CheckDelegation, at(index, issuedPath(index)), "%v", err)
		return nil
	}
	input := chain.Input{
		Chain: []*x509.Certificate{cert}, Trust: v.trust, Now: env.Time, Skew: issueSkew, Origin: v.anchors.origin, Statements: &v.statements,
		Delegations: make([]string, len(d.Hops)), Keys: make([][]byte, len(d.Hops)), Links: make([][]chain.Link, len(d.Hops)),
	}
	own := chain.SPKIHash(cert)
	grant := v.grants[chain.FormatUUID(d.Grant.GrantID)]
	if grant != nil {
		input.GrantDocument = grant.document
	}
	for i := range d.Hops {
		if input.Keys[i] = cert.RawSubjectPublicKeyInfo; d.Hops[i].SPKIHash != own {
			input.Keys[i] = v.key(d.Hops[i].SPKIHash)
		}
		if i > 0 && d.Hops[i].Confirmation != nil {
			input.Delegations[i] = v.delegation(*d.Hops[i].Confirmation, index, i == len(d.Hops)-1)
		}
		if i > 0 {
			var complete bool
			if input.Links[i], complete = v.links(d.Hops[i].SPKIHash); !complete {
				v.tally.unsure(CheckConfirmation, at(index, delegatorsPath(index/chunk)), "hop %d: a link of its re-keys is absent", i)
				input.Delegations[i] = "" // what it says cannot be compared with the key now
			}
		}
	}
	report := chain.Verify(input)
	v.chainReport(index, &d, &report)
	v.count(&d, &report, grant)
	v.redeemed(index, &report, body)
	v.rekeyed(index, cert, env, body)
	v.logged(index, &d, env, body, grant)
	path := report.Check(chain.CheckPath)
	if path.Status != chain.Pass {
		return fmt.Errorf("%s: %s", path.Code, path.Detail)
	}
	if report.Agent.String() != body.SPIFFEID {
		return fmt.Errorf("it is for %s, the entry says %s", report.Agent, body.SPIFFEID)
	}
	return nil
}

// chainReport carries the checks of a relying party over.
func (v *verifier) chainReport(index uint64, d *chain.Delegation, report *chain.Report) {
	where := at(index, issuedPath(index))
	var errs []error
	for _, c := range report.Checks {
		switch c.Name {
		case chain.CheckBinding, chain.CheckAttenuation, chain.CheckDeadline, chain.CheckDepth, chain.CheckFormat:
			if c.Status != chain.Pass {
				errs = append(errs, fmt.Errorf("%s: %s: %s", c.Name, c.Code, c.Detail))
			}
		case chain.CheckConfirmation:
			v.confirmed(at(index, delegatorsPath(index/chunk)), d, c)
		case chain.CheckPath, chain.CheckPrincipal, chain.CheckLogged, chain.CheckScope, chain.CheckRevocation, chain.CheckFreshness:
		}
	}
	v.tally.check(CheckDelegation, where, errors.Join(errs...))
}

// confirmed tells a false delegation from one that is not here. Hops without a confirmation are vouched for by the CA alone, which
// the certificate says itself.
func (v *verifier) confirmed(where place, d *chain.Delegation, c chain.Check) {
	signed := slices.ContainsFunc(d.Hops, func(h chain.Hop) bool { return h.Confirmation != nil })
	switch {
	case c.Status == chain.Fail:
		v.tally.fail(CheckConfirmation, where, "%s: %s", c.Code, c.Detail)
	case c.Status == chain.Pass:
		v.tally.pass(CheckConfirmation, 1)
	case signed && c.Code != chain.CodeOrchestratorKey:
		v.tally.unsure(CheckConfirmation, where, "%s: %s", c.Code, c.Detail)
	}
}

// logged compares the chain in the certificate with the one in the entry, and with the grant's entry.
func (v *verifier) logged(index uint64, d *chain.Delegation, env *record.Envelope, body *record.IssueBody, grant *grantFact) {
	where := at(index, entriesPath(index/chunk))
	var errs []error
	differs := func(what string) { errs = append(errs, fmt.Errorf("%s differs between entry and certificate", what)) }
	if chain.FormatUUID(d.TaskID) != env.Task {
		differs("task")
	}
	if chain.FormatUUID(d.Grant.GrantID) != env.Grant {
		differs("grant")
	}
	if d.Grant.Consent.String() != body.ConsentType || hexOf(d.Grant.EvidenceHash) != body.EvidenceHash {
		differs("consent")
	}
	if !slices.EqualFunc(d.Hops, body.Hops, sameHop) {
		differs("chain")
	}
	if grant != nil && grant.evidence != "" && hexOf(d.Grant.EvidenceHash) != grant.evidence {
		errs = append(errs, fmt.Errorf("its evidence is not that of the grant in entry %d", grant.index))
	}
	v.tally.check(CheckDelegation, where, errors.Join(errs...))
}

func sameHop(h chain.Hop, b record.HopBody) bool {
	confirmation := ""
	if h.Confirmation != nil {
		confirmation = hexOf(*h.Confirmation)
	}
	return h.ID == b.ID && hexOf(h.SPKIHash) == b.SPKIHash && slices.Equal(h.Scope.Strings(), b.Scope) &&
		h.NotAfter.Equal(b.NotAfter) && h.MaxDepth == b.MaxDepth && confirmation == b.Confirmation
}

// cache keeps a few of what several entries need. It forgets all when it is full.
type cache struct {
	mu   sync.Mutex
	keys map[hash][]byte
	jws  map[uint64]map[uint64]jwsLine // by file, then entry
}

const (
	cachedKeys  = 1 << 14
	cachedFiles = 64
)

// key finds the SubjectPublicKeyInfo of a hop in the certificate that was issued for it; nil if it is not here.
func (v *verifier) key(spki hash) []byte {
	v.cache.mu.Lock()
	key, ok := v.cache.keys[spki]
	v.cache.mu.Unlock()
	if ok {
		return key
	}
	holder, known := v.keys[spki]
	if !known {
		return nil
	}
	cert, err := v.certificate(holder.index)
	if err != nil || chain.SPKIHash(cert) != spki {
		return nil
	}
	v.cache.mu.Lock()
	defer v.cache.mu.Unlock()
	if v.cache.keys == nil || len(v.cache.keys) >= cachedKeys {
		v.cache.keys = map[hash][]byte{}
	}
	v.cache.keys[spki] = cert.RawSubjectPublicKeyInfo
	return cert.RawSubjectPublicKeyInfo
}

// delegation finds the compact JWS that a hop names: with the entry itself for the last hop, else with the parent's.
func (v *verifier) delegation(confirmation hash, index uint64, own bool) string {
	if !own {
		var known bool
		if index, known = v.signed[confirmation]; !known {
			return ""
		}
	}
	return v.jwsFile(index / chunk)[index].JWS
}

func (v *verifier) jwsFile(n uint64) map[uint64]jwsLine {
	v.cache.mu.Lock()
	defer v.cache.mu.Unlock()
	if file, ok := v.cache.jws[n]; ok {
		return file
	}
	if v.cache.jws == nil || len(v.cache.jws) >= cachedFiles {
		v.cache.jws = map[uint64]map[uint64]jwsLine{}
	}
	file := map[uint64]jwsLine{}
	v.cache.jws[n] = file
	path := delegatorsPath(n)
	if !v.files.has(path) {
		return file
	}
	data, err := v.files.read(path)
	if err == nil {
		err = eachLine(data, func(line []byte) error {
			var j jwsLine
			if err := exact(line, &j); err != nil {
				return err
			}
			if _, twice := file[j.Index]; twice || j.Index/chunk != n {
				return fmt.Errorf("entry %d twice, or in the wrong file", j.Index)
			}
			file[j.Index] = j
			return nil
		})
	}
	if err != nil {
		v.tally.fail(CheckConfirmation, in(path), "%v", err)
	}
	return file
}
