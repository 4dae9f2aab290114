package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

func TestTable(t *testing.T) {
	watchSources(t)
	for _, violation := range check(load(t), table) {
		t.Error(violation)
	}
}

func TestPurePackagesCompileToWebAssembly(t *testing.T) {
	watchSources(t)
	args := []string{"build", "-buildvcs=false"}
	for path := range load(t) {
		name, ours := inModule(path)
		if r, ok := rowOf(name, table); ours && ok && r.pure {
			args = append(args, path)
		}
	}
	if len(args) == 2 {
		t.Fatal("the table names no package that exists as pure")
	}
	goCommand(t, []string{"GOOS=js", "GOARCH=wasm", "CGO_ENABLED=0"}, args...)
}

// TestCheckFindsViolations breaks each rule once on an invented graph.
func TestCheckFindsViolations(t *testing.T) {
	const m = modulePath + "/"
	sound := func() graph {
		return graph{
			m + "api":              {Imports: []string{m + "delegation", "github.com/labstack/echo/v4"}},
			m + "delegation":       {Imports: []string{m + "delegation/chain"}},
			m + "delegation/chain": {Imports: []string{"crypto/x509"}},
			m + "softhsm-test":     {Imports: []string{m + "internal/testrig"}},
			m + "internal/testrig": {TestImports: []string{m + "store"}},
			"crypto/x509":          {Standard: true, Imports: []string{"net"}},
			"net":                  {Standard: true, CgoFiles: []string{"cgo_unix.go"}},
			"net/http":             {Standard: true},
			"example.org/cgo":      {CgoFiles: []string{"c.go"}},
			"example.org/http":     {Imports: []string{"net/http"}},
		}
	}
	for _, tc := range []struct {
		name   string
		change func(graph)
		want   string // "" = no violation
	}{
		{"sound", func(graph) {}, ""},
		{"no row", func(g graph) { g[m+"util"] = pkg{} }, "util: no row"},
		{"no row for the root", func(g graph) { g[modulePath] = pkg{} }, ".: no row"},
		{"upward", add(m+"delegation", m+"api"), "delegation: imports api"},
		{"sideways", add(m+"api", m+"hsm"), "api: imports hsm"},
		{"deep http", add(m+"delegation/chain", "example.org/http"), "delegation/chain: reaches net/http (" + m + "delegation/chain > example.org/http > net/http)"},
		{"deep opa", add(m+"delegation", opa+"/v1/rego"), "api: reaches " + opa},
		{"deep cgo", add(m+"delegation/chain", "example.org/cgo"), "delegation/chain: reaches cgo in example.org/cgo"},
		{"border", add(m+"api", badger+"/badger/v4"), "api: imports " + badger + "/badger/v4, which belongs in store"},
		{"testrig", func(g graph) { g[m+"internal/bench"] = pkg{Imports: []string{m + "internal/testrig"}} }, "internal/bench: imports internal/testrig"},
		{"testrig in a test", func(g graph) { g[m+"hsm"] = pkg{TestImports: []string{m + "internal/testrig"}} }, ""},
		{"softhsm-test in a test", func(g graph) { g[m+"hsm"] = pkg{XTestImports: []string{m + "softhsm-test"}} }, "hsm: a test imports softhsm-test"},
		{"a command", func(g graph) { g[m+"internal/appliance"] = pkg{Imports: []string{m + "cmd/signet"}} }, "internal/appliance: imports cmd/signet"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := sound()
			tc.change(g)
			complete(g)
			got := check(g, table)
			if tc.want == "" && len(got) > 0 {
				t.Errorf("violations in a sound graph: %q", got)
			}
			if tc.want != "" && !slices.ContainsFunc(got, func(v string) bool { return strings.HasPrefix(v, tc.want) }) {
				t.Errorf("got %q, want one that begins with %q", got, tc.want)
			}
		})
	}
}

func add(path, imp string) func(graph) {
	return func(g graph) {
		p := g[path]
		p.Imports = append(p.Imports, imp)
		g[path] = p
	}
}

// complete fills in ImportPath and Deps as go list does.
func complete(g graph) {
	for path, p := range g {
		p.ImportPath = path
		seen := map[string]bool{}
		for todo := slices.Clone(p.Imports); len(todo) > 0; todo = todo[1:] {
			if !seen[todo[0]] {
				seen[todo[0]] = true
				p.Deps = append(p.Deps, todo[0])
				todo = append(todo, g[todo[0]].Imports...)
			}
		}
		g[path] = p
	}
}

// load asks for the shipped platform with cgo, whatever the environment says, so that cgo packages show themselves.
func load(t *testing.T) graph {
	t.Helper()
	out := goCommand(t, []string{"GOOS=linux", "CGO_ENABLED=1"}, "list", "-e", "-deps", "-buildvcs=false",
		"-json=ImportPath,Standard,DepOnly,Imports,Deps,TestImports,XTestImports,CgoFiles", "./...")
	g := graph{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return g
		}
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		// With ./... every package of the module is asked for; one that is only a dependency does not exist.
		if _, ours := inModule(p.ImportPath); !ours || !p.DepOnly {
			g[p.ImportPath] = p
		}
	}
}

func goCommand(t *testing.T, env []string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return out
}

// watchSources opens each source folder, because the go command caches a passed test by the files that the test itself
// opened: what its child processes read does not count, and a new import elsewhere would go unseen.
func watchSources(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || path == root {
			return err
		}
		if name := d.Name(); strings.HasPrefix(name, ".") || name == "bin" || name == "var" || name == "node_modules" || name == "testdata" {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
