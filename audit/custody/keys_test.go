package custody_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/signet-pki/signet/audit/custody"
	"github.com/signet-pki/signet/internal/testrig/custodian"
	"github.com/signet-pki/signet/internal/testrig/softhsm"
)

// agreed has two custodians sign with ssh-keygen, and checks that ssh-keygen verifies the same.
func agreed(t *testing.T, people ...custodian.Custodian) {
	t.Helper()
	s := setOf(t, people...)
	b := text(t, act(s))
	var signatures [][]byte
	for _, p := range people {
		sig := p.Sign(t, b)
		stock(t, p, b, sig)
		signatures = append(signatures, sig)
	}
	if names, err := s.Approved(b, signatures); err != nil || len(names) != len(people) {
		t.Error(names, err)
	}
}

func setOf(t *testing.T, people ...custodian.Custodian) custody.Set {
	t.Helper()
	var members []custody.Custodian
	for _, p := range people {
		members = append(members, p.Custodian)
	}
	s, err := custody.NewSet(2, members)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func stock(t *testing.T, p custodian.Custodian, message, sig []byte) {
	t.Helper()
	dir := t.TempDir()
	allowed, file := filepath.Join(dir, "allowed"), filepath.Join(dir, "sig")
	for name, data := range map[string][]byte{allowed: []byte(p.Name + ` namespaces="act@signet" ` + p.Key + "\n"), file: sig} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "ssh-keygen", "-Y", "verify", "-f", allowed, "-I", p.Name, "-n", custody.Namespace, "-s", file)
	cmd.Stdin = bytes.NewReader(message)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("ssh-keygen -Y verify: %v\n%s", err, out)
	}
}

func TestKeyFiles(t *testing.T) {
	locked := custodian.New(t, "locked", "ed25519")
	secret := askpass(t, "correct horse")
	out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-p", "-f", locked.KeyFile, "-P", "", "-N", "correct horse").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	locked.Env = secret
	agreed(t, custodian.New(t, "ed", "ed25519"), custodian.New(t, "p256", "ecdsa", "-b", "256"), custodian.New(t, "p384", "ecdsa", "-b", "384"),
		custodian.New(t, "p521", "ecdsa", "-b", "521"), custodian.New(t, "rsa", "rsa", "-b", "3072"), locked)
}

// askpass is the environment in which OpenSSH gets a passphrase or PIN without a terminal.
func askpass(t *testing.T, secret string) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "askpass")
	if err := os.WriteFile(file, []byte("#!/bin/sh\necho '"+secret+"'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return []string{"SSH_ASKPASS=" + file, "SSH_ASKPASS_REQUIRE=force"}
}

// TestToken signs with a key in a PKCS#11 token, by way of ssh-agent.
func TestToken(t *testing.T) {
	h := softhsm.New(t)
	h.InitToken("custodian", "1234")
	keygen := exec.CommandContext(t.Context(), "pkcs11-tool", "--module", h.Module(), "--token-label", "custodian", "--login", "--pin", "1234",
		"--keypairgen", "--key-type", "EC:prime256v1", "--id", "01", "--label", "custodian")
	if out, err := keygen.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	env := append(askpass(t, "1234"), "SSH_AUTH_SOCK="+agent(t))
	add := exec.CommandContext(t.Context(), "ssh-add", "-s", h.Module())
	add.Env = append(os.Environ(), env...)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("ssh-add: %v\n%s", err, out)
	}
	list := exec.CommandContext(t.Context(), "ssh-add", "-L")
	list.Env = add.Env
	key, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "token.pub")
	if err := os.WriteFile(file, key, 0o600); err != nil {
		t.Fatal(err)
	}
	agreed(t, custodian.New(t, "ed", "ed25519"),
		custodian.Custodian{Custodian: custody.Custodian{Name: "token", Key: strings.TrimSpace(string(key))}, KeyFile: file, Env: env})
}

func agent(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	cmd := exec.CommandContext(t.Context(), "ssh-agent", "-D", "-a", socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for start := time.Now(); time.Since(start) < 20*time.Second; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return socket
		}
	}
	t.Fatal("ssh-agent does not listen")
	return ""
}

