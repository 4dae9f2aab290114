// Package firmwarenotes holds what is known of the devices that keep Signet's keys: a page for each, embedded, and the
// table of published weaknesses of their firmware.
//
// It looks up and judges what it is given: it opens no device. Everything in it is safe for concurrent use.
package firmwarenotes

import (
	"embed"
	"fmt"
	"strings"
)

//go:embed *.md
var pages embed.FS

// readme describes this folder; it is no device's page.
const readme = "README"

// Pages lists the names of the device pages, sorted, as [Page] takes them: "softhsm".
func Pages() []string {
	entries, err := pages.ReadDir(".")
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if name := strings.TrimSuffix(e.Name(), ".md"); name != readme {
			names = append(names, name)
		}
	}
	return names
}

// Page returns a device page as Markdown. An unknown name is an error that matches [io/fs.ErrNotExist].
func Page(name string) ([]byte, error) {
	text, err := pages.ReadFile(name + ".md")
	if err != nil {
		return nil, fmt.Errorf("firmwarenotes: no page %q: %w", name, err)
	}
	return text, nil
}
