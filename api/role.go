package api

import (
	"strings"

	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// role is a set of those who may call an endpoint. The zero role is nobody.
type role uint8

const (
	anyone role = 1 << iota // also without a certificate
	orchestrator
	agent
	service
	operator
	officer
	auditor
	privacy

	staff = operator | officer | auditor | privacy
	known = orchestrator | agent | service | staff
)

// roleNames are the words of the table, in its order.
var roleNames = [...]struct {
	role role
	name string
}{
	{anyone, "anyone"},
	{orchestrator, "orchestrator"},
	{agent, "agent"},
	{service, "service"},
	{operator, string(delegation.RoleOperator)},
	{officer, string(delegation.RoleOfficer)},
	{auditor, string(delegation.RoleAuditor)},
	{privacy, string(delegation.RolePrivacy)},
}

// names lists the members of a set.
func (r role) names() []string {
	var out []string
	for _, n := range roleNames {
		if r&n.role != 0 {
			out = append(out, n.name)
		}
	}
	return out
}

func (r role) String() string { return strings.Join(r.names(), ", ") }

// roleOf is the one role of an authenticated caller; 0, which no endpoint admits, for what is not known.
func roleOf(c delegation.Caller) role {
	switch c.ID.Kind() {
	case chain.Orchestrator:
		return orchestrator
	case chain.Agent:
		return agent
	case chain.Service:
		return service
	case chain.Operator:
		return staffRole(c.Role)
	case chain.KindUnknown:
	}
	return 0
}

func staffRole(r delegation.Role) role {
	switch r {
	case delegation.RoleOperator:
		return operator
	case delegation.RoleOfficer:
		return officer
	case delegation.RoleAuditor:
		return auditor
	case delegation.RolePrivacy:
		return privacy
	case delegation.RoleNone:
	}
	return 0
}
