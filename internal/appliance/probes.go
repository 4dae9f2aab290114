package appliance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
	firmwarenotes "github.com/signet-pki/signet/firmware-notes"
)

// fewCAs is the number of pre-signed CAs left at which the appliance asks for a ceremony.
const fewCAs = 2

// probes are what readiness means.
func (a *Appliance) probes(c *certifier, now func() time.Time) []probe {
	notes := &firmware{ask: a.devices.describe}
	out := []probe{
		{name: "hsm_issuing", check: a.devices.issuing.Check},
		{name: "hsm_audit", check: a.devices.audit.Check},
		{name: "tpm", check: (&tpmProbe{dev: a.devices.tpm, ceremony: a.devices.binding}).check},
		{name: "log", check: a.checkLog},
		{name: "seal", check: a.checkSeal},
		{name: "policy", check: a.checkPolicy},
		{name: "issuing_ca", check: func(context.Context) error { return checkCAs(c) }},
		{name: "issuing_ca_stock", warn: true, check: func(context.Context) error { return checkStock(c, now()) }},
		{name: "firmware", check: notes.check(firmwarenotes.Refuse)},
		{name: "firmware_advisories", warn: true, check: notes.check(firmwarenotes.Warn)},
		{name: "siem", warn: true, check: a.senders.check},
		{name: "development", warn: true, check: a.checkDevelopment},
	}
	if len(a.cfg.TPM.PCRValues) > 0 {
		out = append(out, probe{name: "pcrs", check: func(ctx context.Context) error { return a.cfg.TPM.checkPCRs(ctx, a.devices.tpm) }})
	}
	// What follows is made after the probes, and before the first of them runs.
	if a.cfg.Witnesses != nil {
		out = append(out, probe{name: "witnesses", warn: true, check: func(ctx context.Context) error { return a.witnesses.check(ctx) }})
	}
	if a.cfg.Witness != nil {
		out = append(out, probe{name: "witness", warn: true, check: func(context.Context) error { return a.witness.check() }})
	}
	return out
}

func (a *Appliance) checkLog(context.Context) error {
	s := a.log.Status()
	if !s.Writable {
		return errors.New(strings.Join(s.Reasons, "; "))
	}
	if s.Signing != nil {
		return fmt.Errorf("checkpoint not signed: %w", s.Signing)
	}
	return nil
}

func (a *Appliance) checkSeal(context.Context) error {
	if err := a.log.Fresh(); err != nil {
		return err
	}
	if err := a.log.Status().Sealing; err != nil {
		return fmt.Errorf("not sealed: %w", err)
	}
	return nil
}

func checkCAs(c *certifier) error {
	for _, k := range []chain.Kind{chain.Agent, chain.Service} {
		if _, err := c.current(k); err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
	}
	return nil
}

// checkStock warns in time for a ceremony.
func checkStock(c *certifier, now time.Time) error {
	for _, k := range []chain.Kind{chain.Agent, chain.Service} {
		var starts []time.Time
		for _, i := range c.issuers(k) {
			from, _ := i.Validity()
			starts = append(starts, from)
		}
		if left := startAfter(starts, now); left <= fewCAs {
			return fmt.Errorf("%d pre-signed %s CAs are left: plan a ceremony", left, k)
		}
	}
	return nil
}

func startAfter(starts []time.Time, now time.Time) int {
	n := 0
	for _, from := range starts {
		if from.After(now) {
			n++
		}
	}
	return n
}

func (a *Appliance) checkDevelopment(context.Context) error {
	if a.cfg.Development {
		return errors.New("software devices protect nothing: no production data here")
	}
	return nil
}
