package chain

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// DelegationType is the typ of a delegator's JWS; nothing else that a key signs can pass for one.
const DelegationType = "agent-delegation+jwt"

// Claims is what a delegator signs about its child. Exactly one of KeyHash and EnrolHash is set.
type Claims struct {
	Issuer     string    // SPIFFE ID of the delegator: an orchestrator or an agent
	Subject    string    // SPIFFE ID of the child, an agent of the same trust domain
	Audience   string    // origin of the log: printable ASCII, at most 256 bytes
	JTI        string    // spawn_id: the child's UUID
	TaskID     string    // UUIDv7
	Scope      Scope     // the most that the child may get
	Expiry     time.Time // the latest NotAfter that the child may get; whole seconds
	IssuedAt   time.Time // whole seconds
	MaxDepth   int       // the most that the child may get; 0 to MaxDepth-1
	ParentHash [32]byte  // SHA-256 of the delegator's own compact JWS; for an orchestrator, of the canonical grant document
	KeyHash    [32]byte  // RFC 7638 thumbprint of the child's key (cnf.jkt)
	EnrolHash  *[32]byte // SHA-256 of the enrolment token (cnf.enrol), for a child whose key is not known yet
}

type jwsHeader struct {
	Algorithm string `json:"alg"`
	Type      string `json:"typ"`
}

type jwsClaims struct {
	Issuer     string          `json:"iss"`
	Subject    string          `json:"sub"`
	Audience   string          `json:"aud"`
	JTI        string          `json:"jti"`
	TaskID     string          `json:"task_id"`
	Scope      string          `json:"scope"`
	IssuedAt   int64           `json:"iat"`
	Expiry     int64           `json:"exp"`
	MaxDepth   int             `json:"del_max_depth"`
	ParentHash string          `json:"par_hash"`
	Confirm    json.RawMessage `json:"cnf"`
}

type jwsConfirm struct {
	Key   string `json:"jkt,omitempty"`
	Enrol string `json:"enrol,omitempty"`
}

// SignDelegation returns the compact JWS. The signer's key decides the algorithm; its signature is verified before it is returned.
func SignDelegation(signer crypto.Signer, c Claims) (string, error) {
	if err := CheckKey(signer.Public()); err != nil {
		return "", err
	}
	if err := c.validate(); err != nil {
		return "", fmt.Errorf("%w: %w", ErrDelegation, err)
	}
	payload, err := c.encode()
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrDelegation, err)
	}
	compact, err := signCompact(signer, DelegationType, payload)
	if err != nil {
		return "", err
	}
	if _, err := VerifyDelegation(compact, signer.Public()); err != nil {
		return "", fmt.Errorf("delegation: the signer's signature does not verify: %w", err)
	}
	return compact, nil
}

// signCompact makes a compact JWS of that typ. The caller verifies it before it lets it out.
func signCompact(signer crypto.Signer, typ string, payload []byte) (string, error) {
	alg, hash, err := algorithm(signer.Public())
	if err != nil {
		return "", err
	}
	header, err := json.Marshal(jwsHeader{Algorithm: string(alg), Type: typ})
	if err != nil {
		return "", fmt.Errorf("delegation: header: %w", err)
	}
	input := encodeBase64(header) + "." + encodeBase64(payload)
	signature, err := signRaw(signer, hash, []byte(input))
	if err != nil {
		return "", fmt.Errorf("delegation: sign: %w", err)
	}
	return input + "." + encodeBase64(signature), nil
}

// signRaw gives the signature in JWS form: for ECDSA r||s of fixed length (RFC 7518 §3.4), not DER.
func signRaw(signer crypto.Signer, hash crypto.Hash, input []byte) ([]byte, error) {
	if hash == 0 {
		return signer.Sign(rand.Reader, input, crypto.Hash(0))
	}
	h := hash.New()
	h.Write(input)
	der, err := signer.Sign(rand.Reader, h.Sum(nil), hash)
	if err != nil {
		return nil, err
	}
	size := hash.Size() // P-256 with SHA-256 and P-384 with SHA-384: both 32 and 48 bytes
	raw := make([]byte, 2*size)
	s := cryptobyte.String(der)
	var pair cryptobyte.String
	if !s.ReadASN1(&pair, asn1.SEQUENCE) || !s.Empty() ||
		!readUnsigned(&pair, raw[:size]) || !readUnsigned(&pair, raw[size:]) || !pair.Empty() {
		return nil, fmt.Errorf("the signer returned %d bytes that are no ECDSA signature", len(der))
	}
	return raw, nil
}

