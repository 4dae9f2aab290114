package appliance

import (
	"strings"
	"testing"
	"time"
)

func TestTokenSettings(t *testing.T) {
	for what, tc := range map[string]struct {
		token Token
		says  string // "": good
	}{
		"alone":           {Token{TPM: true}, ""},
		"with a value":    {Token{TPM: true, PINFile: "credential:tpm.pin", Queue: 3}, ""},
		"and a module":    {Token{TPM: true, Module: "/usr/lib/x.so"}, "with tpm: true only"},
		"and a label":     {Token{TPM: true, Label: "x"}, "with tpm: true only"},
		"and a time":      {Token{TPM: true, Timeout: time.Second}, "with tpm: true only"},
		"isolated":        {Token{TPM: true, Isolate: true}, "with tpm: true only"},
		"a negative one":  {Token{TPM: true, Queue: -1}, "queue"},
		"and a prefix":    {Token{TPM: true, LabelPrefix: "a."}, "with tpm: true only"},
		"neither of both": {Token{}, "module"},
		"a token":         {Token{Module: "/usr/lib/x.so", Label: "x", PINFile: "pin", LabelPrefix: "a.B-1_"}, ""},
		"another's part":  {Token{Module: "/usr/lib/x.so", Label: "x", PINFile: "pin", LabelPrefix: "a;id=1"}, "tokens.audit.label_prefix"},
		"a long prefix":   {Token{Module: "/usr/lib/x.so", Label: "x", PINFile: "pin", LabelPrefix: strings.Repeat("a", 33)}, "tokens.audit.label_prefix"},
	} {
		var p problems
		tc.token.check(&p, "tokens.audit")
		var said []string
		for _, err := range p {
			said = append(said, err.Error())
		}
		if all := strings.Join(said, "; "); (tc.says == "") != (all == "") || !strings.Contains(all, tc.says) {
			t.Errorf("%s: %q does not say %q", what, all, tc.says)
		}
	}
}
