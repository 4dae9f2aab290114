package record_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/record"
)

func TestPruneBody(t *testing.T) {
	at := func(n uint64) *uint64 { return &n }
	good := func(change func(*record.PruneBody)) record.PruneBody {
		b := record.PruneBody{Reason: "old", From: 512, To: 1024, Archive: "a.tar", SHA256: strings.Repeat("0f", 32), Previous: at(700)}
		change(&b)
		return b
	}
	for name, b := range map[string]record.PruneBody{
		"":                               good(func(*record.PruneBody) {}),
		"the first":                      good(func(b *record.PruneBody) { b.From, b.Previous = 0, nil }),
		"not whole":                      good(func(b *record.PruneBody) { b.To = 1000 }),
		"from the middle":                good(func(b *record.PruneBody) { b.From = 500 }),
		"backwards":                      good(func(b *record.PruneBody) { b.From, b.Previous = 1024, at(1100) }),
		"the first bundle alone":         good(func(b *record.PruneBody) { b.From, b.To, b.Previous = 0, 256, nil }),
		"itself":                         good(func(b *record.PruneBody) { b.To = 2048 }),
		"the first, with one before it":  good(func(b *record.PruneBody) { b.From = 0 }),
		"without the one before":         good(func(b *record.PruneBody) { b.Previous = nil }),
		"with one before that is pruned": good(func(b *record.PruneBody) { b.Previous = at(511) }),
		"with one before that is later":  good(func(b *record.PruneBody) { b.Previous = at(1200) }),
		"no archive":                     good(func(b *record.PruneBody) { b.Archive = "" }),
		"a path":                         good(func(b *record.PruneBody) { b.Archive = "../a.tar" }),
		"no digest":                      good(func(b *record.PruneBody) { b.SHA256 = strings.Repeat("0F", 32) }),
	} {
		if err := b.Check(1200); (err == nil) != (name == "" || name == "the first") || err != nil && !errors.Is(err, record.ErrMalformed) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
