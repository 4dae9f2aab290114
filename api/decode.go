package api

import (
	"encoding/json"
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// maxDepth bounds the nesting of a body; the deepest wire type has three levels.
const maxDepth = 16

// fault is why a body was refused.
type fault struct{ code, field, detail string }

// within puts the fault below a member or element.
func (f *fault) within(name string) *fault {
	switch {
	case f.field == "":
		f.field = name
	case f.field[0] == '[':
		f.field = name + f.field
	default:
		f.field = name + "." + f.field
	}
	return f
}

func badJSON(detail string) *fault { return &fault{code: codeBadJSON, detail: detail} }

// decode reads exactly one JSON object of the given shape into v. encoding/json alone folds the case of names, takes the
// last of duplicates, lets unknown members pass and replaces invalid UTF-8; two readers of one request must not differ,
// so all of that is refused, with the path of the member. Lenient lets unknown members and nulls pass, and nothing else: a
// name that differs in case alone from a known one would be read as that by encoding/json.
func decode(data []byte, sh *shape, lenient bool, v any) *fault {
	if !utf8.Valid(data) {
		return &fault{code: codeBadUTF8, detail: "the body is not UTF-8"}
	}
	s := scanner{data: data, lenient: lenient}
	s.space()
	if f := s.value(sh, 0); f != nil {
		return f
	}
	s.space()
	if s.pos != len(data) {
		return &fault{code: codeTrailingData, detail: "data after the object, at byte " + strconv.Itoa(s.pos)}
	}
	if err := json.Unmarshal(data, v); err != nil {
		return badJSON("the body is not JSON")
	}
	return nil
}

// scanner walks a body once. It may take more than JSON allows in numbers and literals: encoding/json reads the same
// bytes afterwards, and on JSON the two agree.
type scanner struct {
	data    []byte
	pos     int
	lenient bool
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\r', '\n':
			s.pos++
		default:
			return
		}
	}
}

// peek gives the next byte that is no space, or 0 at the end.
func (s *scanner) peek() byte {
	s.space()
	if s.pos == len(s.data) {
		return 0
	}
	return s.data[s.pos]
}

func (s *scanner) value(sh *shape, depth int) *fault {
	if depth > maxDepth {
		return &fault{code: codeTooDeep, detail: "nested deeper than " + strconv.Itoa(maxDepth) + " levels"}
	}
	switch c := s.peek(); {
	case c == '{':
		return s.object(sh, depth)
	case c == '[':
		return s.array(sh, depth)
	case c == '"':
		return s.text(sh)
	case c == 't' || c == 'f':
		return s.word(sh, kindBool)
	case c == 'n':
		return s.null(sh)
	case c == '-' || c >= '0' && c <= '9':
		return s.number(sh)
	case c == 0:
		return badJSON("the body ends too early")
	default:
		return badJSON("unexpected byte at " + strconv.Itoa(s.pos))
	}
}

func wrongType(sh *shape) *fault {
	return &fault{code: codeWrongType, detail: "must be " + sh.kind.String()}
}

// nothing is the shape of what nobody looks at.
var nothing = &shape{kind: kindAny}

func (s *scanner) array(sh *shape, depth int) *fault {
	elem := nothing
	switch sh.kind {
	case kindArray:
		elem = sh.elem
	case kindAny:
	default:
		return wrongType(sh)
	}
	s.pos++
	if s.peek() == ']' {
		s.pos++
		return nil
	}
	for i := 0; ; i++ {
		if f := s.value(elem, depth+1); f != nil {
			return f.within("[" + strconv.Itoa(i) + "]")
		}
		switch s.peek() {
		case ',':
			s.pos++
		case ']':
			s.pos++
			return nil
		default:
			return badJSON("unexpected byte or end at " + strconv.Itoa(s.pos))
		}
	}
}

func (s *scanner) object(sh *shape, depth int) *fault {
	switch sh.kind {
	case kindObject, kindMap, kindAny:
	default:
		return wrongType(sh)
	}
	s.pos++
	if s.peek() == '}' {
		s.pos++
		return nil
	}
	m := members{shape: sh}
	for {
		if f := s.member(&m, depth); f != nil {
			return f
		}
		switch s.peek() {
		case ',':
			s.pos++
		case '}':
			s.pos++
			return nil
		default:
			return badJSON("unexpected byte or end at " + strconv.Itoa(s.pos))
		}
	}
}

// member reads one name and its value.
func (s *scanner) member(m *members, depth int) *fault {
	if s.peek() != '"' {
		return badJSON("a member's name is missing at byte " + strconv.Itoa(s.pos))
	}
	name, f := s.name()
	if f != nil {
		return f
	}
	sh, f := m.add(name, s.lenient)
	if f != nil {
		return f
	}
	if s.peek() != ':' {
		return badJSON("a colon is missing at byte " + strconv.Itoa(s.pos))
	}
	s.pos++
	if f := s.value(sh, depth+1); f != nil {
		return f.within(shown(name))
	}
	return nil
}

// members are those that an object had so far.
type members struct {
	shape *shape
	known uint64 // of the shape's fields, by index
	other map[string]struct{}
}

