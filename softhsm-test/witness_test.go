package softhsmtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"golang.org/x/mod/sumdb/note"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/witness"
	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/internal/appliance"
	"github.com/signet-pki/signet/internal/devkit"
)

// server is a witness in a process of its own.
type server struct {
	t    testing.TB
	argv []string
	env  []string
	said *output
	cmd  *exec.Cmd
	wait chan error

	url, key, ca string
	client       *http.Client
}

func (s *server) start() {
	s.t.Helper()
	s.said = &output{}
	// #nosec G204 -- our own programs; not CommandContext: the end of a test stops it in its own way
	s.cmd = exec.Command(s.argv[0], s.argv[1:]...) //nolint:noctx // see above
	s.cmd.Stdout, s.cmd.Stderr, s.cmd.Env = s.said, s.said, append(os.Environ(), s.env...)
	must(s.t, s.cmd.Start())
	s.wait = make(chan error, 1)
	go func(cmd *exec.Cmd, wait chan error) { wait <- cmd.Wait() }(s.cmd, s.wait) // joined by kill
}

// kill is SIGKILL.
func (s *server) kill() {
	if s.wait == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGKILL) // it may have ended by itself
	<-s.wait                                  //nolint:errcheck // it was killed
	s.wait = nil
}

// trusts makes a client that trusts the roots in a file.
func (s *server) trusts(ca string) {
	s.t.Helper()
	text, err := os.ReadFile(ca)
	must(s.t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	s.ca, s.client = ca, &http.Client{Transport: transport, Timeout: 20 * time.Second}
	s.t.Cleanup(transport.CloseIdleConnections)
}

// asks sends one request to cosign.
func (s *server) asks(q witness.Request) (status int, body string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.url+witness.Path, bytes.NewReader(q.Marshal()))
	must(s.t, err)
	resp, err := s.client.Do(r)
	must(s.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(s.t, err)
	return resp.StatusCode, string(b)
}

func (s *server) config() appliance.WitnessServer {
	return appliance.WitnessServer{URL: s.url, Key: s.key, CAFile: s.ca}
}

// otherWitness is github.com/transparency-dev/witness, which nobody here wrote: a module of its own, built for this test.
func otherWitness(t testing.TB, logKey string) *server {
	t.Helper()
	path := filepath.Join(t.TempDir(), "other-witness")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, ".") // #nosec G204 -- our own directory
	build.Dir = filepath.Join("testdata", "other-witness")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	succeed(t, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=witness",
		"-addext", "subjectAltName=IP:127.0.0.1", "-keyout", file("key.pem"), "-out", file("cert.pem"))
	s := &server{t: t, argv: []string{path, "-cert", file("cert.pem"), "-key", file("key.pem"), "-log", logKey}}
	s.start()
	t.Cleanup(s.kill)
	said := regexp.MustCompile(`serving (https://\S+) (\S+)`)
	within(t, 20*time.Second, "the other witness", func() error {
		m := said.FindStringSubmatch(s.said.String())
		if m == nil {
			return fmt.Errorf("it says %q", s.said.String())
		}
		s.url, s.key = m[1], m[2]
		return nil
	})
	s.trusts(file("cert.pem"))
	return s
}

// neighbour is a second appliance, with its own devices and origin, which witnesses a log.
func neighbour(t *testing.T, like appliance.Config, logKey string) *server {
	t.Helper()
	dir := newDir(t)
	must(t, os.MkdirAll(dir, 0o700))
	devices := filepath.Join(dir, "devices")
	t.Setenv("SOFTHSM2_CONF", "") // devkit sets it; the test puts it back
	must(t, devkit.Make(t.Context(), devices, devkit.InSoftHSM))
	running, err := devkit.Start(t.Context(), devices)
	must(t, err)
	t.Cleanup(func() { _ = running.Stop() }) // newDir's cleanup takes what is left
	c := like
	c.Dir, c.Origin, c.Listen = dir, "neighbour.signet.example/log", freeAddress(t)
	c.PublicURL, c.TPM.Path, c.Policy = "https://"+c.Listen, running.TPMPath(), appliance.Policy{}
	for label, token := range map[string]*appliance.Token{devkit.TokenRoot: &c.Tokens.Root, devkit.TokenIssuing: &c.Tokens.Issuing, devkit.TokenAudit: &c.Tokens.Audit} {
		token.PINFile = devkit.PINFile(devices, label)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	c.Ceremony.Operator.PublicKey = pemOf("PUBLIC KEY", der)
	must(t, appliance.Init(t.Context(), c, slog.New(slog.DiscardHandler)))
	c.Witness = &appliance.Witness{Name: "neighbour.signet.example/witness", Logs: []appliance.WitnessedLog{{Key: logKey}}}
	text, err := yaml.Marshal(c)
	must(t, err)
	config := filepath.Join(dir, "signet.yaml")
	must(t, os.WriteFile(config, text, 0o600))
	s := &server{t: t, argv: []string{program("signetd"), "serve", "--config", config}, env: []string{"SOFTHSM2_CONF=" + os.Getenv("SOFTHSM2_CONF")}, url: c.PublicURL}
	s.start()
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("the neighbour said:\n%s", lastOf(s.said.String(), 1500))
		}
	})
	s.trusts(filepath.Join(dir, "pki", "root.pem"))
	s.lives()
	text, err = os.ReadFile(filepath.Join(dir, "witness", "key.txt"))
	must(t, err)
	s.key = strings.TrimSpace(string(text))
	return s
}

