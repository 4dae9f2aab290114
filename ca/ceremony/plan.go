package ceremony

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/signet-pki/signet/ca/lint"
)

// Bounds of a plan.
const (
	maxSeries     = 64
	maxDays       = 100 * 366
	maxSubtrees   = 32
	maxText       = 64 // ub-common-name, ub-organization-name (RFC 5280 appendix A.1)
	maxPEM        = 16 << 10
	maxCRLURL     = 2048
	agentsFile    = "agent-ca"
	servicesFile  = "service-ca"
	agentsTitle   = "Agent CA"
	servicesTitle = "Service CA"
)

// Plan is a checked configuration. Only ParsePlan makes one that Run accepts.
type Plan struct {
	trustDomain, origin string
	root                rootPlan
	agents, services    series
	operator            operatorPlan
}

type rootPlan struct {
	subject  pkix.Name
	validity time.Duration
}

type series struct {
	name, title       string
	count             int
	validity, overlap time.Duration
	dns, noDNS        []string
	ips, noIPs        []*net.IPNet
}

type operatorPlan struct {
	name     string
	key      crypto.PublicKey
	validity time.Duration
	crlURL   string
}

// TrustDomain is the plan's SPIFFE trust domain.
func (p Plan) TrustDomain() string { return p.trustDomain }

// Origin is the plan's audit log.
func (p Plan) Origin() string { return p.origin }

// ConfigError lists everything that is wrong with a Config, each with its path in the file.
type ConfigError struct{ Problems []string }

// Error has one problem on each line.
func (e *ConfigError) Error() string {
	return "ceremony: configuration:\n  " + strings.Join(e.Problems, "\n  ")
}

// problems collects; it never stops at the first.
type problems []string

func (p *problems) add(path, format string, args ...any) {
	*p = append(*p, path+": "+fmt.Sprintf(format, args...))
}

// ParsePlan checks the configuration. The error is a *[ConfigError] with all problems.
func ParsePlan(cfg Config) (Plan, error) {
	var bad problems
	if err := lint.CheckTrustDomain(cfg.TrustDomain); err != nil {
		bad.add("trust_domain", "%v", err)
	}
	checkText(&bad, "origin", cfg.Origin, true)
	if strings.ContainsAny(cfg.Origin, " +") {
		bad.add("origin", "has a space or a plus sign, which a signed note's key name may not have")
	}
	plan := Plan{
		trustDomain: cfg.TrustDomain, origin: cfg.Origin,
		root:     parseRoot(&bad, cfg.Root),
		agents:   parseSeries(&bad, "agent_cas", cfg.AgentCAs, cfg.Root.ValidityDays),
		services: parseSeries(&bad, "service_cas", cfg.ServiceCAs.SeriesConfig, cfg.Root.ValidityDays),
	}
	plan.agents.name, plan.agents.title = agentsFile, agentsTitle
	plan.services.name, plan.services.title = servicesFile, servicesTitle
	parseSubtrees(&bad, cfg.ServiceCAs, &plan.services)
	plan.operator = parseOperator(&bad, cfg.Operator, cfg.ServiceCAs.ValidityDays)
	if len(bad) > 0 {
		return Plan{}, &ConfigError{Problems: bad}
	}
	return plan, nil
}

func checkText(bad *problems, path, s string, required bool) {
	n := 0
	for _, r := range s {
		if n++; r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			bad.add(path, "has a character that cannot be printed")
			return
		}
	}
	switch {
	case required && strings.TrimSpace(s) == "":
		bad.add(path, "is missing")
	case n > maxText:
		bad.add(path, "has %d characters, want at most %d", n, maxText)
	}
}

func checkRange(bad *problems, path string, value, low, high int) bool {
	if value < low || value > high {
		bad.add(path, "is %d, want %d to %d", value, low, high)
		return false
	}
	return true
}

func parseRoot(bad *problems, cfg RootConfig) rootPlan {
	checkText(bad, "root.common_name", cfg.CommonName, true)
	checkText(bad, "root.organization", cfg.Organization, false)
	p := rootPlan{subject: pkix.Name{CommonName: cfg.CommonName}}
	if cfg.Organization != "" {
		p.subject.Organization = []string{cfg.Organization}
	}
	if checkRange(bad, "root.validity_days", cfg.ValidityDays, 1, maxDays) {
		p.validity = time.Duration(cfg.ValidityDays) * day
	}
	return p
}

