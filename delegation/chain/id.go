package chain

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Kind is what a SPIFFE ID of Signet names. The zero value names nothing.
type Kind int

// The kinds, as they stand in the ID's first path segment.
const (
	KindUnknown Kind = iota
	Orchestrator
	Agent
	Service
	Operator
)

// String returns the path segment, or "unknown".
func (k Kind) String() string {
	switch k {
	case Orchestrator:
		return "orchestrator"
	case Agent:
		return "agent"
	case Service:
		return "service"
	case Operator:
		return "operator"
	case KindUnknown:
	}
	return "unknown"
}

func parseKind(s string) Kind {
	for _, k := range [...]Kind{Orchestrator, Agent, Service, Operator} {
		if k.String() == s {
			return k
		}
	}
	return KindUnknown
}

const (
	spiffeScheme   = "spiffe://"
	maxTrustDomain = 255
	maxName        = 64
)

// ErrID is wrapped by every refusal of a SPIFFE ID, a trust domain, a name or a UUID.
var ErrID = errors.New("not a SPIFFE ID of Signet")

// ID is a parsed SPIFFE ID: spiffe://<trust domain>/agent/<type>/<uuid> or spiffe://<trust domain>/<kind>/<name>.
// Two IDs are the same exactly when == says so. The zero ID names nobody.
type ID struct {
	text        string
	trustDomain string
	kind        Kind
	name        string // or the agent's type
	uuid        string // agents only
}

// ParseID accepts exactly what AgentID and NamedID build: no upper-case trust domain, port, user, query, fragment,
// percent-encoding, empty or dot segment.
func ParseID(s string) (ID, error) {
	rest, ok := strings.CutPrefix(s, spiffeScheme)
	if !ok {
		return ID{}, fmt.Errorf("%w: it does not begin with %q", ErrID, spiffeScheme)
	}
	td, path, ok := strings.Cut(rest, "/")
	if !ok {
		return ID{}, fmt.Errorf("%w: no path", ErrID)
	}
	kindText, name, ok := strings.Cut(path, "/")
	if !ok {
		return ID{}, fmt.Errorf("%w: the path has one segment", ErrID)
	}
	kind := parseKind(kindText)
	if kind != Agent {
		return newNamed(s, td, kind, name)
	}
	agentType, uuid, ok := strings.Cut(name, "/")
	if !ok {
		return ID{}, fmt.Errorf("%w: an agent has a type and a UUID", ErrID)
	}
	return newAgent(s, td, agentType, uuid)
}

// AgentID builds the ID of an agent. uuid is a canonical lower-case UUIDv7.
func AgentID(trustDomain, agentType, uuid string) (ID, error) {
	return newAgent(spiffeScheme+trustDomain+"/agent/"+agentType+"/"+uuid, trustDomain, agentType, uuid)
}

// NamedID builds the ID of an orchestrator, a service or an operator.
func NamedID(trustDomain string, k Kind, name string) (ID, error) {
	return newNamed(spiffeScheme+trustDomain+"/"+k.String()+"/"+name, trustDomain, k, name)
}

func newNamed(text, td string, k Kind, name string) (ID, error) {
	if err := CheckTrustDomain(td); err != nil {
		return ID{}, err
	}
	switch k {
	case Orchestrator, Service, Operator:
	default:
		return ID{}, fmt.Errorf("%w: the kind is not orchestrator, service, operator or agent", ErrID)
	}
	if err := checkName("name", name); err != nil {
		return ID{}, err
	}
	return ID{text: text, trustDomain: td, kind: k, name: name}, nil
}

func newAgent(text, td, agentType, uuid string) (ID, error) {
	if err := CheckTrustDomain(td); err != nil {
		return ID{}, err
	}
	if err := checkName("agent type", agentType); err != nil {
		return ID{}, err
	}
	if _, err := ParseUUID(uuid); err != nil {
		return ID{}, err
	}
	return ID{text: text, trustDomain: td, kind: Agent, name: agentType, uuid: uuid}, nil
}

