package delegation

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// TPM verifies what a machine's TPM shows. Its refusals are *Error.
type TPM interface {
	// Challenge checks the endorsement key, its certificate and the attestation key, and encrypts secret so that only the
	// TPM that holds both keys can tell it.
	Challenge(e Endorsement, secret []byte) (TPMCredential, error)
	// Certified checks that the attestation key certified a key of its TPM that can never leave it, over qualifying, and
	// gives that key's SubjectPublicKeyInfo.
	Certified(akPublic []byte, c Certification, qualifying []byte) (spki []byte, err error)
}

// Endorsement is what a machine's TPM says that it is. The public areas are TPMT_PUBLIC or TPM2B_PUBLIC.
type Endorsement struct {
	EKCertificate []byte // DER
	EKPublic      []byte
	AKPublic      []byte
}

// TPMCredential is an encrypted secret, and whom it was encrypted for.
type TPMCredential struct {
	Blob   []byte // TPMS_ID_OBJECT
	Secret []byte // content of the TPM2B_ENCRYPTED_SECRET
	EKKey  [32]byte
	AKName []byte
}

// Certification is a TPM2_Certify of a key.
type Certification struct {
	Public    []byte // of the key
	Attest    []byte // TPMS_ATTEST
	Signature []byte // ASN.1 DER
}

// ChallengeRequest begins an attestation by tpm_devid.
type ChallengeRequest struct {
	Name        string
	Endorsement Endorsement
	CSR         []byte // of the key that will be certified
}

// Challenge is to be answered, once, with what the TPM finds in Blob and Secret.
type Challenge struct {
	Token        string // given back with the answer; its SHA-256 is the qualifying data of the certification
	Blob, Secret []byte
	Expires      time.Time
}

// challengeLife is enough for the slowest TPM, which takes seconds.
const challengeLife = time.Minute

// maxChallenge bounds a challenge's token, in bytes.
const maxChallenge = 4 << 10

// sealedChallenge is all that an answer is held against. The orchestrator carries it, under our seal, so that nobody can
// fill the appliance's memory with challenges: only an answer leaves something to be remembered.
type sealedChallenge struct {
	Name         string    `json:"name"`
	Registration string    `json:"registration"`
	AKPublic     []byte    `json:"ak_public"`
	AKName       []byte    `json:"ak_name"`
	EKKey        []byte    `json:"ek_key"`
	SPKI         []byte    `json:"spki"` // SHA-256 of the CSR's
	Random       []byte    `json:"random"`
	Expires      time.Time `json:"expires"`
}

// ChallengeTPM checks a TPM's endorsement and gives the challenge that only this TPM can answer, for this name and key alone.
func (s *Service) ChallengeTPM(ctx context.Context, q ChallengeRequest) (Challenge, error) {
	out, err := s.challengeTPM(q)
	if err != nil {
		return Challenge{}, s.knocked(ctx, "challenge", q.Name, err)
	}
	return out, nil
}

func (s *Service) challengeTPM(q ChallengeRequest) (Challenge, error) {
	if err := s.cfg.Ready(); err != nil {
		return Challenge{}, notReady(err)
	}
	_, reg, err := s.attestable(q.Name, MethodTPM)
	if err != nil {
		return Challenge{}, err
	}
	if s.cfg.TPM == nil {
		return Challenge{}, refuse(Forbidden, "attestation_not_allowed", "method", "no makers of TPMs are configured")
	}
	csr, err := parseCSR(q.CSR)
	if err != nil {
		return Challenge{}, err
	}
	random, err := s.secret()
	if err != nil {
		return Challenge{}, err
	}
	key := spkiHash(csr.SPKI)
	return s.sealChallenge(q.Endorsement, reg, sealedChallenge{
		Name: q.Name, Registration: reg.Registration, AKPublic: q.Endorsement.AKPublic, SPKI: key[:], Random: random[:],
		Expires: s.cfg.Now().UTC().Add(challengeLife),
	})
}

