package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/signet-pki/signet/tpm/quote"
)

var (
	// ErrForeignKey means that the TPM does not load a key: its file was changed, or is of another TPM or from before a clear.
	ErrForeignKey = errors.New("not a key of this TPM's storage root key, or its file was changed")
	// ErrAuth means that a key's authorisation value is missing, superfluous or wrong.
	ErrAuth = errors.New("authorisation value refused")
)

const (
	maxAuth = 32 // bytes of an authorisation value: no more than the name algorithm's digest (Part 1, 19.6.5)
	// badFor is how long keys are left alone after a signature that does not verify.
	badFor = time.Second
	// provenFor is how long a key that signed or was loaded counts as usable without asking the TPM for it.
	provenFor = 10 * time.Second
	// DefaultQueue is how many may wait for signatures of a [Keys]. Slow chips make about five in a second.
	DefaultQueue = 16
)

// KeysConfig says how keys in files are used.
type KeysConfig struct {
	// Auth is the authorisation value of all of them, at most 32 bytes. Empty: they have none, and whoever reaches the TPM and has
	// the file can sign.
	Auth []byte
	// Queue is how many callers may sign or wait for it. Default [DefaultQueue].
	Queue int
}

// Keys are keys below the SRK, each in a [KeyFile], that serve one purpose and share a queue.
type Keys struct {
	device *Device
	auth   []byte
	queue  int32

	signing atomic.Int32 // callers that sign, or wait for it
	bad     atomic.Int64 // when the last signature did not verify, Unix nanoseconds; 0: it did

	mu     sync.Mutex
	opened []*FileKey // to be probed, in turn
	next   int
	proven time.Time // when one of them was last used with success
}

// Keys prepares for keys in files; it asks the TPM for nothing.
func (d *Device) Keys(config KeysConfig) (*Keys, error) {
	if len(config.Auth) > maxAuth {
		return nil, fmt.Errorf("tpm: keys: %w: %d bytes, at most %d", ErrAuth, len(config.Auth), maxAuth)
	}
	if config.Queue == 0 {
		config.Queue = DefaultQueue
	}
	if config.Queue < 0 || config.Queue > 1<<16 {
		return nil, fmt.Errorf("tpm: keys: queue of %d", config.Queue)
	}
	return &Keys{device: d, auth: bytes.Clone(config.Auth), queue: int32(config.Queue)}, nil // #nosec G115 -- at most 65536
}

// FileKey is a signing key below the SRK, a [crypto.Signer]. It is safe for concurrent use and signs until its Device is closed.
// The TPM holds it only while it signs.
type FileKey struct {
	keys *Keys
	file KeyFile
	hash crypto.Hash
}

// Create makes a key below the SRK, on P-256 or P-384, and gives its file, which is its only copy. [ErrUnsuitable] is a TPM's answer
// that has no such curve.
func (k *Keys) Create(ctx context.Context, curve elliptic.Curve) (KeyFile, error) {
	template, err := fileKeyTemplate(curve)
	if err != nil {
		return KeyFile{}, fmt.Errorf("tpm: create key: %w", err)
	}
	var file KeyFile
	err = k.device.do(ctx, "create key", func(c *conn) (err error) {
		file, err = k.create(c, template)
		return err
	})
	return file, err
}

func (k *Keys) create(c *conn, template tpm2.TPMTPublic) (KeyFile, error) {
	parent, err := k.device.loadSRK(c)
	if err != nil {
		return KeyFile{}, err
	}
	rsp, err := tpm2.Create{
		ParentHandle: parent.auth(parent.session(nil, tpm2.AESEncryption(128, tpm2.EncryptInOut))), InPublic: tpm2.New2B(template),
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: k.auth}}},
	}.Execute(c)
	if errors.Is(err, tpm2.TPMRCCurve) {
		return KeyFile{}, fmt.Errorf("%w: the TPM does not have this curve: %w", ErrUnsuitable, err)
	}
	if err != nil {
		return KeyFile{}, err
	}
	key, err := quote.ParseHeldKey(rsp.OutPublic.Bytes())
	if err != nil {
		return KeyFile{}, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return KeyFile{key: key, private: bytes.Clone(rsp.OutPrivate.Buffer), emptyAuth: len(k.auth) == 0}, nil
}

// fileKeyTemplate is a key that signs digests of the curve's own hash.
func fileKeyTemplate(curve elliptic.Curve) (tpm2.TPMTPublic, error) {
	template := signingTemplate()
	id, hash := tpm2.TPMECCNistP256, tpm2.TPMAlgSHA256
	switch curve {
	case elliptic.P256():
	case elliptic.P384():
		id, hash = tpm2.TPMECCNistP384, tpm2.TPMAlgSHA384
	default:
		return template, fmt.Errorf("%w: neither P-256 nor P-384", ErrUnsuitable)
	}
	template.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		CurveID: id,
		Scheme: tpm2.TPMTECCScheme{
			Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: hash}),
		},
	})
	return template, nil
}

