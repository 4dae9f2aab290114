package opa

import (
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"
)

// maxMade is how many parts a value that a policy makes may have, each counted as often as it stands there.
const maxMade = 16 << 10

// maxWhole is how many parts may be compared that are put together in place, each of which can be as large.
const maxWhole = 16

// measureName is the function that measures. It is not on the allow-list: no policy can call or replace it.
const measureName = "internal.signet_measure"

func registerMeasure() {
	ast.RegisterBuiltin(&ast.Builtin{Name: measureName, Decl: types.NewFunction(types.Args(types.A), types.B)})
	topdown.RegisterBuiltinFunc(measureName, func(_ topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
		if left := maxMade; !measure(operands[0].Value, &left) {
			return errGuard
		}
		return iter(ast.InternedTerm(true))
	})
}

// measure takes the parts of a value off what is left. It looks at a length first: a set sorts itself to be gone through.
func measure(v ast.Value, left *int) bool {
	*left--
	more := func(t *ast.Term) error {
		if !measure(t.Value, left) {
			return errGuard
		}
		return nil
	}
	var err error
	switch v := v.(type) {
	case list:
		if v.Len() > *left {
			return false
		}
		err = v.Iter(more)
	case ast.Object:
		if v.Len() > *left {
			return false
		}
		err = v.Iter(func(k, t *ast.Term) error {
			if err := more(k); err != nil {
				return err
			}
			return more(t)
		})
	}
	return err == nil && *left >= 0
}

// measurer has each value measured where a policy makes it. Parts are shared: forty calls of f(x) := [x, x] in each other
// are small in memory, and OPA compares and unifies them as the tree that they are, in one step that no deadline interrupts
// and on a stack that ends the process when it is full. Of two values that are compared the smaller one is what counts.
type measurer struct {
	types *ast.TypeEnv
	rules func(ast.Ref) []*ast.Rule
	fresh int
	large *ast.Location // of a comparison that cannot be taken apart
}

// measureValues is a stage of the compiler, the last one: every body is as it will be evaluated.
func measureValues(c *ast.Compiler) *ast.Error {
	if c.Failed() {
		return nil
	}
	m := &measurer{types: c.TypeEnv, rules: func(r ast.Ref) []*ast.Rule { return c.GetRulesDynamicWithOpts(r, ast.RulesOptions{}) }}
	for _, module := range c.Modules {
		ast.NewGenericVisitor(m.visit).Walk(module)
	}
	if m.large != nil {
		return ast.NewError(ast.CompileErr, m.large, "more than %d parts are compared as they are put together: give them a name", maxWhole)
	}
	return nil
}

func (m *measurer) visit(x any) bool {
	switch x := x.(type) {
	case *ast.Rule:
		x.Body = m.body(x.Body)
		for _, t := range []*ast.Term{x.Head.Key, x.Head.Value} {
			if t != nil && composed(t) {
				x.Body.Append(measured(t, x.Location))
			}
		}
	case *ast.ArrayComprehension:
		x.Body = m.body(x.Body)
	case *ast.SetComprehension:
		x.Body = m.body(x.Body)
	case *ast.ObjectComprehension:
		x.Body = m.body(x.Body)
	case *ast.Every:
		x.Body = m.body(x.Body)
	case *ast.Not:
		x.Body = m.body(x.Body)
	case *ast.LogicalAnd:
		x.Lhs, x.Rhs = m.body(x.Lhs), m.body(x.Rhs)
	case *ast.LogicalOr:
		x.Lhs, x.Rhs = m.body(x.Lhs), m.body(x.Rhs)
	}
	return false
}

func (m *measurer) body(b ast.Body) ast.Body {
	out := make(ast.Body, 0, len(b))
	for _, e := range b {
		switch {
		case e.IsEquality() && len(e.Operands()) == 2:
			m.equality(&out, e)
		case e.IsCall():
			m.call(&out, e)
		default:
			out.Append(e)
		}
	}
	return out
}