// parseSeries: CA n+1 starts OverlapDays before CA n ends, and the last one ends no later than the root.
func parseSeries(bad *problems, path string, cfg SeriesConfig, rootDays int) series {
	count := checkRange(bad, path+".count", cfg.Count, 1, maxSeries)
	if !checkRange(bad, path+".validity_days", cfg.ValidityDays, 2, maxDays) ||
		!checkRange(bad, path+".overlap_days", cfg.OverlapDays, 1, cfg.ValidityDays-1) || !count {
		return series{}
	}
	if span := cfg.Count*(cfg.ValidityDays-cfg.OverlapDays) + cfg.OverlapDays; span > rootDays {
		bad.add(path, "the last CA would end after %d days, and the root ends after %d", span, rootDays)
	}
	return series{
		count: cfg.Count, validity: time.Duration(cfg.ValidityDays) * day, overlap: time.Duration(cfg.OverlapDays) * day,
	}
}

// parseSubtrees: what is not listed is excluded whole, because RFC 5280 §4.2.1.10 leaves a type that no constraint
// mentions free.
func parseSubtrees(bad *problems, cfg ServiceCAsConfig, s *series) {
	if len(cfg.DNS) > maxSubtrees || len(cfg.IPs) > maxSubtrees {
		bad.add("service_cas", "more than %d dns or ips", maxSubtrees)
		return
	}
	for n, name := range cfg.DNS {
		if err := lint.CheckHost(name); err != nil {
			bad.add(fmt.Sprintf("service_cas.dns[%d]", n), "%v", err)
		}
	}
	for n, text := range cfg.IPs {
		ipNet, err := parseRange(text)
		if err != nil {
			bad.add(fmt.Sprintf("service_cas.ips[%d]", n), "%v", err)
			continue
		}
		s.ips = append(s.ips, ipNet)
	}
	if s.dns = slices.Clone(cfg.DNS); len(cfg.DNS) == 0 {
		s.noDNS = []string{""}
	}
	if len(cfg.IPs) == 0 {
		s.noIPs = []*net.IPNet{
			{IP: make(net.IP, net.IPv4len), Mask: make(net.IPMask, net.IPv4len)},
			{IP: make(net.IP, net.IPv6len), Mask: make(net.IPMask, net.IPv6len)},
		}
	}
}

func parseRange(text string) (*net.IPNet, error) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" {
			return nil, fmt.Errorf("%q is no address and no CIDR range", text)
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	if prefix.Addr().Is4In6() || prefix.Masked() != prefix {
		return nil, fmt.Errorf("%q has bits outside its mask, or is IPv4 written as IPv6", text)
	}
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}, nil
}

func parseOperator(bad *problems, cfg OperatorConfig, caDays int) operatorPlan {
	p := operatorPlan{name: cfg.Name, crlURL: cfg.CRLURL}
	if !validName(cfg.Name) {
		bad.add("operator.name", "want 1 to 64 letters, digits, hyphens and underscores")
	}
	if checkRange(bad, "operator.validity_days", cfg.ValidityDays, 1, max(caDays, 1)) {
		p.validity = time.Duration(cfg.ValidityDays) * day
	}
	if cfg.CRLURL != "" && !validURL(cfg.CRLURL) {
		bad.add("operator.crl_url", "is no http URL")
	}
	switch {
	case (cfg.CSR == "") == (cfg.PublicKey == ""):
		bad.add("operator", "exactly one of csr and public_key is wanted")
	case cfg.CSR != "":
		p.key = parseKey(bad, "operator.csr", cfg.CSR, "CERTIFICATE REQUEST", keyOfCSR)
	default:
		p.key = parseKey(bad, "operator.public_key", cfg.PublicKey, "PUBLIC KEY", x509.ParsePKIXPublicKey)
	}
	return p
}

// validName leaves the dot out: OpenSSL takes a common name with one for a DNS name, and refuses it.
func validName(s string) bool {
	if s == "" || len(s) > maxText {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	}) < 0
}

func validURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && len(s) <= maxCRLURL && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil
}

// parseKey reads one PEM block and accepts a key in its one DER form.
func parseKey(bad *problems, path, text, label string, read func([]byte) (any, error)) crypto.PublicKey {
	if len(text) > maxPEM {
		bad.add(path, "is larger than %d bytes", maxPEM)
		return nil
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != label || len(strings.TrimSpace(string(rest))) > 0 {
		bad.add(path, "is not one PEM block %q", label)
		return nil
	}
	key, err := read(block.Bytes)
	if err != nil {
		bad.add(path, "%v", err)
		return nil
	}
	if spki, err := x509.MarshalPKIXPublicKey(key); err != nil || lint.KeyForm(spki) == "" {
		bad.add(path, "the key is not P-256, P-384 or Ed25519")
		return nil
	}
	return key
}

func keyOfCSR(der []byte) (any, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("proof of possession: %w", err)
	}
	return csr.PublicKey, nil
}
