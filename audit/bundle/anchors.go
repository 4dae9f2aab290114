package bundle

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/custody"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/rotation"
	"github.com/signet-pki/signet/tpm/quote"
)

// sealOne is the number of a log's first seal.
const sealOne = 1

// anchors is what everything else is verified against. A nil field could not be had, and what needs it fails.
type anchors struct {
	origin, domain string
	roots          []*x509.Certificate
	audit          *ecdsa.PublicKey // the first one, if those of the log can be followed from it
	keys           *rotation.Keys
	turns          []turn
	ak             *quote.AK
	nvName         []byte
	pcrs           quote.Selection
	accepted       quote.Accepted
	issuing        []*x509.Certificate // by one of roots
}

// pins is leaf 0, parsed.
type pins struct {
	record.Ceremony
	root           *x509.Certificate
	audit          *ecdsa.PublicKey
	ak             *quote.AK
	counter        *quote.NVCounter
	pcrs           quote.Selection
	akName, nvName []byte
	custodians     custody.Set // zero: there are none
}

func parseCeremony(envelope []byte) (record.Ceremony, error) {
	env, err := record.Check(envelope)
	if err != nil {
		return record.Ceremony{}, err
	}
	if env.Type != record.TypeCeremony {
		return record.Ceremony{}, fmt.Errorf("entry 0 is of type %s", env.Type)
	}
	body, err := record.DecodeBody[record.Ceremony](env)
	if err != nil {
		return record.Ceremony{}, err
	}
	return body, checkOrigin(body.Origin)
}

// parsePins checks that leaf 0 is consistent: each name is that of its public area. What could be parsed is returned beside the errors.
func parsePins(envelope []byte) (*pins, error) {
	body, err := parseCeremony(envelope)
	if err != nil {
		return nil, err
	}
	p := &pins{Ceremony: body}
	var errs []error
	field := func(name string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	field("origin", checkpoint.CheckOrigin(body.Origin))
	field("root", decode(body.Root, func(der []byte) (err error) { p.root, err = x509.ParseCertificate(der); return }))
	field("audit_key", decode(body.AuditKey, func(der []byte) (err error) { p.audit, err = parseSPKI(der); return }))
	if body.Custodians != nil {
		p.custodians, err = custody.ParseSet(body.Custodians)
		field("custodians", err)
	}
	if body.JWTKey != "" {
		field("jwt_key", decode(body.JWTKey, func(der []byte) error { _, err := parseSPKI(der); return err }))
	}
	field("ak_public", decode(body.AKPublic, func(raw []byte) (err error) { p.ak, err = quote.ParseAK(raw); return }))
	field("nv_public", decode(body.NVPublic, func(raw []byte) (err error) { p.counter, err = quote.ParseCounter(raw); return }))
	p.akName, err = parseName(body.AKName)
	field("ak_name", err)
	p.nvName, err = parseName(body.NVName)
	field("nv_name", err)
	p.pcrs, err = quote.ParseSelection(body.PCRs)
	field("pcrs", err)
	if p.ak != nil && !bytes.Equal(p.ak.Name(), p.akName) {
		field("ak_name", errors.New("not the name of ak_public"))
	}
	if p.counter != nil && (!bytes.Equal(p.counter.Name(), p.nvName) || p.counter.Index() != body.NVIndex) {
		field("nv_name", errors.New("name or index is not that of nv_public"))
	}
	return p, errors.Join(errs...)
}

func decode(text string, parse func([]byte) error) error {
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return err
	}
	return parse(raw)
}

// anchorsFrom takes the anchors of the auditor, or those that leaf 0 pins, and follows the audit keys. With a trust file it reports
// each difference; its audit key is any of the log's.
func anchorsFrom(p *pins, changes []rotation.Proof, file string, trust *Trust, t *tally) anchors {
	var keys *rotation.Keys
	var turns []turn
	if p != nil {
		keys, turns = follow(p.Origin, p.audit, changes, file, t)
	}
	a := anchorsOf(p, keys, trust, t)
	if a.keys = keys; trust != nil && (keys == nil || !keys.Has(trust.audit)) {
		turns, a.audit = nil, trust.audit
		a.keys, _ = follow(trust.origin, trust.audit, nil, file, t)
	}
	a.turns = turns
	return a
}

func anchorsOf(p *pins, keys *rotation.Keys, trust *Trust, t *tally) anchors {
	if trust == nil {
		if p == nil {
			return anchors{}
		}
		a := anchors{origin: p.Origin, domain: p.TrustDomain, audit: p.audit, ak: p.ak, nvName: p.nvName, pcrs: p.pcrs}
		if p.root != nil {
			a.roots = []*x509.Certificate{p.root}
		}
		return a
	}
	a := anchors{
		origin: trust.origin, domain: trust.domain, roots: trust.roots, nvName: trust.nvName, pcrs: trust.pcrs, accepted: trust.accepted,
	}
	if p == nil {
		t.fail(CheckTrust, place{}, "the evidence names no anchors to compare with the trust file")
		return a
	}
	for _, c := range []struct {
		same bool
		what string
	}{
		{p.Origin == trust.origin, "origin"},
		{p.TrustDomain == trust.domain, "trust domain"},
		{keys != nil && keys.Has(trust.audit), "audit key"},
		{p.ak != nil && bytes.Equal(p.ak.Name(), trust.akName), "attestation key"},
		{bytes.Equal(p.nvName, trust.nvName), "NV index"},
		{p.pcrs == trust.pcrs, "PCR selection"},
		{p.root != nil && slices.ContainsFunc(trust.roots, p.root.Equal), "root certificate"},
	} {
		if c.same {
			t.pass(CheckTrust, 1)
			continue
		}
		t.fail(CheckTrust, place{}, "%s is not that of the trust file", c.what)
	}
	if a.audit = p.audit; p.ak != nil && bytes.Equal(p.ak.Name(), trust.akName) {
		a.ak = p.ak
	}
	return a
}

