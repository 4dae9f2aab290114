package mcpmw_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/client/mcpmw"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/internal/testrig/hospital"
)

// oracle allows the tools whose ids it is told, and remembers what it was asked.
type oracle struct {
	mu    sync.Mutex
	allow []string
	must  []json.RawMessage // goes with a permission
	err   error
	asked []v1.EvaluationRequest
}

func (o *oracle) Evaluate(_ context.Context, q v1.EvaluationRequest) (v1.EvaluationResponse, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked = append(o.asked, q)
	if slices.Contains(o.allow, q.Resource.ID) {
		return v1.EvaluationResponse{Decision: true, Context: v1.DecisionContext{Obligations: o.must}}, o.err
	}
	return v1.EvaluationResponse{Context: v1.DecisionContext{DecisionID: "d-1", Reasons: []string{"policy_denied"}}}, o.err
}

// take gives what was asked since the last time.
func (o *oracle) take() []v1.EvaluationRequest {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := o.asked
	o.asked = nil
	return out
}

// ward is an MCP server named records behind the guard, over TLS.
type ward struct {
	t      *testing.T
	h      *hospital.Hospital
	oracle *oracle
	srv    *httptest.Server
}

func open(t *testing.T, next http.Handler) *ward {
	t.Helper()
	w := &ward{t: t, h: hospital.New(t), oracle: &oracle{allow: []string{"records:search"}}}
	v, err := client.NewVerifier(w.h.Config())
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Refresh(t.Context(), w.h.Appliance(t, w.h.JWT)); err != nil {
		t.Fatal(err)
	}
	guarded, err := mcpmw.RequireDecision(v, w.oracle, "records", next)
	if err != nil {
		t.Fatal(err)
	}
	own := w.h.Listener(t)
	w.srv = httptest.NewUnstartedServer(guarded)
	w.srv.TLS = client.ServerTLS(func() (*tls.Certificate, error) { return own, nil })
	w.srv.StartTLS()
	t.Cleanup(w.srv.Close)
	return w
}

// agent may call every tool of the server, as far as its certificate says.
func (w *ward) agent() *tls.Certificate {
	w.t.Helper()
	return w.h.Agent(w.t, time.Hour, func(d *chain.Delegation, _ *x509.Certificate) {
		scope := hospital.Scope(w.t, "tool:call:records:*")
		d.Grant.Scope = scope
		for i := range d.Hops {
			d.Hops[i].Scope = scope
		}
	})
}

func (w *ward) http(cert *tls.Certificate) *http.Client {
	conf := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true} //nolint:gosec // the server is not what is tested
	if cert != nil {
		conf.Certificates = []tls.Certificate{*cert}
	}
	transport := &http.Transport{TLSClientConfig: conf}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

type query struct {
	Text string `json:"text"`
}

