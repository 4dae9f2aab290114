package opa

import (
	"strconv"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/signet-pki/signet/policy"
)

// toValue builds the document straight as OPA's own value, exactly what parsing Input's JSON would give (the tests
// compare both), without the detour that costs as much as evaluating.
func toValue(in policy.Input) ast.Value {
	in = in.Normal()
	fields := make([][2]*ast.Term, 0, 11)
	fields = append(fields,
		field("point", text(string(in.Point))),
		field("time", moment(in.Time)),
		field("agent", agent(in.Agent)),
		field("hops", hops(in.Hops)),
		field("user", user(in.User)),
		field("consent", object(field("type", text(in.Consent.Type)))),
		field("task", task(in.Task)),
		field("orchestrator", object(
			field("id", text(in.Orchestrator.ID)), field("attestation", text(in.Orchestrator.Attestation)))),
		field("revocation", revocation(in.Revocation)))
	if r := in.Request; r != nil {
		fields = append(fields, field("request", object(
			field("scope", texts(r.Scope)), field("ttl_seconds", number(r.TTLSeconds)),
			field("max_depth", number(int64(r.MaxDepth))))))
	}
	if r := in.Resource; r != nil {
		fields = append(fields, field("resource", object(
			field("type", text(r.Type)), field("id", text(r.ID)), field("required_scope", texts(r.RequiredScope)))))
	}
	if in.Action != nil {
		fields = append(fields, field("action", object(field("name", text(in.Action.Name)))))
	}
	return ast.NewObject(fields...)
}

func agent(a policy.Agent) *ast.Term {
	return dated("not_after", a.NotAfter,
		field("id", text(a.ID)), field("type", text(a.Type)), field("spiffe_id", text(a.SPIFFEID)),
		field("scope", texts(a.Scope)), field("depth", number(int64(a.Depth))))
}

func hops(l []policy.Hop) *ast.Term {
	terms := make([]*ast.Term, len(l))
	for i, h := range l {
		terms[i] = dated("not_after", h.NotAfter,
			field("id", text(h.ID)), field("scope", texts(h.Scope)), field("max_depth", number(int64(h.MaxDepth))),
			field("confirmed", ast.InternedTerm(h.Confirmed)))
	}
	return ast.ArrayTerm(terms...)
}

func user(u policy.User) *ast.Term {
	return dated("auth_time", u.AuthTime,
		field("issuer", text(u.Issuer)), field("subject", text(u.Subject)),
		field("roles", texts(u.Roles)), field("groups", texts(u.Groups)),
		field("acr", text(u.ACR)), field("amr", texts(u.AMR)))
}

func task(t policy.Task) *ast.Term {
	return dated("not_after", t.NotAfter,
		field("id", text(t.ID)), field("grant_id", text(t.GrantID)), field("purpose", text(t.Purpose)),
		field("scope", texts(t.Scope)))
}

func revocation(r policy.Revocation) *ast.Term {
	fields := [][2]*ast.Term{field("epoch", unsigned(r.Epoch)), field("seq", unsigned(r.Seq))}
	if !r.AsOf.IsZero() {
		fields = append(fields, field("as_of", moment(r.AsOf)))
	}
	return dated("changed", r.Changed, fields...)
}

// dated adds a time where there is one: the JSON form leaves a zero time out.
func dated(name string, t time.Time, fields ...[2]*ast.Term) *ast.Term {
	if !t.IsZero() {
		fields = append(fields, field(name, moment(t)))
	}
	return object(fields...)
}

func object(fields ...[2]*ast.Term) *ast.Term { return ast.NewTerm(ast.NewObject(fields...)) }

func field(name string, value *ast.Term) [2]*ast.Term {
	return [2]*ast.Term{ast.InternedTerm(name), value}
}

func text(s string) *ast.Term { return ast.InternedTerm(s) }

func texts(l []string) *ast.Term {
	terms := make([]*ast.Term, len(l))
	for i, s := range l {
		terms[i] = ast.InternedTerm(s)
	}
	return ast.ArrayTerm(terms...)
}

func number(n int64) *ast.Term { return ast.NewTerm(ast.Number(strconv.FormatInt(n, 10))) }

func unsigned(n uint64) *ast.Term { return ast.NewTerm(ast.Number(strconv.FormatUint(n, 10))) }

func moment(t time.Time) *ast.Term { return ast.NewTerm(ast.String(t.Format(time.RFC3339Nano))) }
