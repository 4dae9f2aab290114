package firmwarenotes

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestPages(t *testing.T) {
	for _, name := range Pages() {
		text, err := Page(name)
		if err != nil || !strings.HasPrefix(string(text), "# ") {
			t.Errorf("page %s does not begin with a title: %v", name, err)
		}
		if name == readme {
			t.Error("the README is listed as a device")
		}
	}
	for _, name := range []string{"no-such-device", "../go", ""} {
		if _, err := Page(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Page(%q): %v, want ErrNotExist", name, err)
		}
	}
}

// TestEachDeviceHasAPage: whoever is told of a weakness finds a page, and each page is about a device and can be found.
func TestEachDeviceHasAPage(t *testing.T) {
	var named []string
	for _, f := range Families() {
		named = append(named, f.Page)
	}
	slices.Sort(named)
	if named = slices.Compact(named); !slices.Equal(named, Pages()) {
		t.Errorf("the families have the pages %q, there are %q", named, Pages())
	}
	contents, err := Page(readme)
	if err != nil {
		t.Fatal(err)
	}
	guide, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range Pages() {
		if !strings.Contains(string(contents), "]("+page+".md)") {
			t.Errorf("README.md does not link to %s.md", page)
		}
		if !strings.Contains(string(guide), "](../firmware-notes/"+page+".md)") {
			t.Errorf("docs/operations.md does not link to firmware-notes/%s.md", page)
		}
	}
}

// TestPagesSayHowTheyKnow: what was run and what was only read must never be taken for each other.
func TestPagesSayHowTheyKnow(t *testing.T) {
	for _, page := range Pages() {
		text, err := Page(page)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "\n**Run**: ") && !strings.Contains(string(text), "\n**Read, not run**: ") {
			t.Errorf("%s.md says neither what was run nor that it was only read", page)
		}
	}
}
