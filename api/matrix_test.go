package api

import (
	"net/http"
	"strings"
	"testing"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// expected is the endpoint × role table written down a second time: a change of the table is a change here.
// One letter for each of: anyone, orchestrator, agent, service, operator, security_officer, auditor, privacy_officer.
var expected = map[string]string{
	"registerOrchestrator":    "....o...",
	"attestOrchestrator":      "oooooooo",
	"challengeOrchestrator":   "oooooooo",
	"registerService":         "....o...",
	"renewService":            "...o....",
	"registerOperator":        "....o...",
	"submitAct":               "....o...",
	"readCustodians":          "....oooo",
	"requestGrant":            ".o......",
	"readGrant":               ".o..oooo",
	"readGrantDocument":       ".o..oooo",
	"signGrant":               "oooooooo",
	"exchangeToken":           ".o......",
	"openTask":                ".o......",
	"readTask":                ".o..oooo",
	"completeTask":            ".o......",
	"spawnAgent":              ".o......",
	"spawnAgents":             ".o......",
	"certifyAgent":            "oooooooo",
	"delegateAgent":           "..o.....",
	"issueToken":              "..o.....",
	"readAgentChain":          ".ooooooo",
	"verify":                  ".ooooooo",
	"evaluate":                "..oo....",
	"evaluateAll":             "..oo....",
	"checkEnvoy":              "...o....",
	"opaData":                 "..oo....",
	"readAccessConfiguration": "oooooooo",
	"readAccessMetadataAt":    "oooooooo",
	"revoke":                  ".o..oo..",
	"listRevocations":         ".o.ooooo",
	"streamRevocations":       ".o.ooooo",
	"pollRevocations":         ".o.ooooo",
	"pushPolicyBundle":        "....oo..",
	"listPolicyBundles":       "....oooo",
	"readPolicyBundle":        "....oooo",
	"testPolicyBundle":        "....oo..",
	"approvePolicyBundle":     "....oo..",
	"explainPolicy":           "....ooo.",
	"replayBundle":            "....ooo.",
	"searchEntries":           "......o.",
	"readEntry":               "......o.",
	"readReceipt":             ".ooooooo",
	"findReceipts":            ".ooooooo",
	"readSeal":                "....oooo",
	"exportBundle":            "......o.",
	"exportSelection":         "......o.",
	"eraseRecords":            ".......o",
	"pruneEntries":            ".....o..",
	"readRetention":           "oooooooo",
	"readCheckpoint":          "oooooooo",
	"addCheckpoint":           "oooooooo",
	"readTile":                "oooooooo",
	"proveInclusion":          "oooooooo",
	"proveConsistency":        "oooooooo",
	"readProof":               "oooooooo",
	"consentPage":             "oooooooo",
	"consentAnswer":           "oooooooo",
	"accountPage":             "oooooooo",
	"accountAnswer":           "oooooooo",
	"receiveEvent":            "oooooooo",
	"consentCallback":         "oooooooo",
	"readTrustBundle":         "oooooooo",
	"readKeys":                "oooooooo",
	"readCRL":                 "oooooooo",
	"live":                    "oooooooo",
	"ready":                   "oooooooo",
	"readMetrics":             "....oooo",
	"readOpenAPI":             "oooooooo",
	"readDocs":                "oooooooo",
}

// Every endpoint is asked by every role, over TLS with a real certificate of that role.
func TestEachEndpointAdmitsItsRolesAlone(t *testing.T) {
	w := newWorld(t)
	for _, n := range roleNames {
		w.as(n.role)
	}
	if len(expected) != len(w.server.routes) {
		t.Fatalf("%d rows expected, %d in the table", len(expected), len(w.server.routes))
	}
	for i := range w.server.routes {
		r := &w.server.routes[i]
		want, ok := expected[r.id]
		if !ok {
			t.Errorf("%s is not expected", r.id)
			continue
		}
		for j, n := range roleNames {
			w.admits(r, n.role, want[j] == 'o')
		}
	}
}

// admits asks with an empty object and ids of nothing, so that whoever is admitted gets no further than that.
func (w *world) admits(r *route, as role, want bool) {
	t := w.t
	t.Helper()
	path := strings.NewReplacer("{name}", "nobody", "{id}", newID(t), "{index}", "99999", "{number}", "9", "{path}", "0/000", "{provider}", "idp",
		"{grant_id}", newID(t)).Replace(r.path)
	if r.stream {
		path += "?cursor=nowhere" // who is admitted would stay
	}
	var body any
	if r.method == http.MethodPost {
		body = "{}"
	}
	if r.id == "pollRevocations" {
		body = `{"maxEvents":-1}` // who is admitted would wait
	}
	before := w.log.count(record.TypeMalformed, "")
	a := w.do(as, r.method, path, body)
	code := codeOf(a, r)
	refused := code == codeRole || as == anyone && code == codeCertificateRequired
	if refused == want {
		t.Errorf("%s by %s: admitted %v, want %v: %d %s", r.id, as, !refused, want, a.status, a.body)
	}
	if !want && w.log.count(record.TypeMalformed, "") != before+1 {
		t.Errorf("%s by %s: the refusal has no entry", r.id, as)
	}
	if !want && as == anyone && a.header.Get("WWW-Authenticate") == "" {
		t.Errorf("%s: 401 without a challenge", r.id)
	}
}

func codeOf(a answer, r *route) string {
	if r.grpc {
		code, _, _ := strings.Cut(a.header.Get("Grpc-Message"), ":")
		return code
	}
	if r.access {
		text, _, _ := strings.Cut(strings.Trim(string(a.body), "\"\n"), ":")
		return text
	}
	_, after, _ := strings.Cut(string(a.body), `"code":"`)
	code, _, _ := strings.Cut(after, `"`)
	return code
}

func TestEntryTilesAreForAuditors(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/tile/entries/000", "/tile/entries/x001/234.p/7"} {
		w.refused(w.do(anyone, "GET", path, nil), 401, codeCertificateRequired)
		w.refused(w.do(operator, "GET", path, nil), 403, codeRole)
		if a := w.do(auditor, "GET", path, nil); a.status != 200 || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d, cache %q", path, a.status, a.header.Get("Cache-Control"))
		}
	}
	a := w.do(anyone, "GET", "/tile/0/000.p/3", nil)
	if a.status != 200 || len(a.body) != 96 || a.header.Get("Cache-Control") != immutable {
		t.Errorf("tile: %d, %d bytes", a.status, len(a.body))
	}
	w.refused(w.do(anyone, "GET", "/tile/1/000", nil), 404, codeNotFound)
}

