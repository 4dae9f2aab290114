package chain_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/signet-pki/signet/delegation/chain"
)

func TestResourceToken(t *testing.T) {
	for _, c := range []struct{ typ, id, action, want string }{
		{"database", "patients", "read", "database:read:patients"},
		{"records", "ward7:42", "read", "records:read:ward7:42"},
		{"http", "/v1/charts/42", "GET", "http:GET:/v1/charts/42"},
		{"database:read", "patients", "x", ""}, // would read as database:read:x:patients
		{"database", "patients", "read:all", ""},
		{"*", "patients", "read", ""},
		{"database", "patients", "*", ""},
		{"database", "*", "read", ""},
		{"database", "ward7:*", "read", ""},
		{"database", "", "read", ""},
		{"", "patients", "read", ""},
		{"database", "patients", "", ""},
		{"database", ":patients", "read", ""},
		{"database", "patients:", "read", ""},
		{"database", "ward7::42", "read", ""},
		{"database", "patients trials", "read", ""},
		{"database", "pаtients", "read", ""}, // a Cyrillic letter
		{"database", strings.Repeat("a", chain.MaxTokenBytes), "read", ""},
	} {
		got, err := chain.ResourceToken(c.typ, c.id, c.action)
		if got.String() != c.want || (err == nil) != (c.want != "") || err != nil && !errors.Is(err, chain.ErrScope) {
			t.Errorf("%q %q %q: %q, %v; want %q", c.typ, c.id, c.action, got, err, c.want)
		}
	}
}

// No two questions require the same scope: whoever has one resource has that one alone.
func TestResourceTokenIsInjective(t *testing.T) {
	parts := []string{"a", "b", "a:b", "b:a", "a:a", "a:b:a", "*", "a:*", ""}
	seen := map[string][3]string{}
	for _, typ := range parts {
		for _, id := range parts {
			for _, action := range parts {
				token, err := chain.ResourceToken(typ, id, action)
				if err != nil {
					continue
				}
				asked := [3]string{typ, id, action}
				if other, ok := seen[token.String()]; ok {
					t.Errorf("%q and %q both require %s", other, asked, token)
				}
				seen[token.String()] = asked
			}
		}
	}
	if len(seen) != 2*2*6 {
		t.Errorf("%d questions have a scope; want 24", len(seen))
	}
}

func TestCatalogue(t *testing.T) {
	c, err := chain.ParseCatalogue([]string{"database:read:patients", "records:read:*", "records:write:ward7:*"})
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []struct {
		typ, id, action string
		known           bool
	}{
		{"database", "patients", "read", true},
		{"database", "patients:1", "read", false},
		{"database", "billing", "read", false},
		{"database", "patients", "write", false},
		{"records", "ward7", "read", true},
		{"records", "ward7:42", "read", true},
		{"records", "ward7:42", "write", true},
		{"records", "ward7:42:notes", "write", true},
		{"records", "ward7", "write", false},
		{"records", "ward77:42", "write", false},
		{"records", "*", "read", false},
		{"records:read", "x", "read", false},
	} {
		token, known := c.Required(q.typ, q.id, q.action)
		if known != q.known || known && token.String() != q.typ+":"+q.action+":"+q.id {
			t.Errorf("%s %s of %s: %v, %v", q.action, q.id, q.typ, token, known)
		}
	}
	if _, known := (chain.Catalogue{}).Required("database", "patients", "read"); known {
		t.Error("the zero catalogue knows a resource")
	}
}

func TestParseCatalogueRefuses(t *testing.T) {
	for _, tokens := range [][]string{
		{"database"},
		{"database:*"},      // every action
		{"database:read"},   // no id
		{"*"},               // no token
		{"database:*:read"}, // nor this
		{"database:read:patients", "database:read:patients"},
	} {
		if _, err := chain.ParseCatalogue(tokens); !errors.Is(err, chain.ErrScope) {
			t.Errorf("%q: %v", tokens, err)
		}
	}
}
