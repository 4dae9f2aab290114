package signet.scenario_test

import data.signet.scenario

asked(subject, action, resource) := {
	"subject": object.union({"type": "user"}, subject),
	"action": action,
	"resource": object.union({"type": "record"}, resource),
}

alice := {"id": "alice"}

bob := {"id": "bob"}

admin := {"id": "bob", "properties": {"role": "admin"}}

active := {"id": "record-1"}

old := {"id": "record-2", "properties": {"status": "archived"}}

test_1_alice_reads if scenario.allow with input as asked(alice, {"name": "read"}, active)

test_2_alice_writes if scenario.allow with input as asked(alice, {"name": "write"}, active)

test_3_bob_reads if scenario.allow with input as asked(bob, {"name": "read"}, active)

test_4_bob_does_not_write if not scenario.allow with input as asked(bob, {"name": "write"}, active)

test_5_nobody_writes_what_is_archived if not scenario.allow with input as asked(alice, {"name": "write"}, old)

test_6_but_admins if scenario.allow with input as asked(admin, {"name": "write"}, old)

test_7_soft_deletion if scenario.allow with input as asked(alice, {"name": "delete", "properties": {"soft": true}}, active)

test_8_hard_deletion if not scenario.allow with input as asked(alice, {"name": "delete", "properties": {"soft": false}}, active)

test_others if {
	not scenario.allow with input as asked({"id": "carol"}, {"name": "read"}, active)
	not scenario.allow with input as asked({"id": "alice", "type": "agent"}, {"name": "read"}, active)
	not scenario.allow with input as asked(alice, {"name": "read"}, {"id": "record-3"})
	not scenario.allow with input as {}
}
