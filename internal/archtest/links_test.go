package archtest

import (
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"unicode"
)

// architecture is the page whose tables of packages must be complete.
const architecture = "docs/ARCHITECTURE.md"

func TestLinksResolve(t *testing.T) {
	found, err := brokenLinks(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	for _, broken := range found {
		t.Error(broken)
	}
}

func TestArchitectureNamesEveryPackage(t *testing.T) {
	watchSources(t)
	page, err := os.ReadFile(root + "/" + architecture)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for name := range load(t) {
		if short, ours := inModule(name); ours {
			names[short] = true
		}
	}
	for _, v := range unnamed(string(page), names) {
		t.Errorf("%s: %s", architecture, v)
	}
}

// TestBrokenLinksAreFound breaks each kind of link once.
func TestBrokenLinksAreFound(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"file", "see [a](b.md)", ""},
		{"folder", "see [a](../docs/)", ""},
		{"web", "see [a](https://example.org/x) and [b](mailto:a@example.org)", ""},
		{"heading", "see [a](b.md#the-way--in-2)", ""},
		{"repeated heading", "see [a](b.md#twice-1)", ""},
		{"anchor", "see [a](b.md#here)", ""},
		{"code", "`[a](nowhere.md)`\n```\n[a](nowhere.md)\n```\n", ""},
		{"reference", "see [a][x]\n\n[x]: b.md\n", ""},
		{"image", "![a](nowhere.png)", "docs/a.md:1: nowhere.png"},
		{"no file", "x\nsee [a](nowhere.md)", "docs/a.md:2: nowhere.md"},
		{"no heading", "see [a](b.md#nowhere)", "docs/a.md:1: b.md#nowhere"},
		{"no own heading", "see [a](#nowhere)", "docs/a.md:1: #nowhere"},
		{"no reference", "[x]: nowhere.md", "docs/a.md:1: nowhere.md"},
		{"outside", "see [a](../../b.md)", "docs/a.md:1: ../../b.md"},
		{"absolute", "see [a](/docs/b.md)", "docs/a.md:1: /docs/b.md"},
		{"after code", "```\n```\nsee [a](nowhere.md)", "docs/a.md:3: nowhere.md"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tree := fstest.MapFS{
				"docs/a.md":   {Data: []byte(tc.text)},
				"docs/b.md":   {Data: []byte("# `The` way – in, 2\n## Twice\n## Twice\n<a id=\"here\"></a>\n")},
				"var/x.md":    {Data: []byte("[a](nowhere.md)")},
				".hid/x.md":   {Data: []byte("[a](nowhere.md)")},
				"docs/x.json": {Data: []byte("[a](nowhere.md)")},
			}
			got, err := brokenLinks(tree)
			if err != nil {
				t.Fatal(err)
			}
			if tc.want == "" && len(got) > 0 || tc.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], tc.want)) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// TestUnnamedPackagesAreFound leaves out each kind of row once.
func TestUnnamedPackagesAreFound(t *testing.T) {
	names := map[string]bool{"ca": true, "ca/lint": true, "internal/rig/a": true}
	for _, tc := range []struct {
		page string
		want []string
	}{
		{"| `ca`; `ca/lint` | x |\n| `internal/rig/…` | x |\n", nil},
		{"| `ca` | `ca/lint` |\n| `internal/rig/…` | x |\n", []string{"ca/lint: in no row"}},
		{"`ca`\n| `ca/lint` | x |\n| `internal/rig/…` | x |\n", []string{"ca: in no row"}},
		{"| `ca`; `ca/lint` | x |\n| `internal/rigs/…` | x |\n", []string{"internal/rig/a: in no row", "internal/rigs/…: no such package"}},
		{"| `ca`, `ca/lint`, `hsm` | x |\n| `internal/rig/…` | x |\n", []string{"hsm: no such package"}},
	} {
		if got := unnamed(tc.page, names); !slices.Equal(got, tc.want) {
			t.Errorf("%q: got %q, want %q", tc.page, got, tc.want)
		}
	}
}

var (
	inlineLink    = regexp.MustCompile(`\]\(([^()\s]*(?:\([^()\s]*\))?[^()\s]*)(?:\s+"[^"]*")?\)`)
	referenceLink = regexp.MustCompile(`^\s{0,3}\[[^\]]+\]:\s+(\S+)`)
	inlineCode    = regexp.MustCompile("`+[^`]*`+")
	htmlAnchor    = regexp.MustCompile(`<a (?:id|name)="([^"]+)"`)
	heading       = regexp.MustCompile(`^#{1,6}\s+(.*?)\s*#*$`)
)

