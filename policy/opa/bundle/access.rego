# May this agent get at this resource? The mission's rule: an agent may read database X if its certificate has the scope
# for database X and its task was created by a user with role=analyst.
package signet.access

import data.signet.scope

default allow := false

allow if {
	task_present
	resource_known
	action_permitted
	user_has_role
	scope_present
}

deny_reasons contains "task_missing" if not task_present

deny_reasons contains "resource_type_unknown" if not resource_known

deny_reasons contains "action_not_permitted" if {
	resource_known
	not action_permitted
}

# user_not_analyst for a database.
deny_reasons contains sprintf("user_not_%s", [wanted.role]) if not user_has_role

deny_reasons contains "scope_missing" if not scope_present

wanted := data.config.resources[input.resource.type]

resource_known if wanted

task_present if {
	input.task.id != ""
	input.task.grant_id != ""
}

action_permitted if input.action.name in wanted.actions

user_has_role if wanted.role in input.user.roles

scope_present if scope.all_covered(input.agent.scope, input.resource.required_scope)