// Open has the TPM load and use a key once, without signing anything, so that a file of another TPM, a changed one and a wrong
// authorisation value are found now: [ErrForeignKey], [ErrAuth].
func (k *Keys) Open(ctx context.Context, file KeyFile) (*FileKey, error) {
	if file.key == nil {
		return nil, fmt.Errorf("tpm: open key: %w: empty", ErrKeyFile)
	}
	if file.emptyAuth && len(k.auth) != 0 {
		return nil, fmt.Errorf("tpm: open key: %w: one is configured, and the key has none: whoever has its file can use it", ErrAuth)
	}
	key := &FileKey{keys: k, file: file, hash: crypto.SHA256}
	if file.key.Public().Curve == elliptic.P384() {
		key.hash = crypto.SHA384
	}
	if err := k.device.do(ctx, "open key", func(c *conn) error { return k.device.explain(c, key.probe(c)) }); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.opened = append(k.opened, key)
	return key, nil
}

// Public is the *ecdsa.PublicKey of the file.
func (f *FileKey) Public() crypto.PublicKey { return f.file.key.Public() }

// Held is the key's public area.
func (f *FileKey) Held() *quote.HeldKey { return f.file.key }

// VerifiesSignatures says that callers need not verify again: Sign releases only what verifies with Public.
func (f *FileKey) VerifiesSignatures() bool { return true }

// Sign signs a digest of the curve's own hash and returns an ASN.1 DER ECDSA-Sig-Value, after verifying it. The TPM has its own
// randomness. The call ends within the Device's deadlines.
func (f *FileKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return f.SignContext(context.Background(), digest, opts)
}

// SignContext is Sign with a context. [ErrBusy] means that as many callers wait as may, or that the wait was too long; nothing was signed.
func (f *FileKey) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil || opts.HashFunc() != f.hash || len(digest) != f.hash.Size() {
		return nil, fmt.Errorf("tpm: sign: %w: this key signs %d bytes of %v, got %d", ErrUnsuitable, f.hash.Size(), f.hash, len(digest))
	}
	k := f.keys
	if k.signing.Add(1) > k.queue {
		k.signing.Add(-1)
		return nil, fmt.Errorf("tpm: sign: %w", ErrBusy)
	}
	defer k.signing.Add(-1)
	var der []byte
	err := k.device.do(ctx, "sign", func(c *conn) (err error) {
		der, err = f.sign(c, digest)
		return k.device.explain(c, err)
	})
	if err != nil {
		return nil, err
	}
	return f.release(digest, der)
}

// release gives out what verifies, and remembers what does not.
func (f *FileKey) release(digest, der []byte) ([]byte, error) {
	if !ecdsa.VerifyASN1(f.file.key.Public(), digest, der) {
		f.keys.bad.Store(time.Now().UnixNano())
		return nil, fmt.Errorf("tpm: sign: %w", ErrRefused)
	}
	f.keys.bad.Store(0)
	f.keys.prove()
	return der, nil
}

func (f *FileKey) sign(c *conn, digest []byte) ([]byte, error) {
	var der []byte
	err := f.loaded(c, func(key tpm2.AuthHandle) error {
		rsp, err := tpm2.Sign{
			KeyHandle: key, Digest: tpm2.TPM2BDigest{Buffer: bytes.Clone(digest)}, // encrypted in place
			InScheme: f.scheme(), Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
		}.Execute(c)
		if err != nil {
			return err
		}
		der, err = signatureDER(&rsp.Signature)
		return err
	})
	return der, err
}

func (f *FileKey) scheme() tpm2.TPMTSigScheme {
	alg := tpm2.TPMAlgSHA256
	if f.hash == crypto.SHA384 {
		alg = tpm2.TPMAlgSHA384
	}
	return tpm2.TPMTSigScheme{
		Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: alg}),
	}
}

// loaded has the TPM load the key for one command, which goes through a session of its own.
func (f *FileKey) loaded(c *conn, use func(tpm2.AuthHandle) error) error {
	parent, err := f.keys.device.loadSRK(c)
	if err != nil {
		return err
	}
	// Loading needs no session: what the TPM loaded is compared by its name in the session of the command that uses it.
	rsp, err := tpm2.Load{
		ParentHandle: parent.auth(tpm2.PasswordAuth(nil)), InPrivate: tpm2.TPM2BPrivate{Buffer: f.file.private},
		InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](f.file.key.Marshal()),
	}.Execute(c)
	if err != nil {
		return foreign(err)
	}
	defer c.flush(rsp.ObjectHandle)
	if !bytes.Equal(rsp.Name.Buffer, f.file.key.Name()) {
		return fmt.Errorf("%w: another key was loaded", ErrRefused)
	}
	session := parent.session(f.keys.auth, tpm2.AESEncryption(128, tpm2.EncryptIn))
	err = use(tpm2.AuthHandle{Handle: rsp.ObjectHandle, Name: rsp.Name, Auth: session})
	if errors.Is(err, tpm2.TPMRCAuthFail) || errors.Is(err, tpm2.TPMRCBadAuth) {
		err = fmt.Errorf("%w: %w", ErrAuth, err)
	}
	return err
}

