package appliance

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/signet-pki/signet/ca/ceremony"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/tpm/quote"
)

// maxConfig bounds the configuration file, in bytes.
const maxConfig = 1 << 20

// maxProviders bounds what a user has to choose from.
const maxProviders = 16

// Config is the appliance's configuration file. Unknown keys are errors. Secrets are never values in it: they are paths
// of files, or names below $CREDENTIALS_DIRECTORY (systemd) written as "credential:NAME".
type Config struct {
	// TrustDomain is the SPIFFE trust domain, such as signet.example.org.
	TrustDomain string `yaml:"trust_domain"`
	// Origin names the audit log in checkpoints and delegations, such as signet.example.org/log. It never changes.
	Origin string `yaml:"origin"`
	// Dir holds the log and the certificates. Relative paths below are relative to it.
	Dir string `yaml:"dir"`
	// Listen is the address of the HTTPS port, host:port.
	Listen string `yaml:"listen"`
	// PublicURL is how clients and browsers reach that port; it is the base of the consent pages.
	PublicURL string `yaml:"public_url"`
	// Names are what the port's certificate says besides its SPIFFE ID; the service CAs must permit them.
	Names Names `yaml:"names"`
	// Development allows a simulated TPM and software tokens. Without it they are refused.
	Development bool `yaml:"development"`
	// Conformance serves AuthZEN's certification scenario, about subjects that callers make up. It is refused outside development.
	Conformance *Conformance `yaml:"conformance,omitempty"`

	Tokens Tokens `yaml:"tokens"`
	TPM    TPM    `yaml:"tpm"`
	// IdentityProviders are where users have their accounts. With several, the user chooses.
	IdentityProviders []IdentityProvider `yaml:"identity_providers"`
	Audit             Audit              `yaml:"audit"`
	Limits            Limits             `yaml:"limits"`
	Quotas            Quotas             `yaml:"quotas"`
	Revocation        Revocation         `yaml:"revocation"`
	// Resources are what decisions may be asked about, as the scopes that they require: type:action:id, or type:action:*.
	Resources []string `yaml:"resources"`
	// Attestation says against what orchestrators prove themselves.
	Attestation Attestation `yaml:"attestation"`
	// Policy says whose policy bundles may become active.
	Policy Policy `yaml:"policy"`
	// SIEM are collectors of events.
	SIEM     []SIEM          `yaml:"siem"`
	Ceremony ceremony.Config `yaml:"ceremony"`

	// Retention says what may be pruned from the log, and where it goes before; left out: nothing may.
	Retention *Retention `yaml:"retention,omitempty"`
	// Witnesses are asked to cosign this log's checkpoints.
	Witnesses *Witnesses `yaml:"witnesses,omitempty"`
	// Witness cosigns checkpoints of other logs.
	Witness *Witness `yaml:"witness,omitempty"`

	staged string // where the appliance's own files are while they are restored; "": in Dir
}

// Conformance is the port of the conformance profile, which has nothing but that scenario.
type Conformance struct {
	// Listen is a loopback address, 127.0.0.1:port; port 0 takes a free one, which the log names.
	Listen string `yaml:"listen"`
}

// Names are the names of the HTTPS port.
type Names struct {
	DNS []string `yaml:"dns"`
	IPs []string `yaml:"ips"`
}

// Tokens are the PKCS#11 tokens. Root is used by the ceremony alone and may be absent while serving.
type Tokens struct {
	Root    Token `yaml:"root"`
	Issuing Token `yaml:"issuing"`
	Audit   Token `yaml:"audit"`
}

