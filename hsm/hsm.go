// Package hsm turns keys of a PKCS#11 token into crypto.Signers, and keeps them working when sessions are lost or the
// token vanishes and returns.
//
// It signs digests of the key's own hash and nothing else: SHA-256 for P-256, SHA-384 for P-384, the message itself
// for Ed25519. Every signature is verified in software before it is returned. It refuses keys that could leave the
// token, URIs that match two keys, PIN files that others can read, and never presents a PIN a second time once the
// token has refused it.
//
// Everything is safe for concurrent use. Calls into a module cannot be interrupted: when a deadline passes the caller
// gets an error at once, while the call keeps its session until the module returns, so the number of sessions and of
// goroutines inside the module stays bounded by Config.Sessions. Those who wait for a session are bounded by Config.Queue,
// and nobody waits for a module that hangs in all of them.
//
// With Config.Process a module runs in a process of its own, which is ended when a call does not return within
// Config.Timeout and started again when it has ended: a module that crashes or hangs costs the signatures it was making.
//
// A module is initialised once per process (PKCS #11 v2.40 §5.4), so tokens that share a module share a supervisor:
// the recovery of one re-initialises the module and opens all of them again.
package hsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
	"unicode"
	"unicode/utf8"
)

// Sentinels for callers that branch. Errors of the module itself are wrapped and keep their CKR name.
var (
	// ErrConfig: the configuration cannot be used as it stands.
	ErrConfig = errors.New("invalid configuration")
	// ErrURI: not a PKCS#11 URI of a private key, or one of another token.
	ErrURI = errors.New("invalid PKCS#11 URI")
	// ErrKeyNotFound: the token answers and holds no such private key.
	ErrKeyNotFound = errors.New("key not found")
	// ErrKeyExists: the label is taken already.
	ErrKeyExists = errors.New("key exists")
	// ErrAmbiguous: several keys, or several tokens, answer to one name.
	ErrAmbiguous = errors.New("name is ambiguous")
	// ErrKeyChanged: after recovery the same name leads to another public key.
	ErrKeyChanged = errors.New("key changed")
	// ErrExportable: the key is not sensitive, or extractable.
	ErrExportable = errors.New("key can leave the token")
	// ErrUses: the token says that a key can do more than sign, or cannot sign.
	ErrUses = errors.New("key is not for signing alone")
	// ErrUnsupported: the key type or mechanism is not offered by this package or by the module.
	ErrUnsupported = errors.New("not supported")
	// ErrDigest: Sign was not given a digest of the key's hash.
	ErrDigest = errors.New("not a digest of the key's hash")
	// ErrBadSignature: the module returned a signature that does not verify. It was not released.
	ErrBadSignature = errors.New("signature from the module does not verify")
	// ErrPIN: the token refused the PIN, or has no try to spare. Final until the process restarts.
	ErrPIN = errors.New("PIN refused")
	// ErrUnavailable: the token cannot be reached now; the next call tries again.
	ErrUnavailable = errors.New("token unavailable")
	// ErrBusy: as many callers wait for a signature as may. Nothing was tried.
	ErrBusy = errors.New("too many wait for the token")
	// ErrHung: the module does not return from its calls. Nothing was tried. It comes with ErrUnavailable.
	ErrHung = errors.New("the module hangs")
	// ErrClosed: the token has been closed.
	ErrClosed = errors.New("token is closed")
)

const (
	defaultSessions = 4
	maxSessions     = 64
	defaultQueue    = 256
	maxQueue        = 1 << 16
	defaultTimeout  = 5 * time.Second
	maxTimeout      = 5 * time.Minute
	maxLabel        = 32 // CK_TOKEN_INFO.label, PKCS #11 v2.40 §3.2
	maxPIN          = 255
)

