package bundle_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// crowd is a log of two users: the first with re-keyed agents, tokens and decisions.
type crowd struct {
	*world
	saga
	from, to uint64 // entries that are about the first user, without those of seals
	other    *physician
}

const (
	otherUser    = "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b"
	otherSubject = "someone-else-altogether"
)

func newCrowd(t testing.TB) *crowd {
	t.Helper()
	w := newWorld(t, newSoftTPM(t))
	w.seal()
	c := &crowd{world: w, from: uint64(len(w.entries)) + 1} // the orchestrator's certificate is nobody's
	c.saga = w.saga()
	w.accessToken(c.physician, func(*record.Envelope, *record.TokenBody, *[]byte) {})
	w.decides(c.second, 3)
	w.decides(c.saga.child, 2)
	c.to = uint64(len(w.entries))
	w.user, w.subject = otherUser, otherSubject
	c.other = w.play(0x200)
	w.decides(c.other.second, 4)
	w.decide(3) // of nobody
	w.seal()
	return c
}

// decides appends permissions of the agent whose certificate was issued under an entry, as an appliance records them.
func (w *world) decides(issue uint64, count int) {
	w.t.Helper()
	block, _ := pem.Decode(w.issued[issue])
	cert, err := x509.ParseCertificate(block.Bytes)
	must(w.t, err)
	d, err := chain.Extract(cert)
	must(w.t, err)
	agent, err := chain.ParseID(d.Hops[len(d.Hops)-1].ID)
	must(w.t, err)
	tbs := chain.TBSHash(cert)
	for range count {
		w.add(record.TypeDecision, record.Envelope{
			Task: chain.FormatUUID(d.TaskID), Grant: chain.FormatUUID(d.Grant.GrantID), Agent: agent.AgentID(), Orchestrator: "langgraph", User: w.user, Service: "records",
		}, record.DecisionBody{
			DecisionID: id(len(w.entries)), Allow: true, ResourceType: "database", ResourceID: "patients", Action: "read", TBSHash: hex.EncodeToString(tbs[:]), Hops: hopBodies(d),
		}, record.DecisionPayload{Chain: [][]byte{block.Bytes}, Input: json.RawMessage(`{"user":"` + w.subject + `"}`)})
	}
}

func by(kind bundle.By, id string) *bundle.Selection { return &bundle.Selection{By: kind, ID: id} }

// of is the bundle of a selection.
func (w *world) of(t testing.TB, s *bundle.Selection) memory {
	t.Helper()
	o, m := w.options(), memory{}
	o.Selection = s
	must(t, bundle.Write(t.Context(), m, w, o))
	return m
}

// payloadsIn counts the lines.
func (m memory) payloadsIn() (n uint64) {
	for path, data := range m {
		if strings.HasPrefix(path, "payloads/") {
			n += uint64(bytes.Count(data, []byte("\n")))
		}
	}
	return n
}

// names says whether a text stands anywhere in a bundle, in base64 too.
func (m memory) names(text string) bool {
	needles := []string{text}
	for shift := range 3 {
		coded := base64.StdEncoding.EncodeToString(append(make([]byte, shift), text...))
		needles = append(needles, coded[(shift*8+5)/6:len(coded)-4]) // without the characters that neighbours have a part in
	}
	for _, data := range m {
		data = bytes.ReplaceAll(data, []byte("\n"), nil) // PEM
		for _, n := range needles {
			if bytes.Contains(data, []byte(n)) {
				return true
			}
		}
	}
	return false
}

