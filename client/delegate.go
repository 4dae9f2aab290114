package client

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
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
// childKey what q asks for, until expiry at the latest. origin is the log's; parentHash comes from ParentHash. The
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
	jkt, err := chain.Thumbprint(childKey)
	if err != nil {
		return "", fmt.Errorf("client: sign spawn: %w", err)
	}
	jws, err := chain.SignDelegation(signer, chain.Claims{
		Issuer: cert.Leaf.URIs[0].String(), Subject: child.String(), Audience: origin, JTI: q.SpawnID, TaskID: q.TaskID,
		Scope: scope, Expiry: expiry.Truncate(time.Second), IssuedAt: time.Now().Truncate(time.Second), MaxDepth: q.MaxDepth,
		ParentHash: parentHash, KeyHash: jkt,
	})
	if err != nil {
		return "", fmt.Errorf("client: sign spawn: %w", err)
	}
	return jws, nil
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
