package opa

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/signet-pki/signet/policy"
)

// Bounds of what a bundle may answer.
const (
	maxReasons     = 16
	maxReason      = 64
	maxObjects     = 16      // obligations, and likewise advice
	maxObjectBytes = 8 << 10 // of all of them
	maxObjectDepth = 8
)

// judge turns bindings into a Decision: only an allow that is the boolean true, with no reason against it, allows.
func (e *Engine) judge(b rego.Vars) policy.Decision {
	allow, ok := b["allow"].(*ast.Term)
	if !ok {
		return e.deny(nil, policy.ReasonUndefined)
	}
	value, ok := allow.Value.(ast.Boolean)
	if !ok {
		return e.deny(fmt.Errorf("allow is a %s", ast.ValueName(allow.Value)), policy.ReasonNotBoolean)
	}
	reasons, err := reasonsOf(b["reasons"])
	if err != nil {
		return e.deny(err, policy.ReasonError)
	}
	obligations, err := objectsOf(b["obligations"])
	if err != nil {
		return e.deny(fmt.Errorf("obligations: %w", err), append(reasons, policy.ReasonObligation)...)
	}
	advice, err := objectsOf(b["advice"])
	if err != nil {
		return e.deny(fmt.Errorf("advice: %w", err), append(reasons, policy.ReasonAdvice)...)
	}
	var d policy.Decision
	switch {
	case len(reasons) > 0:
		d = e.deny(nil, reasons...)
	case !bool(value):
		d = e.deny(nil, policy.ReasonDenied)
	default:
		d = policy.Decision{Allow: true, Digest: e.digest, Revision: e.revision, Obligations: obligations}
	}
	d.Advice = advice
	return d
}

// reasonsOf reads deny_reasons: a set of at most 16 words of at most 64 of [a-z0-9_]. Text for people, or data out of
// the input, does not get into a reason: reasons are shown to callers and counted.
func reasonsOf(bound any) ([]string, error) {
	term, ok := bound.(*ast.Term)
	if !ok {
		return nil, nil // the bundle has no deny_reasons
	}
	set, ok := term.Value.(ast.Set)
	if !ok {
		return nil, fmt.Errorf("deny_reasons is a %s, not a set", ast.ValueName(term.Value))
	}
	if set.Len() > maxReasons {
		return nil, fmt.Errorf("deny_reasons has more than %d members", maxReasons)
	}
	reasons := make([]string, 0, set.Len())
	for _, t := range set.Slice() {
		s, ok := t.Value.(ast.String)
		if !ok || !word(string(s)) {
			return nil, errors.New("deny_reasons has a member that is no word of [a-z0-9_]{1,64}")
		}
		reasons = append(reasons, string(s))
	}
	slices.Sort(reasons)
	return reasons, nil
}

func word(s string) bool {
	for _, c := range []byte(s) {
		if c != '_' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != "" && len(s) <= maxReason
}

// list is an array or a set.
type list interface {
	Len() int
	Iter(f func(*ast.Term) error) error
}

// objectsOf reads obligations or advice: an array, or a set, which has an order of its own. bound is an array that holds
// the rule's value, and nothing where it has none.
func objectsOf(bound any) ([]json.RawMessage, error) {
	term, ok := bound.(*ast.Term)
	if !ok {
		return nil, nil // the bundle has no such rule
	}
	value, ok := term.Value.(*ast.Array)
	if !ok || value.Len() > 1 {
		return nil, errors.New("more than one value")
	}
	if value.Len() == 0 {
		return nil, nil
	}
	of, ok := value.Elem(0).Value.(list)
	if !ok {
		return nil, fmt.Errorf("a %s, neither an array nor a set", ast.ValueName(value.Elem(0).Value))
	}
	if of.Len() > maxObjects {
		return nil, fmt.Errorf("more than %d", maxObjects)
	}
	out := make([]json.RawMessage, 0, of.Len())
	m := meter{left: maxObjectBytes}
	err := of.Iter(func(t *ast.Term) error {
		o, err := m.object(t)
		out = append(out, o)
		return err
	})
	if err != nil || len(out) == 0 {
		return nil, err
	}
	return out, nil
}

// meter holds what a bundle answers to its bounds before anything is made of it: a policy could answer with a megabyte.
type meter struct{ left int }

var errLarge = fmt.Errorf("more than %d bytes", maxObjectBytes)

// object gives a JSON object in encoding/json's form: names sorted, no space.
func (m *meter) object(t *ast.Term) (json.RawMessage, error) {
	if _, ok := t.Value.(ast.Object); !ok {
		return nil, fmt.Errorf("a member is a %s, not an object", ast.ValueName(t.Value))
	}
	before := m.left
	if err := m.weigh(t, 1); err != nil {
		return nil, err
	}
	v, err := ast.JSON(t.Value)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	// Weighing does not know escapes and punctuation.
	if m.left = before - len(b); m.left < 0 {
		return nil, errLarge
	}
	return b, nil
}

// weigh takes what a value is at least in JSON off what is left.
func (m *meter) weigh(t *ast.Term, depth int) error {
	if depth > maxObjectDepth {
		return fmt.Errorf("nested deeper than %d", maxObjectDepth)
	}
	if m.left -= 2; m.left < 0 {
		return errLarge
	}
	switch v := t.Value.(type) {
	case ast.String:
		m.left -= len(v)
	case ast.Number:
		m.left -= len(v)
	case ast.Null, ast.Boolean:
	case *ast.Array:
		return v.Iter(func(e *ast.Term) error { return m.weigh(e, depth+1) })
	case ast.Set:
		return v.Iter(func(e *ast.Term) error { return m.weigh(e, depth+1) })
	case ast.Object:
		return v.Iter(func(k, e *ast.Term) error {
			if _, ok := k.Value.(ast.String); !ok {
				return errors.New("a name is not a string")
			}
			return errors.Join(m.weigh(k, depth), m.weigh(e, depth+1))
		})
	default:
		return fmt.Errorf("holds a %s", ast.ValueName(t.Value))
	}
	if m.left < 0 {
		return errLarge
	}
	return nil
}
