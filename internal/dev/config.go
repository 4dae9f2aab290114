package dev

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/signet-pki/signet/ca/ceremony"
	"github.com/signet-pki/signet/internal/appliance"
	"github.com/signet-pki/signet/internal/devkit"
	"github.com/signet-pki/signet/internal/durable"
)

const (
	trustDomain = "dev.signet.example"
	operatorKey = "operator.key"
	// The key of whoever writes policy, which in production never is on the appliance.
	policyKey    = "policy.key"
	policyPublic = "policy.pem"
	policyKeyID  = "dev"

	archiveDir = "archive"
)

func devicesDir(dir string) string { return filepath.Join(dir, "devices") }

// config is the appliance's configuration for where dir and the port are now.
func config(dir, addr string, d *devkit.Devices, inTPM bool) (appliance.Config, error) {
	url := "https://" + addr
	token := func(label string) appliance.Token {
		if inTPM {
			return appliance.Token{TPM: true, Queue: 64}
		}
		return appliance.Token{Module: d.Module(), Label: label, PINFile: devkit.PINFile(devicesDir(dir), label)}
	}
	load := appliance.Quota{Rate: 50_000, Burst: 500_000} // load tests are of one orchestrator, one user and one service
	c := appliance.Config{
		TrustDomain: trustDomain, Origin: trustDomain + "/log", Dir: dir, Listen: addr, PublicURL: url,
		Names:       appliance.Names{DNS: []string{"localhost"}, IPs: []string{"127.0.0.1", "::1"}},
		Development: true,
		Tokens:      appliance.Tokens{Root: token(devkit.TokenRoot), Issuing: token(devkit.TokenIssuing), Audit: token(devkit.TokenAudit)},
		TPM:         appliance.TPM{Path: d.TPMPath()},
		Audit:       appliance.Audit{SealInterval: time.Second, Heartbeat: 20 * time.Second, MaxSealAge: 2 * time.Minute, MinFree: 128 << 20},
		Limits:      appliance.Limits{TaskAgents: 1_000_000}, // load tests use one task
		Quotas:      appliance.Quotas{Task: &load, User: &load, Orchestrator: &load, Service: &load},
		IdentityProviders: []appliance.IdentityProvider{
			{Name: "dev", Issuer: url + "/idp", ClientID: "signet-consent", CAFile: "pki/root.pem"},
		},
		Resources: []string{"database:read:patients", "database:read:trials", "database:read:billing"},
		Ceremony: ceremony.Config{
			Root:     ceremony.RootConfig{CommonName: "Signet development root", ValidityDays: 3650},
			AgentCAs: ceremony.SeriesConfig{Count: 4, ValidityDays: 365, OverlapDays: 30},
			ServiceCAs: ceremony.ServiceCAsConfig{
				SeriesConfig: ceremony.SeriesConfig{Count: 4, ValidityDays: 365, OverlapDays: 60},
				DNS:          []string{"localhost"}, IPs: []string{"127.0.0.0/8", "::1"},
			},
			Operator: ceremony.OperatorConfig{Name: "admin", ValidityDays: 365},
		},
	}
	if archive := filepath.Join(dir, archiveDir); exists(archive) { // made by who wants to see the log pruned
		c.Retention = &appliance.Retention{Archive: archive, Keep: time.Second}
	}
	if exists(filepath.Join(dir, policyPublic)) { // not in directories made before there was one
		c.Policy.Keys = []appliance.PolicyKey{{ID: policyKeyID, File: policyPublic}}
	}
	text, err := yaml.Marshal(c)
	if err != nil {
		return c, fmt.Errorf("dev: %w", err)
	}
	// The same way in as for an operator's file: defaults and checks included.
	return appliance.ParseConfig(text)
}

// LoadConfig reads a configuration. One that a development appliance left in its directory finds the software tokens there.
func LoadConfig(path string) (appliance.Config, error) {
	c, err := appliance.LoadConfig(path)
	if err != nil || !c.Development {
		return c, err
	}
	return c, devkit.Find(devicesDir(c.Dir))
}

// saveConfig leaves the configuration for `signetd fsck` and `signetd doctor`, and for the curious.
func saveConfig(dir string, c appliance.Config) error {
	text, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("dev: %w", err)
	}
	return durable.WriteFile(filepath.Join(dir, "signet.yaml"), text, 0o600)
}

// makeKey makes the key of a person, which in production never is on the appliance.
func makeKey(dir, name string) (publicPEM string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("dev: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", fmt.Errorf("dev: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := durable.Create(filepath.Join(dir, name), text, 0o600); err != nil {
		return "", err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return "", fmt.Errorf("dev: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})), nil
}

func makePolicyKey(dir string) error {
	public, err := makeKey(dir, policyKey)
	if err != nil {
		return err
	}
	return durable.Create(filepath.Join(dir, policyPublic), []byte(public), 0o644)
}
