package custody

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Namespace keeps signatures under acts apart from whatever else the same key signs.
const Namespace = "act@signet"

// MaxSignature bounds one armored signature; of RSA with 8192 bits it has about 2,900 bytes.
const MaxSignature = 4 << 10

// Approved says who agreed to the act: its exact bytes, and armored signatures as ssh-keygen -Y sign writes them. Each custodian
// counts once, however often they signed; a signature that is not a custodian's over this act is [ErrSignature], never passed over.
// Fewer than the threshold is [ErrTooFew], with the names of those who agreed, in the set's order. The error is nil only if enough did.
func (s Set) Approved(act []byte, signatures [][]byte) (names []string, err error) {
	if s.threshold == 0 {
		return nil, fmt.Errorf("%w: no custodians", ErrTooFew)
	}
	a, err := ParseAct(act)
	if err != nil {
		return nil, err
	}
	if a.Custodians != s.ID() {
		return nil, ErrOtherSet
	}
	if len(signatures) > MaxCustodians {
		return nil, fmt.Errorf("%w: %d signatures, at most %d", ErrSignature, len(signatures), MaxCustodians)
	}
	agreed := make([]bool, len(s.members))
	for i, armored := range signatures {
		who, err := s.signer(act, armored)
		if err != nil {
			return nil, fmt.Errorf("%w: signature %d: %w", ErrSignature, i+1, err)
		}
		agreed[who] = true
	}
	for i, yes := range agreed {
		if yes {
			names = append(names, s.members[i].Name)
		}
	}
	if len(names) < s.threshold {
		return names, fmt.Errorf("%w: %d of the %d needed", ErrTooFew, len(names), s.threshold)
	}
	return names, nil
}

// signer is the member whose signature it is.
func (s Set) signer(act, armored []byte) (int, error) {
	sig, err := parseSignature(armored)
	if err != nil {
		return 0, err
	}
	who := slices.IndexFunc(s.keys, func(key []byte) bool { return bytes.Equal(key, sig.key) })
	if who < 0 {
		return 0, errors.New("the key is no custodian's")
	}
	key, err := parseWire(sig.key)
	if err != nil {
		return 0, err
	}
	// x/crypto/ssh demands of keys of security tokens that somebody touched the token.
	if err := key.Verify(sig.signed(act), &sig.signature); err != nil {
		return 0, fmt.Errorf("%s: %w", s.members[who].Name, err)
	}
	return who, nil
}

// signature is an SSHSIG (OpenSSH, PROTOCOL.sshsig) whose namespace is ours.
type signature struct {
	key, hash []byte
	signature ssh.Signature
}

const magic = "SSHSIG"

// wireSignature is what follows the magic.
type wireSignature struct {
	Version   uint32
	Key       []byte
	Namespace string
	Reserved  string
	Hash      string
	Signature []byte
}

func parseSignature(armored []byte) (signature, error) {
	blob, err := unarmor(armored)
	if err != nil {
		return signature{}, err
	}
	rest, ok := bytes.CutPrefix(blob, []byte(magic))
	if !ok {
		return signature{}, errors.New("not an SSH signature")
	}
	var w wireSignature
	if err := ssh.Unmarshal(rest, &w); err != nil {
		return signature{}, errors.New("not an SSH signature: " + err.Error())
	}
	switch {
	case w.Version != 1:
		return signature{}, fmt.Errorf("version %d, not 1", w.Version)
	case w.Namespace != Namespace:
		return signature{}, fmt.Errorf("namespace %.40q, not %s", w.Namespace, Namespace)
	case w.Reserved != "":
		return signature{}, errors.New("the reserved field is not empty")
	case w.Hash != "sha512" && w.Hash != "sha256":
		return signature{}, fmt.Errorf("hash %.40q: sha512 or sha256", w.Hash)
	}
	s := signature{key: w.Key, hash: []byte(w.Hash)}
	if err := ssh.Unmarshal(w.Signature, &s.signature); err != nil {
		return signature{}, errors.New("the signature within: " + err.Error())
	}
	return s, s.checkFormat()
}

// checkFormat refuses RSA with SHA-1, and bytes after the signature where the key's type has no use for them.
func (s signature) checkFormat() error {
	switch s.signature.Format {
	case ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		return nil
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512:
		if len(s.signature.Rest) > 0 {
			return errors.New("bytes after the signature")
		}
		return nil
	}
	return fmt.Errorf("signatures of type %.40q are not taken", s.signature.Format)
}

// signed is what the key signs for a message.
func (s signature) signed(message []byte) []byte {
	var digest []byte
	if string(s.hash) == "sha256" {
		d := sha256.Sum256(message)
		digest = d[:]
	} else {
		d := sha512.Sum512(message)
		digest = d[:]
	}
	return append([]byte(magic), ssh.Marshal(struct {
		Namespace, Reserved string
		Hash, Digest        []byte
	}{Namespace, "", s.hash, digest})...)
}

const (
	armorBegin = "-----BEGIN SSH SIGNATURE-----\n"
	armorEnd   = "-----END SSH SIGNATURE-----"
)

// unarmor takes one signature and nothing around it but a last line feed.
func unarmor(armored []byte) ([]byte, error) {
	if len(armored) > MaxSignature {
		return nil, fmt.Errorf("%d bytes, at most %d", len(armored), MaxSignature)
	}
	body, begins := strings.CutPrefix(string(armored), armorBegin)
	body, ends := strings.CutSuffix(strings.TrimSuffix(body, "\n"), "\n"+armorEnd)
	if !begins || !ends || strings.Contains(body, "\r") {
		return nil, errors.New("not an armored SSH signature")
	}
	// The decoder passes over line feeds.
	blob, err := base64.StdEncoding.Strict().DecodeString(body)
	if err != nil {
		return nil, errors.New("not an armored SSH signature: not base64")
	}
	return blob, nil
}
