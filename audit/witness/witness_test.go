package witness_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/witness"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const origin = "signet.test/log"

// tree is a log of n leaves of one kind, with every tile at hand.
type tree struct {
	leaves []merkle.Hash
}

func newTree(kind string, n int) tree {
	t := tree{}
	for i := range n {
		t.leaves = append(t.leaves, merkle.LeafHash(fmt.Appendf(nil, "%s %d", kind, i)))
	}
	return t
}

func (t tree) Tile(level int, index uint64, width int) ([]byte, error) {
	if level > 0 {
		return nil, errors.New("the tree is too small for that")
	}
	var out []byte
	for _, h := range t.leaves[index*256:][:width] {
		out = append(out, h[:]...)
	}
	return out, nil
}

func (t tree) at(size int) checkpoint.Checkpoint {
	return checkpoint.Checkpoint{Origin: origin, Size: uint64(size), Root: merkle.Root(t.leaves[:size], 1)}
}

func (t tree) proof(tb testing.TB, from, to int) []merkle.Hash {
	tb.Helper()
	p, err := merkle.Consistency(t, uint64(from), uint64(to))
	must(tb, err)
	return p
}

// cosigner is a witness whose key is made of its name.
func cosigner(t testing.TB, name, seed string) *witness.Signer {
	t.Helper()
	h := sha256.Sum256([]byte(seed))
	s, err := witness.NewSigner(name, ed25519.NewKeyFromSeed(h[:]), func() time.Time { return time.Unix(1_700_000_000, 0) })
	must(t, err)
	return s
}

// logKey is an Ed25519 log: note.Sign is not ours.
func logKey(t testing.TB, seed string) (note.Signer, string) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(bytes.NewReader(bytes.Repeat([]byte(seed), 64)), origin)
	must(t, err)
	s, err := note.NewSigner(skey)
	must(t, err)
	return s, vkey
}

func sign(t testing.TB, c checkpoint.Checkpoint, signers ...note.Signer) []byte {
	t.Helper()
	b, err := note.Sign(&note.Note{Text: string(c.Body())}, signers...)
	must(t, err)
	return b
}

// The example of tlog-witness.
const example = `old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
`

