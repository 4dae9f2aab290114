package policy

import (
	"fmt"
	"unicode/utf8"
)

// Check reports the first thing that makes the document unfit to be asked about: an unknown point, a part that the point
// needs and that is absent, or a bound that is passed. Its error wraps ErrInput and names the field.
func (in Input) Check() error {
	if err := in.checkPoint(); err != nil {
		return err
	}
	if in.Time.IsZero() {
		return refused("time", "is required")
	}
	if len(in.Hops) > MaxHops {
		return refused("hops", "are too many")
	}
	for _, l := range in.lists() {
		if err := checkList(l.field, l.values); err != nil {
			return err
		}
	}
	return checkList("text", in.texts())
}

func (in Input) checkPoint() error {
	switch in.Point {
	case PointSpawn:
		if in.Request == nil || in.Resource != nil || in.Action != nil {
			return refused("request", "and nothing else is required at spawn")
		}
	case PointToken:
		if in.Request == nil || in.Resource == nil || in.Action != nil {
			return refused("request", "and resource and nothing else are required for a token")
		}
	case PointAccess:
		if in.Resource == nil || in.Action == nil || in.Request != nil {
			return refused("resource", "and action and nothing else are required at access")
		}
	default:
		return refused("point", "is neither spawn, token nor access")
	}
	return nil
}

type namedList struct {
	field  string
	values []string
}

func (in Input) lists() []namedList {
	l := make([]namedList, 0, 7+len(in.Hops))
	l = append(l,
		namedList{"agent.scope", in.Agent.Scope},
		namedList{"user.roles", in.User.Roles},
		namedList{"user.groups", in.User.Groups},
		namedList{"user.amr", in.User.AMR},
		namedList{"task.scope", in.Task.Scope})
	for _, h := range in.Hops {
		l = append(l, namedList{"hops.scope", h.Scope})
	}
	if in.Request != nil {
		l = append(l, namedList{"request.scope", in.Request.Scope})
	}
	if in.Resource != nil {
		l = append(l, namedList{"resource.required_scope", in.Resource.RequiredScope})
	}
	return l
}

// texts are the single strings. There are fewer than MaxList of them.
func (in Input) texts() []string {
	t := make([]string, 0, 16+len(in.Hops))
	t = append(t, in.Agent.ID, in.Agent.Type, in.Agent.SPIFFEID, in.User.Issuer, in.User.Subject, in.User.ACR,
		in.Consent.Type, in.Task.ID, in.Task.GrantID, in.Task.Purpose, in.Orchestrator.ID, in.Orchestrator.Attestation)
	for _, h := range in.Hops {
		t = append(t, h.ID)
	}
	if in.Resource != nil {
		t = append(t, in.Resource.Type, in.Resource.ID)
	}
	if in.Action != nil {
		t = append(t, in.Action.Name)
	}
	return t
}

func checkList(field string, values []string) error {
	if len(values) > MaxList {
		return refused(field, "is too long a list")
	}
	for _, v := range values {
		if len(v) > MaxString {
			return refused(field, "holds too long a string")
		}
		if !utf8.ValidString(v) {
			return refused(field, "holds invalid UTF-8")
		}
	}
	return nil
}

func refused(field, why string) error { return fmt.Errorf("policy: %w: %s %s", ErrInput, field, why) }
