package workload

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Bounds of a token.
const (
	MaxToken = 8 << 10 // bytes; a Kubernetes token has about 1,200
	maxText  = 256     // bytes of a subject, a UID or a name
	maxKeyID = 256
)

// Claims are what a verified token says.
type Claims struct {
	Subject  string
	Pod      string // UID of the pod, where the subject is a Kubernetes service account
	Node     string // name of its node, where the token says it
	Expires  time.Time
	IssuedAt time.Time
	// Hash is the SHA-256 of what was signed. It names the token: a signature can have several spellings, this has one.
	Hash [32]byte
}

// The codes of an Error.
const (
	CodeTooLong      = "token_too_long"
	CodeMalformed    = "token_malformed"
	CodeDuplicate    = "token_duplicate_claim"
	CodeHeader       = "token_header" // it carries a key, says where one is, or demands an extension
	CodeType         = "token_type"   // a JWT of another kind
	CodeUnsigned     = "token_unsigned"
	CodeAlgorithm    = "token_algorithm"
	CodeKeyUnknown   = "token_key_unknown"
	CodeKeyAlgorithm = "token_key_algorithm" // the key is not for that algorithm
	CodeSignature    = "token_signature"
	CodeIssuer       = "token_issuer"
	CodeAudience     = "token_audience"
	CodeExpired      = "token_expired"
	CodeNotYet       = "token_not_yet_valid"
	CodeLife         = "token_life"
	CodeSubject      = "token_subject"
	CodeKubernetes   = "token_kubernetes" // its claims about namespace and account are not those of its subject
	CodePod          = "token_pod_missing"
)

// Error is why a token is refused. Detail holds nothing of the token.
type Error struct{ Code, Detail string }

// Error says code and detail.
func (e *Error) Error() string { return "workload: " + e.Code + ": " + e.Detail }

func refuse(code, format string, args ...any) error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

type header struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
	Type      string `json:"typ"`
}

type claims struct {
	Issuer     string           `json:"iss"`
	Subject    string           `json:"sub"`
	Audience   jwt.Audience     `json:"aud"`
	Expiry     *jwt.NumericDate `json:"exp"`
	NotBefore  *jwt.NumericDate `json:"nbf"`
	IssuedAt   *jwt.NumericDate `json:"iat"`
	Kubernetes *kubernetes      `json:"kubernetes.io"`
}

// kubernetes is the private claim of service-account tokens (KEP-1205; node since 1.29).
type kubernetes struct {
	Namespace      string `json:"namespace"`
	ServiceAccount bound  `json:"serviceaccount"`
	Pod            *bound `json:"pod"`
	Node           *bound `json:"node"`
}

type bound struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// Verify checks a compact token at a moment: form, signature, issuer, audience, times, and for a Kubernetes service account
// that the token is a pod's. Whether the subject is the one expected is the caller's to ask. Errors are *Error.
func (i *Issuer) Verify(token string, now time.Time) (Claims, error) {
	if len(token) > MaxToken {
		return Claims{}, refuse(CodeTooLong, "more than %d bytes", MaxToken)
	}
	k, alg, err := i.keyOf(token)
	if err != nil {
		return Claims{}, err
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{alg})
	if err != nil {
		return Claims{}, refuse(CodeMalformed, "not a compact JWS")
	}
	payload, err := jws.Verify(k.public)
	if err != nil {
		return Claims{}, refuse(CodeSignature, "the signature does not verify")
	}
	var c claims
	if err := decode(payload, &c); err != nil {
		return Claims{}, err
	}
	if err := i.check(&c, now); err != nil {
		return Claims{}, err
	}
	signed := token[:strings.LastIndexByte(token, '.')]
	return c.public(sha256.Sum256([]byte(signed))), nil
}

