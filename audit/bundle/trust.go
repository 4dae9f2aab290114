package bundle

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/signet-pki/signet/audit/witness"
	"github.com/signet-pki/signet/tpm/quote"
)

// TrustFile is the auditor's statement of whose evidence to accept, a YAML (or JSON) document got by another way than the bundle. Every field but
// PCRValues and WitnessPolicy is needed; unknown and repeated keys are refused.
type TrustFile struct {
	Format      string               `yaml:"format"`               // "signet/trust@v1"
	Origin      string               `yaml:"origin"`               // the log's name, as in its checkpoints
	TrustDomain string               `yaml:"trust_domain"`         // of the SPIFFE IDs
	Roots       string               `yaml:"roots"`                // PEM certificates of the root CA
	AuditKey    string               `yaml:"audit_key"`            // PEM public key (SPKI) that signs checkpoints, P-256
	AKName      string               `yaml:"ak_name"`              // TPM name of the attestation key, hexadecimal
	NVName      string               `yaml:"nv_name"`              // TPM name of the counter's index, hexadecimal
	PCRs        string               `yaml:"pcrs"`                 // quoted registers, as "sha256:0,1,2,3,4,5,6,7"
	PCRValues   map[string]PCRValues `yaml:"pcr_values,omitempty"` // by register: what each seal must state
	// WitnessPolicy is a C2SP tlog-policy: whose cosignatures the checkpoint must carry. Without it forks are not excluded.
	WitnessPolicy string `yaml:"witness_policy,omitempty"`
}

// PCRValues are the values that the auditor accepts of a register, hexadecimal. In the file one may stand without a list around it.
type PCRValues []string

// UnmarshalYAML reads one value, or a list.
func (p *PCRValues) UnmarshalYAML(unmarshal func(any) error) error {
	var one string
	if unmarshal(&one) == nil {
		*p = PCRValues{one}
		return nil
	}
	return unmarshal((*[]string)(p))
}

// TrustFormat is the value of the format field.
const TrustFormat = "signet/trust@v1"

const (
	maxTrust   = 64 << 10
	maxOrigin  = 255
	nameLength = 2 + sha256.Size // a TPM name of SHA-256
)

// ErrTrust means that a trust file is not one.
var ErrTrust = errors.New("trust file refused")

// Trust is a valid set of anchors. The zero value is none and is not accepted.
type Trust struct {
	origin, domain string
	roots          []*x509.Certificate
	audit          *ecdsa.PublicKey
	akName, nvName []byte
	pcrs           quote.Selection
	accepted       quote.Accepted
	witnesses      *witness.Policy // nil: none is demanded
}

// ParseTrust reads a trust file of at most 64 KiB.
func ParseTrust(data []byte) (*Trust, error) {
	if len(data) > maxTrust {
		return nil, fmt.Errorf("bundle: %w: more than %d bytes", ErrTrust, maxTrust)
	}
	if bytes.IndexByte(data, 0) >= 0 || bytes.ContainsAny(data, "&*") {
		return nil, fmt.Errorf("bundle: %w: YAML anchors and aliases are not part of the format", ErrTrust)
	}
	var f TrustFile
	if err := yaml.UnmarshalWithOptions(data, &f, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("bundle: %w: %w", ErrTrust, err)
	}
	return f.Trust()
}

// Marshal is the file's text.
func (f TrustFile) Marshal() ([]byte, error) {
	if _, err := f.Trust(); err != nil {
		return nil, err
	}
	return yaml.MarshalWithOptions(f, yaml.UseLiteralStyleIfMultiline(true))
}

// Trust checks every field and reports all problems at once.
func (f TrustFile) Trust() (*Trust, error) {
	t := &Trust{origin: f.Origin, domain: f.TrustDomain}
	var errs []error
	field := func(name string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	if f.Format != TrustFormat {
		field("format", fmt.Errorf("must be %q", TrustFormat))
	}
	field("origin", checkOrigin(f.Origin))
	if f.TrustDomain == "" || len(f.TrustDomain) > maxOrigin {
		field("trust_domain", errors.New("missing or too long"))
	}
	var err error
	t.roots, err = parseCertificates([]byte(f.Roots))
	field("roots", err)
	t.audit, err = parsePublicPEM([]byte(f.AuditKey))
	field("audit_key", err)
	t.akName, err = parseName(f.AKName)
	field("ak_name", err)
	t.nvName, err = parseName(f.NVName)
	field("nv_name", err)
	t.pcrs, err = quote.ParseSelection(f.PCRs)
	field("pcrs", err)
	t.accepted, err = acceptedOf(f.PCRValues, t.pcrs)
	field("pcr_values", err)
	if f.WitnessPolicy != "" {
		t.witnesses, err = witness.ParsePolicy([]byte(f.WitnessPolicy))
		field("witness_policy", err)
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("bundle: %w: %w", ErrTrust, errors.Join(errs...))
	}
	return t, nil
}

// checkOrigin takes what a checkpoint may be named and a shell may quote.
func checkOrigin(s string) error {
	if s == "" || len(s) > maxOrigin {
		return fmt.Errorf("%d bytes; 1 to %d are allowed", len(s), maxOrigin)
	}
	for _, r := range s {
		if r <= ' ' || r >= 0x7f || strings.ContainsRune(`'"\+$`+"`", r) {
			return fmt.Errorf("character %q", r)
		}
	}
	return nil
}

func parseName(text string) ([]byte, error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != nameLength || raw[0] != 0 || raw[1] != 0x0b {
		return nil, fmt.Errorf("not a SHA-256 TPM name: %d hexadecimal digits that begin with 000b", 2*nameLength)
	}
	return raw, nil
}

func acceptedOf(values map[string]PCRValues, sel quote.Selection) (quote.Accepted, error) {
	lists := make(map[string][]string, len(values))
	for index, list := range values {
		lists[index] = list
	}
	return quote.ParseAccepted(lists, sel)
}

// parseCertificates reads one to maxIssuers PEM certificates and nothing else.
func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := bytes.TrimSpace(data); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		if len(out) >= maxIssuers {
			return nil, fmt.Errorf("more than %d certificates", maxIssuers)
		}
		block, after, err := pemBlock(rest, "CERTIFICATE")
		if err != nil {
			return nil, err
		}
		cert, err := x509.ParseCertificate(block)
		if err != nil {
			return nil, err
		}
		out, rest = append(out, cert), after
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate")
	}
	return out, nil
}

func parseCertificate(data []byte) (*x509.Certificate, error) {
	list, err := parseCertificates(data)
	if err == nil && len(list) != 1 {
		err = fmt.Errorf("%d certificates instead of one", len(list))
	}
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

func parsePublicPEM(data []byte) (*ecdsa.PublicKey, error) {
	der, rest, err := pemBlock(bytes.TrimSpace(data), "PUBLIC KEY")
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("data after the public key")
	}
	return parseSPKI(der)
}

func parseSPKI(der []byte) (*ecdsa.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	return p256(key)
}

func p256(key any) (*ecdsa.PublicKey, error) {
	ec, ok := key.(*ecdsa.PublicKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("not a P-256 key")
	}
	return ec, nil
}

// pemBlock takes one block from the very start of data; text before a block, which pem.Decode skips, is refused.
func pemBlock(data []byte, kind string) (der, rest []byte, err error) {
	if !bytes.HasPrefix(data, []byte("-----BEGIN ")) {
		return nil, nil, fmt.Errorf("not PEM %q", kind)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != kind || len(block.Headers) > 0 {
		return nil, nil, fmt.Errorf("not PEM %q", kind)
	}
	return block.Bytes, rest, nil
}
