package ca_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/asn1"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/signet-pki/signet/ca"
)

func TestAPreparedIsUsedOnce(t *testing.T) {
	r := newRig(t)
	i := r.agents(t)
	p, err := i.PrepareAgent(r.agentRequest(t), start)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := i.Issue(ended, p); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
	if _, err := r.agents(t).Issue(t.Context(), p); !errors.Is(err, ca.ErrForeign) {
		t.Errorf("another issuer: %v", err)
	}
	if _, err := i.Issue(t.Context(), nil); !errors.Is(err, ca.ErrForeign) {
		t.Errorf("nil: %v", err)
	}
	var issued, used atomic.Int32
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			switch _, err := i.Issue(t.Context(), p); {
			case err == nil:
				issued.Add(1)
			case errors.Is(err, ca.ErrUsed):
				used.Add(1)
			}
		})
	}
	wg.Wait()
	if issued.Load() != 1 || used.Load() != 99 {
		t.Errorf("%d issued, %d refused", issued.Load(), used.Load())
	}
}

// faulty spoils what a good key signs.
type faulty struct {
	crypto.Signer
	spoil    func([]byte) ([]byte, error)
	verifies bool
}

func (f faulty) VerifiesSignatures() bool { return f.verifies }

func (f faulty) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	sig, err := f.Signer.Sign(r, digest, opts)
	if err != nil {
		return nil, err
	}
	return f.spoil(sig)
}

func TestASpoiltSignatureIsNotReleased(t *testing.T) {
	r := newRig(t)
	key := r.keys["agent-ca-1"]
	gone := errors.New("device is gone")
	for name, c := range map[string]struct {
		signer faulty
		want   error
	}{
		"bit flipped":  {faulty{Signer: key, spoil: func(s []byte) ([]byte, error) { s[len(s)-1] ^= 1; return s, nil }}, ca.ErrSignature},
		"empty":        {faulty{Signer: key, spoil: func([]byte) ([]byte, error) { return nil, nil }}, ca.ErrSignature},
		"trailing":     {faulty{Signer: key, spoil: func(s []byte) ([]byte, error) { return append(s, 0), nil }}, ca.ErrSignature},
		"raw r and s":  {faulty{Signer: key, verifies: true, spoil: func([]byte) ([]byte, error) { return make([]byte, 64), nil }}, ca.ErrSignature},
		"device fails": {faulty{Signer: key, spoil: func([]byte) ([]byte, error) { return nil, gone }}, gone},
		"another digest": {faulty{Signer: key, spoil: func([]byte) ([]byte, error) {
			return key.Sign(rand.Reader, make([]byte, 32), crypto.SHA256)
		}}, ca.ErrSignature},
	} {
		i := r.agentsBy(t, c.signer)
		p, err := i.PrepareAgent(r.agentRequest(t), start)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := i.Issue(t.Context(), p)
		if cert != nil || !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := i.Issue(t.Context(), p); !errors.Is(err, ca.ErrUsed) {
			t.Errorf("%s: second use: %v", name, err)
		}
	}
}

// bounded is a signer like those of devices: it takes a context and verifies what it returns.
type bounded struct {
	*ecdsa.PrivateKey
	calls *atomic.Int32
}

func (bounded) VerifiesSignatures() bool { return true }

func (b bounded) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.calls.Add(1)
	return b.PrivateKey.Sign(rand.Reader, digest, opts)
}

func TestIssueUsesTheContextOfADevice(t *testing.T) {
	r := newRig(t)
	var calls atomic.Int32
	i := r.agentsBy(t, bounded{r.keys["agent-ca-1"], &calls})
	_, c := issueAgent(t, i, r.agentRequest(t))
	if err := r.verify(c, r.result.AgentCAs[0].Leaf); err != nil || calls.Load() != 1 {
		t.Errorf("%d calls, %v", calls.Load(), err)
	}
}

func TestResumeSignsTheSameBytes(t *testing.T) {
	r := newRig(t)
	i := r.agents(t)
	p, err := i.PrepareAgent(r.agentRequest(t), start)
	if err != nil {
		t.Fatal(err)
	}
	stored := p.TBS()
	again, err := r.agents(t).Resume(stored) // after a restart
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.TBS(), p.TBS()) || again.Hash() != p.Hash() || again.Serial() != p.Serial() || !again.NotAfter().Equal(p.NotAfter()) {
		t.Error("resumed differs")
	}
	p, err = i.Resume(stored)
	if err != nil {
		t.Fatal(err)
	}
	stored[40] ^= 1 // the Prepared has its own copy
	c, err := i.Issue(t.Context(), p)
	if err != nil || !bytes.Equal(c.Leaf.RawTBSCertificate, again.TBS()) {
		t.Errorf("issue: %v", err)
	}
}

func TestResumeRefuses(t *testing.T) {
	r := newRig(t)
	p, err := r.agents(t).PrepareAgent(r.agentRequest(t), start)
	if err != nil {
		t.Fatal(err)
	}
	tbs := p.TBS()
	second, err := ca.NewIssuer(r.result.AgentCAs[1].Leaf, r.keys["agent-ca-2"], r.roots(), agentProfile())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Resume(tbs); !errors.Is(err, ca.ErrForeign) {
		t.Errorf("another CA: %v", err)
	}
	if _, err := r.services(t).Resume(tbs); err == nil {
		t.Error("an agent resumed by a service CA")
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "trailing": append(bytes.Clone(tbs), 0), "cut": tbs[:len(tbs)-1], "large": make([]byte, 1<<20),
		"a certificate": r.result.Root.DER, "inside": inside(t, tbs),
	} {
		if p, err := r.agents(t).Resume(bad); err == nil || p != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// inside adds an element after the extensions, which crypto/x509 does not look at.
func inside(t *testing.T, tbs []byte) []byte {
	t.Helper()
	var raw asn1.RawValue
	if _, err := asn1.Unmarshal(tbs, &raw); err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: append(bytes.Clone(raw.Bytes), 0x05, 0x00)})
	if err != nil {
		t.Fatal(err)
	}
	return der
}