// readUnsigned reads a positive INTEGER into out, big-endian, padded on the left.
func readUnsigned(s *cryptobyte.String, out []byte) bool {
	var value []byte
	if !s.ReadASN1Integer(&value) || len(value) > len(out) {
		return false
	}
	copy(out[len(out)-len(value):], value)
	return true
}

// VerifyDelegation verifies a compact JWS under the key that the caller already trusts for its issuer, and returns its claims.
// The key decides the algorithm. A header with anything but alg and typ (crit, jwk, jku, x5c, kid, …), unknown or duplicate
// claims, a wrong typ and non-canonical base64url are refused. It does not look at the time.
func VerifyDelegation(compact string, key crypto.PublicKey) (Claims, error) {
	c, err := verifyDelegation(compact, key)
	if err != nil {
		return Claims{}, fmt.Errorf("%w: %w", ErrDelegation, err)
	}
	return c, nil
}

func verifyDelegation(compact string, key crypto.PublicKey) (Claims, error) {
	payload, err := verifyCompact(compact, DelegationType, MaxDelegationBytes, key)
	if err != nil {
		return Claims{}, err
	}
	return decodeClaims(payload)
}

// verifyCompact gives the payload of a compact JWS of that typ which verifies under key.
func verifyCompact(compact, typ string, limit int, key crypto.PublicKey) ([]byte, error) {
	alg, _, err := algorithm(key)
	if err != nil {
		return nil, err
	}
	if len(compact) > limit {
		return nil, fmt.Errorf("%d bytes; at most %d are allowed", len(compact), limit)
	}
	if err := checkHeader(compact, typ); err != nil {
		return nil, err
	}
	jws, err := jose.ParseSignedCompact(compact, []jose.SignatureAlgorithm{alg})
	if err != nil {
		return nil, err
	}
	return jws.Verify(key)
}

// checkHeader checks the three parts' spelling and the header's members, of which go-jose is laxer; it compares alg itself.
func checkHeader(compact, typ string) error {
	if strings.Count(compact, ".") != 2 {
		return fmt.Errorf("%d parts; 3 expected", strings.Count(compact, ".")+1)
	}
	var header []byte
	for i, part := range strings.Split(compact, ".") {
		decoded, err := decodeBase64(part)
		if err != nil {
			return fmt.Errorf("part %d: %w", i+1, err)
		}
		if i == 0 {
			header = decoded
		}
	}
	var h jwsHeader
	if err := decodeObject(header, &h, []string{"alg", "typ"}, nil); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	if h.Type != typ {
		return fmt.Errorf("header: typ is not %s", typ)
	}
	return nil
}

func (c *Claims) encode() ([]byte, error) {
	confirm := jwsConfirm{Key: encodeBase64(c.KeyHash[:])}
	if c.EnrolHash != nil {
		confirm = jwsConfirm{Enrol: encodeBase64(c.EnrolHash[:])}
	}
	cnf, err := json.Marshal(confirm)
	if err != nil {
		return nil, err
	}
	return json.Marshal(jwsClaims{
		Issuer: c.Issuer, Subject: c.Subject, Audience: c.Audience, JTI: c.JTI, TaskID: c.TaskID, Scope: c.Scope.String(),
		IssuedAt: c.IssuedAt.Unix(), Expiry: c.Expiry.Unix(), MaxDepth: c.MaxDepth, ParentHash: encodeBase64(c.ParentHash[:]), Confirm: cnf,
	})
}

