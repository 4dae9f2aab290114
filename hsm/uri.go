package hsm

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
)

const (
	uriScheme = "pkcs11:"
	maxURI    = 1024
	maxObject = 255
	maxID     = 64
)

// URI names a private key on a token, in the subset of RFC 7512 that does so without doubt: token and object or id,
// optionally type=private. The zero value names nothing.
type URI struct {
	token  string
	object string
	id     string // bytes; a string keeps URI comparable
}

// ParseURI refuses what RFC 7512 lets a consumer refuse: attributes that it does not act upon (§2.3: never ignore
// one), repeated attributes, and the whole query part, where PINs and module paths would be smuggled in. Attribute
// names are case-sensitive, as is the scheme.
func ParseURI(text string) (URI, error) {
	if len(text) > maxURI {
		return URI{}, fmt.Errorf("hsm: %w: longer than %d bytes", ErrURI, maxURI)
	}
	path, ok := strings.CutPrefix(text, uriScheme)
	if !ok {
		return URI{}, fmt.Errorf("hsm: %w: does not begin with %q", ErrURI, uriScheme)
	}
	if strings.Contains(path, "?") {
		return URI{}, fmt.Errorf("hsm: %w: query attributes (PINs, module paths) are not accepted", ErrURI)
	}
	u, err := parseAttributes(path)
	if err != nil {
		return URI{}, fmt.Errorf("hsm: %w: %w", ErrURI, err)
	}
	return u, nil
}

func parseAttributes(path string) (URI, error) {
	seen := map[string]string{}
	for _, attribute := range strings.Split(path, ";") {
		name, raw, ok := strings.Cut(attribute, "=")
		if !ok {
			return URI{}, fmt.Errorf("attribute %q has no value", attribute)
		}
		if _, again := seen[name]; again {
			return URI{}, fmt.Errorf("attribute %q is given twice", name)
		}
		value, err := unescape(raw)
		if err != nil {
			return URI{}, fmt.Errorf("attribute %q: %w", name, err)
		}
		seen[name] = value
	}
	return fromAttributes(seen)
}

func fromAttributes(values map[string]string) (URI, error) {
	for name, value := range values {
		var err error
		switch name {
		case "token":
			err = checkLabel(name, value, maxLabel)
		case "object":
			err = checkLabel(name, value, maxObject)
		case "id":
			err = checkID(value)
		case "type":
			if value != "private" {
				err = fmt.Errorf("type: %q is not private", value)
			}
		default:
			err = fmt.Errorf("attribute %q is not supported", name)
		}
		if err != nil {
			return URI{}, err
		}
	}
	u := URI{token: values["token"], object: values["object"], id: values["id"]}
	if u.token == "" {
		return URI{}, fmt.Errorf("token is missing")
	}
	if u.object == "" && u.id == "" {
		return URI{}, fmt.Errorf("object and id are both missing")
	}
	return u, nil
}

func checkID(id string) error {
	if id == "" || len(id) > maxID {
		return fmt.Errorf("id: %d bytes, want 1..%d", len(id), maxID)
	}
	return nil
}

// Token is the token's label.
func (u URI) Token() string { return u.token }

// Object is the key's label (CKA_LABEL); "" where the URI names the key by id alone.
func (u URI) Object() string { return u.object }

// ID is a copy of the key's CKA_ID; nil where the URI names the key by label alone.
func (u URI) ID() []byte {
	if u.id == "" {
		return nil
	}
	return []byte(u.id)
}

// String is the canonical form: token, object, id, with the fewest escapes in text and every byte of the id escaped
// (RFC 7512 §2.3).
func (u URI) String() string {
	var b strings.Builder
	b.WriteString(uriScheme + "token=")
	escape(&b, u.token, false)
	if u.object != "" {
		b.WriteString(";object=")
		escape(&b, u.object, false)
	}
	if u.id != "" {
		b.WriteString(";id=")
		escape(&b, u.id, true)
	}
	return b.String()
}

// plain reports pk11-res-avail and unreserved of RFC 7512 §2.3, which stand for themselves in a path attribute.
func plain(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	default:
		return strings.IndexByte("-._~:[]@!$'()*+,=&", c) >= 0
	}
}

func escape(b *strings.Builder, value string, all bool) {
	for i := range len(value) {
		if c := value[i]; plain(c) && !all {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(b, "%%%02X", c)
		}
	}
}

func unescape(raw string) (string, error) {
	var out bytes.Buffer
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case plain(c):
			out.WriteByte(c)
		case c == '%' && i+2 < len(raw):
			octet, err := hex.DecodeString(raw[i+1 : i+3])
			if err != nil {
				return "", fmt.Errorf("%q is no percent-encoded byte", raw[i:i+3])
			}
			out.WriteByte(octet[0])
			i += 2
		default:
			return "", fmt.Errorf("byte %#02x at %d must be percent-encoded", c, i)
		}
	}
	return out.String(), nil
}
