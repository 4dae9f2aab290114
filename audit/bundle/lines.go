package bundle

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/signet-pki/signet/audit/record"
)

// payloads reads the payload lines of a chunk, by index.
func (v *verifier) payloads(r *chunkResult) map[uint64]payloadLine {
	path := payloadsPath(r.n)
	if !v.files.has(path) {
		return nil
	}
	out := map[uint64]payloadLine{}
	data, err := v.files.read(path)
	if err == nil {
		err = eachLine(data, func(line []byte) error {
			p, err := parsePayloadLine(line)
			if err != nil {
				return err
			}
			if _, twice := out[p.Index]; twice || p.Index/chunk != r.n {
				return fmt.Errorf("entry %d twice, or in the wrong file", p.Index)
			}
			out[p.Index] = p
			return nil
		})
	}
	if err != nil {
		v.tally.fail(CheckPayload, at(r.start, path), "%v", err)
	}
	return out
}

func (v *verifier) payload(r *chunkResult, index uint64, committed string, payloads map[uint64]payloadLine) {
	p, here := payloads[index]
	where := at(index, payloadsPath(r.n))
	switch {
	case committed == "" && !here:
	case committed == "":
		// left in payloads, and reported there
	case !here && index >= v.from && index < v.to:
		v.tally.unsure(CheckPayload, where, "absent: erased or withheld")
	case !here:
	case len(p.Salt) != record.SaltSize || record.PayloadHash(p.Salt, p.Payload) != committed:
		v.tally.fail(CheckPayload, where, "not the payload that the entry commits to")
		delete(payloads, index)
	case v.tally.erased[index]:
		v.tally.fail(CheckPayload, where, "here, although a redact entry erased it")
		delete(payloads, index)
	default:
		v.tally.pass(CheckPayload, 1)
		delete(payloads, index)
	}
}

// parsePayloadLine reads exactly what json.Marshal makes of a payloadLine, without the detour over reflection: there is one for nearly every
// entry.
func parsePayloadLine(line []byte) (p payloadLine, err error) {
	index, rest, ok1 := strings.Cut(strings.TrimPrefix(string(line), `{"index":`), `,"salt":"`)
	salt, rest, ok2 := strings.Cut(rest, `","payload":"`)
	payload, ok3 := strings.CutSuffix(rest, `"}`)
	if !ok1 || !ok2 || !ok3 || !strings.HasPrefix(string(line), `{"index":`) {
		return p, errors.New("not index, salt and payload in the one accepted spelling")
	}
	if p.Index, err = strconv.ParseUint(index, 10, 63); err != nil || dec(p.Index) != index {
		return p, errors.New("index is not a number")
	}
	if p.Salt, err = base64.StdEncoding.Strict().DecodeString(salt); err != nil {
		return p, errors.New("salt is not base64")
	}
	if p.Payload, err = base64.StdEncoding.Strict().DecodeString(payload); err != nil {
		return p, errors.New("payload is not base64")
	}
	return p, nil
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