// TestSelections: of each selection everything is here that it is verified with, and nothing of anybody else.
func TestSelections(t *testing.T) {
	c, both := newCrowd(t), newSecond(t)
	all := c.to - c.from
	for name, row := range map[string]struct {
		selection *bundle.Selection
		entries   uint64
		payloads  uint64
		hops      uint64
		names     []string
	}{
		"user":               {by(bundle.ByUser, pseudonym), all, all - 2, 6, []string{subject}}, // a task and a token have no payload
		"the other user":     {by(bundle.ByUser, otherUser), 8, 7, 2, []string{otherSubject}},
		"nobody":             {by(bundle.ByUser, strings.Repeat("9", 64)), 0, 0, 0, nil},
		"task":               {by(bundle.ByTask, id(0x101)), all, all - 2, 6, []string{subject}},
		"agent":              {by(bundle.ByAgent, id(0x102)), all - 2, all - 3, 6, []string{subject}}, // all but grant and task
		"sub-agent":          {by(bundle.ByAgent, id(0x103)), 4, 4, 2, []string{subject}},
		"below a second key": {by(bundle.ByAgent, id(0x110)), 3, 3, 4, []string{subject}},
		"by a token":         {by(bundle.ByAgent, id(0x111)), 2, 1, 4, []string{subject}},
		"no agent":           {by(bundle.ByAgent, id(0x999)), 0, 0, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := c.of(t, row.selection)
			r := verify(t, m, bundle.Options{Selection: row.selection})
			if !r.Valid || r.Completeness != "complete" {
				show(t, r)
				t.Fatal("not complete")
			}
			if s := r.Selection; s == nil || s.Entries != row.entries || s.Scanned != uint64(len(c.entries)) || !s.Whole || s.Selection != *row.selection {
				t.Errorf("%+v", r.Selection)
			}
			if n := m.payloadsIn(); n != row.payloads {
				t.Errorf("%d payloads, want %d", n, row.payloads)
			}
			if confirmed := (bundle.Hops{Confirmed: row.hops}); (r.Hops == nil) != (row.hops == 0) || r.Hops != nil && *r.Hops != confirmed {
				t.Errorf("hops %+v, want %d", r.Hops, row.hops)
			}
			for _, who := range []string{subject, otherSubject} {
				if m.names(who) != slices.Contains(row.names, who) {
					t.Errorf("names %s: %v", who, m.names(who))
				}
			}
			again := c.of(t, row.selection)
			if fmt.Sprint(m) != fmt.Sprint(again) {
				t.Error("two bundles of one head differ")
			}
			both.add(name, m.onDisk(both.t), r)
		})
	}
	both.agree()
}

// What a bundle says of itself is no proof that it is what was asked for.
func TestSelectionAskedFor(t *testing.T) {
	c := newCrowd(t)
	task, other := by(bundle.ByTask, id(0x101)), by(bundle.ByTask, id(0x201))
	user := func(subject string) *record.UserPayload { return &record.UserPayload{Issuer: issuer, Subject: subject} }
	inSelection := func(name bundle.CheckName, status bundle.Status) *expected {
		return &expected{name, -1, "selection.json", status}
	}
	for name, row := range map[string]struct {
		written *bundle.Selection
		options bundle.Options
		want    *expected
	}{
		"as asked":                     {task, bundle.Options{Selection: task}, nil},
		"nobody says":                  {task, bundle.Options{}, inSelection(bundle.CheckSelection, bundle.Unproven)},
		"another":                      {other, bundle.Options{Selection: task}, inSelection(bundle.CheckRange, bundle.Fail)},
		"another kind":                 {by(bundle.ByAgent, task.ID), bundle.Options{Selection: task}, inSelection(bundle.CheckRange, bundle.Fail)},
		"everything":                   {nil, bundle.Options{Selection: task}, inSelection(bundle.CheckRange, bundle.Fail)},
		"by name":                      {by(bundle.ByUser, pseudonym), bundle.Options{User: user(subject)}, nil},
		"by name, a task":              {task, bundle.Options{User: user(subject)}, inSelection(bundle.CheckRange, bundle.Fail)},
		"by name, everything":          {nil, bundle.Options{User: user(subject)}, inSelection(bundle.CheckRange, bundle.Fail)},
		"by name, another's pseudonym": {by(bundle.ByUser, otherUser), bundle.Options{User: user(subject)}, inSelection(bundle.CheckRange, bundle.Fail)},
		"by name, nobody's pseudonym":  {by(bundle.ByUser, strings.Repeat("9", 64)), bundle.Options{User: user(subject)}, inSelection(bundle.CheckSelection, bundle.Unproven)},
	} {
		t.Run(name, func(t *testing.T) {
			r := verify(t, c.of(t, row.written), row.options)
			if row.want != nil {
				wantFinding(t, r, *row.want)
			}
			completeness := "complete"
			if row.want != nil && row.want.status == bundle.Unproven {
				completeness = "unproven"
			} else if row.want != nil {
				completeness = "fail"
			}
			if r.Completeness != completeness || r.Integrity != "pass" || r.Valid != (completeness != "fail") {
				show(t, r)
				t.Errorf("completeness %s, want %s", r.Completeness, completeness)
			}
			if who := row.options.User; who != nil && row.want == nil && (r.Selection.User == nil || *r.Selection.User != *who) {
				t.Errorf("whose it is: %+v", r.Selection.User)
			}
		})
	}
}