// String returns the ID's only text form.
func (id ID) String() string { return id.text }

// TrustDomain returns the trust domain, without the scheme.
func (id ID) TrustDomain() string { return id.trustDomain }

// Kind returns the kind; KindUnknown for the zero ID.
func (id ID) Kind() Kind { return id.kind }

// Name returns the name of an orchestrator, service or operator, and "" for an agent.
func (id ID) Name() string {
	if id.kind == Agent {
		return ""
	}
	return id.name
}

// AgentType returns an agent's type, and "" for others.
func (id ID) AgentType() string {
	if id.kind != Agent {
		return ""
	}
	return id.name
}

// AgentID returns an agent's UUID, and "" for others.
func (id ID) AgentID() string { return id.uuid }

// MarshalText returns String.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.text), nil }

// UnmarshalText is ParseID.
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// CheckTrustDomain accepts the lower-case host names that SPIFFE allows (SPIFFE-ID §2.1) and that X.509 URI name
// constraints can express: non-empty labels of [a-z0-9_-], and no IPv4 address.
func CheckTrustDomain(td string) error {
	if td == "" || len(td) > maxTrustDomain {
		return fmt.Errorf("%w: a trust domain has 1 to %d bytes", ErrID, maxTrustDomain)
	}
	last, digits := byte('.'), false
	for i := range len(td) {
		c := td[i]
		switch {
		case c == '.' && last != '.':
		case c >= '0' && c <= '9':
			digits = digits || last == '.'
		case c >= 'a' && c <= 'z', c == '-', c == '_':
			digits = false
		default:
			return fmt.Errorf("%w: the trust domain has an empty label or a character outside [a-z0-9._-]", ErrID)
		}
		last = c
	}
	if last == '.' || digits {
		return fmt.Errorf("%w: the trust domain's last label is empty or a number", ErrID)
	}
	return nil
}

// CheckAgentType accepts [A-Za-z0-9._-]{1,64} except the dot segments.
func CheckAgentType(s string) error { return checkName("agent type", s) }

// checkName accepts one SPIFFE path segment (SPIFFE-ID §2.2), shorter than there.
func checkName(what, s string) error {
	if s == "" || len(s) > maxName || s == "." || s == ".." {
		return fmt.Errorf("%w: a %s has 1 to %d characters and is not a dot segment", ErrID, what, maxName)
	}
	for i := range len(s) {
		if !nameByte(s[i]) {
			return fmt.Errorf("%w: the %s has a character outside [A-Za-z0-9._-]", ErrID, what)
		}
	}
	return nil
}

func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
}

// ParseUUID accepts a UUIDv7 in canonical lower-case text (RFC 9562 §4, §5.7) only.
func ParseUUID(s string) ([16]byte, error) {
	var out [16]byte
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return out, fmt.Errorf("%w: a UUID has the form 8-4-4-4-12", ErrID)
	}
	digits := s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
	if digits != strings.ToLower(digits) {
		return out, fmt.Errorf("%w: the UUID has upper-case digits", ErrID)
	}
	if _, err := hex.Decode(out[:], []byte(digits)); err != nil {
		return [16]byte{}, fmt.Errorf("%w: the UUID has a character that is no hex digit", ErrID)
	}
	if out[6]>>4 != 7 || out[8]>>6 != 2 {
		return [16]byte{}, fmt.Errorf("%w: the UUID is not of version 7", ErrID)
	}
	return out, nil
}

// FormatUUID returns the canonical lower-case text of any 16 bytes.
func FormatUUID(u [16]byte) string {
	var b [36]byte
	hex.Encode(b[0:8], u[0:4])
	hex.Encode(b[9:13], u[4:6])
	hex.Encode(b[14:18], u[6:8])
	hex.Encode(b[19:23], u[8:10])
	hex.Encode(b[24:36], u[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}