// Token is one PKCS#11 token, or with tpm: true keys in the TPM.
type Token struct {
	// TPM keeps these keys in the TPM that quotes the log, with files in Dir/keys that only it can use. Module, label, sessions,
	// isolate and timeout are left out then; pin_file, of at most 32 bytes, is optional, and queue is 16 by default.
	TPM bool `yaml:"tpm,omitempty"`
	// Module is the absolute path of the vendor's library.
	Module string `yaml:"module"`
	// Label is the token's label.
	Label string `yaml:"label"`
	// LabelPrefix begins the labels of this appliance's keys, where others have keys on the token: [A-Za-z0-9._-], at most 32. It is
	// part of the keys' names: set it before the ceremony, and never change it.
	LabelPrefix string `yaml:"label_prefix,omitempty"`
	// PINFile holds the user PIN: a file that only the appliance's user can read, "credential:NAME", or "sealed:FILE" of
	// `signetd pin seal`, which the TPM opens under the PCR values that were approved.
	PINFile string `yaml:"pin_file"`
	// Sessions is the number of signatures at a time (default 4, at most 64).
	Sessions int `yaml:"sessions"`
	// Queue is how many more may wait (default 256, at most 65536): what the device signs within Timeout is enough.
	Queue int `yaml:"queue"`
	// Isolate runs the module in a process of its own, so that a crash or a hang of the vendor's code stays there.
	Isolate bool `yaml:"isolate"`
	// Timeout bounds one operation (default 5s).
	Timeout time.Duration `yaml:"timeout"`
}

// TPM is the TPM that quotes the log.
type TPM struct {
	// Path is /dev/tpmrm0, or unix:PATH of a software TPM in development.
	Path string `yaml:"path"`
	// PCRs is what quotes cover (default sha256:0,1,2,3,4,5,6,7).
	PCRs string `yaml:"pcrs"`
	// PCRValues are the values that registers among PCRs may have, hexadecimal, by register. While one of those named here has
	// another, nothing is issued (pcrs_changed). Without it a change is recorded and nothing else.
	PCRValues map[string][]string `yaml:"pcr_values,omitempty"`
	// EKRootsFile holds the certificates of this TPM's maker, PEM: the root, and what is between. `signetd doctor` verifies the
	// endorsement key's certificate against it.
	EKRootsFile string `yaml:"ek_roots_file,omitempty"`
	// Timeout bounds one command (default 5s).
	Timeout time.Duration `yaml:"timeout"`
}

// selection is PCRs, parsed; check refuses what is none.
func (t TPM) selection() quote.Selection {
	sel, _ := quote.ParseSelection(t.PCRs) // the zero selection matches no quote
	return sel
}

// IdentityProvider is an OpenID provider that users consent through.
type IdentityProvider struct {
	// Name ends the redirect URI PUBLIC_URL/v1/grants/callback/NAME, which is to be registered there: [a-z0-9-]{1,32}.
	Name string `yaml:"name"`
	// Issuer is the exact OIDC issuer, an https URL.
	Issuer string `yaml:"issuer"`
	// ClientID is registered for consent alone: a console's login must never pass for one.
	ClientID         string `yaml:"client_id"`
	ClientSecretFile string `yaml:"client_secret_file"`
	// CAFile holds PEM certificates to trust for the provider, beside the system's.
	CAFile string `yaml:"ca_file"`
	// RolesClaim names the claim with the user's roles (default roles).
	RolesClaim string `yaml:"roles_claim"`
	// UserCertificates lets users consent by their certificate's signature (consent type jws).
	UserCertificates *UserCertificates `yaml:"user_certificates,omitempty"`
	// TokenExchange lets orchestrators present a user's token (consent type token_exchange, the weakest).
	TokenExchange *TokenExchange `yaml:"token_exchange,omitempty"`
	// Events lets the provider end grants of its users.
	Events *IdentityEvents `yaml:"events,omitempty"`
}

// IdentityEvents are Security Event Tokens that a provider pushes to POST /v1/events (RFC 8935).
type IdentityEvents struct {
	// Audience is this appliance's as a receiver; not its client_id.
	Audience string `yaml:"audience"`
	// CredentialChange ends a user's grants when a credential of theirs changed, too. A revoked session always does.
	CredentialChange bool `yaml:"credential_change"`
}