// Config says which token to open, and how.
type Config struct {
	// Module is the absolute path of the vendor's PKCS#11 library.
	Module string
	// Token is the label of the token: slot numbers change, labels stay. At most 32 bytes.
	Token string
	// PINFile holds the user PIN, with or without a final newline: a 0600 file or a systemd credential. A file that
	// is group-writable, or that others can read, is refused.
	PINFile string
	// PIN is the user PIN itself where it comes from no file; PINFile then only says in messages where it came from. Open
	// copies it, so the caller can clear it.
	PIN []byte
	// Sessions is how many signatures are made at a time, 1 to 64; 0 means 4. About the number of the device's cores
	// is best: more sessions raise the latency, not the throughput. The token's limit must leave room for two more,
	// which keep the login and generate keys.
	Sessions int
	// Queue is how many callers may wait for a session, at most 65536; 0 means 256. More get ErrBusy at once. A queue longer
	// than what the device signs within Timeout makes callers wait for nothing.
	Queue int
	// Process is a command that runs [ServeModule]: the module is then loaded there and not in this process, which gets its
	// keys all the same. Each token has a process of its own. Nil loads the module here.
	Process []string
	// Timeout bounds every operation, waiting for a session included, when the caller's context has no earlier
	// deadline; 0 means 5 s, at most 5 min.
	Timeout time.Duration
}

// settings is a Config that has been checked, with its defaults and the PIN.
type settings struct {
	module   string
	label    string
	pin      string
	pinFile  string
	sessions int
	queue    int
	timeout  time.Duration
}

func (c Config) check() (settings, error) {
	s := settings{label: c.Token, pinFile: c.PINFile, sessions: c.Sessions, queue: c.Queue, timeout: c.Timeout}
	if s.sessions == 0 {
		s.sessions = defaultSessions
	}
	if s.queue == 0 {
		s.queue = defaultQueue
	}
	if s.timeout == 0 {
		s.timeout = defaultTimeout
	}
	pin, pinErr := c.userPIN()
	s.pin = pin
	module, moduleErr := findModule(c.Module)
	s.module = module
	problems := errors.Join(moduleErr, checkLabel("token", c.Token, maxLabel), pinErr)
	if s.sessions < 1 || s.sessions > maxSessions {
		problems = errors.Join(problems, fmt.Errorf("sessions: %d is not in 1..%d", c.Sessions, maxSessions))
	}
	if s.queue < 1 || s.queue > maxQueue {
		problems = errors.Join(problems, fmt.Errorf("queue: %d is not in 1..%d", c.Queue, maxQueue))
	}
	if s.timeout < 0 || s.timeout > maxTimeout {
		problems = errors.Join(problems, fmt.Errorf("timeout: %v is not in 0..%v", c.Timeout, maxTimeout))
	}
	if problems != nil {
		return settings{}, fmt.Errorf("hsm: %w: %w", ErrConfig, problems)
	}
	return s, nil
}

// findModule resolves symbolic links: one library under two names would be initialised twice.
func findModule(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("module: %q is not an absolute path", path)
	}
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", fmt.Errorf("module: %w", err)
	}
	info, err := os.Stat(target)
	if err != nil {
		return "", fmt.Errorf("module: %w", err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("module: %s is not a file", path)
	}
	return target, nil
}

// checkLabel accepts printable UTF-8 without leading or trailing space: tokens pad labels with blanks, so a label
// that ends in one could not be told from its shorter sibling.
func checkLabel(field, label string, limit int) error {
	if label == "" || len(label) > limit {
		return fmt.Errorf("%s: label has %d bytes, want 1..%d", field, len(label), limit)
	}
	if !utf8.ValidString(label) {
		return fmt.Errorf("%s: label is not UTF-8", field)
	}
	for _, r := range label {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("%s: label holds the unprintable character %U", field, r)
		}
	}
	if label[0] == ' ' || label[len(label)-1] == ' ' {
		return fmt.Errorf("%s: label begins or ends with a space", field)
	}
	return nil
}
