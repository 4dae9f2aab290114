package delegation

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
)

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$`)

// uuidv7 is RFC 9562 §5.7 with the clock and the randomness passed in.
func uuidv7(r io.Reader, now time.Time) (string, error) {
	var u [16]byte
	if _, err := io.ReadFull(r, u[:]); err != nil {
		return "", fmt.Errorf("delegation: uuid: %w", err)
	}
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	copy(u[:6], ms[2:])
	u[6] = u[6]&0x0f | 0x70
	u[8] = u[8]&0x3f | 0x80
	return chain.FormatUUID(u), nil
}

func hexOf(b [32]byte) string { return hex.EncodeToString(b[:]) }

func spkiHash(spki []byte) [32]byte { return sha256.Sum256(spki) }

// codeOf is the code that chain gives a refusal.
func codeOf(err error) string {
	var csr *chain.CSRError
	var att *chain.AttenuationError
	switch {
	case errors.As(err, &csr):
		return csr.Code
	case errors.As(err, &att):
		return att.Code
	}
	return "bad_request"
}
