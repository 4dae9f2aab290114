package appliance

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/custody"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/internal/backup"
	"github.com/signet-pki/signet/internal/testrig/custodian"
)

// vault is an appliance with custodians, two of three, on SoftHSM and swtpm.
type vaulted struct {
	*ward
	people []custodian.Custodian
	keys   []*age.X25519Identity
	work   string // for files of people
}

func newVaulted(t *testing.T) *vaulted {
	t.Helper()
	v := &vaulted{ward: newWard(t), work: t.TempDir()}
	v.cfg.Listen = "127.0.0.1:0"
	v.cfg.Tokens.Issuing.Module = v.hsm.Module()
	v.cfg.IdentityProviders = []IdentityProvider{{Name: "nobody", Issuer: "https://idp.invalid", ClientID: "signet"}} // nobody consents here
	v.cfg.PublicURL, v.cfg.Names = "https://localhost:8443", Names{DNS: []string{"localhost"}}
	var members []custody.Custodian
	for _, name := range []string{"alice", "bob", "carol"} {
		id, err := age.GenerateX25519Identity()
		must(t, err)
		p := custodian.New(t, name, "ed25519")
		p.Recipient = id.Recipient().String()
		v.people, v.keys, members = append(v.people, p), append(v.keys, id), append(members, p.Custodian)
	}
	set, err := custody.NewSet(2, members)
	must(t, err)
	v.begin(set)
	return v
}

// begin has the log begin with custodians.
func (v *vaulted) begin(set custody.Set) {
	t := v.t
	t.Helper()
	d, err := v.cfg.openDevices(t.Context(), slog.New(slog.DiscardHandler))
	must(t, err)
	defer func() { must(t, d.Close()) }()
	cfg := v.auditConfig(d)
	l, err := audit.Open(t.Context(), cfg)
	must(t, err)
	first, err := l.Read(t.Context(), 0)
	must(t, errors.Join(err, l.Close()))
	env, err := record.Check(first.Envelope)
	must(t, err)
	body, err := record.DecodeBody[record.Ceremony](env)
	must(t, err)
	body.Custodians, err = set.Marshal()
	must(t, err)
	zero, err := entryOf(record.TypeCeremony, time.Now(), body)
	must(t, err)
	zero.Mutations = []record.Mutation{delegation.KnownPolicy(body.PolicyDigest)}
	certs, err := readCertificates(filepath.Join(v.cfg.pkiDir(), "operator.pem"))
	must(t, err)
	services, err := v.cfg.loadSeries("service-ca")
	must(t, err)
	operator, err := delegation.FirstOperator(certs[0], services[0], time.Now())
	must(t, err)
	must(t, os.RemoveAll(cfg.Dir))
	must(t, audit.Create(t.Context(), cfg, []record.Entry{zero, v.agreed(set), operator}))
}

// agreed is the act of a ceremony.
func (v *vaulted) agreed(set custody.Set) record.Entry {
	v.t.Helper()
	at := time.Now().Truncate(time.Second)
	text, err := custody.Act{
		Kind: custody.Init, ID: "00112233445566778899aabbccddeeff", Origin: v.cfg.Origin, Custodians: set.ID(), Created: at, NotAfter: at.Add(time.Hour),
		Detail: json.RawMessage("{}"),
	}.Marshal()
	must(v.t, err)
	e, err := entryOf(record.TypeAct, at, record.Act{Act: text, Signatures: [][]byte{v.people[0].Sign(v.t, text), v.people[1].Sign(v.t, text)}})
	must(v.t, err)
	return e
}

func (v *vaulted) auditConfig(d devices) audit.Config {
	v.t.Helper()
	key, err := d.audit.key(v.t.Context(), "audit")
	must(v.t, err)
	indexKey, err := os.ReadFile(v.cfg.indexKey())
	must(v.t, err)
	return v.cfg.auditConfig(key, quoter{d.tpm}, indexKey, time.Now, slog.New(slog.DiscardHandler))
}

// live is a running appliance.
type live struct {
	*Appliance
	t    *testing.T
	stop func()
}