// UserCertificates are those of a provider's users, such as smartcards.
type UserCertificates struct {
	// CAFile holds the CAs of users, PEM.
	CAFile string `yaml:"ca_file"`
	// Subject is the certificate's field that is the user's sub at the provider: common_name, serial_number or uri.
	Subject string `yaml:"subject"`
}

// TokenExchange is what a token must be to stand for a user's consent.
type TokenExchange struct {
	// Audience is this appliance's own at the provider: no client's, neither consent's nor a console's.
	Audience string `yaml:"audience"`
	// MaxAge is the longest time since the token was issued (default 5m, at most 1h).
	MaxAge time.Duration `yaml:"max_age"`
	// Clients ties orchestrators, by name, to the client_id that their users' tokens are issued to.
	Clients map[string]string `yaml:"clients,omitempty"`
}

// Audit tunes the log.
type Audit struct {
	// SealInterval is the shortest time between seals under load (default 5s).
	SealInterval time.Duration `yaml:"seal_interval"`
	// Heartbeat is the time between seals when nothing happens (default 1m, at most 5m). Verifiers report more than 10m without a seal.
	Heartbeat time.Duration `yaml:"heartbeat"`
	// MaxSealAge stops issuing when the last seal is older (default 3m).
	MaxSealAge time.Duration `yaml:"max_seal_age"`
	// MinFree is the free disk space, in bytes, below which nothing is written (default a tenth of the file system).
	MinFree uint64 `yaml:"min_free"`
}

// Revocation tunes how fast relying parties learn of revocations.
type Revocation struct {
	// Heartbeat is the time between two signs of life of the feed (default 5s): followers are stale a few of them later.
	Heartbeat time.Duration `yaml:"heartbeat"`
	// CRLLife is the time from a CRL to its next update (default 15m). A new one comes at once after a revocation, and in any
	// case when a third is over.
	CRLLife time.Duration `yaml:"crl_life"`
}

// LoadConfig reads a configuration file. All problems come in one error, each with its path in the file.
func LoadConfig(path string) (Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	return ParseConfig(b)
}

// ParseConfig reads a configuration; see LoadConfig.
func ParseConfig(b []byte) (Config, error) {
	if len(b) > maxConfig {
		return Config{}, fmt.Errorf("configuration: more than %d bytes", maxConfig)
	}
	var c Config
	if err := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict()).Decode(&c); err != nil {
		return Config{}, fmt.Errorf("configuration: %s", yaml.FormatError(err, false, true))
	}
	c.defaults()
	return c, c.check()
}

