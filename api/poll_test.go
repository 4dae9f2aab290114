package api

import (
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/event"
)

const pollPath = "/v1/revocations/poll"

// poll asks once, verifies what comes, and gives the ids in the order of the feed.
func (w *world) poll(p *person, body string) ([]string, bool) {
	w.t.Helper()
	out := decodeAs[v1.FeedEvents](w, w.send(p, "POST", pollPath, body), 200)
	if out.Sets == nil {
		w.t.Error("no sets: RFC 8936 §2.3 wants an empty object")
	}
	var seqs []int
	for jti, set := range out.Sets {
		e, err := event.Parse(set, w.trust.JWT[0].PublicKey, testDomain+"/log", testDomain)
		must(w.t, err)
		if event.Position(e.Epoch, e.Seq) != jti || e.Epoch != 1 || e.Kind == chain.RevUnknown {
			w.t.Errorf("%s is %+v", jti, e)
		}
		seqs = append(seqs, int(e.Seq))
	}
	slices.Sort(seqs)
	ids := make([]string, len(seqs))
	for i, n := range seqs {
		ids[i] = "1." + strconv.Itoa(n)
	}
	return ids, out.MoreAvailable
}

func (w *world) polls(p *person, body string, more bool, want ...string) {
	w.t.Helper()
	if got, m := w.poll(p, body); !slices.Equal(got, want) || m != more {
		w.t.Errorf("%s: %v, more %v; want %v, more %v", body, got, m, want, more)
	}
}

// revoked makes events and waits until they are signed.
func (w *world) revoked(serials ...string) {
	w.t.Helper()
	var last uint64
	for _, s := range serials {
		last = w.revoke(s).Seq
	}
	r := w.listen(operator, "/v1/revocations/stream")
	r.heartbeat(last)
	r.resp.Body.Close()
}

func TestPollEvents(t *testing.T) {
	w := newWorld(t)
	w.runDomain()
	p, other := w.as(service), w.as(orchestrator)
	const now = `"returnImmediately":true`
	w.polls(p, `{`+now+`}`, false)
	w.revoked("0a", "0b", "0c", "0d")
	// Until it is acknowledged it comes again; the oldest first.
	w.polls(p, `{`+now+`}`, false, "1.1", "1.2", "1.3", "1.4")
	w.polls(p, `{}`, false, "1.1", "1.2", "1.3", "1.4")
	w.polls(p, `{`+now+`,"maxEvents":2}`, true, "1.1", "1.2")
	w.polls(p, `{`+now+`,"maxEvents":4}`, false, "1.1", "1.2", "1.3", "1.4")
	w.polls(p, `{`+now+`,"maxEvents":9223372036854775807,"ack":[],"setErrs":{}}`, false, "1.1", "1.2", "1.3", "1.4")
	// Out of order, and in the request that asks for more.
	w.polls(p, `{`+now+`,"ack":["1.3","1.2","1.3"]}`, false, "1.1", "1.4")
	// What is not there, or not of this epoch, acknowledges nothing.
	w.polls(p, `{`+now+`,"ack":["1.99","1.0","2.4","0.4","","x","1.4.heartbeat.1772366400","1.04"],"setErrs":{"7.4":{"err":"invalid_key"}}}`, false, "1.1", "1.4")
	// Acknowledging alone is not waited for.
	w.polls(p, `{"maxEvents":0}`, true)
	w.polls(p, `{"maxEvents":0,"ack":["1.1"]}`, true)
	w.polls(p, `{`+now+`}`, false, "1.4")
	w.polls(p, `{"maxEvents":0,"ack":["1.4"]}`, false)
	w.polls(p, `{`+now+`}`, false)
	// Nobody else's are touched.
	w.polls(other, `{`+now+`}`, false, "1.1", "1.2", "1.3", "1.4")
	w.revoked("0e")
	w.polls(p, `{}`, false, "1.5")
}

// What a reader has no use for does not come again, and is said in the log once.
func TestPollTakesErrors(t *testing.T) {
	w := newWorld(t)
	w.runDomain()
	w.revoked("0a", "0b")
	const refusal = `{"returnImmediately":true,"setErrs":{"1.1":{"err":"invalid_key","description":"no such key"}}}`
	for range 3 {
		w.polls(w.as(service), refusal, false, "1.2")
	}
	if text := w.logged.String(); strings.Count(text, "has no use for events") != 1 || !strings.Contains(text, "err=invalid_key") ||
		!strings.Contains(text, "first=1.1") || !strings.Contains(text, "/service/records") || strings.Contains(text, "no such key") {
		t.Errorf("said %q", text)
	}
}

