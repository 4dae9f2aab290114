package appliance

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/signet-pki/signet/api"
	"github.com/signet-pki/signet/policy/review"
)

// newServer puts the API in front of the parts.
func (a *Appliance) newServer(ctx context.Context, t trust, c *certifier, engine *policies, indexKey []byte, o Options) error {
	certs, err := a.cfg.certificates(t)
	if err != nil {
		return err
	}
	log, err := newAPILog(ctx, a.log, certs, attachments{a.log, a.domain})
	if err != nil {
		return err
	}
	if a.witnesses, err = a.newWitnesses(ctx, o.Now); err != nil {
		return fmt.Errorf("witnesses: %w", err)
	}
	log.witnesses, log.pseudonym = a.witnesses, pseudonyms(indexKey)
	a.archive.serveFrom(log)
	if a.witness, err = a.newWitness(ctx, o.Now); err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	acts, err := a.newActs(ctx, log, o.Now)
	if err != nil {
		return err
	}
	pages, err := consentHandler(a.idps, a.domain, a.logger)
	if err != nil {
		return fmt.Errorf("consent: %w", err)
	}
	reviews, err := review.New(review.Config{Log: reviewLog{a.log}, Bundles: reviewBundles{a.domain, &engine.active}, Now: o.Now})
	if err != nil {
		return err
	}
	a.crls = newCRLs(c, a.domain, a.cfg.Revocation.CRLLife, o.Now, a.logger)
	a.server, err = api.New(api.Config{
		Domain: a.domain, Log: log, Reviews: reviews, Acts: acts, Health: a.health, Consent: pages, Mounts: o.Mounts, PublicURL: a.cfg.PublicURL,
		Trust: api.Trust{
			TrustDomain: a.cfg.TrustDomain, Roots: []*x509.Certificate{t.root}, Issuing: slices.Concat(t.agents, t.services),
			Sequence: 1, CRL: a.crls.list, JWT: []*x509.Certificate{t.jwt},
		},
		Limits: api.Limits{Concurrency: a.cfg.Limits.Concurrency}, Metrics: a.senders.metrics(), Now: o.Now, Logger: a.logger, Witness: a.witness.serve(),
	})
	return err
}

// health is what the monitor found last, in the API's words.
func (a *Appliance) health(context.Context) []api.Condition {
	var out []api.Condition
	for _, c := range a.monitor.conditions() {
		v := api.Condition{Name: c.name, OK: c.reason == "", Reason: c.reason}
		if c.warn {
			v.Severity = api.Warning
		}
		out = append(out, v)
	}
	return out
}