// lives waits until it answers with a certificate of its CA.
func (s *server) lives() {
	s.t.Helper()
	within(s.t, 40*time.Second, "the witness", func() error {
		r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.url+"/livez", nil)
		must(s.t, err)
		resp, err := s.client.Do(r)
		if err != nil {
			return fmt.Errorf("%w\n%s", err, lastOf(s.said.String(), 500))
		}
		return resp.Body.Close()
	})
}

// freeAddress is a port of loopback that was free just now.
func freeAddress(t testing.TB) string {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { must(t, ln.Close()) }()
	return ln.Addr().String()
}

// condition is a line of readyz, warnings included.
func (c *cast) condition(name string) v1.Condition {
	c.t.Helper()
	r, err := c.auditor.Ready(c.t.Context())
	must(c.t, err)
	for _, k := range r.Conditions {
		if k.Name == name {
			return k
		}
	}
	c.t.Fatalf("readyz has no condition %s", name)
	return v1.Condition{}
}

// TestWitnesses: two witnesses, a second appliance and one that is not ours, cosign the seals of an appliance, also after one of
// them was killed. Then root forks the log with the HSM's own key: neither cosigns, and the appliance learns of it.
func TestWitnesses(t *testing.T) {
	dir := made(t)
	cfg, err := appliance.LoadConfig(filepath.Join(dir, "signet.yaml"))
	must(t, err)
	audit, ok := certificate(t, string(mustRead(t, filepath.Join(dir, "pki", "audit.pem")))).PublicKey.(*ecdsa.PublicKey)
	if !ok {
		t.Fatal("the audit key is not ECDSA")
	}
	logKey, err := checkpoint.VerifierKey(cfg.Origin, audit)
	must(t, err)
	verifier, err := checkpoint.NewVerifier(cfg.Origin, audit)
	must(t, err)
	near, far := neighbour(t, cfg, logKey), otherWitness(t, logKey)
	witnesses := &appliance.Witnesses{Quorum: 2, Servers: []appliance.WitnessServer{near.config(), far.config()}}
	i := runInside(t, dir, func(c *appliance.Config) { c.Witnesses = witnesses })
	c := newCast(t, dir, i.url)
	policy, err := witness.ParsePolicy(quorum(t, logKey, near, far))
	must(t, err)
	published := func(atLeast uint64) checkpoint.Checkpoint {
		t.Helper()
		var head checkpoint.Checkpoint
		within(t, 40*time.Second, "a cosigned checkpoint", func() error {
			signed, err := c.auditor.Checkpoint(t.Context())
			must(t, err)
			v, err := policy.Judge(signed, verifier)
			must(t, err)
			head, err = checkpoint.Open(signed, verifier)
			must(t, err)
			if !v.Satisfied || head.Size < atLeast {
				return fmt.Errorf("size %d of %d, %+v; %s", head.Size, atLeast, v, c.condition("witnesses").Reason)
			}
			return nil
		})
		return head
	}
	first := published(c.size())
	within(t, 10*time.Second, "no warning", func() error {
		if k := c.condition("witnesses"); !k.OK {
			return errors.New(k.Reason)
		}
		return nil
	})
	c.cosignedEvidence(logKey, near, far)

	// A killed witness stops nothing, and goes on where it was.
	near.kill()
	_, task := c.task(c.orchestrator)
	must(t, c.works(task))
	near.start()
	near.lives()
	second := published(max(c.size(), first.Size+1))

	near.kill()
	i.stop()
	withoutQuorum(t, dir, c, witnesses, func(signed []byte) (checkpoint.Checkpoint, bool) {
		v, err := policy.Judge(signed, verifier)
		must(t, err)
		head, err := checkpoint.Open(signed, verifier)
		must(t, err)
		return head, v.Satisfied
	})
	near.start()
	near.lives()
	forge := newForger(t, cfg)
	forge.refused(second, near, far)

	// A tree that continues the known one is cosigned, whatever is in it. The appliance finds that a witness knows another one.
	again := runInside(t, dir, func(c *appliance.Config) { c.Witnesses = witnesses })
	c = c.moved(again.url)
	forge.overtakes(c, near)
	_, task = c.task(c.orchestrator)
	must(t, c.works(task))
	within(t, 60*time.Second, "an alarm", func() error {
		k := c.condition("witnesses")
		if k.OK || k.Severity != "warning" || !strings.HasPrefix(k.Reason, "conflict") {
			return fmt.Errorf("readyz says %+v", k)
		}
		return c.alarmedOnce(near)
	})
	must(t, c.works(task)) // an alarm stops nothing, and there is one more seal about which the witness says the same
	must(t, c.alarmedOnce(near))
	must(t, forge.token.Close())
	again.stop()
	fsck(t, dir)
}

