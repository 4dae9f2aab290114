package api

import (
	"encoding/json"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	v1 "github.com/signet-pki/signet/api/v1"
)

type object = map[string]any

// document makes the OpenAPI 3.1 description of the table. It is made from what routes, admits and decodes, so it cannot
// say anything else.
func document(routes []route) ([]byte, error) {
	d := describer{schemas: object{}}
	paths := object{}
	for i := range routes {
		op, err := d.operation(&routes[i])
		if err != nil {
			return nil, err
		}
		item, ok := paths[routes[i].path].(object)
		if !ok {
			item = object{}
			paths[routes[i].path] = item
		}
		item[strings.ToLower(routes[i].method)] = op
	}
	if _, err := d.schema(reflect.TypeFor[v1.Problem]()); err != nil {
		return nil, err
	}
	return json.Marshal(object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Signet", "version": "v1",
			"description": "Identities for AI agents: consent, spawn, decide, revoke, audit. Refusals are RFC 9457 problems with a code; docs/api.md lists them.",
		},
		"paths": paths,
		"components": object{
			"schemas":         d.schemas,
			"securitySchemes": object{"mtls": object{"type": "mutualTLS", "description": "A certificate of the trust domain, in the handshake."}},
		},
	})
}

// describer collects the schemas of the wire types.
type describer struct{ schemas object }

func (d *describer) operation(r *route) (object, error) {
	op := object{
		"operationId": r.id, "summary": r.summary, "description": "For: " + r.allowed.String() + "." + ownText(r.own),
		"x-roles": r.allowed.names(),
	}
	if r.allowed&anyone == 0 {
		op["security"] = []object{{"mtls": []string{}}}
	} else {
		op["security"] = []object{}
	}
	if p := parameters(r); len(p) > 0 {
		op["parameters"] = p
	}
	if r.request != nil {
		ref, err := d.schema(r.request)
		if err != nil {
			return nil, err
		}
		op["requestBody"] = object{"required": true, "content": object{mediaJSON: object{"schema": ref}}}
	}
	if r.upload != "" {
		op["requestBody"] = object{"required": true, "content": object{r.upload: object{}}}
	}
	if r.plain {
		op["requestBody"] = object{"required": true, "content": object{mediaPlain: object{"schema": object{"type": "string"}}}}
	}
	if r.grpc {
		op["requestBody"] = object{"required": true, "content": object{r.produces: object{}}}
	}
	if r.setPush {
		op["requestBody"] = object{"required": true, "content": object{mediaEvent: object{"schema": object{"type": "string"}}}}
	}
	responses, err := d.responses(r)
	op["responses"] = responses
	return op, err
}

func ownText(own string) string {
	if own == "" {
		return ""
	}
	return " Restricted: " + own + "."
}

func parameters(r *route) []object {
	var out []object
	text := object{"type": "string"}
	for _, name := range r.pathParams() {
		out = append(out, object{"name": name, "in": "path", "required": true, "schema": text})
	}
	for _, p := range r.params {
		out = append(out, object{"name": p.name, "in": "query", "description": p.about, "schema": text})
	}
	if r.idempotent {
		out = append(out, object{
			"name": "Idempotency-Key", "in": "header", "description": "Ties a retry to its first attempt, for 24 hours.",
			"schema": object{"type": "string", "minLength": 1, "maxLength": maxIdempotencyKey},
		})
	}
	return out
}

func (d *describer) responses(r *route) (object, error) {
	ok := object{"description": "done"}
	switch {
	case r.response != nil:
		ref, err := d.schema(r.response)
		if err != nil {
			return nil, err
		}
		ok["content"] = object{mediaJSON: object{"schema": ref}}
	case r.produces == mediaJSON:
		ok["content"] = object{mediaJSON: object{"schema": object{"type": "object"}}}
	default:
		media, _, _ := strings.Cut(r.produces, ";")
		ok["content"] = object{media: object{}}
	}
	refusal := object{"description": "refused", "content": object{v1.ProblemType: object{"schema": object{"$ref": "#/components/schemas/Problem"}}}}
	if r.access {
		refusal = object{"description": "refused", "content": object{mediaJSON: object{"schema": object{"type": "string"}}}}
	}
	if r.grpc {
		refusal = object{"description": "refused: grpc-status and grpc-message", "content": object{r.produces: object{}}}
	}
	if r.setPush {
		ref, err := d.schema(reflect.TypeFor[v1.EventError]())
		if err != nil {
			return nil, err
		}
		ok = object{"description": "received"}
		refusal = object{"description": "refused", "content": object{mediaJSON: object{"schema": ref}}}
	}
	out := object{strconv.Itoa(r.status): ok, "default": refusal}
	if r.plain {
		out[strconv.Itoa(http.StatusConflict)] = object{"description": "the size to begin from", "content": object{mediaSize: object{}}}
	}
	if r.limited {
		ok["headers"] = quotaHeaders()
		out[strconv.Itoa(http.StatusTooManyRequests)] = limited(refusal)
	}
	return out, nil
}

// quotaHeaders are those of answers for which a quota was looked at.
func quotaHeaders() object {
	text := object{"type": "string"}
	return object{
		"RateLimit-Policy": object{"description": "The tightest quota that this request counted for, as draft-ietf-httpapi-ratelimit-headers-11 has it.", "schema": text},
		"RateLimit":        object{"description": "What is left of it.", "schema": text},
	}
}

// limited is a refusal because of a quota.
func limited(refusal object) object {
	headers := quotaHeaders()
	headers["Retry-After"] = object{"description": "Seconds to wait.", "schema": object{"type": "integer"}}
	return object{"description": "a quota is used up, and nothing was done", "content": refusal["content"], "headers": headers}
}

// schema registers a type and refers to it.
func (d *describer) schema(t reflect.Type) (object, error) {
	sh, err := shapeOf(t)
	if err != nil {
		return nil, err
	}
	return d.of(sh), nil
}

func (d *describer) of(sh *shape) object {
	switch sh.kind {
	case kindString:
		return object{"type": "string"}
	case kindBytes:
		return object{"type": "string", "contentEncoding": "base64"}
	case kindTime:
		return object{"type": "string", "format": "date-time"}
	case kindInteger:
		return integerSchema(sh)
	case kindBool:
		return object{"type": "boolean"}
	case kindArray:
		return object{"type": "array", "items": d.of(sh.elem)}
	case kindMap:
		return object{"type": "object", "additionalProperties": d.of(sh.elem)}
	case kindObject:
		return d.named(sh)
	case kindAny:
	}
	return object{}
}

func integerSchema(sh *shape) object {
	out := object{"type": "integer"}
	if sh.integer != "" {
		out["minimum"] = 0
	}
	return out
}

func (d *describer) named(sh *shape) object {
	ref := object{"$ref": "#/components/schemas/" + sh.name}
	if _, ok := d.schemas[sh.name]; ok {
		return ref
	}
	properties, required := object{}, []string{}
	out := object{"type": "object", "properties": properties}
	d.schemas[sh.name] = out // before its fields, which may refer to it
	for _, f := range sh.fields {
		properties[f.name] = d.of(f.shape)
		if !f.optional {
			required = append(required, f.name)
		}
	}
	if len(required) > 0 {
		out["required"] = required
	}
	return ref
}