func TestParseTile(t *testing.T) {
	for path, want := range map[string]tilePath{
		"0/000":                 {width: 256},
		"63/999":                {level: 63, index: 999, width: 256},
		"0/x001/234.p/255":      {index: 1234, width: 255},
		"entries/x001/x000/067": {entries: true, index: 1000067, width: 256},
	} {
		if got, ok := parseTile(path); !ok || got != want {
			t.Errorf("%s: %+v %v", path, got, ok)
		}
	}
	for _, path := range []string{
		"", "0", "0/", "/000", "64/000", "00/000", "-1/000", "0/0", "0/0000", "0/x000/001", "0/001/002", "0/x001", "0/000.p/0", "0/000.p/256",
		"0/000.p/01", "0/000.p/", "0/000/", "data/000", "0/x001/x001/x001/x001/x001/x001/001", "0/+01", "0/000.p/1.p/1",
	} {
		if got, ok := parseTile(path); ok {
			t.Errorf("%q was taken: %+v", path, got)
		}
	}
}

func FuzzParseTile(f *testing.F) {
	f.Add("0/x001/234.p/255")
	f.Add("entries/000")
	f.Fuzz(func(t *testing.T, path string) {
		got, ok := parseTile(path)
		if ok && (got.level > 63 || got.width < 1 || got.width > tileWidth) {
			t.Errorf("%q: %+v", path, got)
		}
	})
}

// A caller who says more about itself than its certificate does changes nothing.
func TestHeadersAreNoIdentity(t *testing.T) {
	w := newWorld(t)
	lies := []string{
		"X-Forwarded-For", "10.0.0.1", "X-Real-Ip", "10.0.0.1", "Forwarded", "for=10.0.0.1", "X-Forwarded-Client-Cert", "Hash=0",
		"X-Ssl-Client-S-Dn", "CN=admin", "Authorization", "Bearer x",
	}
	w.refused(w.do(anyone, "GET", "/v1/audit/seals/1", nil, lies...), 401, codeCertificateRequired)
	if strings.Contains(w.logged.String(), "10.0.0.1") || strings.Contains(w.logged.String(), "127.0.0.1") {
		t.Error("a source address is in the log")
	}
}

func TestReadiness(t *testing.T) {
	w := newWorld(t)
	a := w.do(anyone, "GET", "/readyz", nil)
	if got := decodeAs[v1.Ready](w, a, 200); got.Status != "ready" || got.Conditions != nil {
		t.Errorf("%+v", got)
	}
	w.health[0] = Condition{Name: "hsm", Reason: "the token is gone"}
	if a := w.do(anyone, "GET", "/readyz", nil); a.status != 503 || strings.Contains(string(a.body), "token") || a.header.Get("Retry-After") == "" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := w.do(service, "GET", "/readyz", nil); strings.Contains(string(a.body), "token") {
		t.Errorf("reasons are for staff: %s", a.body)
	}
	got := decodeAs[v1.Ready](w, w.do(auditor, "GET", "/readyz", nil), 503)
	if got.Status != "not_ready" || len(got.Conditions) != 2 || got.Conditions[0].Reason != "the token is gone" || got.Conditions[1].Severity != "warning" {
		t.Errorf("%+v", got)
	}
}

func TestOtherPages(t *testing.T) {
	w := newWorld(t)
	for path, want := range map[string]string{
		"/consent/abc": "<p>consent</p>", "/v1/grants/callback/idp?code=x&state=y": "<p>consent</p>", "/idp/login?x=1": "/idp/login", "/docs": "Signet API",
		"/checkpoint": "signet.example/log", "/.well-known/authzen-configuration": publicURL + "/access/v1/evaluation",
	} {
		if a := w.do(anyone, "GET", path, nil); a.status != 200 || !strings.Contains(string(a.body), want) {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if a := w.do(operator, "GET", "/metrics", nil); !strings.Contains(string(a.body), `signet_http_requests_total{endpoint="readDocs",status="200"} 1`) {
		t.Errorf("metrics: %d %s", a.status, a.body)
	}
	if a := w.do(anyone, "GET", "/livez", nil); decodeAs[v1.Live](w, a, 200).Status != "alive" || a.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("livez %s", a.body)
	}
}

// Whoever has no identity is not told apart from others by what the table calls it.
func TestRoleOfNobody(t *testing.T) {
	if roleOf(delegation.Caller{}) != 0 {
		t.Error("the zero caller has a role")
	}
	id, err := chain.NamedID(testDomain, chain.Operator, "x")
	must(t, err)
	if roleOf(delegation.Caller{ID: id}) != 0 || roleOf(delegation.Caller{ID: id, Role: "root"}) != 0 {
		t.Error("an operator without a known role has one here")
	}
}
