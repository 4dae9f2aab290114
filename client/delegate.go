package client

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation/chain"
)

// SignSpawn signs the delegator's statement about a spawn (docs/formats/delegation.md): the holder of cert delegates to
// childKey, or where that is nil to whoever redeems the token of q.EnrollmentHash, what q asks for, until expiry at the latest. origin is the log's; parentHash comes from ParentHash. The
// result goes into q.Confirmation.
func SignSpawn(cert *tls.Certificate, origin string, parentHash [32]byte, childKey crypto.PublicKey, trustDomain string, q v1.SpawnRequest, expiry time.Time) (string, error) {
	if cert == nil || cert.Leaf == nil || len(cert.Leaf.URIs) != 1 {
		return "", errors.New("client: sign spawn: the delegator's certificate has no SPIFFE ID")
	}
	signer, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return "", errors.New("client: sign spawn: the delegator's key cannot sign")
	}
	scope, err := chain.ParseScope(q.Scope)
	if err != nil {
		return "", fmt.Errorf("client: sign spawn: %w", err)
	}
	child, err := chain.AgentID(trustDomain, q.AgentType, q.SpawnID)
	if err != nil {
		return "", fmt.Errorf("client: sign spawn: %w", err)
	}
	claims := chain.Claims{
		Issuer: cert.Leaf.URIs[0].String(), Subject: child.String(), Audience: origin, JTI: q.SpawnID, TaskID: q.TaskID,
		Scope: scope, Expiry: expiry.Truncate(time.Second), IssuedAt: time.Now().Truncate(time.Second), MaxDepth: q.MaxDepth,
		ParentHash: parentHash,
	}
	if err := nameChild(&claims, childKey, q.EnrollmentHash); err != nil {
		return "", fmt.Errorf("client: sign spawn: %w", err)
	}
	jws, err := chain.SignDelegation(signer, claims)
	if err != nil {
		return "", fmt.Errorf("client: sign spawn: %w", err)
	}
	return jws, nil
}

// nameChild says whom a delegation is to: a key, or the one that will redeem a token.
func nameChild(c *chain.Claims, key crypto.PublicKey, enrollmentHash string) error {
	if key != nil {
		var err error
		c.KeyHash, err = chain.Thumbprint(key)
		return err
	}
	hash, err := base64.RawURLEncoding.DecodeString(enrollmentHash)
	if err != nil || len(hash) != sha256.Size {
		return errors.New("neither a key nor the hash of a token")
	}
	c.EnrolHash = (*[sha256.Size]byte)(hash)
	return nil
}

// NewEnrollmentToken makes a token and its hash for SpawnRequest.EnrollmentHash. Who signs a delegation for an agent
// without a key yet makes the token, so that the signature names it.
func NewEnrollmentToken() (token, hash string, err error) {
	var raw [32]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return "", "", fmt.Errorf("client: new enrollment token: %w", err)
	}
	token = base64.RawURLEncoding.EncodeToString(raw[:])
	sum := sha256.Sum256([]byte(token))
	return token, base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// linkLife is how long the link of a re-key is good for.
const linkLife = 5 * time.Minute

// SignRekey signs the link from an agent's present key to its next one, for Client.Rekey. origin is the log's.
func SignRekey(cert *tls.Certificate, origin string, next crypto.PublicKey) (string, error) {
	if cert == nil || cert.Leaf == nil || len(cert.Leaf.URIs) != 1 {
		return "", errors.New("client: sign re-key: the certificate has no SPIFFE ID")
	}
	signer, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return "", errors.New("client: sign re-key: the present key cannot sign")
	}
	d, err := chain.Extract(cert.Leaf)
	if err != nil {
		return "", fmt.Errorf("client: sign re-key: %w", err)
	}
	jkt, err := chain.Thumbprint(next)
	if err != nil {
		return "", fmt.Errorf("client: sign re-key: %w", err)
	}
	now := time.Now().Truncate(time.Second)
	link, err := chain.SignRekey(signer, chain.Rekey{
		Agent: cert.Leaf.URIs[0].String(), Audience: origin, TaskID: chain.FormatUUID(d.TaskID), IssuedAt: now, Expiry: now.Add(linkLife), NewKey: jkt,
	})
	if err != nil {
		return "", fmt.Errorf("client: sign re-key: %w", err)
	}
	return link, nil
}

// ParentHash is what a delegation by the holder of leaf refers to: the hash of the delegation that the holder got
// itself, or of the grant (hexadecimal, as the API shows it) where there is none. A delegation that is there and cannot
// be read is an error: the grant does not stand in for it.
func ParentHash(leaf *x509.Certificate, grantHash string) ([32]byte, error) {
	var out [32]byte
	if leaf == nil {
		return out, errors.New("client: parent hash: no certificate")
	}
	d, err := chain.Extract(leaf)
	if err != nil && !errors.Is(err, chain.ErrNoDelegation) {
		return out, fmt.Errorf("client: parent hash: %w", err)
	}
	if err == nil {
		if own := d.Hops[len(d.Hops)-1].Confirmation; own != nil {
			return *own, nil
		}
	}
	sum, err := hex.DecodeString(grantHash)
	if err != nil || len(sum) != len(out) {
		return out, errors.New("client: grant hash: not a SHA-256 in hexadecimal")
	}
	return [32]byte(sum), nil
}

// Origin asks for the origin of the appliance's log, which delegations name as their audience: the first line of the
// checkpoint (C2SP tlog-checkpoint).
func (c *Client) Origin(ctx context.Context) (string, error) {
	note, err := c.Checkpoint(ctx)
	if err != nil {
		return "", err
	}
	origin, _, ok := strings.Cut(string(note), "\n")
	if !ok || origin == "" {
		return "", errors.New("client: checkpoint: its first line is no origin")
	}
	return origin, nil
}

// NewSpawnID makes a UUIDv7 (RFC 9562 §5.7) for SpawnRequest.SpawnID.
func NewSpawnID() (string, error) {
	var u [16]byte
	if _, err := rand.Read(u[:]); err != nil {
		return "", fmt.Errorf("client: new spawn id: %w", err)
	}
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(time.Now().UnixMilli()))
	copy(u[:6], ms[2:])
	u[6], u[8] = u[6]&0x0f|0x70, u[8]&0x3f|0x80
	return chain.FormatUUID(u), nil
}