// A whole exchange between the official SDK's client and server: initialize, list, call.
func TestExchange(t *testing.T) {
	server := mcp.NewServer(&mcp.Implementation{Name: "records", Version: "1"}, nil)
	ran := make(chan string, 8)
	for _, name := range []string{"search", "delete"} {
		mcp.AddTool(server, &mcp.Tool{Name: name}, func(_ context.Context, _ *mcp.CallToolRequest, q query) (*mcp.CallToolResult, any, error) {
			ran <- name + " " + q.Text
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "found " + q.Text}}}, nil, nil
		})
	}
	w := open(t, mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, nil))
	agent := w.agent()
	c := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil)
	session, err := c.Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: w.srv.URL, HTTPClient: w.http(agent), MaxRetries: -1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	tools, err := session.ListTools(t.Context(), nil)
	if err != nil || len(tools.Tools) != 2 {
		t.Fatalf("%v %v", tools, err)
	}
	if asked := w.oracle.take(); len(asked) != 0 {
		t.Errorf("asked before any call: %v", asked)
	}
	result, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "search", Arguments: query{"ward 7"}})
	if err != nil || result.IsError || len(result.Content) != 1 || <-ran != "search ward 7" {
		t.Fatalf("%v %v", result, err)
	}
	if text, ok := result.Content[0].(*mcp.TextContent); !ok || text.Text != "found ward 7" {
		t.Fatalf("%v", result.Content[0])
	}
	asked := w.oracle.take()
	if len(asked) != 1 || asked[0].Subject.ID != hospital.AgentID || asked[0].Resource.Type != "tool" || asked[0].Resource.ID != "records:search" ||
		asked[0].Action.Name != "call" || len(asked[0].Context.CertificateChain) != 2 {
		t.Fatalf("asked %+v", asked)
	}
	_, err = session.CallTool(t.Context(), &mcp.CallToolParams{Name: "delete", Arguments: query{"ward 7"}})
	var refused *jsonrpc.Error
	var why v1.DecisionContext
	if !errors.As(err, &refused) || refused.Code != mcpmw.CodeRefused || json.Unmarshal(refused.Data, &why) != nil || !slices.Equal(why.Reasons, []string{"policy_denied"}) || why.DecisionID != "d-1" {
		t.Fatalf("%v", err)
	}
	w.h.Feed.Revoke(chain.RevTask, hospital.Task)
	if _, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "search"}); err == nil {
		t.Error("called by a revoked agent")
	}
	if len(ran) != 0 {
		t.Errorf("%s ran", <-ran)
	}
}

// seen is a handler that keeps the bodies handed on to it.
type seen struct{ bodies chan string }

func (s seen) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || int64(len(body)) != r.ContentLength {
		w.WriteHeader(http.StatusTeapot)
		return
	}
	s.bodies <- string(body)
}

