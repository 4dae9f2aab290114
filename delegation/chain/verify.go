package chain

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"
)

// CheckName names one of the twelve checks.
type CheckName string

// The checks, in the order of reports.
const (
	CheckPath         CheckName = "path"
	CheckFormat       CheckName = "format"
	CheckBinding      CheckName = "binding"
	CheckPrincipal    CheckName = "principal"
	CheckAttenuation  CheckName = "attenuation"
	CheckDeadline     CheckName = "deadline"
	CheckDepth        CheckName = "depth"
	CheckConfirmation CheckName = "confirmation"
	CheckLogged       CheckName = "logged"
	CheckScope        CheckName = "scope"
	CheckRevocation   CheckName = "revocation"
	CheckFreshness    CheckName = "freshness"
)

// CheckNames returns the twelve, in the order of reports.
func CheckNames() []CheckName {
	return []CheckName{
		CheckPath, CheckFormat, CheckBinding, CheckPrincipal, CheckAttenuation, CheckDeadline, CheckDepth, CheckConfirmation,
		CheckLogged, CheckScope, CheckRevocation, CheckFreshness,
	}
}

// ParseCheckName refuses what is none of the twelve.
func ParseCheckName(s string) (CheckName, error) {
	if !slices.Contains(CheckNames(), CheckName(s)) {
		return "", fmt.Errorf("%.40q is not a check", s)
	}
	return CheckName(s), nil
}

// alwaysRequired says which checks no caller can do without: they need nothing that a caller may lack.
func alwaysRequired(n CheckName) bool {
	switch n {
	case CheckPath, CheckFormat, CheckBinding, CheckAttenuation, CheckDeadline, CheckDepth:
		return true
	case CheckPrincipal, CheckConfirmation, CheckLogged, CheckScope, CheckRevocation, CheckFreshness:
	}
	return false
}

// Status is a check's result. Only Pass is good.
type Status int

// The results.
const (
	NotEvaluated Status = iota
	Pass
	Fail
)

// String returns not_evaluated, pass or fail; anything unknown is not evaluated.
func (s Status) String() string {
	switch s {
	case Pass:
		return "pass"
	case Fail:
		return "fail"
	case NotEvaluated:
	}
	return "not_evaluated"
}

// MarshalText returns String.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Check is the result of one check.
type Check struct {
	Name     CheckName `json:"name"`
	Status   Status    `json:"status"`
	Code     string    `json:"code,omitempty"`   // why it failed or was not evaluated; the list is in codes.go
	Detail   string    `json:"detail,omitempty"` // for people; no secrets, and no stable form
	Required bool      `json:"required"`         // the report is valid only if it passed
}

// User is a person as an identity provider knows it.
type User struct{ Issuer, Subject string }

// RevKind is what a revocation is about.
type RevKind int

// The kinds, with what identifies the revoked thing.
const (
	RevUnknown      RevKind = iota
	RevCertificate          // Serial of the certificate
	RevAgent                // the agent's UUID, of any hop
	RevTask                 // the task's UUID
	RevGrant                // the grant's UUID
	RevUser                 // UserID: issuer, a zero byte, subject
	RevOrchestrator         // the orchestrator's name
	RevSubtree              // the UUID of an agent: everything below it, and not the agent itself
)

// UserID is the id of a RevUser. Neither part has a zero byte.
func UserID(issuer, subject string) string { return issuer + "\x00" + subject }

// SplitUserID is the inverse of UserID.
func SplitUserID(id string) (issuer, subject string) {
	issuer, subject, _ = strings.Cut(id, "\x00")
	return issuer, subject
}

// Revocations is a relying party's state of the revocation feed. Both methods must be safe for concurrent use if Verify is called so.
type Revocations interface {
	Revoked(kind RevKind, id string) bool
	FreshAt() time.Time // when the feed was last known to be complete
}

// Input is everything that Verify looks at. The zero Input is not valid.
type Input struct {
	Chain              []*x509.Certificate // leaf first, then its issuers in any number up to MaxChain
	Trust              *Trust
	Now                time.Time
	Skew               time.Duration // forgives a NotBefore and a feed in the future, never a deadline; at most MaxSkew counts
	RequiredScope      []Token
	ExpectUser         *User
	ExpectOrchestrator string                   // SPIFFE ID
	Origin             string                   // of the log: if set, every delegation's aud
	Delegations        []string                 // compact JWSs by hop, "" = absent; [0] is always ""
	Keys               [][]byte                 // SubjectPublicKeyInfo by hop, nil = absent; the leaf's own need not be given
	Links              [][]Link                 // re-keys by hop, oldest first: from the key that was delegated to to the hop's
	GrantDocument      []byte                   // canonical JSON; nil = absent
	Logged             func(tbs [32]byte) error // says whether a receipt covers the certificate; nil = no receipt
	Revocation         Revocations              // nil = no feed
	MaxStaleness       time.Duration            // of the feed; 0 = no limit, not evaluated
	Require            []CheckName              // besides path, format, binding, attenuation, deadline and depth
	Statements         *Statements              // what verified before; nil = everything anew
	Known              *Known                   // what Examine found about Chain[0], or ExamineChain about Chain; nil or another's = found anew
}