// sealChallenge encrypts a secret that follows from the random value, so that it is kept nowhere.
func (s *Service) sealChallenge(e Endorsement, reg *identityState, sealed sealedChallenge) (Challenge, error) {
	cred, err := s.cfg.TPM.Challenge(e, s.challengeMAC("secret", sealed.Random))
	if err != nil {
		return Challenge{}, err
	}
	if !slices.Contains(reg.EKs, hexOf(cred.EKKey)) {
		return Challenge{}, errAttestation("ek_not_registered")
	}
	sealed.AKName, sealed.EKKey = cred.AKName, cred.EKKey[:]
	body, err := encode(sealed)
	if err != nil {
		return Challenge{}, err
	}
	token := base64.RawURLEncoding.EncodeToString(append(s.challengeMAC("seal", body), body...))
	if len(token) > maxChallenge {
		return Challenge{}, refuse(Invalid, "ak_unsuitable", "ak_public", "the public area is too long")
	}
	return Challenge{Token: token, Blob: cred.Blob, Secret: cred.Secret, Expires: sealed.Expires}, nil
}

// challengeMAC is HMAC-SHA256 under a key of this process: a restart forgets what was not answered.
func (s *Service) challengeMAC(use string, data []byte) []byte {
	mac := hmac.New(sha256.New, s.challengeKey[:])
	mac.Write([]byte("signet/tpm-challenge@v1\x00" + use + "\x00"))
	mac.Write(data)
	return mac.Sum(nil)
}

// openChallenge takes back what sealChallenge gave, unchanged and in time.
func (s *Service) openChallenge(token string) (sealedChallenge, error) {
	var c sealedChallenge
	if len(token) > maxChallenge {
		return c, errAttestation("challenge_unknown")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) < sha256.Size || !hmac.Equal(raw[:sha256.Size], s.challengeMAC("seal", raw[sha256.Size:])) {
		return c, errAttestation("challenge_unknown")
	}
	if err := json.Unmarshal(raw[sha256.Size:], &c); err != nil {
		return c, internal("read challenge", err)
	}
	if !s.cfg.Now().Before(c.Expires) {
		return c, errAttestation("challenge_expired")
	}
	return c, nil
}

// answerChallenge (tpm_devid) accepts the answer to a challenge: the secret says that the machine's TPM holds the registered
// endorsement key and the attestation key, and the certification that it holds the certificate's key too.
func (s *Service) answerChallenge(id chain.ID, reg *identityState, a Attestation) (proof, error) {
	c, err := s.openChallenge(a.Challenge)
	if err != nil {
		return proof{}, err
	}
	csr, err := parseCSR(a.CSR)
	if err != nil {
		return proof{}, err
	}
	key := spkiHash(csr.SPKI)
	switch {
	case c.Name != id.Name():
		return proof{}, refuse(Unauthenticated, "challenge_mismatch", "name", "the challenge was made for another name")
	case c.Registration != reg.Registration:
		return proof{}, refuse(Unauthenticated, "challenge_mismatch", "name", "the challenge was made for an earlier registration")
	case !bytes.Equal(c.SPKI, key[:]):
		return proof{}, refuse(Unauthenticated, "challenge_mismatch", "csr", "the challenge was made for another key")
	case subtle.ConstantTimeCompare(a.Secret, s.challengeMAC("secret", c.Random)) != 1:
		return proof{}, errAttestation("challenge_failed")
	}
	if err := s.certifiedKey(c, csr, a); err != nil {
		return proof{}, err
	}
	return c.proof(a.Challenge), nil
}

func (s *Service) certifiedKey(c sealedChallenge, csr *chain.CSR, a Attestation) error {
	qualifying := sha256.Sum256([]byte(a.Challenge))
	spki, err := s.cfg.TPM.Certified(c.AKPublic, a.Certification, qualifying[:])
	if err != nil {
		return err
	}
	if !bytes.Equal(spki, csr.SPKI) {
		return refuse(Unauthenticated, "tpm_key_mismatch", "csr", "the TPM certified another key than the request's")
	}
	return nil
}

// proof of an answered challenge: it is answered once.
func (c sealedChallenge) proof(token string) proof {
	hash := sha256.Sum256([]byte(token))
	return proof{
		device: true,
		body:   &record.ProofBody{Challenge: hexOf(hash), AKName: hex.EncodeToString(c.AKName), EKKey: hex.EncodeToString(c.EKKey)},
		spend: func(Prepared, []byte) ([]record.Mutation, error) {
			return []record.Mutation{create(keyProof+"tpm/"+hexOf(hash), []byte(c.Name), c.Expires.Add(grace), errAttestation("challenge_used"))}, nil
		},
	}
}
