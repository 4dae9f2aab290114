package hsm_test

import (
	"crypto"
	"crypto/sha256"
	"testing"

	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/internal/testrig/softhsm"
)

func benchmark(b *testing.B, alg hsm.Algorithm, process []string, parallel bool) {
	h := softhsm.New(b)
	cfg := config(h, "issuing", h.InitToken("issuing", pin))
	cfg.Process = process
	token := open(b, cfg)
	k := generate(b, token, "key", alg)
	sum := sha256.Sum256([]byte("benchmark"))
	hashes := map[hsm.Algorithm]crypto.Hash{hsm.P256: crypto.SHA256, hsm.Ed25519: 0}
	one := func() {
		if _, err := k.Sign(nil, sum[:], hashes[alg]); err != nil {
			b.Error(err)
		}
	}
	if parallel {
		b.SetParallelism(16)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				one()
			}
		})
		return
	}
	for b.Loop() {
		one()
	}
}

// Each signature includes its verification in software.
func BenchmarkSignP256(b *testing.B)         { benchmark(b, hsm.P256, nil, false) }
func BenchmarkSignP256Parallel(b *testing.B) { benchmark(b, hsm.P256, nil, true) }
func BenchmarkSignEd25519(b *testing.B)      { benchmark(b, hsm.Ed25519, nil, false) }

// The same with the module in a process of its own.
func BenchmarkSignP256Apart(b *testing.B)         { benchmark(b, hsm.P256, apart, false) }
func BenchmarkSignP256ApartParallel(b *testing.B) { benchmark(b, hsm.P256, apart, true) }

// BenchmarkCheck is one health check of a token with one key.
func BenchmarkCheck(b *testing.B) {
	_, token := newToken(b)
	generate(b, token, "key", hsm.P256)
	for b.Loop() {
		if err := token.Check(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
