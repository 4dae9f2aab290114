package record

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// scan reads an envelope in one pass without reflection, if it has the spelling of this package's writer: no blanks, members in the order of wire, no
// null and no escape outside of the body, few keys. ok is false for everything else, right or wrong: [decode] judges that. What scan takes, decode
// takes with the same result (FuzzScan holds one against the other). All parts of the result are parts of data.
func scan(data []byte) (p parts, ok bool) {
	s := scanner{data: data}
	var found [len(members)][]byte
	if !s.members(&found) || s.at != len(data) || s.high && !utf8.Valid(data) {
		return parts{}, false
	}
	return parts{kind: found[0], time: found[1], View: View{
		Code: found[2], Task: found[3], Grant: found[4], Agent: found[5], Parent: found[6], Orchestrator: found[7], Service: found[8],
		Operator: found[9], User: found[10], Policy: found[11], PayloadHash: found[12], Body: s.body,
	}}, true
}

// The envelope as it is spelled: how it begins, the members of wire behind v and before body, in its order, and the body.
const (
	begin   = `{"v":1`
	bodyKey = `,"body":`
)

var members = [...]string{
	`,"type":"`, `,"time":"`, `,"code":"`, `,"task":"`, `,"grant":"`, `,"agent":"`, `,"parent":"`, `,"orchestrator":"`, `,"service":"`,
	`,"operator":"`, `,"user":"`, `,"policy":"`, `,"payload_hash":"`,
}

type span struct{ from, to int }

// scanner is at a place in data.
type scanner struct {
	data []byte
	at   int
	body []byte
	high bool // bytes that are not ASCII were passed
	keys [maxKeys]span
	n    int // keys of the objects that are open
}

// maxKeys bounds the keys of all open objects together.
const maxKeys = 48

// members reads the envelope.
func (s *scanner) members(found *[len(members)][]byte) bool {
	if !s.word(begin) {
		return false
	}
	for i := range members {
		if !s.word(members[i]) {
			continue
		}
		from := s.at
		if s.run(); !s.take('"') {
			return false
		}
		found[i] = s.data[from : s.at-1]
	}
	if s.word(bodyKey) {
		from := s.at
		if s.peek() != '{' || !s.object(2, nil) {
			return false
		}
		s.body = s.data[from:s.at]
	}
	return s.take('}')
}

// Members calls fn for each member of a JSON object, in the spelling that this package's writer has. ok is false, possibly after some calls, where it is
// spelled otherwise or is no such object; that says nothing about what it is. Keys and values are parts of the object, values not empty.
func Members(object []byte, fn func(key, value []byte)) (ok bool) {
	s := scanner{data: object}
	return s.peek() == '{' && s.object(1, fn) && s.at == len(object)
}

// Elements does the same for the elements of an array.
func Elements(array []byte, fn func(element []byte)) (ok bool) {
	s := scanner{data: array}
	return s.peek() == '[' && s.array(1, fn) && s.at == len(array)
}

// peek is the byte at the place; 0, which is nowhere allowed, at the end.
func (s *scanner) peek() byte {
	if s.at < len(s.data) {
		return s.data[s.at]
	}
	return 0
}

func (s *scanner) take(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.at++
	return true
}

// value reads a JSON value. depth is that of an object or array, if it is one.
func (s *scanner) value(depth int) bool {
	switch c := s.peek(); c {
	case '"':
		s.at++
		return s.text()
	case '{':
		return s.object(depth, nil)
	case '[':
		return s.array(depth, nil)
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		return s.number()
	}
}

func (s *scanner) word(w string) bool {
	if len(s.data)-s.at < len(w) || string(s.data[s.at:s.at+len(w)]) != w {
		return false
	}
	s.at += len(w)
	return true
}

// object reads an object and calls each, if that is not nil, for its members.
func (s *scanner) object(depth int, each func(key, value []byte)) bool {
	if s.at++; depth > maxDepth {
		return false
	}
	if s.take('}') {
		return true
	}
	first := s.n
	for seen := uint64(0); ; {
		key := s.at + 1
		if !s.key(first, &seen) {
			return false
		}
		value := s.at
		if !s.value(depth + 1) {
			return false
		}
		if each != nil {
			each(s.data[key:value-2], s.data[value:s.at])
		}
		if s.take(',') {
			continue
		}
		s.n = first
		return s.take('}')
	}
}

// array likewise.
func (s *scanner) array(depth int, each func(element []byte)) bool {
	if s.at++; depth > maxDepth {
		return false
	}
	if s.take(']') {
		return true
	}
	for {
		from := s.at
		if !s.value(depth + 1) {
			return false
		}
		if each != nil {
			each(s.data[from:s.at])
		}
		if !s.take(',') {
			return s.take(']')
		}
	}
}

// key reads a key and its colon. The keys of its object are those from first on; seen has a bit for each of them, which several can share.
func (s *scanner) key(first int, seen *uint64) bool {
	if !s.take('"') {
		return false
	}
	from := s.at
	for isKeyByte(s.peek()) {
		s.at++
	}
	key := s.data[from:s.at]
	if len(key) == 0 || len(key) > maxKey || s.n == maxKeys || !s.take('"') || !s.take(':') {
		return false
	}
	bit := uint64(1) << ((uint(key[0]) + 7*uint(len(key)) + 31*uint(key[len(key)-1])) % 64)
	if *seen&bit != 0 {
		for _, k := range s.keys[first:s.n] {
			if bytes.Equal(s.data[k.from:k.to], key) {
				return false
			}
		}
	}
	*seen |= bit
	s.keys[s.n] = span{from, from + len(key)}
	s.n++
	return true
}

// text reads the rest of a string, with its quote.
func (s *scanner) text() bool {
	for {
		s.run()
		if s.take('"') {
			return true
		}
		if !s.escape() {
			return false
		}
	}
}

// run passes over what stands for itself in a string: all but quotes, backslashes and control characters.
func (s *scanner) run() {
	const each, top = 0x0101010101010101, 0x8080808080808080
	for {
		for ; s.at+8 <= len(s.data); s.at += 8 {
			x := binary.LittleEndian.Uint64(s.data[s.at:])
			// The lowest of the bits that are set belongs to the first byte that is below ' ', a quote, a backslash or not ASCII.
			if stops := ((x - each*' ') | (x ^ each*'"' - each) | (x ^ each*'\\' - each) | x) & top; stops != 0 {
				s.at += bits.TrailingZeros64(stops) / 8
				break
			}
		}
		c := s.peek()
		if c < ' ' || c == '"' || c == '\\' {
			return
		}
		s.high = s.high || c >= utf8.RuneSelf
		s.at++
	}
}

// escape reads one escape (RFC 8259 §7).
func (s *scanner) escape() bool {
	if !s.take('\\') {
		return false
	}
	c := s.peek()
	s.at++
	switch c {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return true
	case 'u':
		for range 4 {
			if c := s.peek(); !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'f') {
				return false
			}
			s.at++
		}
		return true
	}
	return false
}

// number reads a number (RFC 8259 §6).
func (s *scanner) number() bool {
	s.take('-')
	if !s.take('0') && !s.digits() {
		return false
	}
	if s.take('.') && !s.digits() {
		return false
	}
	if s.peek()|0x20 == 'e' {
		if s.at++; s.peek() == '+' || s.peek() == '-' {
			s.at++
		}
		return s.digits()
	}
	return true
}

// digits reads at least one.
func (s *scanner) digits() bool {
	from := s.at
	for isDigit(s.peek()) {
		s.at++
	}
	return s.at > from
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