// keyOf reads the header and finds the key that it names. Nothing of the token is believed before its signature verified.
func (i *Issuer) keyOf(token string) (key, jose.SignatureAlgorithm, error) {
	first, rest, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.Strict().DecodeString(first)
	if err != nil || strings.Count(rest, ".") != 1 {
		return key{}, "", refuse(CodeMalformed, "not three parts of base64url")
	}
	var h header
	if err := decodeHeader(raw, &h); err != nil {
		return key{}, "", err
	}
	alg := jose.SignatureAlgorithm(h.Algorithm)
	switch {
	case strings.EqualFold(h.Algorithm, "none"):
		return key{}, "", refuse(CodeUnsigned, "it is not signed")
	case !slices.Contains(algorithms(), alg):
		return key{}, "", refuse(CodeAlgorithm, "its algorithm is not allowed")
	}
	k, ok := i.keys[h.KeyID]
	if !ok {
		return key{}, "", refuse(CodeKeyUnknown, "the issuer has no key of that kid")
	}
	if !slices.Contains(k.algorithms, alg) {
		return key{}, "", refuse(CodeKeyAlgorithm, "the key is not for that algorithm")
	}
	return k, alg, nil
}

// check is RFC 7519 §4.1, stricter: one audience, and a bounded life.
func (i *Issuer) check(c *claims, now time.Time) error {
	switch {
	case c.Issuer != i.config.URL:
		return refuse(CodeIssuer, "another issuer")
	case len(c.Audience) != 1 || c.Audience[0] != i.config.Audience:
		return refuse(CodeAudience, "not for this appliance alone")
	case !printable(c.Subject, maxText):
		return refuse(CodeSubject, "no subject, or not 1 to %d printable characters", maxText)
	}
	if err := i.checkTimes(c, now); err != nil {
		return err
	}
	return c.checkKubernetes()
}

func (i *Issuer) checkTimes(c *claims, now time.Time) error {
	exp, iat := c.Expiry.Time(), c.IssuedAt.Time()
	if !sane(c.Expiry) || !sane(c.IssuedAt) || c.NotBefore != nil && !sane(c.NotBefore) {
		return refuse(CodeMalformed, "exp and iat are required, and nbf is a time if it is there")
	}
	switch skew := i.config.Skew; {
	case !now.Before(exp.Add(skew)):
		return refuse(CodeExpired, "it has expired")
	case iat.After(now.Add(skew)), c.NotBefore != nil && c.NotBefore.Time().After(now.Add(skew)):
		return refuse(CodeNotYet, "it is not valid yet")
	case !exp.After(iat) || exp.Sub(iat) > i.config.MaxLife:
		return refuse(CodeLife, "it lives longer than %v", i.config.MaxLife)
	}
	return nil
}

// sane says whether a date is one of this era.
func sane(d *jwt.NumericDate) bool {
	return d != nil && *d > 0 && d.Time().Year() < 10000
}

// serviceAccount begins the subject of a Kubernetes service account; namespace and name follow.
const serviceAccount = "system:serviceaccount:"

// checkKubernetes demands a pod behind a service account: without one, whoever may create tokens of the account may make
// one for anything, and nothing tells two of its holders apart.
func (c *claims) checkKubernetes() error {
	account, ok := strings.CutPrefix(c.Subject, serviceAccount)
	if !ok {
		c.Kubernetes = nil
		return nil
	}
	k := c.Kubernetes
	if k == nil || k.Namespace == "" || k.ServiceAccount.Name == "" || account != k.Namespace+":"+k.ServiceAccount.Name {
		return refuse(CodeKubernetes, "its claims about the service account do not agree")
	}
	if k.Pod == nil || !printable(k.Pod.UID, maxText) {
		return refuse(CodePod, "the token is bound to no pod")
	}
	return nil
}

func (c *claims) public(hash [32]byte) Claims {
	out := Claims{Subject: c.Subject, Expires: c.Expiry.Time().UTC(), IssuedAt: c.IssuedAt.Time().UTC(), Hash: hash}
	if c.Kubernetes == nil {
		return out
	}
	out.Pod = c.Kubernetes.Pod.UID
	if n := c.Kubernetes.Node; n != nil && printable(n.Name, maxText) {
		out.Node = n.Name
	}
	return out
}