func certificate(t *testing.T) string {
	t.Helper()
	ca, c := custodian.New(t, "ca", "ed25519"), custodian.New(t, "c", "ed25519")
	cmd := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-s", ca.KeyFile, "-I", "c", c.KeyFile+".pub")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(c.KeyFile + "-cert.pub")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// securityToken is a FIDO2 token by its specification (OpenSSH, PROTOCOL.u2f): there is none here.
type securityToken struct {
	kind string
	key  []byte
	sign func(data []byte) []byte
}

const application = "ssh:"

func newSK(t *testing.T) []securityToken {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := ec.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return []securityToken{
		{
			kind: ssh.KeyAlgoSKED25519,
			key:  ssh.Marshal(struct{ Type, Key, Application string }{ssh.KeyAlgoSKED25519, string(public), application}),
			sign: func(data []byte) []byte { return ed25519.Sign(private, data) },
		},
		{
			kind: ssh.KeyAlgoSKECDSA256,
			key:  ssh.Marshal(struct{ Type, Curve, Point, Application string }{ssh.KeyAlgoSKECDSA256, "nistp256", string(point), application}),
			sign: func(data []byte) []byte {
				d := sha256.Sum256(data)
				r, s, err := ecdsa.Sign(rand.Reader, ec, d[:])
				if err != nil {
					t.Fatal(err)
				}
				return ssh.Marshal(struct{ R, S *big.Int }{r, s})
			},
		},
	}
}

// blob is what the token returns for the signed data of SSHSIG, with its flags and counter.
func (k securityToken) blob(data []byte, flags byte) []byte {
	app, message := sha256.Sum256([]byte(application)), sha256.Sum256(data)
	sig := k.sign(slices.Concat(app[:], []byte{flags, 0, 0, 0, 7}, message[:]))
	return append(ssh.Marshal(struct {
		Format string
		Blob   []byte
	}{k.kind, sig}), flags, 0, 0, 0, 7)
}

func TestSecurityTokens(t *testing.T) {
	ed := custodian.New(t, "ed", "ed25519")
	for _, k := range newSK(t) {
		line := k.kind + " " + base64.StdEncoding.EncodeToString(k.key)
		s := setOf(t, ed, custodian.Custodian{Custodian: custody.Custodian{Name: "sk", Key: line}})
		b := text(t, act(s))
		first := ed.Sign(t, b)
		try := func(flags byte, tail ...byte) error {
			_, err := s.Approved(b, [][]byte{first, envelope(k.key, append(k.blob(signedData(b), flags), tail...), nil)})
			return err
		}
		if err := try(0x01); err != nil {
			t.Errorf("%s, touched: %v", k.kind, err)
		}
		if err := try(0x05); err != nil {
			t.Errorf("%s, touched and verified: %v", k.kind, err)
		}
		if err := try(0x04); !errors.Is(err, custody.ErrSignature) || !strings.Contains(err.Error(), "user presence") {
			t.Errorf("%s, not touched: %v", k.kind, err)
		}
		if err := try(0x01, 0); !errors.Is(err, custody.ErrSignature) {
			t.Errorf("%s, bytes behind it: %v", k.kind, err)
		}
	}
}

func signedData(message []byte) []byte {
	d := sha512.Sum512(message)
	return append([]byte("SSHSIG"), ssh.Marshal(struct{ Namespace, Reserved, Hash, Digest string }{custody.Namespace, "", "sha512", string(d[:])})...)
}

type fields struct {
	Version                   uint32
	Key                       []byte
	Namespace, Reserved, Hash string
	Signature                 []byte
}

// envelope is an armored SSHSIG, changed before it is encoded.
func envelope(key, signature []byte, change func(f *fields)) []byte {
	f := fields{1, key, custody.Namespace, "", "sha512", signature}
	if change != nil {
		change(&f)
	}
	return armor(append([]byte("SSHSIG"), ssh.Marshal(f)...))
}

func armor(blob []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "SSH SIGNATURE", Bytes: blob})
}

