package chain

import (
	"bytes"
	"crypto/elliptic"
	"errors"
	"testing"
)

func TestExtractTBS(t *testing.T) {
	w := newWorld(t, 3, elliptic.P256())
	leaf := w.leaf()
	want := must[Delegation](t)(Extract(leaf))
	ext := must[[]byte](t)(ExtractTBS(leaf.RawTBSCertificate))
	if got := must[Delegation](t)(Parse(ext)); !bytes.Equal(must[[]byte](t)(got.Marshal()), must[[]byte](t)(want.Marshal())) {
		t.Error("another delegation than the certificate's")
	}
	if _, err := ExtractTBS(w.ca.RawTBSCertificate); !errors.Is(err, ErrNoDelegation) {
		t.Errorf("a CA's certificate: %v", err)
	}
	for _, bad := range [][]byte{nil, leaf.Raw, append(bytes.Clone(leaf.RawTBSCertificate), 0)} {
		if ext, err := ExtractTBS(bad); err == nil {
			t.Errorf("%d bytes gave an extension of %d", len(bad), len(ext))
		}
	}
}

func FuzzExtractTBS(f *testing.F) {
	w := newWorld(f, 2, elliptic.P256())
	f.Add(w.leaf().RawTBSCertificate)
	f.Add(w.ca.RawTBSCertificate)
	f.Fuzz(func(_ *testing.T, tbs []byte) {
		if ext, err := ExtractTBS(tbs); err == nil && len(ext) > len(tbs) {
			panic("an extension longer than its certificate")
		}
	})
}