func TestLongPollOfEvents(t *testing.T) {
	w := newWorld(t)
	w.runDomain()
	p := w.as(service)
	began := time.Now()
	if a := w.send(p, "POST", pollPath+"?wait=1", "{}"); a.status != 200 || string(a.body) != "{\"sets\":{}}\n" || time.Since(began) < time.Second {
		t.Errorf("after %s: %d %s", time.Since(began), a.status, a.body)
	}
	answered := make(chan []string, 1)
	go func() {
		got, _ := w.poll(p, `{"maxEvents":1}`)
		answered <- got
	}()
	w.someoneWaits()
	w.revoke("0a")
	if got := <-answered; !slices.Equal(got, []string{"1.1"}) {
		t.Errorf("woken with %v", got)
	}
	// One that is revoked while it waits learns nothing.
	w.polls(p, `{"ack":["1.1"],"maxEvents":0}`, false)
	cert, err := x509.ParseCertificate(p.cert.Certificate[0])
	must(t, err)
	end := make(chan answer, 1)
	go func() { end <- w.send(p, "POST", pollPath, "{}") }()
	w.someoneWaits()
	w.revoke(chain.Serial(cert))
	w.refused(<-end, 401, "certificate_revoked")
}

func (w *world) someoneWaits() {
	w.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for len(w.server.streams) == 0 {
		if time.Now().After(deadline) {
			w.t.Fatal("nobody waits")
		}
		time.Sleep(time.Millisecond)
	}
}

// Waiting takes a place of the feed's readers; what is there is given without one.
func TestPollsThatWaitAreBounded(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Limits.Streams = 1 })
	w.runDomain()
	p := w.as(service)
	w.listen(operator, "/v1/revocations/stream").heartbeat(0)
	if a := w.send(p, "POST", pollPath, "{}"); a.status != 503 || codeOfBody(a) != codeOverloaded {
		t.Errorf("%d %s", a.status, a.body)
	}
	w.polls(p, `{"returnImmediately":true}`, false)
}

// An answer is bounded, whatever is asked for.
func TestPollPages(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Domain = plenty{c.Domain} })
	for _, body := range []string{`{}`, `{"maxEvents":100000}`} {
		if a := decodeAs[v1.FeedEvents](w, w.do(service, "POST", pollPath, body), 200); len(a.Sets) != pollPage || !a.MoreAvailable {
			t.Errorf("%s: %d sets, more %v", body, len(a.Sets), a.MoreAvailable)
		}
	}
}

// plenty is a feed of which as much is left as anybody asks for.
type plenty struct{ Domain }

func (plenty) PollFeed(_ delegation.Caller, q delegation.FeedPoll) delegation.FeedPage {
	out := delegation.FeedPage{Next: delegation.Cursor{Epoch: 1}, More: true}
	for i := range q.Limit {
		out.Events = append(out.Events, delegation.SignedEvent{Seq: uint64(i + 1), SET: "x"})
	}
	return out
}

// busy is a feed whose first changes are heartbeats.
type busy struct {
	Domain
	beats *atomic.Int32
}

func (b busy) PollFeed(delegation.Caller, delegation.FeedPoll) delegation.FeedPage {
	out := delegation.FeedPage{Next: delegation.Cursor{Epoch: 1}}
	if b.beats.Add(-1) < 0 {
		out.Events = []delegation.SignedEvent{{Seq: 1, SET: "x"}}
		return out
	}
	beat := make(chan struct{})
	close(beat)
	out.Changed = beat
	return out
}

func TestHeartbeatsAnswerNoPoll(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		b := busy{c.Domain, new(atomic.Int32)}
		b.beats.Store(5)
		c.Domain = b
	})
	if a := decodeAs[v1.FeedEvents](w, w.do(service, "POST", pollPath, "{}"), 200); len(a.Sets) != 1 {
		t.Errorf("%+v", a)
	}
}

