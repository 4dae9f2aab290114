# The fixture of AuthZEN's certification scenario, rules 1 to 8. It believes what the caller says of the subject, and so it
# decides nothing but that scenario.
package signet.scenario

default allow := false

allow if {
	input.action.name == "read"
	input.subject.id in {"alice", "bob"}
	known
}

allow if {
	input.action.name == "write"
	input.subject.id == "alice"
	known
	not archived
}

# Also of what is archived.
allow if {
	input.action.name == "write"
	archived
	input.subject.properties.role == "admin"
	known
}

allow if {
	input.action.name == "delete"
	input.action.properties.soft == true
	input.subject.id == "alice"
	known
}

known if {
	input.subject.type == "user"
	input.resource.type == "record"
	input.resource.id in {"record-1", "record-2"}
}

archived if input.resource.properties.status == "archived"