// Report is what Verify found.
type Report struct {
	Valid           bool        `json:"valid"`
	Checks          []Check     `json:"checks"`                     // all twelve, in the order of CheckNames
	UnknownRequired []CheckName `json:"unknown_required,omitempty"` // required names that are none of the twelve; the report is invalid
	Agent           ID          `json:"agent"`                      // the leaf's ID, also if the report is invalid; zero if there is none
	Delegation      *Delegation `json:"-"`                          // nil unless format passed
	Confirmed       []Confirmed `json:"-"`                          // by hop; [0], whose delegator is the user, is not evaluated
}

// Confirmed tells of one hop whether its delegator's statement verified by itself.
type Confirmed struct {
	Status Status
	Token  *[32]byte // SHA-256 of the enrolment token that it names instead of a key
}

// Failed returns the checks that make the report invalid: those that failed and those that are required and were not evaluated.
func (r Report) Failed() []Check {
	var out []Check
	for _, c := range r.Checks {
		if c.Status == Fail || c.Required && c.Status != Pass {
			out = append(out, c)
		}
	}
	return out
}

// Check returns the check of that name; the zero Check, which is not evaluated, for an unknown name.
func (r Report) Check(name CheckName) Check {
	for _, c := range r.Checks {
		if c.Name == name {
			return c
		}
	}
	return Check{}
}

// evaluation is one run of Verify.
type evaluation struct {
	in   *Input
	now  time.Time
	skew time.Duration
	leaf *x509.Certificate // nil if there is none
	id   ID                // of the leaf
	ids  []ID              // of the hops
	d    *Delegation       // nil if format failed
	said []Confirmed       // of each hop
	held *AccessToken      // what was presented in the leaf's place, if not nil
}

func (e *evaluation) serial() string {
	if e.held != nil {
		return e.held.Serial
	}
	return Serial(e.leaf)
}

// Verify evaluates all twelve checks, each by itself. What depends on the extension is not evaluated if format failed. A
// report is valid if nothing failed and everything required passed.
func Verify(in Input) Report {
	e := &evaluation{in: &in, now: in.Now, skew: clampSkew(in.Skew)}
	if len(in.Chain) > 0 {
		e.leaf = in.Chain[0]
	}
	found := e.settle()
	report := Report{Checks: []Check{
		e.path(), found.format,
		found.binding, e.dependent(CheckPrincipal, e.principal), found.attenuation,
		e.dependent(CheckDeadline, e.deadline), found.depth, e.dependent(CheckConfirmation, e.confirmation),
		e.logged(), e.dependent(CheckScope, e.scope), e.dependent(CheckRevocation, e.revocation), e.freshness(),
	}}
	report.Agent, report.Delegation, report.Confirmed = e.id, e.d, e.said
	for i := range report.Checks {
		c := &report.Checks[i]
		c.Required = alwaysRequired(c.Name) || slices.Contains(in.Require, c.Name)
	}
	for _, n := range in.Require {
		if _, err := ParseCheckName(string(n)); err != nil {
			report.UnknownRequired = append(report.UnknownRequired, n)
		}
	}
	report.Valid = len(report.Failed()) == 0 && len(report.UnknownRequired) == 0
	return report
}

func clampSkew(d time.Duration) time.Duration { return min(max(d, 0), MaxSkew) }

func verdict(name CheckName, f *failure) Check {
	if f != nil {
		return Check{Name: name, Status: Fail, Code: f.code, Detail: f.detail}
	}
	return Check{Name: name, Status: Pass}
}

func skipped(name CheckName, code string) Check { return Check{Name: name, Code: code} }

func (e *evaluation) path() Check {
	if e.in.Trust == nil {
		return skipped(CheckPath, CodeNoTrust)
	}
	if k := e.in.Known; k != nil && k.shown != nil && slices.Equal(k.shown.certs, e.in.Chain) {
		return verdict(CheckPath, k.shown.path(e.in.Trust, e.now))
	}
	_, f := checkPath(e.in.Chain, e.in.Trust, e.now)
	return verdict(CheckPath, f)
}

// dependent evaluates a check that looks at the delegation.
func (e *evaluation) dependent(name CheckName, check func() Check) Check {
	if e.leaf == nil {
		return skipped(name, CodeNoCertificate)
	}
	if e.d == nil {
		return skipped(name, CodeFormatFailed)
	}
	return check()
}
