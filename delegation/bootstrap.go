package delegation

import (
	"crypto/x509"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// FirstOperator is the entry by which a ceremony makes the first operator known: the certificate that it issued, and
// the registration. Every later identity is registered by an operator.
func FirstOperator(cert, issuer *x509.Certificate, now time.Time) (record.Entry, error) {
	if len(cert.URIs) != 1 {
		return record.Entry{}, refuse(Invalid, "bad_certificate", "operator", "not exactly one URI name")
	}
	id, err := chain.ParseID(cert.URIs[0].String())
	if err != nil || id.Kind() != chain.Operator {
		return record.Entry{}, refuse(Invalid, "bad_certificate", "operator", "the certificate names no operator")
	}
	body, err := record.EncodeBody(record.IssueBody{
		Kind: id.Kind().String(), SPIFFEID: id.String(), Serial: chain.Serial(cert), TBSHash: hexOf(tbsHash(cert)),
		SPKIHash: hexOf(chain.SPKIHash(cert)), IssuerSPKIHash: hexOf(chain.SPKIHash(issuer)), NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, Role: string(RoleOperator),
	})
	if err != nil {
		return record.Entry{}, internal("encode entry", err)
	}
	state, err := encode(identityState{SPIFFEID: id.String(), Role: RoleOperator})
	if err != nil {
		return record.Entry{}, err
	}
	serial, err := serialMutation(chain.Serial(cert), id.Kind(), cert.NotAfter, "")
	if err != nil {
		return record.Entry{}, err
	}
	e, err := record.New(record.Envelope{Type: record.TypeIssue, Time: now, Operator: id.Name(), Body: body}, nil, [32]byte{})
	if err != nil {
		return record.Entry{}, internal("make entry", err)
	}
	e.Terms = []record.Term{{Kind: "serial", ID: chain.Serial(cert)}} // as record.TermsOf
	e.Mutations = []record.Mutation{{Key: keyCert + hexOf(tbsHash(cert)), Value: cert.Raw}, create(identityKey(chain.Operator, id.Name()), state, time.Time{}, errRegistered()), serial}
	return e, nil
}
