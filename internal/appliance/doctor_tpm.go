package appliance

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	firmwarenotes "github.com/signet-pki/signet/firmware-notes"
	"github.com/signet-pki/signet/tpm"
	"github.com/signet-pki/signet/tpm/quote"
)

// Checks of the TPM.
const (
	idTPM         = "tpm"
	idTPMAccess   = "tpm_access"
	idTPMGenuine  = "tpm_genuine"
	idTPMEK       = "tpm_ek"
	idTPMEKChain  = "tpm_ek_chain"
	idTPMCleared  = "tpm_cleared"
	idTPMAK       = "tpm_ak"
	idTPMCounter  = "tpm_counter"
	idTPMClear    = "tpm_clear_control"
	idTPMAuth     = "tpm_hierarchies"
	idTPMLockout  = "tpm_lockout"
	idTPMNV       = "tpm_nv"
	idTPMClock    = "tpm_clock"
	idTPMPCRs     = "tpm_pcrs"
	idCeremony    = "ceremony"
	subjectTPM    = "tpm"
	lostWithClear = "the log can never be sealed again: keep DIR as evidence and hold a new ceremony"
)

func (c *Config) examineTPM(ctx context.Context, certs map[string]map[string]*x509.Certificate, log *slog.Logger) []Finding {
	out := []Finding{c.examineAccess()}
	if out[0].Status == Fail {
		return append(out, skipped(idTPM, c.TPM.Path, idTPMAccess))
	}
	binding, err := c.readBinding()
	if err != nil {
		return append(out, bad(idCeremony, c.pkiDir(), err.Error(), "the appliance knows its TPM by what the ceremony wrote", "signetd init, or restore pki"),
			skipped(idTPM, c.TPM.Path, idCeremony))
	}
	dev, err := c.openTPM(ctx, binding, log)
	if err != nil {
		return append(out, tpmAway(c.TPM.Path, err))
	}
	defer dev.Close() //nolint:errcheck // looked at only
	info, infoErr := dev.Info(ctx)
	health, err := dev.Health(ctx)
	if err := errors.Join(infoErr, err); err != nil {
		return append(out, tpmAway(c.TPM.Path, err))
	}
	chip := describedTPM(info)
	if c.Tokens.servedByTPM() {
		chip.uses |= firmwarenotes.Signing
	}
	out = append(out, good(idTPM, c.TPM.Path, fmt.Sprintf("%s %s, firmware %s", info.Manufacturer, info.Vendor, chip.device.Firmware)), c.genuineTPM(info))
	out = append(out, chip.advisories()...)
	out = append(out, c.examineIdentity(ctx, dev, binding, health)...)
	out = append(out, examineHealth(health)...)
	out = append(out, c.examineHeld(ctx, dev, certs)...)
	return append(out, c.examinePCRs(ctx, dev))
}

// examineHeld looks whether each key that the configuration has in the TPM is there, and has its certificate.
func (c *Config) examineHeld(ctx context.Context, dev *tpm.Device, certs map[string]map[string]*x509.Certificate) []Finding {
	var out []Finding
	for subject, t := range c.serving() {
		if !t.TPM {
			continue
		}
		chip, err := c.openChip(strings.TrimPrefix(subject, "token "), t, dev)
		if err != nil {
			out = append(out, bad(idPINFile, subject, err.Error(), "without it no key in the TPM can be used", "the file of tokens.…pin_file"))
			continue
		}
		out = append(out, heldKeys(ctx, chip, subject, certs[subject])...)
	}
	return out
}

func heldKeys(ctx context.Context, chip *chipKeys, subject string, certs map[string]*x509.Certificate) []Finding {
	if len(certs) == 0 {
		return []Finding{skipped(idKeys, subject, idCertificates)}
	}
	var out []Finding
	for _, label := range slices.Sorted(maps.Keys(certs)) {
		switch key, err := chip.key(ctx, label); {
		case err != nil:
			out = append(out, bad(idKeyExists, subject+", key "+label, err.Error(), "nothing can be signed with it",
				"bring back DIR/keys and the TPM of the ceremony; without them, a new ceremony"))
		case !same(key.Public(), certs[label].PublicKey):
			out = append(out, bad(idKeyCertPair, subject+", key "+label, "another key than that of "+label+".pem", "what it signs verifies nowhere",
				"bring back DIR/keys of the ceremony, or the certificate that belongs to it"))
		}
	}
	if len(out) == 0 {
		out = append(out, good(idKeys, subject, fmt.Sprintf("%d keys are in the TPM, and belong to their certificates", len(certs))))
	}
	return out
}

func tpmAway(path string, err error) Finding {
	what := err.Error()
	if errors.Is(err, tpm.ErrTimeout) {
		what = "the TPM hangs: " + what
	}
	return bad(idTPM, path, what, "without it the log is not sealed, and nothing is issued",
		"see that tpm.path is right, that the daemon's user may open it, and that no other program keeps a TPM that has no resource manager")
}

