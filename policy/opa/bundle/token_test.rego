package signet.token_test

import data.signet.token

request := {
	"point": "token",
	"user": {"roles": ["analyst"]},
	"consent": {"type": "oidc_nonce"},
	"request": {"scope": ["database:read:patients"], "ttl_seconds": 60, "max_depth": 0},
	"resource": {"type": "service", "id": "spiffe://hospital.example/service/records", "required_scope": []},
}

test_permitted if token.allow with input as request

test_no_reason_when_allowed if count(token.deny_reasons) == 0 with input as request

test_role_unknown if {
	denied := object.union(request, {"user": {"roles": ["visitor"]}})
	not token.allow with input as denied
	token.deny_reasons == {"user_role_unknown", "scope_not_permitted"} with input as denied
}

test_scope_beyond_role if {
	denied := object.union(request, {"request": {"scope": ["shell:run:root"]}})
	not token.allow with input as denied
	token.deny_reasons == {"scope_not_permitted"} with input as denied
}

test_no_audience if {
	denied := object.union(request, {"resource": {"id": ""}})
	not token.allow with input as denied
	token.deny_reasons == {"audience_missing"} with input as denied
}
