package appliance

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/signet-pki/signet/hsm"
)

// Checks of a PKCS#11 token and its keys.
const (
	idModule      = "hsm_module"
	idToken       = "hsm_token"
	idGenuine     = "hsm_genuine"
	idMechanisms  = "hsm_mechanisms"
	idPINFile     = "hsm_pin_file"
	idPIN         = "hsm_pin"
	idKeys        = "hsm_keys"
	idKeyExists   = "key_exists"
	idKeyUnique   = "key_unique"
	idKeyKept     = "key_kept"
	idKeyCurve    = "key_curve"
	idKeyCertPair = "key_certificate"
	idKeyUsage    = "key_usage"
	idFirmware    = "firmware"
)

const (
	tokenIssuing = "token issuing"
	tokenAudit   = "token audit"
)

// serving are the places of the keys that serving needs.
func (c *Config) serving() iter.Seq2[string, Token] {
	return func(yield func(string, Token) bool) {
		_ = yield(tokenIssuing, c.Tokens.Issuing) && yield(tokenAudit, c.Tokens.Audit)
	}
}

// certified gives the certificate of each key, by token and label, as the ceremony left them.
func (c *Config) certified() (map[string]map[string]*x509.Certificate, error) {
	t, err := c.loadTrust()
	if err != nil {
		return nil, err
	}
	audit, err := readCertificates(filepath.Join(c.pkiDir(), "audit.pem"))
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	issuing := map[string]*x509.Certificate{"jwt": t.jwt}
	for n, cert := range t.agents {
		issuing[fmt.Sprintf("agent-ca-%d", n+1)] = cert
	}
	for n, cert := range t.services {
		issuing[fmt.Sprintf("service-ca-%d", n+1)] = cert
	}
	return map[string]map[string]*x509.Certificate{tokenIssuing: issuing, tokenAudit: {"audit": audit[0]}}, nil
}

// examineToken says of each step how it went; what follows a step that failed is skipped.
func (c *Config) examineToken(ctx context.Context, subject string, t Token, certs map[string]map[string]*x509.Certificate, log *slog.Logger) []Finding {
	named := map[string]*x509.Certificate{}
	for label, cert := range certs[subject] {
		named[t.LabelPrefix+label] = cert
	}
	labels := slices.Sorted(maps.Keys(named))
	pin, pinErr := c.pin(ctx, t, nil, log)
	defer clear(pin)
	if pinErr != nil {
		pin = []byte{} // so that what the file holds is not presented in its place
	}
	e := hsm.Examine(ctx, hsm.Config{
		Module: t.Module, Token: t.Label, PINFile: c.path(t.PINFile), PIN: pin, Timeout: t.Timeout, Process: moduleProcess,
	}, labels, log.With(slog.String("token", t.Label)))
	p := patient{cfg: c, subject: subject, token: t, found: e, pinErr: pinErr}
	out := []Finding{
		p.step(hsm.StepModule, idModule, t.Module+" loads"),
		p.step(hsm.StepToken, idToken, fmt.Sprintf("%q is a %s %s, firmware %s", t.Label, e.Info.Manufacturer, e.Info.Model, e.Info.Firmware)),
		p.mechanisms(),
		p.pinFile(),
		p.step(hsm.StepLogin, idPIN, "the token takes the PIN"),
	}
	if taken, err := e.Done(hsm.StepToken); taken && err == nil {
		out = append(out, p.genuine())
		out = append(out, describedToken(subject, e.Info).advisories()...)
	}
	if len(labels) == 0 {
		return append(out, skipped(idKeys, subject, idCertificates))
	}
	if f := p.step(hsm.StepKeys, idKeys, fmt.Sprintf("%d keys were looked at", len(labels))); f.Status != Good {
		return append(out, f)
	}
	return append(out, p.keys(labels, named)...)
}

// patient is a token that was examined.
type patient struct {
	cfg     *Config
	subject string
	token   Token
	found   hsm.Examination
	pinErr  error  // why the PIN stays where it is
	failed  string // the id of the check that failed last
}

func (p *patient) step(s hsm.Step, id, fine string) Finding {
	taken, err := p.found.Done(s)
	switch {
	case !taken:
		return skipped(id, p.subject, p.failed)
	case err == nil:
		return good(id, p.subject, fine)
	}
	p.failed = id
	what := err.Error()
	if s == hsm.StepModule {
		what = p.token.Module + ": " + what
	}
	if errors.Is(err, hsm.ErrHung) {
		return bad(id, p.subject, "the module hangs: "+what, "the vendor's library does not return, and cannot be interrupted", "see to the device and its service; set isolate: true, so that the daemon can end it")
	}
	why, fix := p.advice(s, err)
	return bad(id, p.subject, what, why, fix)
}

// advice is why a step matters, and what to do where it fails.
func (p *patient) advice(s hsm.Step, err error) (why, fix string) {
	switch s {
	case hsm.StepModule:
		return "without its library no key of the token can be used", "put the path of the vendor's library into tokens.…module, and install what it needs"
	case hsm.StepToken:
		if errors.Is(err, hsm.ErrAmbiguous) {
			return "the appliance would not know whose keys it uses", "give each token a label of its own"
		}
		return "the keys are in that token and in no other", "connect it, or put its label into tokens.…label (pkcs11-tool --list-slots)"
	case hsm.StepMechanisms:
		return "the appliance signs with ECDSA on P-256 alone", "ask the vendor for it, or allow it in the device's policy"
	case hsm.StepPINFile:
		return "who can read the PIN can use the keys", "chown to the daemon's user and chmod 0600, or a systemd credential"
	case hsm.StepLogin:
		return p.pinAdvice()
	case hsm.StepKeys:
		return "what the module says of its keys makes no sense, so that nothing is known of them", "see to the device; the vendor's case if it stays"
	}
	return "", ""
}