func (v *vaulted) run() *live {
	t := v.t
	t.Helper()
	a, err := New(t.Context(), v.cfg, Options{Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, ln) }()
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Errorf("stop: %v", err)
			}
		}
	}
	t.Cleanup(stop)
	wait, ended := context.WithTimeout(t.Context(), time.Minute)
	defer ended()
	must(t, a.WaitReady(wait))
	return &live{a, t, stop}
}

func operatorCaller(t *testing.T) delegation.Caller {
	t.Helper()
	id, err := chain.NamedID("ward.signet.example", chain.Operator, "admin")
	must(t, err)
	return delegation.Caller{ID: id, Role: delegation.RoleOperator}
}

func csrPEM(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{}}, key)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func (a *live) service(name string) []*x509.Certificate {
	a.t.Helper()
	out, err := a.domain.Register(a.t.Context(), operatorCaller(a.t), chain.Service, delegation.Registration{Name: name, CSR: csrPEM(a.t)})
	must(a.t, err)
	certs := certsOf(a.t, out.Issued.Chain)
	a.kept(certs[0])
	return certs
}

// kept waits until a certificate is stored, which is a moment after it was released.
func (a *live) kept(cert *x509.Certificate) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), time.Minute)
	defer cancel()
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		if _, ok, err := a.domain.Certificate(chain.TBSHash(cert)); err != nil || ok {
			tick.Stop()
			must(a.t, err)
			return
		}
		select {
		case <-ctx.Done():
			a.t.Fatal("the certificate was not stored")
		case <-tick.C:
		}
	}
}

func (a *live) orchestrator(name string) []*x509.Certificate {
	a.t.Helper()
	out, err := a.domain.Register(a.t.Context(), operatorCaller(a.t), chain.Orchestrator, delegation.Registration{Name: name, AgentTypes: []string{"research"}})
	must(a.t, err)
	issued, err := a.domain.Attest(a.t.Context(), delegation.Attestation{Name: name, Method: delegation.MethodJoinToken, Token: out.JoinToken, CSR: csrPEM(a.t)})
	must(a.t, err)
	return certsOf(a.t, issued.Chain)
}

func certsOf(t *testing.T, ders [][]byte) (out []*x509.Certificate) {
	t.Helper()
	for _, der := range ders {
		cert, err := x509.ParseCertificate(der)
		must(t, err)
		out = append(out, cert)
	}
	return out
}

// backup gives the file's path.
func (v *vaulted) backup(name string) string {
	v.t.Helper()
	path := filepath.Join(v.work, name)
	must(v.t, Backup(v.t.Context(), v.cfg, path, io.Discard, slog.New(slog.DiscardHandler)))
	return path
}

// lose takes the directory away, and gives where it is.
func (v *vaulted) lose() string {
	v.t.Helper()
	lost := filepath.Join(v.t.TempDir(), "lost")
	must(v.t, os.Rename(v.cfg.Dir, lost))
	must(v.t, os.Mkdir(v.cfg.Dir, 0o700))
	return lost
}

// propose gives what a restore takes, agreed to by custodians 0 and 2, who took off their layers.
func (v *vaulted) propose(file string) RestoreOptions {
	t := v.t
	t.Helper()
	dir := filepath.Join(v.work, "proposal-"+time.Now().Format("150405.000000"))
	must(t, ProposeRestore(t.Context(), v.cfg, file, dir, io.Discard, slog.New(slog.DiscardHandler)))
	o := RestoreOptions{Backup: file, Act: filepath.Join(dir, "act.json"), Identity: filepath.Join(dir, "identity")}
	act, err := os.ReadFile(o.Act)
	must(t, err)
	for _, n := range []int{0, 2} {
		path := filepath.Join(dir, v.people[n].Name+".sig")
		must(t, os.WriteFile(path, v.people[n].Sign(t, act), 0o600))
		o.Approvals = append(o.Approvals, path)
	}
	text, err := os.ReadFile(filepath.Join(dir, "layers-1-3.age"))
	must(t, err)
	for _, n := range []int{0, 2} {
		r, err := age.Decrypt(bytes.NewReader(text), v.keys[n])
		must(t, err)
		text, err = io.ReadAll(r)
		must(t, err)
	}
	must(t, os.WriteFile(o.Identity, text, 0o600))
	return o
}

