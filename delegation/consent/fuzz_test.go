package consent

import (
	"encoding/json"
	"net/url"
	"testing"
)

// FuzzWords: whatever a claim holds, what comes out is within the bounds.
func FuzzWords(f *testing.F) {
	f.Add([]byte(`{"roles":["a"]}`), "roles")
	f.Add([]byte(`{"realm":{"roles":"a"}}`), "realm.roles")
	f.Add([]byte(`{"realm":{"roles":[1]}}`), "realm..roles.")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		var all map[string]any
		if json.Unmarshal(data, &all) != nil {
			return
		}
		list, err := words(all, name)
		if err != nil {
			return
		}
		if list == nil || len(list) > maxEntries {
			t.Fatalf("%d entries", len(list))
		}
		for _, s := range list {
			if len(s) > maxEntry {
				t.Fatalf("an entry of %d bytes", len(s))
			}
		}
	})
}

// FuzzCallback: a query gives each parameter once, or nothing.
func FuzzCallback(f *testing.F) {
	f.Add("code=a&state=b")
	f.Add("code=a&code=b")
	f.Add("%zz")
	f.Fuzz(func(t *testing.T, query string) {
		got, err := single(&url.URL{RawQuery: query})
		if err != nil {
			return
		}
		want, err := url.ParseQuery(query)
		if err != nil || len(want) != len(got) {
			t.Fatalf("%v: %d parameters of %d", err, len(got), len(want))
		}
	})
}

// FuzzType: no input is taken for a token unless its algorithm is accepted.
func FuzzType(f *testing.F) {
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("eyJhbGciOiJFUzI1NiJ9.e30.AAAA")
	f.Fuzz(func(t *testing.T, raw string) {
		if checkType(raw, []string{"ES256"}) == nil && checkType(raw, []string{"RS256"}) == nil {
			t.Fatal("accepted whatever the algorithm")
		}
	})
}

// FuzzCredential: nothing that a browser sends is a credential or an assertion by accident.
func FuzzCredential(f *testing.F) {
	f.Add(`{}`)
	f.Add(`{"id":"AAAA","rawId":"AAAA","type":"public-key","response":{"clientDataJSON":"e30","authenticatorData":"AAAA","signature":"AAAA","attestationObject":"o2NmbXRkbm9uZQ"}}`)
	keys, err := newAuthenticators("https://signet.example")
	if err != nil {
		f.Fatal(err)
	}
	h := holder{User{"https://idp.example", "u"}, []Credential{{ID: []byte("id"), PublicKey: []byte("key")}}}
	_, session, err := keys.creation(h)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, response string) {
		if _, err := keys.created(h, session, response); err == nil {
			t.Fatal("a credential without its challenge")
		}
		if _, _, err := keys.asserted(h, []byte("grant"), response); err == nil {
			t.Fatal("an assertion without a key")
		}
	})
}