func (p *patient) pinAdvice() (why, fix string) {
	switch pin := p.found.PIN; {
	case pin.Locked:
		return "the token takes no PIN any more", "the security officer gives it a new one (pkcs11-tool --init-pin), which goes into tokens.…pin_file; find out who tried"
	case pin.FinalTry, pin.Low:
		return "one more wrong PIN could lock the token, so that it was not presented", "log in by hand with the right PIN (pkcs11-tool --login --show-info), which resets the count; find out who tried"
	default:
		return "the daemon would present it once and give up; each try counts", "put the right PIN into tokens.…pin_file before anything tries again"
	}
}

func (p *patient) mechanisms() Finding {
	f := p.step(hsm.StepMechanisms, idMechanisms, "it makes and uses keys of P-256")
	if f.Status == Good && !slices.Contains(p.found.Info.Algorithms, hsm.P256) {
		why, fix := p.advice(hsm.StepMechanisms, nil)
		return bad(idMechanisms, p.subject, "it offers no CKM_ECDSA with CKM_EC_KEY_PAIR_GEN", why, fix)
	}
	return f
}

func (p *patient) pinFile() Finding {
	why, fix := p.advice(hsm.StepPINFile, nil)
	if p.pinErr != nil {
		p.failed = idPINFile
		return bad(idPINFile, p.subject, p.pinErr.Error(), "without the PIN no key of the token can be used", "as it says")
	}
	path, sealed := p.cfg.path(p.token.PINFile), strings.HasPrefix(p.token.PINFile, sealedPrefix)
	if sealed {
		return p.step(hsm.StepPINFile, idPINFile, "sealed to the TPM in "+path)
	}
	f := p.step(hsm.StepPINFile, idPINFile, path+" is for few to read")
	if err := p.cfg.checkSecret(path); err != nil && f.Status != Fail {
		return bad(idPINFile, p.subject, err.Error(), why, fix)
	}
	return f
}

func (p *patient) genuine() Finding {
	if !isSoftHSM(p.found.Info) {
		return good(idGenuine, p.subject, "not known as software")
	}
	return p.cfg.inDevelopment(bad(idGenuine, p.subject, "SoftHSM", "it keeps its keys in files; it is allowed with development: true only", "a hardware token"))
}

// keys says of each key the first thing that is wrong with it, and of each kind of fault that no key has it.
func (p *patient) keys(labels []string, certs map[string]*x509.Certificate) []Finding {
	var out []Finding
	faults := map[string]bool{}
	for _, label := range labels {
		if f, ok := p.key(label, certs[label].PublicKey); !ok {
			out = append(out, f)
			faults[f.ID] = true
		}
	}
	for _, kind := range []struct{ id, fine string }{
		{idKeyExists, "are there"},
		{idKeyUnique, "have labels of their own"},
		{idKeyKept, "are sensitive and not extractable"},
		{idKeyCurve, "are of P-256"},
		{idKeyUsage, "can sign and nothing else"},
		{idKeyCertPair, "belong to their certificates"},
	} {
		if !faults[kind.id] {
			out = append(out, good(kind.id, p.subject, fmt.Sprintf("%d keys: those that were found %s", len(labels), kind.fine)))
		}
	}
	return out
}

func (p *patient) key(label string, certified crypto.PublicKey) (Finding, bool) {
	found, subject := p.found.Keys[label], p.subject+", key "+label
	switch {
	case len(found) == 0:
		return bad(idKeyExists, subject, "not on the token", "nothing can be signed with it",
			"bring back the token of the ceremony, or restore its backup; without it, a new ceremony"), false
	case len(found) > 1:
		return bad(idKeyUnique, subject, "several private keys have this label", "the appliance refuses to choose",
			"find out who made the other, and delete it (pkcs11-tool --list-objects --login)"), false
	}
	k := found[0]
	if !k.Sensitive || k.Extractable {
		return bad(idKeyKept, subject, fmt.Sprintf("sensitive=%t extractable=%t", k.Sensitive, k.Extractable), "the token hands it out: copies may exist",
			"treat it as stolen: a new ceremony, with keys that the token makes"), false
	}
	algorithm, public, err := k.Key()
	switch {
	case errors.Is(err, hsm.ErrUnsupported), err == nil && algorithm != hsm.P256:
		return bad(idKeyCurve, subject, "not a key of P-256: "+kindOf(algorithm, err), "the appliance signs with P-256 alone",
			"bring back the token of the ceremony: this key is not of it"), false
	case !slices.Equal(k.Uses, []string{"sign"}):
		return bad(idKeyUsage, subject, "it can: "+strings.Join(k.Uses, ", "), "a key that signs and does something else can be abused for one by way of the other",
			"have its other uses taken away, or hold a new ceremony"), false
	case err != nil:
		return bad(idKeyCertPair, subject, "its public half cannot be read: "+err.Error(), "whether it is the certified key is not known",
			"restore the public key object beside it"), false
	case !same(public, certified):
		return bad(idKeyCertPair, subject, "another key than that of "+label+".pem", "what it signs verifies nowhere",
			"bring back the token of the ceremony, or the certificate that belongs to it"), false
	}
	return Finding{}, true
}

func kindOf(a hsm.Algorithm, err error) string {
	if err != nil {
		return err.Error()
	}
	return a.String()
}

func same(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
