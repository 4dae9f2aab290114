package signet.access_test

import data.signet.access

request := {
	"point": "access",
	"time": "2030-01-01T12:00:00Z",
	"agent": {"scope": ["database:read:patients"]},
	"user": {"roles": ["physician", "analyst"]},
	"consent": {"type": "oidc_nonce"},
	"task": {"id": "t", "grant_id": "g"},
	"resource": {"type": "database", "id": "patients", "required_scope": ["database:read:patients"]},
	"action": {"name": "read"},
}

with_part(name, value) := object.union(request, {name: value})

# The mission's rule, and each of its conditions turned by itself.
test_agent_may_read_database_x_if_its_certificate_has_the_scope_and_its_task_was_created_by_an_analyst if {
	access.allow with input as request
}

test_no_reason_when_allowed if count(access.deny_reasons) == 0 with input as request

test_wildcard_scope if access.allow with input as with_part("agent", {"scope": ["database:read:*"]})

test_denied_if_the_task_was_created_by_a_user_without_role_analyst if {
	denied := with_part("user", {"roles": ["physician"]})
	not access.allow with input as denied
	access.deny_reasons == {"user_not_analyst"} with input as denied
}

test_denied_if_the_certificate_has_the_scope_of_another_database if {
	denied := with_part("agent", {"scope": ["database:read:billing"]})
	not access.allow with input as denied
	access.deny_reasons == {"scope_missing"} with input as denied
}

test_prefix_is_no_scope if {
	denied := with_part("agent", {"scope": ["database:read:pat", "database:read"]})
	access.deny_reasons == {"scope_missing"} with input as denied
}

test_nothing_required_is_not_covered if {
	denied := object.union(request, {"resource": {"required_scope": []}})
	access.deny_reasons == {"scope_missing"} with input as denied
}

test_denied_if_it_does_not_read if {
	denied := with_part("action", {"name": "write"})
	not access.allow with input as denied
	access.deny_reasons == {"action_not_permitted"} with input as denied
}

test_denied_without_a_task_context if {
	denied := with_part("task", {"id": "", "grant_id": ""})
	not access.allow with input as denied
	access.deny_reasons == {"task_missing"} with input as denied
}

test_unknown_resource if {
	denied := object.union(request, {"resource": {"type": "printer"}})
	not access.allow with input as denied
	access.deny_reasons == {"resource_type_unknown"} with input as denied
}

test_nothing_given if {
	not access.allow with input as {}
	access.deny_reasons == {"task_missing", "resource_type_unknown", "scope_missing"} with input as {}
}