// TestSelectionTampering: what is missing of a selection is named, and so is what was not asked for.
func TestSelectionTampering(t *testing.T) {
	c := newCrowd(t)
	full := written(t, c.world)
	line := func(path string, index uint64) string {
		for _, l := range bytes.SplitAfter(full[path], []byte("\n")) {
			if bytes.HasPrefix(l, []byte(`{"index":`+fmtUint(index)+`,`)) {
				return string(l)
			}
		}
		t.Fatalf("no line %d in %s", index, path)
		return ""
	}
	theirs := int64(c.other.first)
	add := func(m memory, path, text string) { m[path] = append(m[path], text...) }
	task := by(bundle.ByTask, id(0x101))
	for name, row := range map[string]struct {
		selection *bundle.Selection
		tamper    func(m memory)
		want      expected
	}{
		"a payload left out": {task, func(m memory) {
			m["payloads/0.jsonl"] = bytes.Replace(m["payloads/0.jsonl"], []byte(line("payloads/0.jsonl", c.first)), nil, 1)
		}, expected{bundle.CheckPayload, int64(c.first), "payloads/0.jsonl", bundle.Unproven}},
		"a certificate left out": {
			task, func(m memory) { delete(m, issued(int64(c.first))) },
			expected{bundle.CheckCertificate, int64(c.first), issued(int64(c.first)), bundle.Unproven},
		},
		"a delegator's certificate left out": {
			by(bundle.ByAgent, id(0x110)), func(m memory) { delete(m, issued(int64(c.rekeyed))) },
			expected{bundle.CheckCertificate, int64(c.rekeyed), issued(int64(c.rekeyed)), bundle.Unproven},
		},
		"a consent left out": {
			by(bundle.ByAgent, id(0x110)), func(m memory) { delete(m, "evidence/"+id(0x100)+".json") },
			expected{bundle.CheckEvidence, int64(c.from), "evidence/" + id(0x100) + ".json", bundle.Unproven},
		},
		"entries left out": {task, func(m memory) { delete(m, "entries/0.jsonl") }, expected{bundle.CheckRange, 0, "entries/0.jsonl", ""}},
		"another's payload": {
			task, func(m memory) { add(m, "payloads/0.jsonl", line("payloads/0.jsonl", uint64(theirs))) },
			expected{bundle.CheckSelection, theirs, "payloads/0.jsonl", ""},
		},
		"another's certificate": {
			task, func(m memory) { m[issued(theirs)] = full[issued(theirs)] },
			expected{bundle.CheckSelection, theirs, issued(theirs), ""},
		},
		"another's statement": {
			task, func(m memory) { add(m, "delegators/0.jsonl", line("delegators/0.jsonl", uint64(theirs))) },
			expected{bundle.CheckSelection, theirs, "delegators/0.jsonl", ""},
		},
		"another's consent": {
			task, func(m memory) { m["evidence/"+id(0x200)+".json"] = full["evidence/"+id(0x200)+".json"] },
			expected{bundle.CheckSelection, -1, "evidence/" + id(0x200) + ".json", ""},
		},
		"a policy that nobody cites": {task, func(m memory) {
			for path, data := range full {
				if strings.HasPrefix(path, "policy/") {
					m[path] = data
				}
			}
		}, expected{bundle.CheckSelection, -1, policyIn(t, full), ""}},
		"a payload of a delegator": {by(bundle.ByAgent, id(0x110)), func(m memory) {
			m["payloads/0.jsonl"] = []byte(line("payloads/0.jsonl", c.first) + string(m["payloads/0.jsonl"]))
		}, expected{bundle.CheckSelection, int64(c.first), "payloads/0.jsonl", ""}},
		"no such thing": {
			task, func(m memory) { m["selection.json"] = []byte("{\"by\":\"serial\",\"id\":\"1\"}\n") },
			expected{bundle.CheckSelection, -1, "selection.json", ""},
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := c.of(t, row.selection)
			row.tamper(m)
			m.remanifest()
			r := verify(t, m, bundle.Options{Selection: row.selection})
			wantFinding(t, r, row.want)
			if r.Valid != (row.want.status == bundle.Unproven) || r.Completeness == "complete" && r.Valid {
				show(t, r)
				t.Errorf("valid %v, completeness %s", r.Valid, r.Completeness)
			}
		})
	}
}

func policyIn(t *testing.T, m memory) string {
	t.Helper()
	for path := range m {
		if strings.HasPrefix(path, "policy/") {
			return path
		}
	}
	t.Fatal("no policy bundle")
	return ""
}

// One pseudonym with the consents of two people is a lie about one of them.
func TestSelectionOfTwoPeople(t *testing.T) {
	w := newWorld(t, newSoftTPM(t))
	w.play(0x100)
	second := int64(len(w.entries)) + 1
	w.subject = otherSubject
	w.play(0x200)
	w.seal()
	s := by(bundle.ByUser, pseudonym)
	r := verify(t, w.of(t, s), bundle.Options{Selection: s})
	wantFinding(t, r, expected{bundle.CheckSelection, second, "entries/0.jsonl", ""})
	if r.Valid || r.Selection.User != nil {
		t.Errorf("valid %v, of %+v", r.Valid, r.Selection.User)
	}
}