// Polls of one reader at the same time, each acknowledging what it got: nothing is lost, and nothing is left.
func TestConcurrentPolls(t *testing.T) {
	w := newWorld(t)
	w.runDomain()
	p := w.as(service)
	const events, pollers = 40, 4
	var mu sync.Mutex
	seen := map[string]bool{}
	var all sync.WaitGroup
	for range pollers {
		all.Go(func() {
			var ack []string
			for done := false; !done; {
				q := v1.FeedPoll{MaxEvents: ptr(3), Ack: ack}
				out := decodeAs[v1.FeedEvents](w, w.send(p, "POST", pollPath+"?wait=1", q), 200)
				ack = slices.Collect(maps.Keys(out.Sets))
				mu.Lock()
				for _, jti := range ack {
					seen[jti] = true
				}
				done = len(seen) == events && len(ack) == 0
				mu.Unlock()
			}
		})
	}
	for i := range events {
		w.revoke(fmt.Sprintf("%02x", i+1))
	}
	all.Wait()
	w.polls(p, `{"returnImmediately":true}`, false)
}

func ptr(n int64) *int64 { return &n }

func TestBadPolls(t *testing.T) {
	w := newWorld(t)
	many := `["` + strings.Repeat(`1.1","`, v1.MaxFeedAcks) + `1.1"]`
	for _, tc := range []struct {
		body, code, field string
	}{
		{``, codeBodyMissing, ""},
		{`[]`, codeWrongType, ""},
		{`{"maxEvents":-1}`, codeBadRequest, "maxEvents"},
		{`{"maxEvents":1.5}`, codeWrongType, "maxEvents"},
		{`{"maxEvents":"1"}`, codeWrongType, "maxEvents"},
		{`{"maxEvents":null}`, codeWrongType, "maxEvents"},
		{`{"maxEvents":9223372036854775808}`, codeWrongType, "maxEvents"},
		{`{"maxEvents":1,"maxEvents":0}`, codeDuplicateField, "maxEvents"},
		{`{"maxevents":1}`, codeUnknownField, "maxevents"},
		{`{"returnImmediately":1}`, codeWrongType, "returnImmediately"},
		{`{"ack":"1.1"}`, codeWrongType, "ack"},
		{`{"ack":[1.1]}`, codeWrongType, "ack[0]"},
		{`{"ack":[],"ack":["1.1"]}`, codeDuplicateField, "ack"},
		{`{"ack":` + many + `}`, codeBadRequest, "ack"},
		{`{"ack":` + strings.Replace(many, `,"1.1"`, "", 1) + `,"setErrs":{"1.1":{"err":"x"}}}`, codeBadRequest, "ack"},
		{`{"setErrs":[]}`, codeWrongType, "setErrs"},
		{`{"setErrs":{"1.1":"invalid_key"}}`, codeWrongType, "setErrs.1.1"},
		{`{"setErrs":{"1.1":{}}}`, codeBadRequest, "setErrs.1.1.err"},
		{`{"setErrs":{"1.1":{"err":"a\nb"}}}`, codeBadRequest, "setErrs.1.1.err"},
		{`{"setErrs":{"1.1":{"err":"` + strings.Repeat("x", maxSetErr+1) + `"}}}`, codeBadRequest, "setErrs.1.1.err"},
		{`{"setErrs":{"1.1":{"err":"x","err":"y"}}}`, codeDuplicateField, "setErrs.1.1.err"},
		{`{"setErrs":{"1.1":{"err":"x"},"1.1":{"err":"y"}}}`, codeDuplicateField, "setErrs.1.1"},
		{`{"setErrs":{"1.1":{"err":"x"},"\u0031.1":{"err":"y"}}}`, codeDuplicateField, "setErrs.1.1"},
		{`{"setErrs":{"1.1":{"err":"x","code":1}}}`, codeUnknownField, "setErrs.1.1.code"},
		{`{} {}`, codeTrailingData, ""},
	} {
		if p := w.refused(w.do(service, "POST", pollPath, tc.body), 400, tc.code); p.Field != tc.field || p.AuditID == nil {
			t.Errorf("%.60s: field %q, want %q; entry %v", tc.body, p.Field, tc.field, p.AuditID)
		}
	}
	for _, bad := range []string{"wait=26", "wait=-1", "wait=x", "wait=1&wait=2", "cursor=1.1"} {
		a := w.do(service, "POST", pollPath+"?"+bad, "{}")
		if code := codeOfBody(a); a.status != 400 || code != codeBadParameter && code != codeUnknownParameter {
			t.Errorf("%s: %d %s", bad, a.status, a.body)
		}
	}
}
