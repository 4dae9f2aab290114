package bundle_test

import (
	"bytes"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/witness"
)

// witnessFamilies are cosignatures that would reach the auditor's quorum of two if they counted.
func witnessFamilies() []family {
	lacking := []expected{{bundle.CheckWitness, -1, "log/checkpoint", ""}}
	row := func(name string, second func(t *testing.T, w *world, a, b *witness.Signer) string) family {
		return family{name, false, func(t *testing.T, s *scene) []expected {
			a, b := cosigner(t, "a.example/w", "a"), cosigner(t, "b.example/w", "b")
			file := s.w.trustFile()
			file.WitnessPolicy = s.w.quorumOf(2, a, b)
			trust, err := file.Trust()
			must(t, err)
			s.opts.Trust = trust
			s.m["log/checkpoint"] = append(bytes.Clone(s.m["log/checkpoint"]), s.w.cosigned(a)+second(t, s.w, a, b)...)
			return lacking
		}}
	}
	return []family{
		row("cosignature missing", func(*testing.T, *world, *witness.Signer, *witness.Signer) string { return "" }),
		row("cosignature of an unknown witness", func(t *testing.T, w *world, _, _ *witness.Signer) string {
			return w.cosigned(cosigner(t, "c.example/w", "c"))
		}),
		row("cosignature twice", func(t *testing.T, w *world, a, _ *witness.Signer) string {
			later, err := a.Cosign(checkpoint.Checkpoint{Origin: origin, Size: w.last.Size, Root: w.last.Root})
			must(t, err)
			return string(later)
		}),
		row("cosignature by another key in the witness's name", func(t *testing.T, w *world, _, _ *witness.Signer) string {
			return w.cosigned(cosigner(t, "b.example/w", "thief"))
		}),
		row("cosignature of another tree of this log", func(t *testing.T, w *world, _, b *witness.Signer) string {
			line, err := b.Cosign(checkpoint.Checkpoint{Origin: origin, Size: w.last.Size, Root: [32]byte{1}})
			must(t, err)
			return string(line)
		}),
	}
}
