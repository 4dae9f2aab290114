package hsm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"
)

// maxMessage bounds what Ed25519 signs, for it takes messages and not digests.
const maxMessage = 1 << 20

// Key is a private key on a token. It implements crypto.Signer.
type Key struct {
	token     *Token
	uri       URI
	algorithm Algorithm
	public    publicKey
	bound     atomic.Pointer[binding]
}

// binding is where the key is within one opening of the token.
type binding struct {
	live   *live
	handle pkcs11.ObjectHandle
	err    error // the token is open, and the key is not there or not the same
}

// Signer finds the private key that uri names; the token in it must be this one. It is looked up once: later calls
// with the same URI return the same Key. ErrKeyNotFound, ErrAmbiguous and ErrExportable say why there is none.
func (t *Token) Signer(ctx context.Context, uri string) (*Key, error) {
	u, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	if u.token != t.label {
		return nil, fmt.Errorf("hsm: %w: token %q asked for a key of token %q", ErrURI, t.label, u.token)
	}
	k, err := t.find(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("hsm: find key %s: %w", u, err)
	}
	return k, nil
}

func (t *Token) find(ctx context.Context, u URI) (*Key, error) {
	if t.apart != nil {
		return t.apart.find(ctx, u, request{Op: opFind, URI: u.String()})
	}
	return do(ctx, t, func(l *live, s session) (*Key, error) {
		got, err := s.locate(u)
		if errors.Is(err, ErrKeyNotFound) {
			// "No such key" counts only from a token that is there: one that was lost looks empty.
			if lost := t.probe(l, s); lost != nil {
				return nil, lost
			}
		}
		if err != nil {
			return nil, err
		}
		return t.register(l, u, got)
	})
}

// register runs inside the gate, so that no recovery comes between finding the key and listing it.
func (t *Token) register(l *live, u URI, got located) (*Key, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k, ok := t.keys[u]; ok {
		if !k.public.Equal(got.public) {
			return nil, ErrKeyChanged
		}
		k.bound.Store(&binding{live: l, handle: got.handle})
		return k, nil
	}
	k := &Key{token: t, uri: u, algorithm: got.algorithm, public: got.public}
	k.bound.Store(&binding{live: l, handle: got.handle})
	t.keys[u] = k
	return k, nil
}

// adopt makes l the token's state and finds the keys again. The caller holds the module exclusively.
func (t *Token) adopt(l *live) {
	keys := t.handedOut()
	if l.err != nil || len(keys) == 0 {
		t.live.Store(l)
		return
	}
	handle := <-l.sessions
	s := session{raw: t.mod.raw, handle: handle}
	for _, k := range keys {
		k.bound.Store(k.rebind(l, s))
	}
	l.sessions <- handle
	t.live.Store(l)
}

func (k *Key) rebind(l *live, s session) *binding {
	got, err := s.locate(k.uri)
	if err == nil && !k.public.Equal(got.public) {
		err = ErrKeyChanged
	}
	if err != nil {
		err = fmt.Errorf("%w: key %s after recovery: %w", ErrUnavailable, k.uri, err)
	}
	return &binding{live: l, handle: got.handle, err: err}
}

// Public is the key's public half, as read when the key was found. It is cached, and stays after Close.
func (k *Key) Public() crypto.PublicKey {
	if key, ok := k.public.(ed25519.PublicKey); ok {
		return ed25519.PublicKey(bytes.Clone(key))
	}
	return k.public
}

// URI names the key: its token and label or id, in canonical form.
func (k *Key) URI() string { return k.uri.String() }

// Algorithm is the kind of key.
func (k *Key) Algorithm() Algorithm { return k.algorithm }

// VerifiesSignatures marks that every signature is verified before it is released, so that callers need not.
func (k *Key) VerifiesSignatures() bool { return true }

// Sign signs a digest within Config.Timeout. The token has its own randomness: the first argument is not used.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.SignContext(context.Background(), digest, opts)
}

// SignContext signs a digest within ctx and Config.Timeout, whichever ends first; a deadline that passes is
// context.DeadlineExceeded. ECDSA keys take a digest of the curve's own hash and return DER, Ed25519 keys take a
// message of 1 byte to 1 MiB. A lost token is recovered and the signature tried once more. ErrBadSignature is never
// tried again: a device that signs wrongly needs a look.
func (k *Key) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := k.checkInput(digest, opts); err != nil {
		return nil, fmt.Errorf("hsm: sign with %s: %w", k.uri, err)
	}
	// The call may outlive the caller, who may then reuse its buffer.
	input := bytes.Clone(digest)
	leave, err := k.token.enter()
	if err != nil {
		return nil, fmt.Errorf("hsm: sign with %s: %w", k.uri, err)
	}
	defer leave()
	var sig []byte
	if k.token.apart != nil {
		sig, err = k.token.apart.sign(ctx, k, input)
	} else {
		sig, err = do(ctx, k.token, func(l *live, s session) ([]byte, error) { return k.sign(l, s, input) })
	}
	if err != nil {
		return nil, fmt.Errorf("hsm: sign with %s: %w", k.uri, err)
	}
	return sig, nil
}

// checkInput stands between callers and CKM_ECDSA, which signs whatever bytes it gets.
func (k *Key) checkInput(digest []byte, opts crypto.SignerOpts) error {
	if opts == nil {
		return fmt.Errorf("%w: no options given", ErrDigest)
	}
	want := k.algorithm.hash()
	if opts.HashFunc() != want {
		return fmt.Errorf("%w: hash %d announced, %v wants %d", ErrDigest, opts.HashFunc(), k.algorithm, want)
	}
	if k.algorithm == Ed25519 {
		if o, ok := opts.(*ed25519.Options); ok && o.Context != "" {
			return fmt.Errorf("%w: Ed25519ctx", ErrDigest)
		}
		if len(digest) == 0 || len(digest) > maxMessage {
			return fmt.Errorf("%w: message of %d bytes, want 1..%d", ErrDigest, len(digest), maxMessage)
		}
		return nil
	}
	if len(digest) != want.Size() {
		return fmt.Errorf("%w: %d bytes, want %d", ErrDigest, len(digest), want.Size())
	}
	return nil
}

func (k *Key) sign(l *live, s session, digest []byte) ([]byte, error) {
	raw, err := k.raw(l, s, digest)
	if err != nil {
		return nil, err
	}
	return k.finish(digest, raw)
}

// raw is the signature as the module makes it, which is not to be released.
func (k *Key) raw(l *live, s session, digest []byte) ([]byte, error) {
	b := k.bound.Load()
	if b.live != l {
		return nil, errStale
	}
	if b.err != nil {
		return nil, b.err
	}
	mechanism := []*pkcs11.Mechanism{pkcs11.NewMechanism(k.algorithm.mechanism(), nil)}
	if err := k.token.sign.SignInit(s.handle, mechanism, b.handle); err != nil {
		return nil, err
	}
	return k.token.sign.Sign(s.handle, digest)
}

// finish releases what verifies, and remembers what did not.
func (k *Key) finish(digest, raw []byte) ([]byte, error) {
	sig, err := finish(k.algorithm, k.public, digest, raw)
	if err != nil {
		k.token.bad.Store(time.Now().UnixNano())
		return nil, err
	}
	k.token.bad.Store(0)
	return sig, nil
}