func decodeClaims(payload []byte) (Claims, error) {
	var w jwsClaims
	required := []string{"iss", "sub", "aud", "jti", "task_id", "scope", "iat", "exp", "del_max_depth", "par_hash", "cnf"}
	if err := decodeObject(payload, &w, required, nil); err != nil {
		return Claims{}, fmt.Errorf("claims: %w", err)
	}
	c := Claims{
		Issuer: w.Issuer, Subject: w.Subject, Audience: w.Audience, JTI: w.JTI, TaskID: w.TaskID, MaxDepth: w.MaxDepth,
		IssuedAt: time.Unix(w.IssuedAt, 0).UTC(), Expiry: time.Unix(w.Expiry, 0).UTC(),
	}
	var err error
	if c.Scope, err = ParseScopeString(w.Scope); err != nil {
		return Claims{}, err
	}
	if c.ParentHash, err = decodeHash(w.ParentHash); err != nil {
		return Claims{}, fmt.Errorf("par_hash: %w", err)
	}
	if err := c.decodeConfirm(w.Confirm); err != nil {
		return Claims{}, fmt.Errorf("cnf: %w", err)
	}
	if err := c.validate(); err != nil {
		return Claims{}, err
	}
	return c, nil
}

func (c *Claims) decodeConfirm(data []byte) error {
	var confirm jwsConfirm
	if err := decodeObject(data, &confirm, nil, []string{"jkt", "enrol"}); err != nil {
		return err
	}
	if (confirm.Key == "") == (confirm.Enrol == "") {
		return fmt.Errorf("exactly one of jkt and enrol is needed")
	}
	sum, err := decodeHash(confirm.Key + confirm.Enrol)
	if err != nil {
		return err
	}
	if confirm.Key != "" {
		c.KeyHash = sum
	} else {
		c.EnrolHash = &sum
	}
	return nil
}

// validate holds for what is signed and for what is accepted.
func (c *Claims) validate() error {
	iss, err := ParseID(c.Issuer)
	if err != nil {
		return fmt.Errorf("iss: %w", err)
	}
	sub, err := ParseID(c.Subject)
	if err != nil {
		return fmt.Errorf("sub: %w", err)
	}
	switch {
	case iss.Kind() != Orchestrator && iss.Kind() != Agent:
		return fmt.Errorf("iss is neither an orchestrator nor an agent")
	case sub.Kind() != Agent || sub.TrustDomain() != iss.TrustDomain() || iss == sub:
		return fmt.Errorf("sub is not another agent of the same trust domain")
	case c.JTI != sub.AgentID():
		return fmt.Errorf("jti is not the UUID in sub")
	case !printable(c.Audience, maxOriginBytes):
		return fmt.Errorf("aud is not 1 to %d printable ASCII characters", maxOriginBytes)
	case c.MaxDepth < 0 || c.MaxDepth >= MaxDepth:
		return fmt.Errorf("del_max_depth is not in 0 to %d", MaxDepth-1)
	case c.ParentHash == ([32]byte{}):
		return fmt.Errorf("par_hash is all zero")
	case (c.KeyHash == [32]byte{}) == (c.EnrolHash == nil || *c.EnrolHash == [32]byte{}):
		return fmt.Errorf("cnf needs exactly one of jkt and enrol, not zero")
	}
	if _, err := ParseUUID(c.TaskID); err != nil {
		return fmt.Errorf("task_id: %w", err)
	}
	if err := c.Scope.check(); err != nil {
		return err
	}
	return c.validateTimes()
}

func (c *Claims) validateTimes() error { return validateTimes(c.IssuedAt, c.Expiry) }

func validateTimes(issued, expiry time.Time) error {
	for _, t := range [...]time.Time{issued, expiry} {
		if t.Nanosecond() != 0 || t.Unix() <= 0 || t.UTC().Year() > 9999 {
			return fmt.Errorf("iat and exp are whole seconds after 1970 and before 10000")
		}
	}
	if !expiry.After(issued) {
		return fmt.Errorf("exp is not after iat")
	}
	return nil
}

// DelegationHash is what a child's hop and the next JWS's par_hash name: SHA-256 of the compact JWS.
func DelegationHash(compact string) [32]byte { return sha256.Sum256([]byte(compact)) }
