package opa

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/signet-pki/signet/policy"
)

// maxGrowth is how large a value may become of variables that stand in it more than once.
const maxGrowth = 64 << 10

// maxRounds is how often definitions are gone through; those in the order of their lines need one.
const maxRounds = 64

// growth finds values that double with each line of a rule, as x1 := [x0, x0]; x2 := [x1, x1] do. OPA makes such a value of
// copies, in one step that no deadline interrupts: forty lines are more than all memory. It is refused before it is active.
type growth struct {
	defined []definition
	size    map[ast.Var]int
}

// definition is a variable and what it can become.
type definition struct {
	name  ast.Var
	value ast.Value
}

func checkGrowth(modules map[string]*ast.Module) error {
	for _, m := range modules {
		if at := immodest(m); at != nil {
			return policy.RefuseBundle(policy.BundleCompile, "compile bundle: %v: a number that no float can hold", at)
		}
		for _, r := range m.Rules {
			g := growth{size: map[ast.Var]int{}}
			ast.WalkExprs(r, func(e *ast.Expr) bool {
				if o := e.Operands(); len(o) == 2 && (e.IsEquality() || e.IsAssignment()) {
					g.unify(o[0], o[1])
				}
				return false
			})
			if !g.settles() || g.exceeds(r) {
				return policy.RefuseBundle(policy.BundleCompile, "compile bundle: %v: a value grows with each use of a variable to more than %d parts", r.Location, maxGrowth)
			}
		}
	}
	return nil
}

// immodest finds a number that only its exponent makes short.
func immodest(m *ast.Module) (at *ast.Location) {
	ast.WalkTerms(m, func(t *ast.Term) bool {
		if n, ok := t.Value.(ast.Number); ok && strings.ContainsAny(string(n), "eE") && !modest(string(n)) {
			at = t.Location
		}
		return at != nil
	})
	return at
}

// unify notes what variables become where two terms are made equal.
func (g *growth) unify(a, b *ast.Term) {
	if v, ok := a.Value.(ast.Var); ok {
		g.defined = append(g.defined, definition{v, b.Value})
	}
	if v, ok := b.Value.(ast.Var); ok {
		g.defined = append(g.defined, definition{v, a.Value})
	}
	switch x := a.Value.(type) {
	case *ast.Array:
		if y, ok := b.Value.(*ast.Array); ok && x.Len() == y.Len() {
			for i := range x.Len() {
				g.unify(x.Elem(i), y.Elem(i))
			}
		}
	case ast.Object:
		if y, ok := b.Value.(ast.Object); ok {
			x.Foreach(func(k, t *ast.Term) {
				if u := y.Get(k); u != nil {
					g.unify(t, u)
				}
			})
		}
	}
}

// settles computes the sizes of variables; false if they have no end.
func (g *growth) settles() bool {
	for range maxRounds {
		changed := false
		for _, d := range g.defined {
			if n := g.weigh(d.value); n > g.size[d.name] {
				g.size[d.name], changed = n, true
			}
		}
		if !changed {
			return true
		}
	}
	return false
}

func (g *growth) exceeds(r *ast.Rule) bool {
	large := false
	ast.WalkTerms(r, func(t *ast.Term) bool {
		large = large || g.weigh(t.Value) > maxGrowth
		return large
	})
	return large
}

// weigh counts the parts of a value when all its variables are put in.
func (g *growth) weigh(value ast.Value) int {
	n := 1
	add := func(t *ast.Term) { n = min(n+g.weigh(t.Value), maxGrowth+1) }
	switch v := value.(type) {
	case ast.Var:
		n = max(n, g.size[v])
	case *ast.Array:
		v.Foreach(add)
	case ast.Set:
		v.Foreach(add)
	case ast.Object:
		v.Foreach(func(k, t *ast.Term) { add(k); add(t) })
	}
	return n
}