func (v *vaulted) restore(o RestoreOptions) error {
	return Restore(v.t.Context(), v.cfg, o, io.Discard, slog.New(slog.DiscardHandler))
}

func (v *vaulted) fsck() {
	v.t.Helper()
	var out bytes.Buffer
	if err := Fsck(v.t.Context(), v.cfg, &out, slog.New(slog.DiscardHandler)); err != nil {
		v.t.Errorf("fsck: %v\n%s", err, out.String())
	}
}

// A backup of the running appliance, the loss of its disk, and a restore: what was in force is, what was begun is not, and the log has an
// origin of its own that tells where it comes from. Once more, from a backup of that.
func TestRestore(t *testing.T) {
	v := newVaulted(t)
	a := v.run()
	records, research, gone := a.service("records"), a.orchestrator("research"), a.service("gone")
	_, err := a.domain.Revoke(t.Context(), operatorCaller(t), delegation.RevokeRequest{Kind: chain.RevCertificate, ID: chain.Serial(gone[0]), Reason: "stolen"})
	must(t, err)
	a.orchestrator("dismissed")
	_, err = a.domain.Revoke(t.Context(), operatorCaller(t), delegation.RevokeRequest{Kind: chain.RevOrchestrator, ID: "dismissed"})
	must(t, err)
	pending, err := a.domain.Register(t.Context(), operatorCaller(t), chain.Orchestrator, delegation.Registration{Name: "pending"})
	must(t, err)
	epoch := a.domain.Revocations(delegation.Cursor{}, 1).Next.Epoch

	file := v.backup("backup")
	late := a.service("late")
	a.stop()
	before := v.bundle(v.exported(v.cfg, filepath.Join(v.lose(), "log")))

	if _, err := New(t.Context(), v.cfg, Options{Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Fatal("an empty directory serves")
	}
	v.cfg.Origin += "/2"
	must(t, v.restore(v.propose(file)))
	v.fsck()
	a = v.run()
	v.tells(a, file, "ward.signet.example/log")
	if c, err := a.domain.Authenticate(records); err != nil || c.ID.Name() != "records" {
		t.Errorf("a service that was registered: %v", err)
	}
	for what, certs := range map[string][]*x509.Certificate{
		"revoked before": gone, "registered after the backup": late, "an orchestrator from before": research,
	} {
		if _, err := a.domain.Authenticate(certs); err == nil {
			t.Errorf("%s: authenticated", what)
		}
	}
	if _, err := a.domain.Attest(t.Context(), delegation.Attestation{Name: "pending", Method: delegation.MethodJoinToken, Token: pending.JoinToken, CSR: csrPEM(t)}); err == nil {
		t.Error("a token from before was redeemed")
	}
	page := a.domain.Revocations(delegation.Cursor{}, 100)
	if page.Next.Epoch != epoch+1 || len(page.Revocations) != 4 || // with the certificates of both orchestrators
		page.Revocations[0].Kind != chain.RevCertificate || page.Revocations[0].Reason != "stolen" || page.Revocations[1].ID != "dismissed" {
		t.Errorf("revocations %+v, epoch was %d", page, epoch)
	}
	again := v.backup("backup.2")
	a.stop()
	v.story(before, v.bundle(v.exported(v.cfg, v.cfg.logDir())))
	v.lose()
	v.rig.Stop() // the former log does not go on with a device entry about it
	v.rig.Restart()
	v.cfg.Origin = "ward.signet.example/log/3"
	must(t, v.restore(v.propose(again)))
	v.fsck()
	a = v.run()
	v.tells(a, again, "ward.signet.example/log/2")
	if _, err := a.domain.Authenticate(records); err != nil {
		t.Errorf("a service from the first log: %v", err)
	}
	if got := a.domain.Revocations(delegation.Cursor{}, 100); got.Next.Epoch != epoch+2 || len(got.Revocations) != 4 {
		t.Errorf("revocations %+v", got)
	}
	a.stop()
}

// exported writes the bundle of a log that is not open.
func (v *vaulted) exported(c Config, dir string) string {
	t := v.t
	t.Helper()
	home := filepath.Dir(dir)
	c.staged = home
	cfg, err := c.formerConfig(dir, c.Origin, slog.New(slog.DiscardHandler))
	must(t, err)
	l, err := audit.Open(t.Context(), cfg)
	must(t, err)
	var out bytes.Buffer
	must(t, errors.Join(c.writeFormer(t.Context(), l, &out), l.Close()))
	return v.file("bundle.tar", out.String())
}

func (v *vaulted) bundle(path string) fs.FS {
	t := v.t
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { must(t, f.Close()) })
	info, err := f.Stat()
	must(t, err)
	files, err := bundle.OpenTar(f, info.Size())
	must(t, err)
	return files
}