func TestRequest(t *testing.T) {
	q, err := witness.ParseRequest([]byte(example))
	must(t, err)
	if q.Old != 20852014 || len(q.Proof) != 4 || q.Origin() != "example.com/behind-the-sofa" || string(q.Marshal()) != example {
		t.Errorf("%+v", q)
	}
	if q, err := witness.ParseRequest([]byte("old 0\n\nx\n")); err != nil || q.Old != 0 || q.Proof != nil {
		t.Errorf("no proof: %+v, %v", q, err)
	}
	hash := "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n"
	if _, err := witness.ParseRequest([]byte("old 1\n" + strings.Repeat(hash, 63) + "\nx\n")); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string]string{
		"empty": "", "no blank line": "old 1\n", "no old": "\n\nx\n", "negative": "old -1\n\nx\n", "leading zero": "old 01\n\nx\n", "plus": "old +1\n\nx\n",
		"two blanks": "old  1\n\nx\n", "word": "Old 1\n\nx\n", "huge": "old 99999999999999999999\n\nx\n", "CR": "old 1\r\n\nx\n",
		"no hash": "old 1\nxx\n\nx\n", "short hash": "old 1\nAAAA\n\nx\n", "long proof": "old 1\n" + strings.Repeat(hash, 64) + "\nx\n",
		"loose bits": "old 1\nPlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkax=\n\nx\n", "long": "old 0\n\n" + strings.Repeat("x", witness.MaxRequest),
	} {
		if _, err := witness.ParseRequest([]byte(bad)); !errors.Is(err, witness.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSize(t *testing.T) {
	if n, err := witness.ParseSize((&witness.ConflictError{Size: 20852014}).Body()); err != nil || n != 20852014 {
		t.Errorf("%d, %v", n, err)
	}
	for _, bad := range []string{"", "1", "\n", "01\n", "1\n\n", "-1\n", "1 \n", "999999999999999999\n"} {
		if n, err := witness.ParseSize([]byte(bad)); !errors.Is(err, witness.ErrMalformed) {
			t.Errorf("%q: %d, %v", bad, n, err)
		}
	}
}

// What a witness may cosign, step by step.
func TestAdvance(t *testing.T) {
	key, vkey := logKey(t, "log")
	stranger, _ := logKey(t, "another")
	log, err := witness.ParseLog(vkey)
	must(t, err)
	good, fork := newTree("good", 20), newTree("fork", 20)
	at := good.at(10)
	ask := func(old int, proof []merkle.Hash, c checkpoint.Checkpoint, by ...note.Signer) witness.Request {
		return witness.Request{Old: uint64(old), Proof: proof, Checkpoint: sign(t, c, by...)}
	}
	mixed := good.at(20)
	mixed.Root = fork.at(20).Root
	foreign := good.at(20)
	foreign.Origin = "signet.test/another"
	conflict := func(size uint64, fork bool) error { return &witness.ConflictError{Size: size, Fork: fork} }
	for name, row := range map[string]struct {
		last checkpoint.Checkpoint
		q    witness.Request
		want error // nil: advances
	}{
		"first":                   {log.Empty(), ask(0, nil, good.at(10), key), nil},
		"first, proof":            {log.Empty(), ask(0, good.proof(t, 5, 10), good.at(10), key), witness.ErrProof},
		"next":                    {at, ask(10, good.proof(t, 10, 20), good.at(20), key), nil},
		"cosigned by others, too": {at, ask(10, good.proof(t, 10, 20), good.at(20), key, cosigner(t, "w", "w")), nil},
		"same again":              {at, ask(10, nil, good.at(10), key), nil},
		"same, proof":             {at, ask(10, good.proof(t, 5, 10), good.at(10), key), witness.ErrProof},
		"same, other root":        {at, ask(10, nil, fork.at(10), key), conflict(10, true)},
		"same, other root, old 0": {at, ask(0, nil, fork.at(10), key), conflict(10, true)},
		"behind":                  {at, ask(5, good.proof(t, 5, 8), good.at(8), key), conflict(10, false)},
		"old 0":                   {at, ask(0, nil, good.at(20), key), conflict(10, false)},
		"old beyond ours":         {at, ask(12, good.proof(t, 12, 20), good.at(20), key), conflict(10, false)},
		"old beyond checkpoint's": {at, ask(12, nil, good.at(10), key), witness.ErrMalformed},
		"fork":                    {at, ask(10, fork.proof(t, 10, 20), fork.at(20), key), witness.ErrProof},
		"fork, honest proof":      {at, ask(10, good.proof(t, 10, 20), mixed, key), witness.ErrProof},
		"no proof":                {at, ask(10, nil, good.at(20), key), witness.ErrProof},
		"another's key":           {at, ask(10, good.proof(t, 10, 20), good.at(20), stranger), witness.ErrUnsigned},
		"another's body":          {at, ask(10, good.proof(t, 10, 20), foreign, key), witness.ErrUnsigned},
		"no note":                 {at, witness.Request{Old: 10, Checkpoint: []byte("x\n")}, witness.ErrMalformed},
		"extension line":          {at, witness.Request{Old: 10, Checkpoint: signText(t, string(good.at(20).Body())+"more\n", key)}, witness.ErrMalformed},
	} {
		next, own, err := log.Advance(row.last, row.q)
		var size *witness.ConflictError
		switch {
		case row.want == nil && (err != nil || next.Size < row.last.Size):
			t.Errorf("%s: %v, %v", name, next, err)
		case row.want == nil && !bytes.Equal(own, sign(t, next, key)):
			t.Errorf("%s: keeps %q", name, own)
		case errors.As(row.want, &size):
			if got := new(witness.ConflictError); !errors.As(err, &got) || *got != *size {
				t.Errorf("%s: %v", name, err)
			}
		case row.want != nil && !errors.Is(err, row.want):
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && next != row.last {
			t.Errorf("%s: refused, and moved", name)
		}
	}
}

func signText(t *testing.T, text string, by note.Signer) []byte {
	t.Helper()
	b, err := note.Sign(&note.Note{Text: text}, by)
	must(t, err)
	return b
}

// Our cosignatures are what another implementation verifies, and the other way round.
func TestCosignatureIsInteroperable(t *testing.T) {
	c := newTree("good", 7).at(7)
	s := cosigner(t, "witness.test/w1", "w1")
	theirs, err := fnote.NewVerifierForCosignatureV1(s.Key())
	must(t, err)
	line, err := s.Cosign(c)
	must(t, err)
	n, err := note.Open(append(append(c.Body(), '\n'), line...), note.VerifierList(theirs))
	must(t, err)
	if at, err := fnote.CoSigV1Timestamp(n.Sigs[0]); err != nil || at.Unix() != 1_700_000_000 {
		t.Errorf("time %v, %v", at, err)
	}
	seed := sha256.Sum256([]byte("w1"))
	signer, err := fnote.NewSignerForCosignatureV1("PRIVATE+KEY+witness.test/w1+00000000+" + base64.StdEncoding.EncodeToString(append([]byte{4}, seed[:]...)))
	must(t, err)
	key, err := witness.ParseKey(s.Key())
	must(t, err)
	other := sign(t, c, signer)[len(c.Body())+1:]
	if got, err := key.Pick(c, other); err != nil || !bytes.Equal(got, other) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestPick(t *testing.T) {
	tree := newTree("good", 9)
	c := tree.at(7)
	mine, double, stranger := cosigner(t, "w", "mine"), cosigner(t, "w", "double"), cosigner(t, "v", "stranger")
	key, err := witness.ParseKey(mine.Key())
	must(t, err)
	cosign := func(s *witness.Signer, c checkpoint.Checkpoint) string {
		line, err := s.Cosign(c)
		must(t, err)
		return string(line)
	}
	want := cosign(mine, c)
	for name, answer := range map[string]string{
		"alone": want, "after another's": cosign(stranger, c) + want, "a key of the same name": want + cosign(double, c), "twice": want + want,
	} {
		if got, err := key.Pick(c, []byte(answer)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	longer := string(signText(t, string(c.Body())+"\nx\n", mine))[len(c.Body())+1:] // a signature of the right key, over more
	wrong := []byte(want)
	wrong[len(wrong)-8] ^= 1
	for name, answer := range map[string]string{
		"empty": "", "text": "OK\n", "another's": cosign(stranger, c), "another key": cosign(double, c), "another size": cosign(mine, tree.at(8)),
		"wrong signature": string(wrong), "no line feed": strings.TrimSuffix(want, "\n"), "over more": longer, "a line before": "x\n\n" + want, "a line behind": want + "\nx\n",
		"another note": string(c.Body()) + "\n" + want, "long": strings.Repeat(want, 200),
	} {
		if got, err := key.Pick(c, []byte(answer)); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestKeys(t *testing.T) {
	w := cosigner(t, "witness.test/w1", "w1").Key()
	_, log := logKey(t, "log")
	_, mldsa, err := fnote.GenerateMLDSAKey("witness.test/w1")
	must(t, err)
	if k, err := witness.ParseKey(w); err != nil || k.Name() != "witness.test/w1" || k.String() != w {
		t.Errorf("%v, %v", k, err)
	}
	for name, bad := range map[string]string{
		"empty": "", "a log's": log, "ML-DSA": mldsa, "hash": strings.Replace(w, "+", "+0", 1), "name": "x" + w, "short": w[:len(w)-4] + "\n", "no name": w[strings.Index(w, "+"):],
	} {
		if _, err := witness.ParseKey(bad); !errors.Is(err, witness.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := witness.ParseLog(w); !errors.Is(err, witness.ErrMalformed) {
		t.Errorf("a witness's key as a log's: %v", err)
	}
	if _, err := witness.NewSigner("a b", ed25519.NewKeyFromSeed(make([]byte, 32)), time.Now); err == nil {
		t.Error("a name with a blank")
	}
}

func policyOf(t testing.TB, names ...string) (text string, keys []*witness.Signer) {
	t.Helper()
	for _, n := range names {
		s := cosigner(t, "witness.test/"+n, n)
		text += fmt.Sprintf("witness %s %s https://%s.test/\n", n, s.Key(), n)
		keys = append(keys, s)
	}
	return text, keys
}

// The example of tlog-policy: two of X, and one of Y.
func TestPolicyQuorum(t *testing.T) {
	text, keys := policyOf(t, "X1", "X2", "X3", "Y1", "Y2", "Y3")
	_, logKeyText := logKey(t, "log")
	p, err := witness.ParsePolicy([]byte("# comment\n\nlog " + logKeyText + " https://log.test/\n" + text +
		"group X-witnesses 2 X1 X2 X3\n \tgroup Y-witnesses any Y1 Y2 Y3\ngroup X-and-Y all X-witnesses Y-witnesses\nquorum X-and-Y\n"))
	must(t, err)
	log, _ := logKey(t, "log")
	v, err := note.NewVerifier(logKeyText)
	must(t, err)
	c := newTree("good", 5).at(5)
	for want, by := range map[string][]int{
		"": {}, "X1 X2": {0, 1}, "X1 Y1": {0, 3}, "X1 X3 Y2 ok": {0, 2, 4}, "X1 X2 X3": {0, 1, 2}, "X1 X2 X3 Y1 Y2 Y3 ok": {5, 4, 3, 2, 1, 0},
	} {
		signers := []note.Signer{log}
		for _, i := range by {
			signers = append(signers, keys[i])
		}
		got, err := p.Judge(sign(t, c, signers...), v)
		must(t, err)
		names := strings.Join(got.Cosigned, " ")
		if got.Satisfied {
			names += " ok"
		}
		if names != want || got.Unknown != 0 || got.Duplicates != 0 || got.Foreign != nil {
			t.Errorf("%v, want %q", got, want)
		}
	}
	if !p.Demands() || !p.Lists(logKeyText) || p.Lists(keys[0].Key()) {
		t.Error("what the policy demands or lists")
	}
}

// Unknown, duplicate and foreign cosignatures.
func TestJudge(t *testing.T) {
	text, keys := policyOf(t, "A", "B")
	p, err := witness.ParsePolicy([]byte(text + "group both all A B\nquorum both\n"))
	must(t, err)
	log, logText := logKey(t, "log")
	v, err := note.NewVerifier(logText)
	must(t, err)
	tree := newTree("good", 9)
	c := tree.at(5)
	lineOf := func(s *witness.Signer, c checkpoint.Checkpoint) string {
		line, err := s.Cosign(c)
		must(t, err)
		return string(line)
	}
	signed := string(sign(t, c, log))
	h := sha256.Sum256([]byte("A"))
	later, err := witness.NewSigner("witness.test/A", ed25519.NewKeyFromSeed(h[:]), func() time.Time { return time.Unix(1_800_000_000, 0) })
	must(t, err)
	a, b := lineOf(keys[0], c), lineOf(keys[1], c)
	stranger, thief := lineOf(cosigner(t, "witness.test/C", "C"), c), lineOf(cosigner(t, "witness.test/B", "thief"), c)
	for name, row := range map[string]struct {
		lines string
		want  witness.Verdict
	}{
		"none":              {"", witness.Verdict{}},
		"both":              {a + b, witness.Verdict{Satisfied: true, Cosigned: []string{"A", "B"}}},
		"unknown":           {a + stranger + b, witness.Verdict{Satisfied: true, Cosigned: []string{"A", "B"}, Unknown: 1}},
		"unknown for one":   {a + stranger, witness.Verdict{Cosigned: []string{"A"}, Unknown: 1}},
		"twice":             {a + a, witness.Verdict{Cosigned: []string{"A"}, Duplicates: 1}},
		"twice, later":      {a + lineOf(later, c), witness.Verdict{Cosigned: []string{"A"}, Duplicates: 1}},
		"foreign":           {a + thief, witness.Verdict{Cosigned: []string{"A"}, Foreign: []string{"witness.test/B"}}},
		"foreign beside it": {a + b + thief, witness.Verdict{Satisfied: true, Cosigned: []string{"A", "B"}, Foreign: []string{"witness.test/B"}}},
		"of another tree":   {a + lineOf(keys[1], tree.at(6)), witness.Verdict{Cosigned: []string{"A"}, Foreign: []string{"witness.test/B"}}},
	} {
		got, err := p.Judge([]byte(signed+row.lines), v)
		if err != nil || !reflect.DeepEqual(got, row.want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for _, bad := range []string{"", "x", string(c.Body()), signed + "\n"} {
		if _, err := p.Judge([]byte(bad), v); !errors.Is(err, witness.ErrMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestPolicyRefuses(t *testing.T) {
	text, keys := policyOf(t, "A", "B")
	_, log := logKey(t, "log")
	for name, bad := range map[string]string{
		"empty": "", "no quorum": text, "two quorums": text + "quorum A\nquorum B\n", "unknown quorum": text + "quorum C\n", "no line feed": text + "quorum A",
		"group of none": text + "group g any\nquorum A\n", "unknown member": text + "group g any C\nquorum g\n", "none as a member": text + "group g any none\nquorum g\n",
		"later member": "group g any A\n" + text + "quorum g\n", "member twice": text + "group g 2 A A\nquorum g\n", "member of two": text + "group g any A\ngroup h any A\nquorum g\n",
		"zero": text + "group g 0 A\nquorum g\n", "too many": text + "group g 3 A B\nquorum g\n", "spelling": text + "group g 01 A\nquorum g\n", "negative": text + "group g -1 A\nquorum g\n",
		"name taken": text + "group A any B\nquorum A\n", "name none": strings.Replace(text, "witness A", "witness none", 1) + "quorum B\n",
		"key twice": text + "witness C " + keys[0].Key() + "\nquorum A\n", "log twice": "log " + log + "\nlog " + log + "\nquorum none\n",
		"log as a witness": "witness A " + log + "\nquorum A\n", "word": text + "quota A\nquorum A\n", "control": text + "quorum A\r\n", "comment behind": text + "quorum A # this\n",
		"many": strings.Repeat("#\n", 40<<10) + "quorum none\n",
	} {
		if _, err := witness.ParsePolicy([]byte(bad)); !errors.Is(err, witness.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p, err := witness.ParsePolicy([]byte("quorum none\n")); err != nil || p.Demands() || !p.Lists("anything") {
		t.Errorf("%v, %v", p, err)
	}
}

func TestNewPolicy(t *testing.T) {
	_, signers := policyOf(t, "A", "B")
	_, log := logKey(t, "log")
	var keys []witness.Key
	for _, s := range signers {
		k, err := witness.ParseKey(s.Key())
		must(t, err)
		keys = append(keys, k)
	}
	text, err := witness.NewPolicy(log, keys, 2)
	must(t, err)
	p, err := witness.ParsePolicy(text)
	if err != nil || !p.Demands() || !p.Lists(log) || !slices.Contains(strings.Split(string(text), "\n"), "group witnesses 2 witness.test/A witness.test/B") {
		t.Errorf("%s: %v", text, err)
	}
	if text, err := witness.NewPolicy(log, nil, 0); err != nil || string(text) != "log "+log+"\nquorum none\n" {
		t.Errorf("%s: %v", text, err)
	}
	if _, err := witness.NewPolicy(log, keys, 3); err == nil {
		t.Error("three of two")
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("old 0\n\nx\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if q, err := witness.ParseRequest(data); err == nil && !bytes.Equal(q.Marshal(), data) {
			t.Errorf("%q is read as %q", data, q.Marshal())
		}
	})
}

func FuzzParsePolicy(f *testing.F) {
	text, _ := policyOf(f, "A", "B")
	f.Add([]byte(text + "group g all A B\nquorum g\n"))
	f.Add([]byte("quorum none\n"))
	log, logText := logKey(f, "log")
	v, err := note.NewVerifier(logText)
	must(f, err)
	signed := sign(f, newTree("good", 5).at(5), log)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := witness.ParsePolicy(data)
		if err != nil {
			return
		}
		// Nobody cosigned: only a policy that demands nothing is satisfied.
		if got, err := p.Judge(signed, v); err != nil || got.Satisfied == p.Demands() {
			t.Errorf("%q: %+v, %v", data, got, err)
		}
	})
}

func FuzzPick(f *testing.F) {
	s := cosigner(f, "w", "w")
	key, err := witness.ParseKey(s.Key())
	must(f, err)
	c := newTree("good", 5).at(5)
	line, err := s.Cosign(c)
	must(f, err)
	f.Add(line)
	f.Fuzz(func(t *testing.T, data []byte) {
		if got, err := key.Pick(c, data); err == nil && !bytes.Contains(data, got) {
			t.Errorf("%q out of %q", got, data)
		}
	})
}

func FuzzParseKey(f *testing.F) {
	f.Add(cosigner(f, "w", "w").Key())
	_, log := logKey(f, "log")
	f.Add(log)
	f.Fuzz(func(t *testing.T, text string) {
		if k, err := witness.ParseKey(text); err == nil && k.String() != text {
			t.Error("another text")
		}
		if l, err := witness.ParseLog(text); err == nil && l.Name() == "" {
			t.Error("no name")
		}
	})
}

// TestLogWithTwoKeys: a witness goes on when a log changes its key, from the head that it has.
func TestLogWithTwoKeys(t *testing.T) {
	old, oldText := logKey(t, "log")
	next, nextText := logKey(t, "next")
	stranger, _ := logKey(t, "another")
	_, other, err := note.GenerateKey(rand.Reader, "signet.test/another")
	must(t, err)
	log, err := witness.ParseLog(oldText)
	must(t, err)
	both, err := log.Also(nextText)
	must(t, err)
	tree := newTree("good", 20)
	for name, row := range map[string]struct {
		log  witness.Log
		by   note.Signer
		want error
	}{
		"the old key":           {both, old, nil},
		"the new key":           {both, next, nil},
		"a stranger's":          {both, stranger, witness.ErrUnsigned},
		"one that is not known": {log, next, witness.ErrUnsigned},
	} {
		if _, _, err := row.log.Open(sign(t, tree.at(10), row.by)); !errors.Is(err, row.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{"another log's": other, "the same": oldText, "none": "x"} {
		if _, err := log.Also(text); err == nil {
			t.Errorf("took %s key as a further one", name)
		}
	}
}