// equality measures what variables become. Where neither side is a variable, one gets a variable in between, or both are taken
// apart: then the deadline can end it between two parts.
func (m *measurer) equality(out *ast.Body, e *ast.Expr) {
	a, b := e.Operand(0), e.Operand(1)
	switch makesA, makesB := m.makes(a), m.makes(b); {
	case composed(a) && composed(b):
		m.replace(out, e, m.apart(nil, a, b, e)...)
	case makesA && makesB:
		if composed(a) {
			a, b = b, a
		}
		m.fresh++
		v := ast.VarTerm("__made" + strconv.Itoa(m.fresh) + "__")
		m.replace(out, e, equal(v, a, e), measured(v, e.Location), equal(v, b, e))
		return
	default:
		out.Append(e)
		if !makesA && !makesB {
			return
		}
	}
	if !e.Negated {
		appendMeasured(out, e, a, b)
	}
}

// replace puts several expressions in the place of one, all of which hold if it does.
func (m *measurer) replace(out *ast.Body, e *ast.Expr, by ...*ast.Expr) {
	if e.Negated {
		not := ast.NewExpr(ast.NewNot(by...))
		not.Location, not.With = e.Location, e.With
		out.Append(not)
		return
	}
	for _, part := range by {
		part.With = e.With
		out.Append(part)
	}
}

// apart makes equalities of the members of two terms with equal shapes. What has no such shape stays, and is not large.
func (m *measurer) apart(parts []*ast.Expr, a, b *ast.Term, e *ast.Expr) []*ast.Expr {
	switch x := a.Value.(type) {
	case *ast.Array:
		if y, ok := b.Value.(*ast.Array); ok && x.Len() == y.Len() {
			for i := range x.Len() {
				parts = m.apart(parts, x.Elem(i), y.Elem(i), e)
			}
			return parts
		}
	case ast.Object:
		if y, ok := b.Value.(ast.Object); ok && sameKeys(x, y) {
			x.Foreach(func(k, t *ast.Term) { parts = m.apart(parts, t, y.Get(k), e) })
			return parts
		}
	}
	if left := maxWhole; composed(a) && composed(b) && !measure(a.Value, &left) {
		m.large = e.Location
	}
	return append(parts, equal(a, b, e))
}

func sameKeys(x, y ast.Object) bool {
	same := x.Len() == y.Len()
	x.Foreach(func(k, _ *ast.Term) { same = same && k.IsGround() && y.Get(k) != nil })
	return same
}

func equal(v, t *ast.Term, of *ast.Expr) *ast.Expr {
	e := ast.Equality.Expr(v, t)
	e.Location = of.Location
	return e
}

// call measures what a function is given and what it gives, unless its type says that this has no parts.
func (m *measurer) call(out *ast.Body, e *ast.Expr) {
	operator, operands := e.Operator(), e.Operands()
	f, ok := m.types.GetByRef(operator).(*types.Function)
	if !ok || len(operands) < f.Arity() {
		out.Append(e)
		return
	}
	for _, t := range operands[:f.Arity()] {
		if composed(t) {
			out.Append(measured(t, e.Location))
		}
	}
	out.Append(e)
	if !scalar(f.Result()) {
		appendMeasured(out, e, operands[f.Arity():]...)
	}
}

func appendMeasured(out *ast.Body, e *ast.Expr, patterns ...*ast.Term) {
	for _, t := range patterns {
		switch t.Value.(type) {
		case ast.Var, *ast.Array, ast.Object:
			out.Append(measured(t, e.Location))
		}
	}
}

func measured(t *ast.Term, at *ast.Location) *ast.Expr {
	e := ast.NewExpr([]*ast.Term{ast.NewTerm(ast.MustParseRef(measureName)), t})
	e.Location, e.Generated = at, true
	return e
}

// composed says whether a term puts variables together.
func composed(t *ast.Term) bool {
	switch t.Value.(type) {
	case *ast.Array, ast.Object, ast.Set:
		return !t.IsGround()
	}
	return false
}

// makes says whether a term is more than a name of what was there before.
func (m *measurer) makes(t *ast.Term) bool {
	switch v := t.Value.(type) {
	case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
		return true
	case ast.Ref:
		return len(m.rules(v)) > 0 && !scalar(m.types.GetByRef(v))
	}
	return composed(t)
}

func scalar(t types.Type) bool {
	switch t := t.(type) {
	case types.Boolean, types.Number, types.String, types.Null:
		return true
	case types.Any:
		for _, of := range t {
			if !scalar(of) {
				return false
			}
		}
		return len(t) > 0
	}
	return false
}
