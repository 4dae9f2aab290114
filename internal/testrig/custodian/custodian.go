// Package custodian gives tests custodians who sign acts as people do: with OpenSSH's ssh-keygen, and keys that it made.
package custodian

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/custody"
)

// Install is the command that brings what this package needs.
const Install = "apt-get install openssh-client"

// Custodian is one of them, with the key's file.
type Custodian struct {
	custody.Custodian

	KeyFile string   // private, or public where an agent has the private key
	Env     []string // what ssh-keygen needs to use the key
}

// New makes a custodian with a key file of ssh-keygen's type ed25519, ecdsa, … and options, without a passphrase.
func New(t testing.TB, name, kind string, options ...string) Custodian {
	t.Helper()
	file := filepath.Join(t.TempDir(), "id_"+name)
	run(t, nil, append([]string{"-q", "-t", kind, "-f", file, "-N", "", "-C", name + "@example"}, options...)...)
	return Custodian{Custodian: custody.Custodian{Name: name, Key: read(t, file+".pub")}, KeyFile: file}
}

// Three are alice, bob and carol with Ed25519 keys, and the set in which two are enough.
func Three(t testing.TB) (custody.Set, []Custodian) {
	t.Helper()
	people := []Custodian{New(t, "alice", "ed25519"), New(t, "bob", "ed25519"), New(t, "carol", "ed25519")}
	set, err := custody.NewSet(2, []custody.Custodian{people[0].Custodian, people[1].Custodian, people[2].Custodian})
	if err != nil {
		t.Fatal(err)
	}
	return set, people
}

// Sign approves an act: the armored signature.
func (c Custodian) Sign(t testing.TB, act []byte) []byte {
	t.Helper()
	return c.SignAs(t, custody.Namespace, act)
}

// SignAs signs in another namespace, or with other options of ssh-keygen -Y sign.
func (c Custodian) SignAs(t testing.TB, namespace string, message []byte, options ...string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "act.json")
	if err := os.WriteFile(file, message, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, c.Env, append(append([]string{"-Y", "sign", "-q", "-n", namespace, "-f", c.KeyFile}, options...), file)...)
	return []byte(read(t, file+".sig"))
}

func run(t testing.TB, env []string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "ssh-keygen", args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen %s: %v (%s)\n%s", strings.Join(args, " "), err, Install, bytes.TrimSpace(out))
	}
}

func read(t testing.TB, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimRight(b, "\n"))
}
