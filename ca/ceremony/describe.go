package ceremony

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Describe is the plan in lines for people, the same for the same plan: what custodians agree to.
func (p Plan) Describe() []string {
	return []string{
		"origin: " + p.origin,
		"trust domain: " + p.trustDomain,
		fmt.Sprintf("root: %s, %s", p.root.subject.String(), days(p.root.validity)),
		"agent CAs: " + p.agents.describe(),
		"service CAs: " + p.services.describe() + p.services.names(),
		p.operator.describe(),
	}
}

// PlannedKey is one that will be generated.
type PlannedKey struct {
	Role  Role
	Label string
}

// Keys are those that will be generated, in order.
func (p Plan) Keys() []PlannedKey {
	keys := []PlannedKey{{RoleRoot, "root"}}
	for n := range p.agents.count {
		keys = append(keys, PlannedKey{RoleAgentCA, p.agents.name + "-" + strconv.Itoa(n+1)})
	}
	for n := range p.services.count {
		keys = append(keys, PlannedKey{RoleServiceCA, p.services.name + "-" + strconv.Itoa(n+1)})
	}
	return append(keys, PlannedKey{RoleAudit, "audit"}, PlannedKey{RoleJWT, "jwt"})
}

func days(d time.Duration) string { return fmt.Sprintf("%d days", d/day) }

func (s series) describe() string {
	return fmt.Sprintf("%d, each %s, the next %s before", s.count, days(s.validity), days(s.overlap))
}

func (s series) names() string {
	var ips []string
	for _, n := range s.ips {
		ips = append(ips, n.String())
	}
	return fmt.Sprintf(", DNS [%s], IP [%s]", strings.Join(s.dns, " "), strings.Join(ips, " "))
}

func (o operatorPlan) describe() string {
	spki, err := x509.MarshalPKIXPublicKey(o.key)
	if err != nil {
		return "operator: " + err.Error() // ParsePlan has marshalled it before
	}
	hash := sha256.Sum256(spki)
	text := fmt.Sprintf("operator: %s, key SHA-256 %s, %s", o.name, hex.EncodeToString(hash[:]), days(o.validity))
	if o.crlURL != "" {
		text += ", CRL " + o.crlURL
	}
	return text
}