func (w *ward) send(c *http.Client, method, body string, header ...[2]string) (status int, text string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.srv.URL, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for _, h := range header {
		req.Header.Set(h[0], h[1])
	}
	resp, err := c.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

const call = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"Name":"x","name":"y","name":"z"}}}`

// members are so many of an object, each with a comma.
func members(n int) string {
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, `"_%d":0,`, i)
	}
	return out.String()
}

// The messages are those of the specification's pages on transports and tools, revisions 2025-03-26 (batches) and 2025-06-18.
func TestPasses(t *testing.T) {
	s := seen{make(chan string, 64)}
	w := open(t, s)
	c := w.http(w.agent())
	for name, b := range map[string]struct {
		body  string
		asked int
	}{
		"call":         {call, 1},
		"spaces":       {"\r\n\t" + strings.ReplaceAll(call, ":{", " : {") + " ", 1},
		"escapes":      {strings.Replace(call, "tools/call", `tools\/c\u0061ll`, 1), 1},
		"text id":      {strings.Replace(call, `"id":1`, `"id":"a"`, 1), 1},
		"notification": {`{"jsonrpc":"2.0","method":"notifications/initialized"}`, 0},
		"list":         {`{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{}}`, 0},
		"response":     {`{"jsonrpc":"2.0","id":3,"result":{"roots":[]}}`, 0},
		"more members": {strings.Replace(strings.Replace(call, `"id"`, members(60)+`"id"`, 1), `"arguments"`, members(60)+`"arguments"`, 1), 1},
		"batch":        {`[` + call + `,{"jsonrpc":"2.0","id":2,"method":"tools/list"},` + call + `]`, 2},
	} {
		if status, text := w.send(c, "POST", b.body); status != http.StatusOK || text != "" {
			t.Errorf("%s: %d %s", name, status, text)
			continue
		}
		if got := <-s.bodies; got != b.body {
			t.Errorf("%s: handed on as %s", name, got)
		}
		if asked := w.oracle.take(); len(asked) != b.asked {
			t.Errorf("%s: asked %d times", name, len(asked))
		}
	}
	// What is no POST carries no message.
	for _, method := range []string{"GET", "DELETE"} {
		if status, _ := w.send(c, method, call); status != http.StatusOK || <-s.bodies != "" {
			t.Errorf("%s: %d", method, status)
		}
	}
}

// What is refused, and what a server could read in another way, does not reach it.
func TestRefuses(t *testing.T) {
	s := seen{make(chan string, 64)}
	w := open(t, s)
	c := w.http(w.agent())
	del := strings.Replace(call, "search", "delete", 1)
	for name, b := range map[string]struct {
		body   string
		status int
		reason string
	}{
		"denied":                {del, 200, "policy_denied"},
		"denied, escaped":       {strings.Replace(strings.Replace(del, "tools/call", `tools\/call`, 1), "delete", `d\u0065lete`, 1), 200, "policy_denied"},
		"name with a colon":     {strings.Replace(call, "search", "search:x", 1), 200, "bad_tool_name"},
		"wildcard":              {strings.Replace(call, "search", "*", 1), 200, "bad_tool_name"},
		"empty name":            {strings.Replace(call, "search", "", 1), 200, "bad_tool_name"},
		"not ASCII":             {strings.Replace(call, "search", "seärch", 1), 200, "bad_tool_name"},
		"long name":             {strings.Replace(call, "search", strings.Repeat("s", 300), 1), 200, "bad_tool_name"},
		"batch":                 {`[` + call + `,` + del + `]`, 200, "batch_refused"},
		"nothing":               {``, 400, "bad_message"},
		"not JSON":              {`{"method":`, 400, "bad_message"},
		"two":                   {call + call, 400, "bad_message"},
		"text":                  {`"tools/call"`, 400, "bad_message"},
		"null":                  {`null`, 400, "bad_message"},
		"not UTF-8":             {strings.Replace(call, "search", "s\xff", 1), 400, "bad_message"},
		"method twice":          {strings.Replace(call, `"id"`, `"method":"tools/list","id"`, 1), 400, "bad_message"},
		"method in case":        {`{"jsonrpc":"2.0","id":1,"Method":"tools/call","params":{"name":"delete"}}`, 400, "bad_message"},
		"method folded":         {`{"jsonrpc":"2.0","id":1,"method":"tools/list","param` + "\u017f" + `":{"name":"delete"}}`, 400, "bad_message"},
		"method twice, escaped": {strings.Replace(call, `"id"`, `"m\u0065thod":"tools/list","id"`, 1), 400, "bad_message"},
		"method is null":        {strings.Replace(call, `"tools/call"`, `null`, 1), 400, "bad_message"},
		"name twice":            {strings.Replace(call, `"name"`, `"name":"delete","name"`, 1), 400, "bad_message"},
		"name in case":          {strings.Replace(call, `"arguments"`, `"NAME":"delete","arguments"`, 1), 400, "bad_message"},
		"no name":               {`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}`, 400, "bad_message"},
		"name is no text":       {`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":["search"]}}`, 400, "bad_message"},
		"params by place":       {`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["search"]}`, 400, "bad_message"},
		"no params":             {`{"jsonrpc":"2.0","id":1,"method":"tools/call"}`, 400, "bad_message"},
		"nobody waits":          {strings.Replace(call, `"id":1,`, ``, 1), 400, "bad_message"},
		"null id":               {strings.Replace(call, `"id":1`, `"id":null`, 1), 400, "bad_message"},
		"many members":          {strings.Replace(call, `"id"`, members(64)+`"id"`, 1), 400, "bad_message"},
		"many parameters":       {strings.Replace(call, `"arguments"`, members(64)+`"arguments"`, 1), 400, "bad_message"},
		"empty batch":           {`[]`, 400, "bad_message"},
		"long batch":            {`[` + strings.Repeat(call+",", 32) + call + `]`, 400, "bad_message"},
		"batch of batches":      {`[[` + call + `]]`, 400, "bad_message"},
		"too large":             {strings.Replace(call, `"y"`, `"`+strings.Repeat("y", 4<<20)+`"`, 1), 413, "bad_body"},
	} {
		status, text := w.send(c, "POST", b.body)
		if status != b.status || !strings.Contains(text, `"reasons":["`+b.reason+`"]`) || !strings.Contains(text, `"jsonrpc":"2.0","id":`) {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	for name, header := range map[string][2]string{
		"form": {"Content-Type", "text/plain"}, "UTF-16": {"Content-Type", "application/json; charset=utf-16"}, "none": {"Content-Type", ""},
		"compressed": {"Content-Encoding", "gzip"},
	} {
		if status, text := w.send(c, "POST", call, header); status != http.StatusUnsupportedMediaType {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	if status, _ := w.send(c, "PUT", call); status != http.StatusMethodNotAllowed {
		t.Errorf("PUT: %d", status)
	}
	// What follows an upgrade is no message that could be asked about.
	for _, method := range []string{"GET", "POST"} {
		if status, text := w.send(c, method, call, [2]string{"Connection", "Upgrade"}, [2]string{"Upgrade", "websocket"}); status != http.StatusBadRequest {
			t.Errorf("%s with an upgrade: %d %s", method, status, text)
		}
	}
	w.oracle.must = []json.RawMessage{[]byte(`{"id":"mask"}`)}
	if _, text := w.send(c, "POST", call); !strings.Contains(text, `"reasons":["obligations_unsupported"]`) {
		t.Errorf("obligations: %s", text)
	}
	w.oracle.must = nil
	w.oracle.err = errors.New("the appliance is away")
	if _, text := w.send(c, "POST", call); !strings.Contains(text, `"no_decision"`) {
		t.Errorf("no answer: %s", text)
	}
	if len(s.bodies) != 0 {
		t.Errorf("handed on: %s", <-s.bodies)
	}
}

// Everybody is verified locally, whatever they ask, and a token narrows what its holder may call.
func TestCallers(t *testing.T) {
	s := seen{make(chan string, 64)}
	w := open(t, s)
	agent := w.agent()
	const list = `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`
	for _, method := range []string{"POST", "GET", "DELETE"} {
		if status, text := w.send(w.http(nil), method, list); status != http.StatusUnauthorized {
			t.Errorf("nobody: %s: %d %s", method, status, text)
		}
		if status, text := w.send(w.http(hospital.New(t).Agent(t, time.Hour)), method, list); status != http.StatusForbidden {
			t.Errorf("another root: %s: %d %s", method, status, text)
		}
	}
	w.oracle.allow = []string{"records:search", "records:delete"}
	token := w.h.AccessToken(t, agent.Leaf)
	token.Scope = hospital.Scope(t, "tool:call:records:search")
	bearer := [2]string{"Authorization", "Bearer " + w.h.Sign(t, token)}
	if status, text := w.send(w.http(agent), "POST", call, bearer); status != http.StatusOK || <-s.bodies != call {
		t.Errorf("by token: %d %s", status, text)
	}
	if _, text := w.send(w.http(agent), "POST", strings.Replace(call, "search", "delete", 1), bearer); !strings.Contains(text, chain.CodeScopeNotCovered) {
		t.Errorf("beyond the token: %s", text)
	}
	if status, text := w.send(w.http(w.agent()), "POST", call, bearer); status != http.StatusUnauthorized {
		t.Errorf("another's token: %d %s", status, text)
	}
	if len(s.bodies) != 0 {
		t.Errorf("handed on: %s", <-s.bodies)
	}
}

func TestConfiguration(t *testing.T) {
	v, err := client.NewVerifier(hospital.New(t).Config())
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range []string{"", "a:b", "*", "a b", "ä", strings.Repeat("a", 300)} {
		if _, err := mcpmw.RequireDecision(v, &oracle{}, server, http.NotFoundHandler()); err == nil {
			t.Errorf("%q was taken", server)
		}
	}
	for name, err := range map[string]error{
		"verifier":  second(mcpmw.RequireDecision(nil, &oracle{}, "a", http.NotFoundHandler())),
		"evaluator": second(mcpmw.RequireDecision(v, nil, "a", http.NotFoundHandler())),
		"handler":   second(mcpmw.RequireDecision(v, &oracle{}, "a", nil)),
	} {
		if err == nil {
			t.Errorf("no %s was taken", name)
		}
	}
}

func second(_ http.Handler, err error) error { return err }