// TestSignatureIsStrict changes what a custodian's valid signature has around it, one thing at a time.
func TestSignatureIsStrict(t *testing.T) {
	people := []custodian.Custodian{custodian.New(t, "ed", "ed25519"), custodian.New(t, "rsa", "rsa", "-b", "3072")}
	s := setOf(t, people...)
	b := text(t, act(s))
	ed := people[0].Sign(t, b)
	pair := signers(t, people...)
	sign := func(i int, data []byte) []byte {
		sig, err := pair[i].Sign(rand.Reader, data)
		if err != nil {
			t.Fatal(err)
		}
		return ssh.Marshal(sig)
	}
	key := pair[0].PublicKey().Marshal()
	good := sign(0, signedData(b))
	ok := func(armored []byte) error {
		names, err := s.Approved(b, [][]byte{armored})
		if errors.Is(err, custody.ErrTooFew) && len(names) == 1 {
			return nil
		}
		return err
	}
	if err := ok(envelope(key, good, nil)); err != nil {
		t.Fatal(err)
	}
	bad := map[string][]byte{
		"version 2":       envelope(key, good, func(f *fields) { f.Version = 2 }),
		"namespace":       envelope(key, good, func(f *fields) { f.Namespace = "act@signet2" }),
		"reserved":        envelope(key, good, func(f *fields) { f.Reserved = "x" }),
		"hash":            envelope(key, good, func(f *fields) { f.Hash = "sha1" }),
		"other hash":      envelope(key, good, func(f *fields) { f.Hash = "sha256" }),
		"bytes within":    envelope(key, append(slices.Clone(good), 0), nil),
		"bytes behind":    armor(append(slices.Concat([]byte("SSHSIG"), ssh.Marshal(fields{1, key, custody.Namespace, "", "sha512", good})), 0)),
		"key of another":  envelope(pair[1].PublicKey().Marshal(), good, nil),
		"key with a tail": envelope(append(slices.Clone(key), 0), good, nil),
		"no magic":        armor(ssh.Marshal(fields{1, key, custody.Namespace, "", "sha512", good})),
		"text before":     append([]byte("x\n"), ed...),
		"text behind":     append(slices.Clone(ed), "\n\nx"...),
		"two":             slices.Concat(ed, []byte("\n"), ed),
		"carriage return": bytes.ReplaceAll(ed, []byte("\n"), []byte("\r\n")),
		"empty":           nil,
		"long":            bytes.Repeat([]byte("-"), 5<<10),
		"SHA-1":           envelope(pair[1].PublicKey().Marshal(), sha1Signature(t, pair[1], signedData(b)), nil),
	}
	for name, armored := range bad {
		if err := ok(armored); !errors.Is(err, custody.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func signers(t *testing.T, people ...custodian.Custodian) (out []ssh.Signer) {
	t.Helper()
	for _, p := range people {
		b, err := os.ReadFile(p.KeyFile)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ssh.ParsePrivateKey(b)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

func sha1Signature(t *testing.T, s ssh.Signer, data []byte) []byte {
	t.Helper()
	a, ok := s.(ssh.AlgorithmSigner)
	if !ok {
		t.Fatal("no choice of algorithms")
	}
	sig, err := a.SignWithAlgorithm(rand.Reader, data, ssh.KeyAlgoRSA)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.PublicKey().Verify(data, sig); err != nil {
		t.Fatalf("the library refuses it by itself: %v", err)
	}
	return ssh.Marshal(sig)
}

// padded is an RSA key whose exponent has a needless zero before it.
func padded(t *testing.T) string {
	t.Helper()
	wire, err := base64.StdEncoding.DecodeString(strings.Fields(public(t, "rsa", "-b", "3072"))[1])
	if err != nil {
		t.Fatal(err)
	}
	wire = bytes.Replace(wire, []byte{0, 0, 0, 3, 1, 0, 1}, []byte{0, 0, 0, 4, 0, 1, 0, 1}, 1)
	return "ssh-rsa " + base64.StdEncoding.EncodeToString(wire)
}