func orElse[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (c *Config) defaults() {
	orElse(&c.TPM.PCRs, "sha256:0,1,2,3,4,5,6,7")
	for i := range c.IdentityProviders {
		orElse(&c.IdentityProviders[i].RolesClaim, "roles")
		if x := c.IdentityProviders[i].TokenExchange; x != nil {
			orElse(&x.MaxAge, 5*time.Minute)
		}
	}
	orElse(&c.Audit.SealInterval, 5*time.Second)
	orElse(&c.Audit.Heartbeat, time.Minute)
	orElse(&c.Audit.MaxSealAge, 3*time.Minute)
	orElse(&c.Revocation.Heartbeat, 5*time.Second)
	orElse(&c.Revocation.CRLLife, 15*time.Minute)
	orElse(&c.Limits.AgentTTL, 10*time.Minute)
	orElse(&c.Limits.WorkloadTTL, 24*time.Hour)
	orElse(&c.Limits.GrantLife, 24*time.Hour)
	orElse(&c.Limits.TaskAgents, 10_000)
	orElse(&c.Limits.Rekeys, 512)
	orElse(&c.Limits.AttestationAge, 30*24*time.Hour)
	orElse(&c.Limits.Memory, 2<<30)
	orElse(&c.Limits.Concurrency, 256)
	c.Attestation.defaults(c.PublicURL)
	c.Policy.defaults()
}

// problems collects what is wrong, by field.
type problems []error

func (p *problems) unless(ok bool, field, text string) {
	if !ok {
		*p = append(*p, fmt.Errorf("%s: %s", field, text))
	}
}

func (c *Config) check() error {
	var p problems
	p.unless(chain.CheckTrustDomain(c.TrustDomain) == nil, "trust_domain", "not a SPIFFE trust domain")
	p.unless(c.Origin != "" && !strings.ContainsAny(c.Origin, "\n+ "), "origin", "a schemeless URL without spaces or plus signs, such as host/log")
	p.unless(filepath.IsAbs(c.Dir), "dir", "an absolute path")
	_, _, err := net.SplitHostPort(c.Listen)
	p.unless(err == nil, "listen", "host:port")
	u, err := url.Parse(c.PublicURL)
	p.unless(err == nil && u.Scheme == "https" && u.Host != "" && c.PublicURL == "https://"+u.Host+u.EscapedPath() && !strings.HasSuffix(u.Path, "/"),
		"public_url", "an https URL without user, query, fragment or trailing slash")
	p.unless(len(c.Names.addresses()) == len(c.Names.IPs), "names.ips", "IP addresses")
	c.Tokens.Issuing.check(&p, "tokens.issuing")
	c.Tokens.Audit.check(&p, "tokens.audit")
	p.unless(c.Witness == nil || !c.Tokens.Audit.TPM, "witness", "its key is Ed25519, which TPMs do not make: tokens.audit must be a PKCS#11 token")
	p.unless(c.TPM.Path != "", "tpm.path", "missing")
	_, err = quote.ParseSelection(c.TPM.PCRs)
	p.unless(err == nil, "tpm.pcrs", "not a PCR selection like sha256:0,1,2")
	_, err = quote.ParseAccepted(c.TPM.PCRValues, c.TPM.selection())
	p.unless(err == nil, "tpm.pcr_values", fmt.Sprint(err))
	c.checkProviders(&p)
	p.unless(c.Audit.MaxSealAge > c.Audit.Heartbeat && c.Audit.Heartbeat >= c.Audit.SealInterval, "audit", "seal_interval ≤ heartbeat < max_seal_age")
	p.unless(c.Audit.Heartbeat <= 5*time.Minute, "audit.heartbeat", "at most 5m: verifiers take ten minutes without a seal for a gap")
	within := func(d, least, most time.Duration) bool { return d >= least && d <= most }
	p.unless(within(c.Revocation.Heartbeat, time.Second, time.Minute), "revocation.heartbeat", "1s to 1m")
	p.unless(within(c.Revocation.CRLLife, time.Minute, 24*time.Hour), "revocation.crl_life", "1m to 24h")
	// Agents that live longer than ten minutes would need a CRL (RFC 9608), which agents do not have.
	p.unless(within(c.Limits.AgentTTL, time.Second, 10*time.Minute), "limits.agent_ttl", "1s to 10m")
	p.unless(within(c.Limits.WorkloadTTL, time.Minute, operatorTTL), "limits.workload_ttl", "1m to 720h")
	p.unless(within(c.Limits.GrantLife, time.Minute, 30*24*time.Hour), "limits.grant_life", "1m to 720h")
	p.unless(c.Limits.TaskAgents >= 1 && c.Limits.TaskAgents <= 1_000_000, "limits.task_agents", "1 to 1000000")
	p.unless(c.Limits.Rekeys >= 1 && c.Limits.Rekeys <= chain.MaxRekeys, "limits.rekeys", fmt.Sprintf("1 to %d", chain.MaxRekeys))
	c.Limits.checkTypes(&p)
	p.unless(within(c.Limits.AttestationAge, time.Minute, 365*24*time.Hour), "limits.attestation_age", "1m to 8760h")
	p.unless(c.Limits.Memory >= 256<<20, "limits.memory", "at least 256 MiB")
	p.unless(c.Limits.Concurrency > 0, "limits.concurrency", "at least 1")
	c.Quotas.check(&p)
	c.Attestation.check(&p)
	c.Policy.check(&p)
	c.checkSIEM(&p)
	c.Retention.check(&p, c.Development)
	c.Witnesses.check(&p)
	c.Witness.check(&p, c.Origin)
	if c.Conformance != nil {
		p.unless(c.Development, "conformance", "allowed with development: true only")
		p.unless(c.Conformance.loopback(), "conformance.listen", "a loopback address and a port")
	}
	if _, err := chain.ParseCatalogue(c.Resources); err != nil {
		p = append(p, fmt.Errorf("resources%w", err))
	}
	if len(p) == 0 {
		return nil
	}
	return fmt.Errorf("configuration: %w", errors.Join(p...))
}

func (c *Config) checkProviders(p *problems) {
	p.unless(len(c.IdentityProviders) > 0 && len(c.IdentityProviders) <= maxProviders, "identity_providers", "1 to 16 are required")
	names, issuers := map[string]bool{}, map[string]bool{}
	for i, idp := range c.IdentityProviders {
		field := fmt.Sprintf("identity_providers[%d]", i)
		p.unless(idp.Name != "" && idp.Issuer != "" && idp.ClientID != "", field, "name, issuer and client_id are required")
		p.unless(!names[idp.Name] && !issuers[idp.Issuer], field, "another one has that name or issuer")
		names[idp.Name], issuers[idp.Issuer] = true, true
		if u := idp.UserCertificates; u != nil {
			p.unless(u.CAFile != "" && u.Subject != "", field+".user_certificates", "ca_file and subject are required")
		}
		if e := idp.Events; e != nil {
			p.unless(e.Audience != "" && e.Audience != idp.ClientID, field+".events.audience", "missing, or that of consent")
		}
		if x := idp.TokenExchange; x != nil {
			p.unless(x.Audience != "" && x.Audience != idp.ClientID, field+".token_exchange.audience", "missing, or that of consent")
		}
	}
}

var labelPrefix = regexp.MustCompile(`^[A-Za-z0-9._-]{0,32}$`)

func (t Token) check(p *problems, field string) {
	p.unless(t.Queue >= 0 && t.Queue <= 65536, field+".queue", "at most 65536")
	if t.TPM {
		p.unless(t == Token{TPM: true, PINFile: t.PINFile, Queue: t.Queue}, field, "with tpm: true only pin_file and queue")
		p.unless(!strings.HasPrefix(t.PINFile, sealedPrefix), field+".pin_file", "with tpm: true a file or credential:NAME")
		return
	}
	p.unless(filepath.IsAbs(t.Module), field+".module", "an absolute path")
	p.unless(t.Label != "", field+".label", "missing")
	p.unless(labelPrefix.MatchString(t.LabelPrefix), field+".label_prefix", "at most 32 of A-Z, a-z, 0-9, dot, underscore and hyphen")
	p.unless(t.PINFile != "", field+".pin_file", "missing")
	p.unless(t.PINFile == "" || validPINFile(t.PINFile), field+".pin_file", "a file, credential:NAME or sealed:FILE")
}

// path resolves a path of the configuration.
func (c *Config) path(p string) string {
	if name, ok := strings.CutPrefix(p, credentialPrefix); ok {
		return filepath.Join(os.Getenv(credentialsDirectory), filepath.Base(name))
	}
	p = strings.TrimPrefix(p, sealedPrefix)
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.Dir, p)
}

// home is where the appliance's own files are.
func (c *Config) home() string {
	if c.staged != "" {
		return c.staged
	}
	return c.Dir
}

// The files below Dir.
func (c *Config) pkiDir() string   { return filepath.Join(c.home(), "pki") }
func (c *Config) logDir() string   { return filepath.Join(c.home(), "log") }
func (c *Config) indexKey() string { return filepath.Join(c.home(), "index.key") }

func (c *Config) witnessDir() string { return filepath.Join(c.Dir, "witness") }
