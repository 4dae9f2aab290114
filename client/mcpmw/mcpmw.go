// Package mcpmw guards a Model Context Protocol server over HTTP (Streamable HTTP, and the older HTTP with SSE): each tool
// call is a decision of the appliance, recorded there.
//
// Every request is verified locally first, as client.RequireDelegation does. Then each "tools/call" in it asks the appliance
// for the action "call" on the resource of type "tool" whose id is the server's name and the tool's, "records:search". The
// server's name is the service's own choice, never the caller's. Other messages pass after the local verification alone:
// what lists tools, or reads a resource, is not asked about.
//
// A message that two readers could understand differently is refused: a member twice, or in other case. What passes is
// handed on byte by byte. It never fails open; a permission under obligations, on which nobody here could act, is none. A
// Mcp-Session-Id is no identity: the caller is the connection's, each time.
package mcpmw

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
)

// What a tool is to the appliance.
const (
	ResourceType = "tool"
	Action       = "call"
)

// CodeRefused is the JSON-RPC error code of a tool call that was refused, one of those that JSON-RPC 2.0 §5.1 leaves to servers.
// The error's data is a v1.DecisionContext, whose reasons say why.
const CodeRefused = -32050

// Bounds of one request.
const (
	maxBody    = 4 << 20
	maxBatch   = 32
	maxMembers = 64 // of a message, and of a call's parameters; JSON-RPC knows six, MCP a few
)

// RequireDecision guards next, the MCP server of this name: one segment of a scope, so that an agent that may call its tool
// "search" has the scope "tool:call:records:search" or "tool:call:records:*".
func RequireDecision(v *client.Verifier, e client.Evaluator, server string, next http.Handler) (http.Handler, error) {
	if v == nil || e == nil || next == nil {
		return nil, errors.New("mcpmw: a verifier, an evaluator and a handler are required")
	}
	if strings.Contains(server, ":") {
		return nil, errors.New("mcpmw: the server's name is one segment of a scope")
	}
	if _, err := chain.ResourceToken(ResourceType, server+":tool", Action); err != nil {
		return nil, fmt.Errorf("mcpmw: the server's name: %w", err)
	}
	anybody := func(*http.Request) (client.Demand, error) { return client.Demand{AnyScope: true}, nil }
	return client.RequireDelegation(v, anybody, &guard{evaluator: e, server: server, next: next}), nil
}

type guard struct {
	evaluator client.Evaluator
	server    string
	next      http.Handler
}

// ServeHTTP sees requests of verified callers.
func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if len(r.Header["Upgrade"]) > 0 {
		// What is spoken then is not HTTP, and nobody would be asked about it.
		write(w, http.StatusBadRequest, failure(nil, codeInvalidRequest, "upgrade_refused"))
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodDelete:
		// Neither carries a message.
		r.Body, r.ContentLength = http.NoBody, 0
		g.next.ServeHTTP(w, r)
	case http.MethodPost:
		g.post(w, r)
	default:
		w.Header().Set("Allow", "GET, POST, DELETE")
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

func (g *guard) post(w http.ResponseWriter, r *http.Request) {
	body, status := read(w, r)
	if status != http.StatusOK {
		write(w, status, failure(nil, codeInvalidRequest, "bad_body"))
		return
	}
	in, err := parse(body)
	if err != nil {
		write(w, http.StatusBadRequest, failure(nil, codeInvalidRequest, "bad_message"))
		return
	}
	if refusals := g.judge(r, in.messages); refusals != nil {
		if !in.batch {
			write(w, http.StatusOK, refusals[0])
			return
		}
		write(w, http.StatusOK, refusals)
		return
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	g.next.ServeHTTP(w, r)
}

// read takes a body as it will be handed on.
func read(w http.ResponseWriter, r *http.Request) ([]byte, int) {
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset, named := params["charset"]
	if err != nil || media != "application/json" || named && !strings.EqualFold(charset, "utf-8") || r.Header.Get("Content-Encoding") != "" {
		return nil, http.StatusUnsupportedMediaType
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, http.StatusRequestEntityTooLarge
	}
	if err != nil {
		return nil, http.StatusBadRequest
	}
	return body, http.StatusOK
}

// judge asks about each tool call, and gives nil only if all of them are allowed. Otherwise nothing of the body is done, and
// each request in it is answered.
func (g *guard) judge(r *http.Request, messages []message) []response {
	refused := false
	var out []response
	for _, m := range messages {
		why := v1.DecisionContext{Reasons: []string{"batch_refused"}}
		if m.call {
			d, ok := g.decide(r, m.tool)
			if !ok {
				why, refused = d, true
			}
		}
		if m.id != nil {
			out = append(out, refusal(m.id, why))
		}
	}
	if !refused {
		return nil
	}
	return out
}

// decide asks the appliance, which knows the certificate, and then the caller's own scope, which a token may have narrowed.
func (g *guard) decide(r *http.Request, tool string) (v1.DecisionContext, bool) {
	no := func(reason string) (v1.DecisionContext, bool) {
		return v1.DecisionContext{Reasons: []string{reason}}, false
	}
	id := g.server + ":" + tool
	token, err := chain.ResourceToken(ResourceType, id, Action)
	if err != nil || strings.Contains(tool, ":") {
		return no("bad_tool_name")
	}
	p, ok := client.FromContext(r.Context())
	if !ok || r.TLS == nil {
		return no("client_certificate_required")
	}
	q, ok := client.Evaluation(r.TLS.PeerCertificates, client.Access{Resource: v1.Resource{Type: ResourceType, ID: id}, Action: Action})
	if !ok {
		return no("client_certificate_required")
	}
	a, err := g.evaluator.Evaluate(r.Context(), q)
	switch {
	case err != nil:
		return no("no_decision")
	case !a.Decision && len(a.Context.Reasons) == 0:
		return no("denied")
	case !a.Decision:
		return a.Context, false
	case len(a.Context.Obligations) > 0:
		a.Context.Reasons = []string{client.ReasonObligations}
		return a.Context, false
	case !p.Scope.Covers(token):
		return no(chain.CodeScopeNotCovered)
	}
	return v1.DecisionContext{}, true
}

// response is a JSON-RPC 2.0 error response (§5).
type response struct {
	Version string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"` // null: not known
	Error   rpcError        `json:"error"`
}

type rpcError struct {
	Code    int                `json:"code"`
	Message string             `json:"message"`
	Data    v1.DecisionContext `json:"data"`
}

const codeInvalidRequest = -32600 // JSON-RPC 2.0 §5.1

func refusal(id json.RawMessage, why v1.DecisionContext) response {
	return response{"2.0", id, rpcError{CodeRefused, "refused: " + strings.Join(why.Reasons, ", "), why}}
}

func failure(id json.RawMessage, code int, reason string) response {
	return response{"2.0", id, rpcError{code, reason, v1.DecisionContext{Reasons: []string{reason}}}}
}

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// A client that is gone needs no body.
	_ = json.NewEncoder(w).Encode(v) //nolint:errchkjson // plain data
}