func (c *Config) genuineTPM(info tpm.Info) Finding {
	if !info.Simulated {
		return good(idTPMGenuine, subjectTPM, "not known as software")
	}
	return c.inDevelopment(bad(idTPMGenuine, subjectTPM, "a software or virtual TPM", "its state can be copied back; it is allowed with development: true only", "a TPM of the machine"))
}

// examineAccess looks at who may open the TPM: whoever can, can sign and count.
func (c *Config) examineAccess() Finding {
	path := strings.TrimPrefix(c.TPM.Path, "unix:")
	info, err := os.Stat(path)
	if err != nil {
		return bad(idTPMAccess, path, err.Error(), "there is no TPM", "put its path into tpm.path: /dev/tpmrm0")
	}
	if info.Mode().Perm()&0o002 != 0 {
		return bad(idTPMAccess, path, fmt.Sprintf("mode %04o: everybody may use it", info.Mode().Perm()), "whoever can open the TPM can move the counter and remove the keys",
			"chmod o-rwx, and a group for the daemon's user")
	}
	return good(idTPMAccess, path, "not for everybody")
}

// examineIdentity tells a TPM that is another, one that was cleared, and one whose key or counter was taken or exchanged.
func (c *Config) examineIdentity(ctx context.Context, dev *tpm.Device, ceremony quote.Binding, h tpm.Health) []Finding {
	ek, ekErr := dev.EK(ctx)
	if ekErr == nil && !bytes.Equal(ek.Public, ceremony.EKPublic) {
		return []Finding{
			bad(idTPMEK, subjectTPM, "tpm_swapped: the endorsement key is not that of the ceremony's TPM", "another TPM, or another board", "bring the old one back; if it is lost, "+lostWithClear),
			skipped(idTPMEKChain, subjectTPM, idTPMEK), skipped(idTPMCleared, subjectTPM, idTPMEK), skipped(idTPMAK, subjectTPM, idTPMEK), skipped(idTPMCounter, subjectTPM, idTPMEK),
		}
	}
	var out []Finding
	if ekErr != nil {
		out = append(out, unreadEK(ekErr, h), skipped(idTPMEKChain, subjectTPM, idTPMEK))
	} else {
		out = append(out, good(idTPMEK, subjectTPM, "the endorsement key of the ceremony"), c.examineMaker(ek))
	}
	_, akErr := dev.LoadAK(ctx)
	_, counterErr := dev.LoadCounter(ctx)
	if errors.Is(akErr, tpm.ErrNoAK) && errors.Is(counterErr, tpm.ErrNoCounter) {
		return append(out, bad(idTPMCleared, subjectTPM, "tpm_cleared: attestation key and counter are gone", "somebody cleared the TPM, by TPM2_Clear or in the firmware's menu", "find out who; "+lostWithClear),
			skipped(idTPMAK, subjectTPM, idTPMCleared), skipped(idTPMCounter, subjectTPM, idTPMCleared))
	}
	return append(out, good(idTPMCleared, subjectTPM, "not cleared"), examineAK(akErr), examineCounter(ctx, dev, counterErr))
}

func unreadEK(err error, h tpm.Health) Finding {
	f := bad(idTPMEK, subjectTPM, "the endorsement key cannot be read: "+err.Error(), "it tells this TPM from every other", "see to the TPM")
	if h.EndorsementAuth {
		f.Status, f.Fix = Warn, "the endorsement hierarchy has an authorisation: take it away for this look (tpm2_changeauth -c e)"
	}
	return f
}

func examineAK(err error) Finding {
	const why = "seals are signed with the key that the ceremony certified"
	switch {
	case err == nil:
		return good(idTPMAK, subjectTPM, "the attestation key of the ceremony")
	case errors.Is(err, tpm.ErrNoAK):
		return bad(idTPMAK, subjectTPM, "tpm_ak_missing: somebody removed the attestation key, and nothing else", why, "find out who; operations.md, The TPM, tells how to make it again")
	case errors.Is(err, tpm.ErrChanged), errors.Is(err, tpm.ErrUnsuitable):
		return bad(idTPMAK, subjectTPM, "tpm_replaced: "+err.Error(), why, "find out who put another key there")
	default:
		return bad(idTPMAK, subjectTPM, err.Error(), why, "see to the TPM")
	}
}

func examineCounter(ctx context.Context, dev *tpm.Device, err error) Finding {
	const why = "the counter is what keeps the log from being put back"
	var state tpm.State
	if err == nil {
		state, err = dev.State(ctx)
	}
	switch {
	case err == nil:
		return good(idTPMCounter, subjectTPM, fmt.Sprintf("the counter of the ceremony, at %d; boot %d.%d", state.Counter, state.Reset, state.Restart))
	case errors.Is(err, tpm.ErrNoCounter):
		return bad(idTPMCounter, subjectTPM, "tpm_counter_missing: somebody deleted the counter, and nothing else", why, "find out who; operations.md, The TPM, tells what is left to do")
	case errors.Is(err, tpm.ErrChanged), errors.Is(err, tpm.ErrUnsuitable):
		return bad(idTPMCounter, subjectTPM, "tpm_replaced: "+err.Error(), why, "find out who put another index there")
	default:
		return bad(idTPMCounter, subjectTPM, err.Error(), why, "see to the TPM")
	}
}

