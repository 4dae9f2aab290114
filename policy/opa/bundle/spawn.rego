# May this agent be made? Asked before a certificate is issued, after attenuation was checked.
package signet.spawn

import data.signet.scope

default allow := false

allow if {
	consent_accepted
	consent_strong_enough
	role_known
	scope_permitted
	ttl_permitted
}

deny_reasons contains "consent_not_accepted" if not consent_accepted

deny_reasons contains "consent_too_weak" if not consent_strong_enough

deny_reasons contains "user_role_unknown" if not role_known

deny_reasons contains "scope_not_permitted" if not scope_permitted

deny_reasons contains "ttl_not_permitted" if not ttl_permitted

consent_accepted if input.consent.type in data.config.consent

# A scope may demand types of consent. A wildcard that takes in such a scope is asked for the same.
consent_strong_enough if {
	every demanding, types in data.config.consent_for {
		demand_met(demanding, types)
	}
}

demand_met(_, types) if input.consent.type in types

demand_met(demanding, _) if {
	every s in input.request.scope {
		not scope.overlaps(demanding, s)
	}
}

role_known if {
	some role in input.user.roles
	data.config.roles[role]
}

# What the user's roles together permit covers what is asked for.
scope_permitted if {
	count(input.request.scope) > 0
	every s in input.request.scope {
		some role in input.user.roles
		some permitted in data.config.roles[role].scopes
		scope.covers(permitted, s)
	}
}

# 0: no life of its own was asked for; the appliance's limits apply.
ttl_permitted if {
	input.request.ttl_seconds >= 0
	input.request.ttl_seconds <= data.config.max_ttl_seconds
}
