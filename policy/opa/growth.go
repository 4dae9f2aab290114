package opa

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// maxGrowth is how large a value may become of variables and rules that stand in it more than once.
const maxGrowth = 64 << 10

// maxRounds is how often definitions are gone through; those in the order of their lines need one.
const maxRounds = 64

// growth finds values that double with each line, as x1 := [x0, x0]; x2 := [x1, x1] do, be they variables or rules. OPA makes
// such a value of copies, and its type too when it compiles, in one step that no deadline interrupts: forty lines are more than
// all memory. It is refused before it is active.
type growth struct {
	rules   func(ast.Ref) []*ast.Rule
	defined []definition
	size    map[ast.Var]int // local variables have different names in all rules by then
	heads   map[*ast.Rule]int
}

// definition is a variable and what it can become.
type definition struct {
	name  ast.Var
	value ast.Value
}

// checkGrowth is a stage of the compiler, before the one that makes types.
func checkGrowth(c *ast.Compiler) *ast.Error {
	if c.Failed() {
		return nil
	}
	g := growth{rules: c.GetRules, size: map[ast.Var]int{}, heads: map[*ast.Rule]int{}}
	for _, m := range c.Modules {
		if at := immodest(m); at != nil {
			return ast.NewError(ast.CompileErr, at, "a number that no float can hold")
		}
		ast.WalkExprs(m, func(e *ast.Expr) bool {
			if o := e.Operands(); len(o) == 2 && e.IsEquality() {
				g.unify(o[0], o[1])
			}
			return false
		})
		ast.WalkRules(m, func(r *ast.Rule) bool { g.heads[r] = 1; return false })
	}
	settled := g.settles()
	for r := range g.heads {
		if !settled || g.exceeds(r) {
			return ast.NewError(ast.CompileErr, r.Location, "a value grows with each use of a variable or a rule to more than %d parts", maxGrowth)
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
		for r, old := range g.heads {
			if n := g.head(r); n > old {
				g.heads[r], changed = n, true
			}
		}
		if !changed {
			return true
		}
	}
	return false
}

// head weighs what a rule makes of one evaluation of its body.
func (g *growth) head(r *ast.Rule) int {
	n := 1
	for _, t := range []*ast.Term{r.Head.Key, r.Head.Value} {
		if t != nil {
			n = min(n+g.weigh(t.Value), maxGrowth+1)
		}
	}
	return n
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
	case ast.Ref:
		for _, r := range g.rules(v) {
			n = min(n+g.heads[r], maxGrowth+1)
		}
	case *ast.Array:
		v.Foreach(add)
	case ast.Set:
		v.Foreach(add)
	case ast.Object:
		v.Foreach(func(k, t *ast.Term) { add(k); add(t) })
	}
	return n
}
