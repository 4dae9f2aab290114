package archtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

const modulePath = "github.com/signet-pki/signet"

// pkg is what `go list -json` says of one package, as far as the rules need it.
type pkg struct {
	ImportPath   string
	Standard     bool
	DepOnly      bool // not matched by the patterns of go list itself
	Imports      []string
	Deps         []string
	TestImports  []string
	XTestImports []string
	CgoFiles     []string
}

type graph map[string]pkg

// check returns every violation of the rules, sorted.
func check(g graph, rows []row) []string {
	var found []string
	for _, path := range slices.Sorted(maps.Keys(g)) {
		name, ours := inModule(path)
		if !ours {
			continue
		}
		p := g[path]
		found = append(found, checkImporters(name, p)...)
		r, ok := rowOf(name, rows)
		if !ok {
			found = append(found, fmt.Sprintf("%s: no row in the table", name))
			continue
		}
		found = append(found, checkImports(name, p, r)...)
		found = append(found, checkDeps(name, p, r, g)...)
	}
	return found
}

// checkImports covers the direct imports: the row for this module's packages, the borders for libraries.
func checkImports(name string, p pkg, r row) []string {
	var found []string
	for _, imp := range p.Imports {
		if other, ours := inModule(imp); ours {
			if !matchAny(r.imports, other) {
				found = append(found, fmt.Sprintf("%s: imports %s, which its row does not allow", name, other))
			}
			continue
		}
		for library, allowed := range borders {
			if below(imp, library) && !matchAny(allowed, name) {
				found = append(found, fmt.Sprintf("%s: imports %s, which belongs in %s", name, imp, strings.Join(allowed, ", ")))
			}
		}
	}
	return found
}

// checkDeps covers what is reached at any depth.
func checkDeps(name string, p pkg, r row, g graph) []string {
	never := r.never
	if r.pure {
		never = append(slices.Clone(never), noSystem...)
	}
	var found []string
	for _, dep := range p.Deps {
		for _, bad := range never {
			if below(dep, bad) {
				found = append(found, fmt.Sprintf("%s: reaches %s (%s)", name, dep, strings.Join(route(g, p.ImportPath, dep), " > ")))
			}
		}
		// The standard library's cgo (net, os/user) falls back to Go when cgo is off.
		if d := g[dep]; (r.noCgo || r.pure) && !d.Standard && len(d.CgoFiles) > 0 {
			found = append(found, fmt.Sprintf("%s: reaches cgo in %s", name, dep))
		}
	}
	return found
}

// checkImporters covers packages that only some, or none, may import. softhsm-test is not even for tests.
func checkImporters(name string, p pkg) []string {
	var found []string
	for _, rule := range restricted {
		for _, imp := range p.Imports {
			if other, ours := inModule(imp); ours && match(rule.pattern, other) && !matchAny(rule.by, name) {
				found = append(found, fmt.Sprintf("%s: imports %s, which only %v may", name, other, rule.by))
			}
		}
	}
	for _, imp := range slices.Concat(p.TestImports, p.XTestImports) {
		if other, ours := inModule(imp); ours && other == "softhsm-test" && name != "softhsm-test" {
			found = append(found, fmt.Sprintf("%s: a test imports %s", name, other))
		}
	}
	return found
}

// route is one chain of imports from package to package, for the message.
func route(g graph, from, to string) []string {
	via := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		for _, imp := range g[queue[0]].Imports {
			if _, seen := via[imp]; !seen {
				via[imp] = queue[0]
				queue = append(queue, imp)
			}
		}
	}
	var path []string
	for at := to; at != ""; at = via[at] {
		path = append(path, at)
	}
	slices.Reverse(path)
	return path
}

func rowOf(name string, rows []row) (row, bool) {
	for _, r := range rows {
		if match(r.pattern, name) {
			return r, true
		}
	}
	return row{}, false
}

// inModule is the path below the module's; the module's root package is ".".
func inModule(path string) (string, bool) {
	if path == modulePath {
		return ".", true
	}
	return strings.CutPrefix(path, modulePath+"/")
}

func matchAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return match(p, name) })
}

// match knows literal paths and a trailing /..., which includes the folder itself, as the go command does.
func match(pattern, name string) bool {
	if folder, ok := strings.CutSuffix(pattern, "/..."); ok {
		return below(name, folder)
	}
	return pattern == name
}

func below(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}
