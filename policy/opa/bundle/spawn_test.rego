package signet.spawn_test

import data.signet.spawn

request := {
	"point": "spawn",
	"user": {"roles": ["physician", "analyst"]},
	"consent": {"type": "oidc_nonce"},
	"request": {"scope": ["database:read:patients"], "ttl_seconds": 300, "max_depth": 1},
}

test_permitted if spawn.allow with input as request

test_no_reason_when_allowed if count(spawn.deny_reasons) == 0 with input as request

test_role_unknown if {
	denied := object.union(request, {"user": {"roles": ["visitor"]}})
	not spawn.allow with input as denied
	spawn.deny_reasons == {"user_role_unknown", "scope_not_permitted"} with input as denied
}

test_scope_beyond_role if {
	denied := object.union(request, {"user": {"roles": ["clerk"]}, "request": {"scope": ["database:write:patients"]}})
	not spawn.allow with input as denied
	spawn.deny_reasons == {"scope_not_permitted"} with input as denied
}

test_one_scope_of_two if {
	denied := object.union(request, {"request": {"scope": ["database:read:patients", "shell:run:root"]}})
	not spawn.allow with input as denied
	spawn.deny_reasons == {"scope_not_permitted"} with input as denied
}

test_wildcard_beyond_role if {
	denied := object.union(request, {"user": {"roles": ["clerk"]}, "request": {"scope": ["database:*"]}})
	not spawn.allow with input as denied
}

test_weak_consent if {
	denied := object.union(request, {"consent": {"type": "token_exchange"}})
	not spawn.allow with input as denied
	spawn.deny_reasons == {"consent_not_accepted"} with input as denied
}

# What asks for a stronger consent, alone, beside something else, or within a wildcard.
test_consent_too_weak_for_scope if {
	every scopes in [["fhir:write:Observation"], ["database:read:patients", "fhir:write:a:b"], ["fhir:*"], ["fhir:write:*"]] {
		denied := object.union(request, {"request": {"scope": scopes}})
		not spawn.allow with input as denied
		spawn.deny_reasons == {"consent_too_weak"} with input as denied
	}
}

test_consent_strong_enough_for_scope if {
	every type in ["webauthn", "jws"] {
		spawn.allow with input as object.union(request, {"consent": {"type": type}, "request": {"scope": ["fhir:write:Observation"]}})
	}
}

test_scope_beside_the_demanding_one if spawn.allow with input as object.union(request, {"request": {"scope": ["fhir:read:*", "fhir:writer:x"]}})

test_too_long if {
	denied := object.union(request, {"request": {"ttl_seconds": 3601}})
	not spawn.allow with input as denied
	spawn.deny_reasons == {"ttl_not_permitted"} with input as denied
}

test_nothing_given if {
	not spawn.allow with input as {}
	count(spawn.deny_reasons) == 5 with input as {}
}
