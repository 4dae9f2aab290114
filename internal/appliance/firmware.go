package appliance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	firmwarenotes "github.com/signet-pki/signet/firmware-notes"
	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/tpm"
)

// firmwareEvery is how often the devices are asked who they are: a firmware changes with an outage, or hardly ever.
const firmwareEvery = 10 * time.Minute

// described is a device as it describes itself, and what its keys are for in this appliance.
type described struct {
	what   string
	device firmwarenotes.Device
	uses   firmwarenotes.Use
}

func describedToken(what string, info hsm.Info) described {
	return described{what: what, uses: firmwarenotes.Signing, device: firmwarenotes.Device{
		Kind: firmwarenotes.Token, Manufacturer: info.Manufacturer, Model: info.Model, Firmware: info.Firmware, Library: info.Library,
	}}
}

// describedTPM is the TPM that quotes. Keys that issue or sign the log are in the tokens, unless the configuration has them here.
func describedTPM(info tpm.Info) described {
	v := info.Firmware
	return described{what: "tpm", uses: firmwarenotes.Attesting | firmwarenotes.Agreeing, device: firmwarenotes.Device{
		Kind: firmwarenotes.TPM, Manufacturer: info.Manufacturer, Model: info.Vendor,
		Firmware: fmt.Sprintf("%d.%d.%d.%d", v>>48, v>>32&0xffff, v>>16&0xffff, v&0xffff), // Part 2, 6.13
	}}
}

// describe asks the devices who they are.
func (d devices) describe(ctx context.Context) ([]described, error) {
	info, err := d.tpm.Info(ctx)
	if err != nil {
		return nil, err
	}
	chip := describedTPM(info)
	var out []described
	for _, r := range []struct {
		what string
		keys keyring
	}{{"token issuing", d.issuing}, {"token audit", d.audit}} {
		t, ok := r.keys.(tokenKeys)
		if !ok {
			chip.uses |= firmwarenotes.Signing
			continue
		}
		info, err := t.Info(ctx)
		if err != nil {
			return nil, err
		}
		out = append(out, describedToken(r.what, info))
	}
	return append(out, chip), nil
}

// firmware knows what the devices last said of themselves.
type firmware struct {
	ask func(context.Context) ([]described, error)

	mu    sync.Mutex
	asked time.Time
	known []described // nil: they never answered
}

// check fails where something of this verdict is known against a device.
func (f *firmware) check(v firmwarenotes.Verdict) func(context.Context) error {
	return func(ctx context.Context) error {
		known, err := f.devices(ctx)
		if err != nil {
			return err
		}
		return judged(known, v)
	}
}

// devices asks again when it is time to. Who does not answer then is what it was: whether it is there is for other
// probes to say. Who never answered is nobody.
func (f *firmware) devices(ctx context.Context) ([]described, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known != nil && time.Since(f.asked) < firmwareEvery {
		return f.known, nil
	}
	known, err := f.ask(ctx)
	switch {
	case err == nil:
		f.known = known
	case f.known == nil:
		return nil, fmt.Errorf("not known yet: %w", err)
	}
	f.asked = time.Now()
	return f.known, nil
}

// judged is nil if nothing of this verdict is known against any of the devices.
func judged(known []described, v firmwarenotes.Verdict) error {
	var reasons []string
	for _, d := range known {
		for _, f := range firmwarenotes.Judge(d.device, d.uses) {
			if f.Verdict == v {
				reasons = append(reasons, fmt.Sprintf("%s: %s (firmware-notes/%s.md)", d.what, f.Name, f.Page))
			}
		}
	}
	if len(reasons) == 0 {
		return nil
	}
	return errors.New(strings.Join(reasons, "; "))
}

// advisories are the doctor's findings about a device: what is known against its firmware, why it matters, what to do, where to read on.
func (d described) advisories() []Finding {
	var out []Finding
	for _, f := range firmwarenotes.Judge(d.device, d.uses) {
		found := Finding{ID: idFirmware, Subject: d.what, Status: Fail, What: f.Name, Why: f.Why, Fix: fmt.Sprintf("%s See firmware-notes/%s.md", sentence(f.Fix), f.Page)}
		switch f.Verdict {
		case firmwarenotes.Note:
			found.Status = Note
		case firmwarenotes.Warn:
			found.Status = Warn
		default:
		}
		out = append(out, found)
	}
	return out
}

func sentence(s string) string { return strings.TrimSuffix(s, ".") + "." }
