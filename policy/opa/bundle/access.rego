# May this agent get at this resource? The mission's rule, word for word:
#
#   An agent may read database X if its certificate has scope=database-X and its task context was created by a user with
#   role=analyst.
package signet.access

import data.signet.scope

default allow := false

allow if {
	resource_known
	action_permitted # may read
	certificate_has_scope # its certificate has scope=database-X
	task_present # its task context
	created_by_user_with_role # was created by a user with role=analyst
}

deny_reasons contains "task_missing" if not task_present

deny_reasons contains "resource_type_unknown" if not resource_known

deny_reasons contains "action_not_permitted" if {
	resource_known
	not action_permitted
}

# user_not_analyst for a database.
deny_reasons contains sprintf("user_not_%s", [wanted.role]) if not created_by_user_with_role

deny_reasons contains "scope_missing" if not certificate_has_scope

wanted := data.config.resources[input.resource.type]

resource_known if wanted

task_present if {
	input.task.id != ""
	input.task.grant_id != ""
}

action_permitted if input.action.name in wanted.actions

created_by_user_with_role if wanted.role in input.user.roles

certificate_has_scope if scope.all_covered(input.agent.scope, input.resource.required_scope)