// withoutQuorum: what was cosigned is published after a restart too, while it is not too old. Then evidence goes on without it.
func withoutQuorum(t *testing.T, dir string, c *cast, witnesses *appliance.Witnesses, judge func([]byte) (checkpoint.Checkpoint, bool)) {
	t.Helper()
	i := runInside(t, dir, func(c *appliance.Config) { c.Witnesses, c.Audit.MaxSealAge = witnesses, time.Hour })
	signed, err := c.moved(i.url).auditor.Checkpoint(t.Context())
	must(t, err)
	had, cosigned := judge(signed)
	if !cosigned {
		t.Errorf("after a restart\n%s", signed)
	}
	i.stop()
	i = runInside(t, dir, func(c *appliance.Config) {
		c.Witnesses, c.Audit.Heartbeat, c.Audit.MaxSealAge = witnesses, 2*time.Second, 15*time.Second
	})
	c = c.moved(i.url)
	within(t, 60*time.Second, "a checkpoint without its quorum", func() error {
		signed, err := c.auditor.Checkpoint(t.Context())
		must(t, err)
		head, cosigned := judge(signed)
		if k := c.condition("witnesses"); cosigned || head.Size <= had.Size || k.OK || k.Severity != "warning" {
			return fmt.Errorf("size %d, cosigned %v, readyz %+v", head.Size, cosigned, k)
		}
		return nil
	})
	i.stop()
}

// alarmedOnce: one entry tells of the conflict with that witness, however often it was seen.
func (c *cast) alarmedOnce(s *server) error {
	c.t.Helper()
	n := 0
	for _, e := range c.entries(0) {
		env, err := record.Check(e.raw)
		must(c.t, err)
		if env.Type != record.TypeAlarm {
			continue
		}
		body, err := record.DecodeBody[record.WitnessAlarmBody](env)
		must(c.t, err)
		if n++; body.Event != record.EventWitnessConflict || env.Code != body.Event || body.Witness != s.key {
			c.t.Errorf("another alarm: %+v", body)
		}
	}
	if n != 1 {
		return fmt.Errorf("%d alarms", n)
	}
	return nil
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

// quorum demands all of these witnesses.
func quorum(t testing.TB, logKey string, servers ...*server) []byte {
	t.Helper()
	var keys []witness.Key
	for _, s := range servers {
		k, err := witness.ParseKey(s.key)
		must(t, err)
		keys = append(keys, k)
	}
	text, err := witness.NewPolicy(logKey, keys, len(keys))
	must(t, err)
	return text
}

// cosignedEvidence: bundle and receipt satisfy an auditor who demands both witnesses, and one of them alone not one who demands a third.
func (c *cast) cosignedEvidence(logKey string, near, far *server) {
	t := c.t
	t.Helper()
	dir := t.TempDir()
	tar, err := os.Create(filepath.Join(dir, "bundle.tar"))
	must(t, err)
	must(t, errors.Join(c.auditor.Export(t.Context(), tar), tar.Close()))
	receipt, err := c.auditor.Receipt(t.Context(), 0, true)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "receipt.json"), receipt, 0o600))
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	stranger, err := witness.NewSigner("stranger.example/w", key, time.Now)
	must(t, err)
	for name, row := range map[string]struct {
		servers []*server
		code    int
	}{"both": {[]*server{near, far}, 0}, "one": {[]*server{far}, 0}, "third": {[]*server{near, far, {key: stranger.Key()}}, 1}} {
		var trust bundle.TrustFile
		must(t, yaml.Unmarshal(trustFile(t, receipt), &trust))
		trust.WitnessPolicy = string(quorum(t, logKey, row.servers...))
		text, err := trust.Marshal()
		must(t, err)
		path := filepath.Join(dir, name+".yaml")
		must(t, os.WriteFile(path, text, 0o600))
		for _, what := range [][]string{{"bundle", tar.Name()}, {"receipt", filepath.Join(dir, "receipt.json")}} {
			out, code := command(t, "", nil, program("signet-verify"), what[0], "--json", "--trust", path, what[1])
			var r bundle.Report
			must(t, json.Unmarshal([]byte(out), &r))
			if code != row.code || r.Witnesses.ForksExcluded() != (row.code == 0) || len(r.Witnesses.Cosigned) != min(len(row.servers), 2) {
				t.Errorf("%s, %s: exit %d, %+v\n%s", name, what[0], code, r.Witnesses, findings(r))
			}
		}
	}
}