// examineMaker verifies the endorsement key's certificate against the makers that the configuration names.
func (c *Config) examineMaker(ek tpm.EK) Finding {
	const why = "only its maker's certificate tells a TPM from a program that plays one"
	if c.TPM.EKRootsFile == "" {
		return warned(idTPMEKChain, subjectTPM, "the configuration names no maker", why, "put the maker's certificates into tpm.ek_roots_file")
	}
	roots, intermediates, err := c.readMakers("tpm.ek_roots_file", c.TPM.EKRootsFile)
	if err != nil {
		return bad(idTPMEKChain, subjectTPM, err.Error(), why, "PEM certificates: the maker's root and what is between")
	}
	if ek.Certificate == nil {
		return bad(idTPMEKChain, subjectTPM, "the TPM holds no certificate for its endorsement key", why, "ask its maker, or leave tpm.ek_roots_file out")
	}
	maker, err := quote.VerifyEK(ek.Certificate, ek.Public, quote.EKRoots{Roots: roots, Intermediates: intermediates, At: time.Now()})
	if err != nil {
		return bad(idTPMEKChain, subjectTPM, err.Error(), why, "if the maker is one to believe, put its certificates into tpm.ek_roots_file; else do not use this TPM")
	}
	return good(idTPMEKChain, subjectTPM, fmt.Sprintf("certified by a named maker: %s %s", maker.Manufacturer, maker.Model))
}

func examineHealth(h tpm.Health) []Finding {
	set := func(on bool) string {
		if on {
			return "set"
		}
		return "empty"
	}
	out := []Finding{
		good(idTPMClear, subjectTPM, "only the firmware can clear it"),
		good(idTPMAuth, subjectTPM, fmt.Sprintf("authorisations: owner %s, endorsement %s, lockout %s", set(h.OwnerAuth), set(h.EndorsementAuth), set(h.LockoutAuth))),
	}
	if !h.ClearDisabled && !h.LockoutAuth {
		out[0] = warned(idTPMClear, subjectTPM, "whoever may use it can clear it", "a clear begins the counter anew, under the same name", "tpm2_clearcontrol -C l s")
	} else if !h.ClearDisabled {
		out[0] = Finding{ID: idTPMClear, Subject: subjectTPM, Status: Note, What: "who knows the lockout authorisation can clear it"}
	}
	return append(out, examineLockout(h), examineNV(h), examineTPMClock(h))
}

func examineLockout(h tpm.Health) Finding {
	const why = "somebody tried authorisations in this TPM; objects that count such tries are then refused to everybody"
	const fix = "find out who; tpm2_dictionarylockout --clear-lockout"
	tries := fmt.Sprintf("%d of %d failed authorisations", h.AuthFailures, h.MaxAuthFailures)
	switch {
	case h.InLockout:
		return bad(idTPMLockout, subjectTPM, "locked out: "+tries, why, fix)
	case h.AuthFailures > 0:
		return warned(idTPMLockout, subjectTPM, tries, why, fix)
	default:
		return good(idTPMLockout, subjectTPM, tries)
	}
}

// examineNV tells what is left. No property tells how often the flash was written.
func examineNV(h tpm.Health) Finding {
	what := fmt.Sprintf("%d persistent keys, room for %d; %d counters", h.Persistent, h.PersistentLeft, h.Counters)
	if h.CountersLimited {
		what += fmt.Sprintf(", room for %d", h.CountersLeft)
	}
	if h.PersistentLeft == 0 || h.CountersLimited && h.CountersLeft == 0 {
		return warned(idTPMNV, subjectTPM, what, "a new key or counter would find no place", "take away what nobody uses: tpm2_getcap handles-persistent, tpm2_evictcontrol")
	}
	return good(idTPMNV, subjectTPM, what)
}

func examineTPMClock(h tpm.Health) Finding {
	if h.ClockSafe {
		return good(idTPMClock, subjectTPM, "safe")
	}
	return Finding{ID: idTPMClock, Subject: subjectTPM, Status: Note, What: "not safe: it lost power, and its clock may have gone back; seals are ordered by counter and boot"}
}

func (c *Config) examinePCRs(ctx context.Context, dev *tpm.Device) Finding {
	if err := c.TPM.checkPCRs(ctx, dev); err != nil {
		return bad(idTPMPCRs, subjectTPM, err.Error(), "the machine booted something else than it should, and nothing is issued", "find out what changed; then tpm.pcr_values")
	}
	return good(idTPMPCRs, subjectTPM, "tpm.pcr_values accepts the registers, or names none")
}
