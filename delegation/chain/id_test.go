package chain

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

type idVector struct {
	ID    string `json:"id"`
	Valid bool   `json:"valid"`
	Kind  string `json:"kind,omitempty"`
}

func TestIDVectors(t *testing.T) {
	u := agentUUID(1)
	made := []idVector{
		{"spiffe://hospital.example/agent/research/" + u, true, "agent"},
		{"spiffe://h/agent/R_e.s-1/" + u, true, "agent"},
		{"spiffe://hospital.example/orchestrator/langgraph", true, "orchestrator"},
		{"spiffe://hospital.example/service/records", true, "service"},
		{"spiffe://hospital.example/operator/alice", true, "operator"},
		{"spiffe://a_b-c.example/operator/" + strings.Repeat("a", 64), true, "operator"},
		{"", false, ""},
		{"spiffe://", false, ""},
		{"spiffe://hospital.example", false, ""},
		{"spiffe://hospital.example/agent", false, ""},
		{"SPIFFE://hospital.example/service/records", false, ""},
		{"https://hospital.example/service/records", false, ""},
		{"spiffe://Hospital.example/service/records", false, ""},
		{"spiffe://hospital.example:443/service/records", false, ""},
		{"spiffe://user@hospital.example/service/records", false, ""},
		{"spiffe://hospital..example/service/records", false, ""},
		{"spiffe://hospital.example./service/records", false, ""},
		{"spiffe://.example/service/records", false, ""},
		{"spiffe://10.0.0.1/service/records", false, ""},
		{"spiffe://h\u043espital.example/service/records", false, ""},
		{"spiffe:///service/records", false, ""},
		{"spiffe://" + strings.Repeat("a", 256) + "/service/records", false, ""},
		{"spiffe://hospital.example/service/", false, ""},
		{"spiffe://hospital.example/service/records/", false, ""},
		{"spiffe://hospital.example/service/records/x", false, ""},
		{"spiffe://hospital.example//service/records", false, ""},
		{"spiffe://hospital.example/service/.", false, ""},
		{"spiffe://hospital.example/service/..", false, ""},
		{"spiffe://hospital.example/service/rec%6Frds", false, ""},
		{"spiffe://hospital.example/service/records?x", false, ""},
		{"spiffe://hospital.example/service/records#x", false, ""},
		{"spiffe://hospital.example/Service/records", false, ""},
		{"spiffe://hospital.example/workload/records", false, ""},
		{"spiffe://hospital.example/unknown/records", false, ""},
		{"spiffe://hospital.example/service/" + strings.Repeat("a", 65), false, ""},
		{"spiffe://hospital.example/agent/research", false, ""},
		{"spiffe://hospital.example/agent//" + u, false, ""},
		{"spiffe://hospital.example/agent/../" + u, false, ""},
		{"spiffe://hospital.example/agent/re search/" + u, false, ""},
		{"spiffe://hospital.example/agent/research/" + u + "/", false, ""},
		{"spiffe://hospital.example/agent/research/" + strings.ReplaceAll(u, "-", ""), false, ""},
		{"spiffe://hospital.example/agent/research/" + strings.ToUpper(u), false, ""},
		{"spiffe://hospital.example/agent/research/" + strings.Replace(u, "-7", "-4", 1), false, ""},
		{"spiffe://hospital.example/agent/research/" + strings.Replace(u, "-8000-0", "-c000-0", 1), false, ""},
		{"spiffe://hospital.example/agent/research/" + u[:35] + "g", false, ""},
		{"spiffe://hospital.example/agent/research/{" + u + "}", false, ""},
	}
	sameVectors(t, "spiffe-id.json", made)
	for _, v := range made {
		id, err := ParseID(v.ID)
		if (err == nil) != v.Valid || err != nil && !errors.Is(err, ErrID) {
			t.Errorf("%q: %v", v.ID, err)
			continue
		}
		if v.Valid && (id.Kind().String() != v.Kind || id.String() != v.ID) {
			t.Errorf("%q: %s %q", v.ID, id.Kind(), id)
		}
	}
}

func TestIDParts(t *testing.T) {
	a := must[ID](t)(AgentID(testDomain, "research", agentUUID(1)))
	if a.AgentType() != "research" || a.AgentID() != agentUUID(1) || a.Name() != "" || a.TrustDomain() != testDomain || a != must[ID](t)(ParseID(a.String())) {
		t.Errorf("%+v", a)
	}
	o := must[ID](t)(NamedID(testDomain, Orchestrator, "langgraph"))
	if o.Name() != "langgraph" || o.AgentType() != "" || o.AgentID() != "" {
		t.Errorf("%+v", o)
	}
	for _, k := range []Kind{KindUnknown, Agent, Kind(9)} {
		if id, err := NamedID(testDomain, k, "x"); err == nil {
			t.Errorf("%d: %s", k, id)
		}
	}
	var id ID
	if err := json.Unmarshal([]byte(`"`+a.String()+`"`), &id); err != nil || id != a {
		t.Errorf("%v %v", id, err)
	}
	if err := json.Unmarshal([]byte(`"spiffe://x"`), &id); err == nil {
		t.Error("JSON accepted")
	}
	if u := must[[16]byte](t)(ParseUUID(testTask)); FormatUUID(u) != testTask {
		t.Error(FormatUUID(u))
	}
}