// story verifies both logs, the one that went on after the backup first.
func (v *vaulted) story(former, successor fs.FS) {
	t := v.t
	t.Helper()
	s, err := bundle.VerifySuccession(t.Context(), former, successor, bundle.Options{})
	must(t, err)
	if !s.Valid || s.Citation == nil || s.Lost == 0 {
		text, _ := json.MarshalIndent(s, "", " ")
		t.Errorf("the story of both: %s", text)
	}
	if s, err := bundle.VerifySuccession(t.Context(), successor, former, bundle.Options{}); err != nil || s.Valid {
		t.Errorf("the reverse is valid, %v", err)
	}
}

// tells looks at leaf 0 and 1.
func (v *vaulted) tells(a *live, file, previous string) {
	t := v.t
	t.Helper()
	first, err := a.log.Read(t.Context(), 0)
	must(t, err)
	env, err := record.Check(first.Envelope)
	must(t, err)
	body, err := record.DecodeBody[record.Ceremony](env)
	must(t, err)
	b, err := backup.Open(file)
	must(t, err)
	defer func() { must(t, b.Close()) }()
	head, err := headOf(b.Description().Checkpoint)
	must(t, err)
	r := body.Restored
	if body.Origin != v.cfg.Origin || body.Previous != previous || r == nil || r.Size != head.Size || !bytes.Equal(r.Checkpoint, b.Description().Checkpoint) ||
		r.Sealed == nil || r.Found.Reset == r.Sealed.Reset && r.Found.Counter <= r.Sealed.Counter {
		t.Errorf("leaf 0 says %+v", body)
	}
	second, err := a.log.Read(t.Context(), 1)
	must(t, err)
	if env, err := record.Check(second.Envelope); err != nil || env.Type != record.TypeAct {
		t.Errorf("leaf 1 is %v, %v", env.Type, err)
	}
}

// refused wants an error with a word, and nothing in the directory.
func (v *vaulted) refused(what string, o RestoreOptions, word string) {
	v.t.Helper()
	err := v.restore(o)
	if err == nil || !strings.Contains(err.Error(), word) {
		v.t.Errorf("%s: %v, want %q", what, err, word)
	}
	entries, err := os.ReadDir(v.cfg.Dir)
	must(v.t, err)
	for _, e := range entries {
		if e.Name() != "restore.lock" {
			v.t.Errorf("%s leaves %s", what, e.Name())
		}
	}
}