// certificates checks the files below certs/ that hold for the whole log, against leaf 0 and the root.
func (v *verifier) certificates() {
	v.checkFile(CheckCertificate, pathRoot, v.checkRoot)
	v.checkFile(CheckCertificate, pathAudit, v.checkAuditKey)
	v.checkFile(CheckAK, pathAK, v.checkAKKey)
	v.checkFile(CheckAK, pathAKCert, v.checkAKCert)
	v.checkFile(CheckAK, pathAKBinding, v.checkBinding)
	if v.files.has(pathEK) {
		v.checkFile(CheckAK, pathEK, v.checkEK)
	}
	issuers := v.files.numbered(prefixIssuer, ".pem")
	for i, n := range issuers {
		path := issuerPath(int(n)) //nolint:gosec // G115: a number below 2^63
		if i >= maxIssuers {
			v.tally.fail(CheckLayout, in(path), "more than %d issuing certificates", maxIssuers)
			return
		}
		v.checkFile(CheckCertificate, path, v.checkIssuing)
	}
	if v.files.has(pathTPMKeys) {
		v.checkFile(CheckAK, pathTPMKeys, v.checkTPMKeys)
	}
}

func (v *verifier) checkFile(name CheckName, path string, check func([]byte) error) {
	data, err := v.files.read(path)
	if err == nil {
		err = check(data)
	}
	v.tally.check(name, in(path), err)
}

func (v *verifier) checkRoot(data []byte) error {
	root, err := parseCertificate(data)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(v.anchors.roots, root.Equal) {
		return errors.New("not the root certificate of the anchors")
	}
	return root.CheckSignatureFrom(root)
}

// byRoot checks one step: everything here is signed by the root itself.
func (v *verifier) byRoot(cert *x509.Certificate) error {
	if len(v.anchors.roots) == 0 {
		return errors.New("no root certificate to verify with")
	}
	var errs []error
	for _, root := range v.anchors.roots {
		err := cert.CheckSignatureFrom(root)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("not issued by the root: %w", errors.Join(errs...))
}

// checkAuditKey takes a certificate by the root, or the key alone, which leaf 0 pins.
func (v *verifier) checkAuditKey(data []byte) error {
	key, err := parsePublicPEM(data)
	if err != nil {
		cert, err := parseCertificate(data)
		if err != nil {
			return err
		}
		if key, err = p256(cert.PublicKey); err != nil {
			return err
		}
		if err := v.byRoot(cert); err != nil {
			return err
		}
	}
	if v.anchors.audit == nil || !key.Equal(v.anchors.audit) {
		return errors.New("not the audit key of the anchors")
	}
	return nil
}

func (v *verifier) checkAKKey(data []byte) error {
	key, err := parsePublicPEM(data)
	if err != nil {
		return err
	}
	if v.anchors.ak == nil || !key.Equal(v.anchors.ak.Public()) {
		return errors.New("not the attestation key of the anchors")
	}
	return nil
}

func (v *verifier) checkAKCert(data []byte) error {
	cert, err := parseCertificate(data)
	if err != nil {
		return err
	}
	key, err := p256(cert.PublicKey)
	if err != nil {
		return err
	}
	if v.anchors.ak == nil || !key.Equal(v.anchors.ak.Public()) {
		return errors.New("not for the attestation key of the anchors")
	}
	if cert.IsCA {
		return errors.New("it is a CA's")
	}
	return v.byRoot(cert)
}

func (v *verifier) checkBinding(data []byte) error {
	binding, err := quote.ParseBinding(data)
	if err != nil {
		return err
	}
	bound, err := binding.Verify()
	if err != nil {
		return err
	}
	if v.anchors.ak == nil || !bytes.Equal(bound.AK.Name(), v.anchors.ak.Name()) {
		return errors.New("not about the attestation key of the anchors")
	}
	if !bytes.Equal(bound.Counter.Name(), v.anchors.nvName) {
		return errors.New("not about the NV counter of the anchors")
	}
	return nil
}

// checkEK compares the file with leaf 0. A TPM maker's path to it is the auditor's own business: makers' roots are not part of a bundle.
func (v *verifier) checkEK(data []byte) error {
	der, rest, err := pemBlock(bytes.TrimSpace(data), "CERTIFICATE")
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return errors.New("data after the certificate")
	}
	if v.pins == nil || encodeBase64(der) != v.pins.EKCertificate {
		return errors.New("not the endorsement key's certificate of entry 0")
	}
	return nil
}

func (v *verifier) checkIssuing(data []byte) error {
	cert, err := parseCertificate(data)
	if err != nil {
		return err
	}
	if !cert.IsCA {
		return errors.New("not a CA certificate")
	}
	if err := v.byRoot(cert); err != nil {
		return err
	}
	v.anchors.issuing = append(v.anchors.issuing, cert)
	return nil
}

func hexOf(h hash) string { return hex.EncodeToString(h[:]) }
