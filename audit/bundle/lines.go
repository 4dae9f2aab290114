package bundle

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/signet-pki/signet/audit/record"
)

// payloadLine is a line of payloads/<n>.jsonl; byte fields are base64.
type payloadLine struct {
	Index   uint64 `json:"index"`
	Salt    []byte `json:"salt"`
	Payload []byte `json:"payload"`
}

// jwsLine is a line of delegators/<n>.jsonl.
type jwsLine struct {
	Index uint64 `json:"index"`
	JWS   string `json:"jws,omitempty"`
	Link  string `json:"link,omitempty"`
}

func jsonLine(to *bytes.Buffer, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	to.Write(data)
	to.WriteByte('\n')
	return nil
}

// payloads are those of a chunk, as far as they were not yet matched with an entry, and memory for them.
type payloads struct {
	lines      [chunk]heldPayload
	file, data []byte
}

type heldPayload struct {
	here          bool
	salt, payload []byte
}

func (p *payloads) of(index uint64) *heldPayload { return &p.lines[index%chunk] }

// payloads reads the payload lines of a chunk.
func (v *verifier) payloads(r *chunkResult, p *payloads) {
	clear(p.lines[:])
	path := payloadsPath(r.n)
	if !v.files.has(path) {
		return
	}
	data, err := v.files.readInto(path, p.file)
	if err == nil {
		p.file, p.data = data, slices.Grow(p.data[:0], len(data))
		err = eachLine(data, func(line []byte) error {
			index, h, err := p.parse(line)
			if err != nil {
				return err
			}
			if p.of(index).here || index/chunk != r.n {
				return fmt.Errorf("entry %d twice, or in the wrong file", index)
			}
			*p.of(index) = h
			return nil
		})
	}
	if err != nil {
		v.tally.fail(CheckPayload, at(r.start, path), "%v", err)
	}
}

func (v *verifier) payload(r *chunkResult, index uint64, committed []byte, payloads *payloads) {
	p := payloads.of(index)
	where := func() place { return at(index, payloadsPath(r.n)) }
	switch {
	case len(committed) == 0:
		return // one that is here is left in payloads, and reported there
	case !p.here && index >= v.from && index < v.to:
		v.tally.unsure(CheckPayload, where(), "absent: erased or withheld")
	case !p.here:
	case len(p.salt) != record.SaltSize || record.PayloadHash(p.salt, p.payload) != string(committed):
		v.tally.fail(CheckPayload, where(), "not the payload that the entry commits to")
	case v.tally.erased[index]:
		v.tally.fail(CheckPayload, where(), "here, although a redact entry erased it")
	default:
		r.paid++
	}
	p.here = false
}

// parse reads exactly what json.Marshal makes of a payloadLine, without the detour over reflection: there is one for nearly every
// entry. The bytes go to p.data, which has room for those of all lines.
func (p *payloads) parse(line []byte) (index uint64, h heldPayload, err error) {
	rest, ok0 := bytes.CutPrefix(line, []byte(`{"index":`))
	digits, rest, ok1 := bytes.Cut(rest, []byte(`,"salt":"`))
	salt, rest, ok2 := bytes.Cut(rest, []byte(`","payload":"`))
	payload, ok3 := bytes.CutSuffix(rest, []byte(`"}`))
	if !ok0 || !ok1 || !ok2 || !ok3 {
		return 0, h, errors.New("not index, salt and payload in the one accepted spelling")
	}
	if index, err = strconv.ParseUint(string(digits), 10, 63); err != nil || dec(index) != string(digits) {
		return 0, h, errors.New("index is not a number")
	}
	if h.salt, err = p.decode(salt); err != nil {
		return 0, h, errors.New("salt is not base64")
	}
	if h.payload, err = p.decode(payload); err != nil {
		return 0, h, errors.New("payload is not base64")
	}
	h.here = true
	return index, h, nil
}

func (p *payloads) decode(text []byte) ([]byte, error) {
	from := len(p.data)
	all, err := base64.StdEncoding.Strict().AppendDecode(p.data, text)
	if err != nil {
		return nil, err
	}
	p.data = all
	return all[from:], nil
}

// eachLine calls fn for each line and reports all that it refuses, by number.
func eachLine(data []byte, fn func(line []byte) error) error {
	list, err := lines(data, chunk)
	if err != nil {
		return err
	}
	var errs []error
	for i, line := range list {
		if err := fn(line); err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", i+1, err))
		}
	}
	return errors.Join(errs...)
}

// exact decodes JSON in the one spelling that this package writes, which leaves no room for repeated or unknown keys.
func exact(line []byte, v any) error {
	if err := json.Unmarshal(line, v); err != nil {
		return errors.New("not JSON of this format")
	}
	again, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(line, again) {
		return errors.New("not in the one accepted spelling")
	}
	return nil
}
