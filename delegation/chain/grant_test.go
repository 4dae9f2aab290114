package chain

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"
)

func fixedGrant(tb testing.TB) GrantDocument {
	return GrantDocument{
		GrantID: testGrant, Random: sha256.Sum256([]byte("random")), Origin: testOrigin, Issuer: testIssuer, ClientID: "signet-consent",
		Subject: "physician-x", TaskID: testTask, Task: "Cohort study <&> “β-blockers” \"2026\"", Scope: mustScope(tb, "database:read:*", "fhir:read:*"),
		MaxDepth: 2, NotAfter: testNow.Add(time.Hour), AgentTypes: []string{"research", "coding"},
		Orchestrator: "spiffe://hospital.example/orchestrator/langgraph", OrchestratorKey: sha256.Sum256([]byte("key 0")),
	}
}

type grantVector struct {
	Name     string `json:"name"`
	Document string `json:"document"`
	Valid    bool   `json:"valid"`
	Hash     string `json:"sha256,omitempty"` // hex
	Nonce    string `json:"nonce,omitempty"`
}

func TestGrantVectors(t *testing.T) {
	g := fixedGrant(t)
	text := string(must[[]byte](t)(g.Canonical()))
	sum := must[[32]byte](t)(g.Hash())
	made := []grantVector{{"canonical", text, true, hex.EncodeToString(sum[:]), must[string](t)(g.Nonce())}}
	for _, c := range [][3]string{
		{"unknown member", `{"agent_types"`, `{"a":1,"agent_types"`},
		{"duplicate member", `{"agent_types"`, `{"agent_types":["research","coding"],"agent_types"`},
		{"case folded member", `"v":1`, `"V":1`},
		{"missing member", `,"v":1`, ``},
		{"null member", `"v":1`, `"v":null`},
		{"leading space", `{"agent_types"`, ` {"agent_types"`},
		{"inner space", `"v":1`, `"v": 1`},
		{"number spelled otherwise", `"v":1`, `"v":1.0`},
		{"version 2", `"v":1`, `"v":2`},
		{"needless escape", `<&>`, `\u003c\u0026\u003e`},
		{"scope empty", `"scope":["database:read:*","fhir:read:*"]`, `"scope":[]`},
		{"scope duplicate", `fhir:read:*`, `database:read:*`},
		{"depth 0", `"max_depth":2`, `"max_depth":0`},
		{"depth 9", `"max_depth":2`, `"max_depth":9`},
		{"fraction", `00:00Z`, `00:00.000Z`},
		{"offset", `00:00Z`, `00:00+00:00`},
		{"not v7", testTask, strings.Replace(testTask, "-7abc", "-4abc", 1)},
		{"grant id upper-case", testGrant, strings.ToUpper(testGrant)},
		{"agent type", `"coding"`, `"co ding"`},
		{"agent type duplicate", `"coding"`, `"research"`},
		{"orchestrator an agent", `/orchestrator/langgraph`, `/agent/research/` + agentUUID(1)},
		{"task with a direction mark", `Cohort`, "\u202eCohort"},
		{"task with a line break", `Cohort`, `Co\nhort`},
		{"task empty", `"Cohort study <&> “β-blockers” \"2026\""`, `""`},
		{"task too long", `Cohort`, strings.Repeat("β", MaxTaskRunes)},
		{"subject with a control", `physician-x`, `physician\u0000x`},
		{"origin with a space", testOrigin, `signet hospital`},
		{"random short", encodeBase64(g.Random[:]), encodeBase64(g.Random[:31])},
		{"random padded", encodeBase64(g.Random[:]), encodeBase64(g.Random[:]) + "="},
		{"random with a line break", encodeBase64(g.Random[:]), encodeBase64(g.Random[:]) + `\n`},
		{"random zero", encodeBase64(g.Random[:]), encodeBase64(make([]byte, 32))},
		{"not UTF-8 escape", `physician-x`, `\ud800`},
		{"trailing data", `"v":1}`, `"v":1}{}`},
		{"array", text, `[]`},
		{"empty", text, ``},
	} {
		bad := strings.Replace(text, c[1], c[2], 1)
		if bad == text {
			t.Fatalf("%s changes nothing", c[0])
		}
		made = append(made, grantVector{Name: c[0], Document: bad})
	}
	sameVectors(t, "grant.json", made)
	for _, v := range made {
		got, err := ParseGrantDocument([]byte(v.Document))
		if (err == nil) != v.Valid || err != nil && !errors.Is(err, ErrGrantDocument) {
			t.Errorf("%s: %v", v.Name, err)
		}
		if v.Valid && (got.Task != g.Task || must[[32]byte](t)(got.Hash()) != sha256.Sum256([]byte(v.Document))) {
			t.Errorf("%s: %+v", v.Name, got)
		}
	}
	if _, err := ParseGrantDocument(append([]byte(text), 0xff)); err == nil {
		t.Error("not UTF-8")
	}
	if _, err := ParseGrantDocument(make([]byte, MaxGrantBytes+1)); err == nil {
		t.Error("too large")
	}
}

func TestGrantOfDocument(t *testing.T) {
	g := fixedGrant(t)
	got := must[Grant](t)(g.Grant(WebAuthn, sha256.Sum256([]byte("e"))))
	if FormatUUID(got.GrantID) != testGrant || got.MaxDepth != 2 || got.Consent != WebAuthn || !got.Scope.Subset(g.Scope) {
		t.Errorf("%+v", got)
	}
	if _, err := g.Grant(ConsentUnknown, sha256.Sum256([]byte("e"))); err == nil {
		t.Error("unknown consent")
	}
	if _, err := g.Grant(JWS, [32]byte{}); err == nil {
		t.Error("no evidence")
	}
	g.MaxDepth = 0
	for name, err := range map[string]error{
		"grant": second(g.Grant(JWS, [32]byte{1})), "hash": second(g.Hash()), "nonce": second(g.Nonce()), "canonical": second(g.Canonical()),
	} {
		if !errors.Is(err, ErrGrantDocument) {
			t.Errorf("%s of an invalid document: %v", name, err)
		}
	}
	for _, c := range []ConsentType{WebAuthn, JWS, OIDCNonce, TokenExchange} {
		if ParseConsentType(c.String()) != c {
			t.Errorf("%s", c)
		}
	}
	if ParseConsentType("unknown") != ConsentUnknown || ConsentType(9).String() != "unknown" {
		t.Error("unknown consent has a name")
	}
}