func (m *members) add(name []byte, lenient bool) (*shape, *fault) {
	i, ok := m.shape.index[string(name)]
	if ok {
		if m.known&(1<<i) != 0 {
			return nil, duplicate(name)
		}
		m.known |= 1 << i
		return m.shape.fields[i].shape, nil
	}
	if m.shape.kind == kindObject && (!lenient || m.shape.folds(name)) {
		return nil, &fault{code: codeUnknownField, field: shown(name), detail: "this member is not known here"}
	}
	if _, twice := m.other[string(name)]; twice {
		return nil, duplicate(name)
	}
	if m.other == nil {
		m.other = make(map[string]struct{})
	}
	m.other[string(name)] = struct{}{}
	if m.shape.kind == kindMap {
		return m.shape.elem, nil
	}
	return nothing, nil
}

func duplicate(name []byte) *fault {
	return &fault{code: codeDuplicateField, field: shown(name), detail: "this member stands twice"}
}

// shown makes a caller's name fit for an answer and an entry: bounded, and printable ASCII.
func shown(name []byte) string {
	out := make([]byte, 0, min(len(name), 64))
	for _, b := range name[:min(len(name), 64)] {
		if b <= ' ' || b >= 0x7f {
			b = '?'
		}
		out = append(out, b)
	}
	return string(out)
}

// name reads a member's name as encoding/json will read it.
func (s *scanner) name() ([]byte, *fault) {
	raw, escaped, f := s.quoted()
	if f != nil || !escaped {
		return raw, f
	}
	var name string
	if err := json.Unmarshal(s.data[s.pos-len(raw)-2:s.pos], &name); err != nil {
		return nil, badJSON("a member's name is malformed")
	}
	return []byte(name), nil
}

func (s *scanner) text(sh *shape) *fault {
	start := s.pos
	if _, _, f := s.quoted(); f != nil {
		return f
	}
	switch sh.kind {
	case kindAny, kindString, kindBytes:
		return nil
	case kindTime:
		var t time.Time
		if t.UnmarshalJSON(s.data[start:s.pos]) != nil {
			return wrongType(sh)
		}
		return nil
	default:
		return wrongType(sh)
	}
}

// quoted passes over a string, and gives what stands between its quotes.
func (s *scanner) quoted() (raw []byte, escaped bool, f *fault) {
	s.pos++
	start := s.pos
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case c == '"':
			s.pos++
			return s.data[start : s.pos-1], escaped, nil
		case c == '\\':
			escaped = true
			if f := s.escape(); f != nil {
				return nil, false, f
			}
		case c < ' ':
			return nil, false, badJSON("a control character in a string at byte " + strconv.Itoa(s.pos))
		default:
			s.pos++
		}
	}
	return nil, false, badJSON("a string has no end")
}

// escape passes over one escape. A lone surrogate is no character: encoding/json would replace it.
func (s *scanner) escape() *fault {
	if s.pos+1 >= len(s.data) || s.data[s.pos+1] != 'u' {
		s.pos += 2
		return nil
	}
	unit, ok := s.unit()
	if !ok {
		return badJSON("a malformed escape at byte " + strconv.Itoa(s.pos))
	}
	if unit < 0xd800 || unit > 0xdfff {
		return nil
	}
	low, ok := s.unit()
	if unit > 0xdbff || !ok || low < 0xdc00 || low > 0xdfff {
		return &fault{code: codeBadUTF8, detail: "a lone surrogate at byte " + strconv.Itoa(s.pos)}
	}
	return nil
}

// unit reads \uXXXX.
func (s *scanner) unit() (uint64, bool) {
	if s.pos+6 > len(s.data) || s.data[s.pos] != '\\' || s.data[s.pos+1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(s.data[s.pos+2:s.pos+6]), 16, 16)
	s.pos += 6
	return n, err == nil
}

func (s *scanner) number(sh *shape) *fault {
	start := s.pos
	for s.pos < len(s.data) && isNumeric(s.data[s.pos]) {
		s.pos++
	}
	switch sh.kind {
	case kindAny:
		return nil
	case kindInteger:
		n, err := strconv.ParseInt(string(s.data[start:s.pos]), 10, 64)
		if err != nil || n > math.MaxInt || n < math.MinInt || sh.integer == "0" && n < 0 {
			return wrongType(sh)
		}
		return nil
	default:
		return wrongType(sh)
	}
}

func isNumeric(c byte) bool {
	return c >= '0' && c <= '9' || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E'
}

// word passes over a bare word; encoding/json checks its spelling.
func (s *scanner) word(sh *shape, k shapeKind) *fault {
	for s.pos < len(s.data) && s.data[s.pos] >= 'a' && s.data[s.pos] <= 'z' {
		s.pos++
	}
	if sh.kind != k && sh.kind != kindAny {
		return wrongType(sh)
	}
	return nil
}

func (s *scanner) null(sh *shape) *fault {
	if !s.lenient && sh.kind != kindAny {
		return &fault{code: codeWrongType, detail: "null is no value here: leave the member out"}
	}
	return s.word(nothing, kindAny)
}
