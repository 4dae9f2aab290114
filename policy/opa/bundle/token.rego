# May this agent get an access token for that service? Asked before one is signed. What holds for making an agent holds for
# what a token lets it do; any service of the trust domain may be its audience.
package signet.token

import data.signet.spawn

default allow := false

allow if {
	spawn.allow
	audience_named
}

deny_reasons contains reason if some reason in spawn.deny_reasons

deny_reasons contains "audience_missing" if not audience_named

audience_named if {
	input.resource.type == "service"
	input.resource.id != ""
}