// foreign tells what a TPM says of parameters that it does not take, of which most are that the integrity does not hold.
func foreign(err error) error {
	var parameter tpm2.TPMFmt1Error
	if errors.As(err, &parameter) && !isNoObject(err) {
		return fmt.Errorf("%w: %w", ErrForeignKey, err)
	}
	return err
}

// explain looks, where something failed though the transport works, whether this is no longer the TPM that it was.
func (d *Device) explain(c *conn, err error) error {
	if err == nil || c.broken {
		return err
	}
	d.forget()
	_, changed := d.loadSRK(c)
	return errors.Join(err, changed)
}

// Certify has the attestation key state, over qualifying data, that a key is in this TPM below its SRK. What it releases has verified.
func (k *Keys) Certify(ctx context.Context, key *FileKey, qualifying []byte) (quote.Statement, error) {
	d := k.device
	var s quote.Statement
	err := d.do(ctx, "certify", func(c *conn) error {
		ak, err := d.loadAK(c)
		if err != nil {
			return err
		}
		if s, err = key.certify(c, qualifying); err != nil {
			return d.explain(c, err)
		}
		if err := ak.VerifyHeld(s, qualifying, d.srk.SRK, key.file.key); err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		return nil
	})
	if err != nil {
		return quote.Statement{}, err
	}
	return s, nil
}

func (f *FileKey) certify(c *conn, qualifying []byte) (quote.Statement, error) {
	var s quote.Statement
	err := f.loaded(c, func(key tpm2.AuthHandle) error {
		rsp, err := certifyBy(c, key, f.keys.device.akHandle(), qualifying, ecdsaSHA256())
		if err != nil {
			return err
		}
		s, err = newStatement(rsp.CertifyInfo.Bytes(), &rsp.Signature)
		return err
	})
	return s, err
}

// probe uses the key, authorisation included, for a statement that nobody signs (Part 3, 18.2).
func (f *FileKey) probe(c *conn) error {
	nobody := tpm2.AuthHandle{Handle: tpm2.TPMRHNull, Auth: tpm2.PasswordAuth(nil)}
	return f.loaded(c, func(key tpm2.AuthHandle) error {
		_, err := certifyBy(c, key, nobody, make([]byte, sha256.Size), tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull})
		return err
	})
}

func certifyBy(c *conn, key, by tpm2.AuthHandle, qualifying []byte, scheme tpm2.TPMTSigScheme) (*tpm2.CertifyResponse, error) {
	return tpm2.Certify{
		ObjectHandle: key, SignHandle: by, InScheme: scheme,
		QualifyingData: tpm2.TPM2BData{Buffer: bytes.Clone(qualifying)}, // encrypted in place
	}.Execute(c)
}

// Ready says at once, asking nobody, whether a signature could be tried now; with the reason if not.
func (k *Keys) Ready() error {
	select {
	case <-k.device.done:
		return ErrClosed
	default:
	}
	if k.signing.Load() >= k.queue {
		return ErrBusy
	}
	return k.signsWell()
}

func (k *Keys) signsWell() error {
	if at := k.bad.Load(); at != 0 && time.Since(time.Unix(0, at)) <= badFor {
		return fmt.Errorf("%w, the last time it was asked for a signature", ErrRefused)
	}
	return nil
}

// Check reports whether the SRK is the pinned one. Where no key was used for ten seconds it has the TPM load the next one, in turn.
func (k *Keys) Check(ctx context.Context) error {
	key := k.due()
	err := k.device.do(ctx, "check keys", func(c *conn) error {
		k.device.srkChecked = false
		if key == nil {
			_, err := k.device.loadSRK(c)
			return err
		}
		return key.probe(c)
	})
	if err == nil && key != nil {
		k.prove()
	}
	return errors.Join(err, k.signsWell())
}

// due is the key to be probed, if it is time to.
func (k *Keys) due() *FileKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.opened) == 0 || time.Since(k.proven) < provenFor {
		return nil
	}
	k.next = (k.next + 1) % len(k.opened)
	return k.opened[k.next]
}

func (k *Keys) prove() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.proven = time.Now()
}
