package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
)

// record is one patient's observation; the patients are numbers.
type record struct {
	Patient     string `json:"patient"`
	Observation string `json:"observation"`
}

var databases = map[string][]record{
	"patients": {{"p-001", "HbA1c 6.9 %"}, {"p-002", "HbA1c 7.4 %"}},
	"trials":   {{"p-001", "arm A, week 12"}, {"p-002", "arm B, week 12"}},
}

// handler serves
//
//	GET /whoami              what the caller's identity says; any valid agent
//	GET /{database}          its records; scope database:read:<database>
//	GET /{database}/watch    a line a second, for as long as the caller's identity lasts
//
// With ?issuer=…&physician=… the agent must act for that physician.
func handler(v *client.Verifier, decisions client.Evaluator) http.Handler {
	read, watch := http.Handler(http.HandlerFunc(list)), http.Handler(http.HandlerFunc(watch))
	if decisions != nil {
		read, watch = client.RequireDecision(decisions, access, read), client.RequireDecision(decisions, access, watch)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /whoami", client.RequireDelegation(v, anybody, http.HandlerFunc(whoami)))
	mux.Handle("GET /{database}", client.RequireDelegation(v, reader, read))
	mux.Handle("GET /{database}/watch", client.RequireDelegation(v, reader, watch))
	return mux
}

func anybody(*http.Request) (client.Demand, error) { return client.Demand{AnyScope: true}, nil }

// reader says what a request needs. The scope follows from the resource and is never the caller's to name.
func reader(r *http.Request) (client.Demand, error) {
	token, err := chain.ParseToken("database:read:" + r.PathValue("database"))
	return client.Demand{Scope: chain.Scope{token}, User: physician(r)}, err
}

// access is the same question for the appliance.
func access(r *http.Request) (client.Access, error) {
	a := client.Access{Resource: v1.Resource{Type: "database", ID: r.PathValue("database")}, Action: "read"}
	if u := physician(r); u != nil {
		a.User = &v1.User{Issuer: u.Issuer, Subject: u.Subject}
	}
	return a, nil
}

func physician(r *http.Request) *chain.User {
	q := r.URL.Query()
	if !q.Has("physician") && !q.Has("issuer") {
		return nil
	}
	return &chain.User{Issuer: q.Get("issuer"), Subject: q.Get("physician")}
}

func list(w http.ResponseWriter, r *http.Request) {
	records, ok := databases[r.PathValue("database")]
	if !ok {
		http.Error(w, "no such database", http.StatusNotFound)
		return
	}
	answer(w, records)
}

func whoami(w http.ResponseWriter, r *http.Request) {
	p, ok := client.FromContext(r.Context())
	if !ok {
		http.Error(w, "nobody was verified", http.StatusInternalServerError)
		return
	}
	answer(w, map[string]any{
		"agent": p.Agent.String(), "acts_for": map[string]string{"issuer": p.User.Issuer, "subject": p.User.Subject}, "task": p.TaskID,
		"orchestrator": p.Orchestrator.String(), "scope": p.Scope.Strings(), "until": p.NotAfter,
	})
}

// watch is a long answer. Its context ends with the caller's identity, and so does the connection.
func watch(w http.ResponseWriter, r *http.Request) {
	flush := http.NewResponseController(w).Flush
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if _, err := fmt.Fprintf(w, "%d records at %s\n", len(databases[r.PathValue("database")]), time.Now().UTC().Format(time.RFC3339)); err != nil {
			return
		}
		if flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	// The client may be gone.
	_ = json.NewEncoder(w).Encode(v) //nolint:errchkjson // plain data
}