// forger is root on the appliance: it has the audit key.
type forger struct {
	t      *testing.T
	origin string
	token  *hsm.Token
	key    note.Signer
}

// newForger finds SoftHSM where the last appliance in this process had it.
func newForger(t *testing.T, cfg appliance.Config) *forger {
	t.Helper()
	f := &forger{t: t, origin: cfg.Origin}
	audit := cfg.Tokens.Audit
	var err error
	f.token, err = hsm.Open(t.Context(), hsm.Config{Module: audit.Module, Token: audit.Label, PINFile: audit.PINFile}, slog.New(slog.DiscardHandler))
	must(t, err)
	key, err := f.token.Signer(t.Context(), "pkcs11:token="+audit.Label+";object=audit")
	must(t, err)
	f.key, err = checkpoint.NewSigner(cfg.Origin, key)
	must(t, err)
	return f
}

func (f *forger) sign(size uint64, root merkle.Hash) []byte {
	f.t.Helper()
	signed, err := checkpoint.Sign(checkpoint.Checkpoint{Origin: f.origin, Size: size, Root: root}, f.key)
	must(f.t, err)
	return signed
}

// refused: what the log's own key signed beside the tree that the witnesses know. The appliance stands still meanwhile.
func (f *forger) refused(known checkpoint.Checkpoint, servers ...*server) {
	f.t.Helper()
	for _, s := range servers {
		size := f.newest(s)
		if size < known.Size {
			f.t.Fatalf("%s has size %d, after %d", s.url, size, known.Size)
		}
		if status, body := s.asks(witness.Request{Old: size, Checkpoint: f.sign(size, merkle.Hash{1})}); status != http.StatusConflict && status != http.StatusUnprocessableEntity {
			f.t.Errorf("%s, fork at one size: %d %q", s.url, status, body)
		}
		for _, proof := range [][]merkle.Hash{nil, {{2}}, {{1}, known.Root}} {
			if status, body := s.asks(witness.Request{Old: size, Proof: proof, Checkpoint: f.sign(size+1, merkle.Hash{1})}); status != http.StatusUnprocessableEntity {
				f.t.Errorf("%s, fork: %d %q", s.url, status, body)
			}
		}
		if status, body := s.asks(witness.Request{Old: size - 1, Checkpoint: f.sign(size-1, merkle.Hash{1})}); status != http.StatusConflict || body != fmt.Sprintf("%d\n", size) {
			f.t.Errorf("%s, smaller: %d %q", s.url, status, body)
		}
	}
}

// newest is the size that a witness has.
func (f *forger) newest(s *server) uint64 {
	f.t.Helper()
	status, body := s.asks(witness.Request{Old: 0, Checkpoint: f.sign(1<<20, merkle.Hash{9})})
	size, err := witness.ParseSize([]byte(body))
	if status != http.StatusConflict || err != nil {
		f.t.Fatalf("%s: %d %q, %v", s.url, status, body, err)
	}
	return size
}

// overtakes has a witness cosign the tree of a running log with one more, invented leaf.
func (f *forger) overtakes(c *cast, s *server) {
	f.t.Helper()
	within(f.t, 30*time.Second, "the forged tree", func() error {
		size := f.newest(s) // what the log has sealed is there to be read
		var tree leaves
		for _, e := range c.entries(0)[:size] {
			tree = append(tree, merkle.LeafHash(e.raw))
		}
		tree = append(tree, merkle.LeafHash([]byte("an entry that the log never had")))
		proof, err := merkle.Consistency(tree, size, size+1)
		must(f.t, err)
		if status, body := s.asks(witness.Request{Old: size, Proof: proof, Checkpoint: f.sign(size+1, merkle.Root(tree, 1))}); status != http.StatusOK {
			return fmt.Errorf("%d %q", status, body) // the log was faster
		}
		return nil
	})
}

// leaves are a tree of less than one tile.
type leaves []merkle.Hash

func (l leaves) Tile(_ int, _ uint64, width int) ([]byte, error) {
	if width > len(l) || len(l) > merkle.TileWidth {
		return nil, fmt.Errorf("width %d of %d leaves", width, len(l))
	}
	var out []byte
	for _, h := range l[:width] {
		out = append(out, h[:]...)
	}
	return out, nil
}
