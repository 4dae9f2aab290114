package bundle_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
)

// selectionFamilies are lies with a bundle of one task.
func selectionFamilies() []family {
	of := func(t *testing.T, s *scene) {
		s.opts.Selection = by(bundle.ByTask, id(0x101))
		s.m = s.w.of(t, s.opts.Selection)
	}
	return []family{
		{"payload left out of a selection", true, func(t *testing.T, s *scene) []expected {
			of(t, s)
			first, _, _ := bytes.Cut(s.m["payloads/0.jsonl"], []byte("\n"))
			s.m["payloads/0.jsonl"] = s.m["payloads/0.jsonl"][len(first)+1:]
			return []expected{{bundle.CheckPayload, int64(s.p.first) - 2, "payloads/0.jsonl", bundle.Unproven}}
		}},
		{"selection turned into another, which hides entries", false, func(t *testing.T, s *scene) []expected {
			of(t, s)
			for path := range s.m {
				if strings.HasPrefix(path, "payloads/") || strings.HasPrefix(path, "delegators/") || strings.HasPrefix(path, "evidence/") || strings.HasPrefix(path, "certs/issued/") {
					delete(s.m, path)
				}
			}
			replaceOnce(t, s.m, "selection.json", id(0x101), id(0x999))
			return []expected{{bundle.CheckRange, -1, "selection.json", ""}}
		}},
		{"attachment of another in a selection", false, func(t *testing.T, s *scene) []expected {
			everything := s.m
			of(t, s)
			s.m["payloads/0.jsonl"] = everything["payloads/0.jsonl"]
			return []expected{{bundle.CheckSelection, payloadIndex(everything, 3), "payloads/0.jsonl", ""}}
		}},
	}
}
