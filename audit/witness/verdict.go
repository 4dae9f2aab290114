package witness

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/note"
)

// Verdict is what the signatures of a checkpoint come to under a policy.
type Verdict struct {
	Satisfied  bool     // the quorum is reached
	Cosigned   []string // the policy's names of the witnesses whose cosignature holds, in the policy's order
	Unknown    int      // signatures of nobody that the policy knows; they count for nothing
	Duplicates int      // further signatures of a witness that counted
	Foreign    []string // key names of witnesses in whose name another key signed, or that signed something else
}

// Judge counts the cosignatures of a signed checkpoint. The signature of log is not looked at: checkpoint.Open does that.
// Errors match [ErrMalformed].
func (p *Policy) Judge(signed []byte, log note.Verifier) (Verdict, error) {
	n, lines, err := signatures(signed)
	if err != nil {
		return Verdict{}, err
	}
	var v Verdict
	cosigned := make([]bool, len(p.witnesses))
	for _, s := range n.UnverifiedSigs {
		i, named := p.by(s)
		switch {
		case s.Name == log.Name() && s.Hash == log.KeyHash():
		case i < 0 && named:
			v.foreign(s.Name)
		case i < 0:
			v.Unknown++
		case !p.witnesses[i].signed(n.Text, s):
			v.foreign(s.Name)
		case cosigned[i]:
			v.Duplicates++
		default:
			cosigned[i] = true
		}
	}
	v.Duplicates += lines - len(n.UnverifiedSigs) // package note leaves out repeated lines
	for i, ok := range cosigned {
		if ok {
			v.Cosigned = append(v.Cosigned, p.names[i])
		}
	}
	v.Satisfied = p.satisfied(p.quorum, cosigned)
	return v, nil
}

func (v *Verdict) foreign(name string) {
	if !slices.Contains(v.Foreign, name) {
		v.Foreign = append(v.Foreign, name)
	}
}

// signatures gives a note with all of its signatures unverified, and how many lines they were.
func signatures(signed []byte) (*note.Note, int, error) {
	_, err := note.Open(signed, note.VerifierList())
	var unverified *note.UnverifiedNoteError
	if !errors.As(err, &unverified) {
		return nil, 0, fmt.Errorf("%w: not a signed note", ErrMalformed)
	}
	behind := signed[len(unverified.Note.Text)+1:]
	return unverified.Note, bytes.Count(behind, []byte("\n")), nil
}

// by finds the witness of a signature; named says that there is one of that name.
func (p *Policy) by(s note.Signature) (index int, named bool) {
	index = -1
	for i, w := range p.witnesses {
		if w.name != s.Name {
			continue
		}
		named = true
		if w.verifier.KeyHash() == s.Hash {
			index = i
		}
	}
	return index, named
}

func (k Key) signed(text string, s note.Signature) bool {
	raw, err := base64.StdEncoding.DecodeString(s.Base64)
	return err == nil && len(raw) > 4 && binary.BigEndian.Uint32(raw) == s.Hash && k.verifier.Verify([]byte(text), raw[4:])
}
