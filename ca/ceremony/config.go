package ceremony

// Config is the file that a ceremony is held from. Unknown keys are errors of whoever decodes it; [ParsePlan] checks
// the values. Nothing in it is secret.
type Config struct {
	// TrustDomain is the SPIFFE trust domain of every identity, a host name in lower case: hospital.example
	TrustDomain string `yaml:"trust_domain"`
	// Origin names the audit log for ever, at most 64 printable characters: hospital.example/signet-1
	Origin string `yaml:"origin"`
	// Root is the certificate that relying parties install.
	Root RootConfig `yaml:"root"`
	// AgentCAs sign agents. They may name URIs of the trust domain only.
	AgentCAs SeriesConfig `yaml:"agent_cas"`
	// ServiceCAs sign orchestrators, services, operators and the appliance's own listener.
	ServiceCAs ServiceCAsConfig `yaml:"service_cas"`
	// Operator is the first person who may administer the appliance.
	Operator OperatorConfig `yaml:"operator"`
	// Custodians agree to the ceremony, and to later acts like it. They are required outside development.
	Custodians *CustodiansConfig `yaml:"custodians,omitempty"`
}

// CustodiansConfig says who must agree. Whoever uses the configuration checks it (package custody).
type CustodiansConfig struct {
	// Threshold is how many of the members must agree: 2 or more.
	Threshold int `yaml:"threshold"`
	// Members are 2 to 16 people, or offices.
	Members []CustodianConfig `yaml:"members"`
}

// CustodianConfig is one custodian.
type CustodianConfig struct {
	// Name is a-z 0-9 . _ -, at most 64: alice
	Name string `yaml:"name"`
	// Key is a line as in OpenSSH's authorized_keys, without options: ssh-ed25519 AAAA… alice
	Key string `yaml:"key"`
	// Recipient is whom backups are encrypted to, with age: age1… Optional.
	Recipient string `yaml:"recipient,omitempty"`
}

// RootConfig describes the root.
type RootConfig struct {
	// CommonName is shown to people who install the root: Hospital Signet Root
	CommonName string `yaml:"common_name"`
	// Organization also stands in the names of the CAs below. Optional.
	Organization string `yaml:"organization"`
	// ValidityDays is the root's life: 7300. The audit key's certificate and the attestation key's end with it.
	ValidityDays int `yaml:"validity_days"`
}

// SeriesConfig describes CAs that are signed ahead and put to use one after the other.
type SeriesConfig struct {
	// Count is how many are made: 1 to 64. The root is not needed again until they are used up.
	Count int `yaml:"count"`
	// ValidityDays is the life of each: 365
	ValidityDays int `yaml:"validity_days"`
	// OverlapDays is how long each is still valid when the next one starts: 30. At least the longest life of a
	// certificate that it signs, and less than ValidityDays.
	OverlapDays int `yaml:"overlap_days"`
}

// ServiceCAsConfig adds the names that service certificates may have besides their SPIFFE ID.
type ServiceCAsConfig struct {
	SeriesConfig `yaml:",inline"`
	// DNS lists the domains, each with everything below it: [signet.hospital.example]. Empty: no DNS name at all.
	DNS []string `yaml:"dns"`
	// IPs lists addresses and CIDR ranges: [10.20.0.0/16, "::1"]. Empty: no IP address at all.
	IPs []string `yaml:"ips"`
}

// OperatorConfig describes the first operator. Exactly one of CSR and PublicKey is given: the operator keeps the
// private key.
type OperatorConfig struct {
	// Name becomes spiffe://<trust domain>/operator/<name>: letters, digits, hyphen, underscore.
	Name string `yaml:"name"`
	// CSR is a certification request, PEM. Its signature counts, its names do not.
	CSR string `yaml:"csr"`
	// PublicKey is a public key, PEM (SubjectPublicKeyInfo): P-256, P-384 or Ed25519.
	PublicKey string `yaml:"public_key"`
	// ValidityDays is the life of the certificate, at most that of the service CA: 30
	ValidityDays int `yaml:"validity_days"`
	// CRLURL is where the service CA's CRL will be. Optional; goes into the certificate.
	CRLURL string `yaml:"crl_url"`
}