// brokenLinks gives "file:line: target: why" for each relative link of a Markdown page that leads nowhere in the tree.
func brokenLinks(tree fs.FS) ([]string, error) {
	pages, err := markdown(tree)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, name := range slices.Sorted(maps.Keys(pages)) {
		for n, text := range prose(pages[name]) {
			for _, target := range targets(text) {
				if why := follow(tree, pages, name, target); why != "" {
					found = append(found, fmt.Sprintf("%s:%d: %s: %s", name, n+1, target, why))
				}
			}
		}
	}
	return found, nil
}

// markdown reads every page of the tree that people maintain.
func markdown(tree fs.FS) (map[string]string, error) {
	pages := map[string]string{}
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != "." {
			if base := d.Name(); strings.HasPrefix(base, ".") || base == "bin" || base == "var" || base == "node_modules" {
				return fs.SkipDir
			}
		}
		if d.IsDir() || path.Ext(name) != ".md" {
			return nil
		}
		b, err := fs.ReadFile(tree, name)
		pages[name] = string(b)
		return err
	})
	return pages, err
}

// prose gives the lines of a page, with those of code blocks empty so that numbers stay.
func prose(page string) []string {
	lines := strings.Split(page, "\n")
	fence := false
	for i, l := range lines {
		if strings.HasPrefix(strings.TrimSpace(l), "```") {
			fence, lines[i] = !fence, ""
		} else if fence {
			lines[i] = ""
		}
	}
	return lines
}

// targets gives what a line links to within the tree.
func targets(line string) []string {
	line = inlineCode.ReplaceAllString(line, "`")
	var out []string
	for _, m := range slices.Concat(inlineLink.FindAllStringSubmatch(line, -1), referenceLink.FindAllStringSubmatch(line, -1)) {
		if u, err := url.Parse(m[1]); err != nil || u.Scheme == "" {
			out = append(out, m[1])
		}
	}
	return out
}

// follow says why a link leads nowhere, "" when it leads somewhere.
func follow(tree fs.FS, pages map[string]string, from, target string) string {
	u, err := url.Parse(target)
	if err != nil {
		return err.Error()
	}
	if u.Host != "" || strings.HasPrefix(u.Path, "/") {
		return "not relative to the page"
	}
	to := from
	if u.Path != "" {
		to = path.Join(path.Dir(from), u.Path)
	}
	if !fs.ValidPath(to) {
		return "leaves the repository"
	}
	if _, err := fs.Stat(tree, to); err != nil {
		return "no such file"
	}
	page, isPage := pages[to]
	if u.Fragment != "" && isPage && !slices.Contains(anchors(page), u.Fragment) {
		return "no such heading"
	}
	return ""
}

// anchors are the fragments of a page: its headings as code hosts spell them, and explicit anchors.
func anchors(page string) []string {
	var out []string
	times := map[string]int{}
	for _, l := range prose(page) {
		for _, m := range htmlAnchor.FindAllStringSubmatch(l, -1) {
			out = append(out, m[1])
		}
		m := heading.FindStringSubmatch(l)
		if m == nil {
			continue
		}
		s := slug(m[1])
		if n := times[s]; n > 0 {
			out = append(out, fmt.Sprintf("%s-%d", s, n))
		} else {
			out = append(out, s)
		}
		times[s]++
	}
	return out
}

func slug(title string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, title)
}

var codeSpan = regexp.MustCompile("`([^`]+)`")

// rowNames are the packages that the rows of a page's package tables name in their first cell; one that ends in /… stands
// for the folder below. A cell with anything but names is of another table.
func rowNames(page string) []string {
	var out []string
	for _, l := range prose(page) {
		cells := strings.Split(l, "|")
		if len(cells) < 4 || strings.Trim(codeSpan.ReplaceAllString(cells[1], ""), " ;,") != "" {
			continue
		}
		for _, m := range codeSpan.FindAllStringSubmatch(cells[1], -1) {
			out = append(out, m[1])
		}
	}
	return out
}

// unnamed gives the packages without a row, and the rows without a package.
func unnamed(page string, names map[string]bool) []string {
	rows := rowNames(page)
	var found []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if !slices.ContainsFunc(rows, func(r string) bool { return stands(r, name) }) {
			found = append(found, name+": in no row")
		}
	}
	for _, r := range rows {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(names)), func(name string) bool { return stands(r, name) }) {
			found = append(found, r+": no such package")
		}
	}
	return found
}

func stands(row, name string) bool {
	folder, wide := strings.CutSuffix(row, "/…")
	return row == name || wide && below(name, folder)
}