// What was erased of a selection is explained by the redact entry, which belongs to nobody's.
func TestSelectionErased(t *testing.T) {
	w, ranges := erasure(t)
	w.erase(ranges, true)
	w.seal()
	s := by(bundle.ByTask, id(0x101))
	r := verify(t, w.of(t, s), bundle.Options{Selection: s})
	if !r.Valid || r.Completeness != "complete" || r.Erased != 3 || r.Selection.Entries != 4 {
		show(t, r)
		t.Errorf("%d erased, %+v", r.Erased, r.Selection)
	}
}

// Of a part of the log nobody can say what else belongs to a selection.
func TestSelectionOfAPart(t *testing.T) {
	w := newWorld(t, newSoftTPM(t))
	w.decide(500)
	p := w.play(0x100)
	w.decides(p.first, 300)
	w.seal()
	s := by(bundle.ByTask, id(0x101))
	o, m := w.options(), memory{}
	o.Selection, o.From, o.To = s, 512, 768
	must(t, bundle.Write(t.Context(), m, w, o))
	r := verify(t, m, bundle.Options{Selection: s, Range: &bundle.Range{From: 512, To: 768}})
	wantFinding(t, r, expected{bundle.CheckSelection, 256, "entries/1.jsonl", bundle.Unproven})
	if !r.Valid || r.Completeness != "unproven" || r.Selection.Whole || r.Selection.Entries != 256 || r.Selection.Scanned != 512 {
		show(t, r)
		t.Errorf("%+v", r.Selection)
	}
}

// The stock tools read a selection as they read everything else, and the command for the rest names it.
func TestSelectionReadme(t *testing.T) {
	c := newCrowd(t)
	o := c.options()
	o.Selection = by(bundle.ByAgent, id(0x103))
	dir := onDisk(t, c.world, o)
	if out, err := runReadme(t, dir); err != nil || !strings.Contains(out, "5 entries: root recomputed") {
		t.Errorf("README.verify: %v\n%s", err, out)
	}
	m := c.of(t, o.Selection)
	if text := string(m["README.verify"]); !strings.Contains(text, " --agent "+id(0x103)+" ") {
		t.Errorf("the command does not say what was asked for:\n%.2000s", text)
	}
}

func TestSelectionRefused(t *testing.T) {
	c := newCrowd(t)
	for _, s := range []bundle.Selection{
		{},
		{By: bundle.ByTask},
		{ID: id(1)},
		{By: "serial", ID: id(1)},
		{By: bundle.ByUser, ID: id(1)},
		{By: bundle.ByUser, ID: strings.ToUpper(otherUser)},
		{By: bundle.ByAgent, ID: otherUser},
		{By: bundle.ByTask, ID: strings.ToUpper("01890000-0000-7000-8000-00000000000a")},
	} {
		o, m := c.options(), memory{}
		o.Selection = &s
		if err := bundle.Write(t.Context(), m, c.world, o); err == nil || len(m) > 0 {
			t.Errorf("%+v was written", s)
		}
	}
}

func FuzzParseSelection(f *testing.F) {
	f.Add([]byte(`{"by":"task","id":"` + id(1) + `"}` + "\n"))
	f.Add([]byte(`{"by":"user","id":"` + pseudonym + `"}` + "\n"))
	f.Add([]byte(`{"by":"agent","by":"task","id":"` + id(1) + `"}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := bundle.ParseSelection(data)
		if err != nil {
			return
		}
		if again, err := json.Marshal(s); err != nil || s.Check() != nil || string(again)+"\n" != string(data) {
			t.Errorf("%q was taken for %+v", data, s)
		}
	})
}

// A delegator may have changed its key without anybody's statement: then the link and the key before are what it is verified with.
func TestSelectionOfFormerKeys(t *testing.T) {
	w := newWorld(t, newSoftTPM(t))
	d, key := w.vouched(w.play(0x100), 0x150)
	w.issueAgent(d, &key.PublicKey, "")
	_, d, _ = w.rekey(d, key, "", unchanged)
	child := newKey(t)
	spiffeID, err := chain.AgentID(domain, "research", id(0x151))
	must(t, err)
	last := d.Hops[1]
	d, err = d.Extend(chain.Hop{ID: spiffeID.String(), SPKIHash: sha256.Sum256(spki(t, &child.PublicKey)), Scope: last.Scope, NotAfter: last.NotAfter})
	must(t, err)
	w.issueAgent(d, &child.PublicKey, "")
	w.seal()
	s := by(bundle.ByAgent, id(0x151))
	r := verify(t, w.of(t, s), bundle.Options{Selection: s})
	if !r.Valid || r.Completeness != "complete" || r.Selection.Entries != 1 {
		show(t, r)
		t.Errorf("%+v", r.Selection)
	}
}