func TestRestoreRefuses(t *testing.T) {
	v := newVaulted(t)
	a := v.run()
	a.service("records")
	a.stop()
	file := v.backup("backup") // of an appliance that is stopped
	if err := Backup(t.Context(), v.cfg, file, io.Discard, slog.New(slog.DiscardHandler)); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second backup of one name: %v", err)
	}
	origin := v.cfg.Origin
	for _, next := range []string{origin, origin + "/1", origin + "/02", origin + "/x", "other/log/2"} {
		v.cfg.Origin = next
		if err := ProposeRestore(t.Context(), v.cfg, file, filepath.Join(v.work, "p"), io.Discard, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "origin") {
			t.Errorf("origin %q: %v", next, err)
		}
	}
	v.cfg.Origin = origin + "/2"
	good := v.propose(file)
	if err := v.restore(good); err == nil || !strings.Contains(err.Error(), "never overwrites") {
		t.Errorf("over an appliance: %v", err)
	}
	lost := v.lose()

	o := good
	o.Approvals = good.Approvals[:1]
	v.refused("one custodian", o, "too few custodians")
	o.Approvals = []string{good.Approvals[0], good.Approvals[0]}
	v.refused("one custodian twice", o, "too few custodians")
	o = good
	o.Identity = v.file("identity", v.keys[0].String()+"\n")
	v.refused("a custodian's own key", o, "not an intact backup")
	text, err := os.ReadFile(file)
	must(t, err)
	for _, at := range []int{0, 600, len(text) / 3, len(text) / 2, len(text) - 1600, len(text) - 1} {
		flipped := bytes.Clone(text)
		flipped[at] ^= 4
		o = good
		o.Backup = v.file("flipped", string(flipped))
		v.refused("a flipped byte", o, "backup")
	}
	o = good
	o.Backup = v.file("cut", string(text[:len(text)-5000]))
	v.refused("cut off", o, "backup")
	v.cfg.Origin = origin + "/3"
	v.refused("another origin than was agreed", good, "origin")
	v.cfg.Origin = origin + "/2"

	// What a killed run left is begun anew.
	must(t, os.Mkdir(filepath.Join(v.cfg.Dir, stagedName), 0o700))
	must(t, os.WriteFile(filepath.Join(v.cfg.Dir, stagedName, "half"), nil, 0o600))
	if _, err := New(t.Context(), v.cfg, Options{Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "a restore has not ended") {
		t.Errorf("half restored: %v", err)
	}
	must(t, v.restore(good))
	v.fsck()

	// The act is used, also for another copy of the directory.
	restored := v.lose()
	v.refused("an act that was used", good, "the act is used")

	// What was complete but for being moved is moved.
	staged := filepath.Join(v.cfg.Dir, stagedName)
	must(t, os.Mkdir(staged, 0o700))
	for i, name := range []string{"pki", "index.key", "log.1", "log"} {
		to := staged
		if i < 2 {
			to = v.cfg.Dir
		}
		must(t, os.Rename(filepath.Join(restored, name), filepath.Join(to, name)))
	}
	must(t, os.WriteFile(filepath.Join(staged, readyName), nil, 0o600))
	must(t, v.restore(RestoreOptions{}))
	v.fsck()
	out := filepath.Join(v.work, "former.tar")
	must(t, ExportFormer(t.Context(), v.cfg, 1, origin, out, slog.New(slog.DiscardHandler)))
	if r, err := bundle.Verify(t.Context(), v.bundle(out), bundle.Options{}); err != nil || !r.Valid || r.Origin != origin {
		t.Errorf("the former log's bundle: %+v, %v", r.Failed(), err)
	}

	v.copied(lost)
}

// copied: the former log, put back by hand, does not go on beside its successor.
func (v *vaulted) copied(lost string) {
	t := v.t
	t.Helper()
	a := v.run() // which seals, and so moves the counter
	a.stop()
	d, err := v.cfg.openDevices(t.Context(), slog.New(slog.DiscardHandler))
	must(t, err)
	defer func() { must(t, d.Close()) }()
	cfg := v.auditConfig(d)
	cfg.Dir, cfg.Origin = filepath.Join(lost, "log"), strings.TrimSuffix(cfg.Origin, "/2")
	l, err := audit.Open(t.Context(), cfg)
	must(t, err)
	defer func() { must(t, l.Close()) }()
	if st := l.Status(); st.Writable || len(st.Reasons) == 0 || !strings.HasPrefix(st.Reasons[0], "tpm_counter") {
		t.Errorf("the former log goes on: %+v", st)
	}
}

func TestBackupNeedsCustodians(t *testing.T) {
	w := newWard(t)
	w.cfg.Tokens.Issuing.Module = w.hsm.Module()
	err := Backup(t.Context(), w.cfg, filepath.Join(t.TempDir(), "backup"), io.Discard, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "no_custodians") {
		t.Errorf("got %v", err)
	}
}
