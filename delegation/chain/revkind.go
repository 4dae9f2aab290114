package chain

import "fmt"

// String returns certificate, agent, task, grant, user, orchestrator or subtree, and "unknown" for anything else.
func (k RevKind) String() string {
	switch k {
	case RevCertificate:
		return "certificate"
	case RevAgent:
		return "agent"
	case RevTask:
		return "task"
	case RevGrant:
		return "grant"
	case RevUser:
		return "user"
	case RevOrchestrator:
		return "orchestrator"
	case RevSubtree:
		return "subtree"
	case RevUnknown:
	}
	return "unknown"
}

// ParseRevKind is the inverse of String for the seven kinds.
func ParseRevKind(s string) (RevKind, error) {
	for _, k := range [...]RevKind{RevCertificate, RevAgent, RevTask, RevGrant, RevUser, RevOrchestrator, RevSubtree} {
		if k.String() == s {
			return k, nil
		}
	}
	return RevUnknown, fmt.Errorf("%.40q is no kind of revocation", s)
}

// MarshalText returns String.
func (k RevKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }
