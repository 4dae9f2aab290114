package appliance

import (
	"time"

	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// Limits bounds what may be asked for.
type Limits struct {
	// AgentTTL is the longest life of an agent (default 10m).
	AgentTTL time.Duration `yaml:"agent_ttl"`
	// WorkloadTTL is the life of an orchestrator's or a service's certificate (default 24h).
	WorkloadTTL time.Duration `yaml:"workload_ttl"`
	// GrantLife is the longest time from consent to deadline (default 24h).
	GrantLife time.Duration `yaml:"grant_life"`
	// AgentTypes narrows the limits of single agent types; registrations can narrow them further.
	AgentTypes map[string]TypeLimit `yaml:"agent_types"`
	// TaskAgents is how many agents one task may have in all, of all levels (default 10000).
	TaskAgents int `yaml:"task_agents"`
	// Rekeys is how often one agent may change its key (default 512).
	Rekeys int `yaml:"rekeys"`
	// RequireConfirmation refuses a spawn without the orchestrator's signed delegation. Sub-agents always need their parent's.
	RequireConfirmation bool `yaml:"require_confirmation"`
	// AttestationAge is how long an orchestrator's or a service's certificate can be renewed after the attestation or the
	// registration that it goes back to (default 720h).
	AttestationAge time.Duration `yaml:"attestation_age"`
	// Memory is the heap size, in bytes, that the garbage collector defends (default 2 GiB): policy has no bound of its own.
	Memory int64 `yaml:"memory"`
	// Concurrency is the number of requests at a time (default 256).
	Concurrency int `yaml:"concurrency"`
}

// TypeLimit bounds the agents of one type. What is left out is not bounded here.
type TypeLimit struct {
	// MaxTTL is the longest life of one.
	MaxTTL time.Duration `yaml:"max_ttl"`
	// MaxDepth is how many levels of sub-agents one may have.
	MaxDepth *int `yaml:"max_depth,omitempty"`
}

func (l Limits) checkTypes(p *problems) {
	for name, t := range l.AgentTypes {
		field := "limits.agent_types." + name
		_, err := chain.AgentID("signet.example", name, "00000000-0000-7000-8000-000000000000")
		p.unless(err == nil, field, "not an agent type")
		p.unless(t.MaxTTL >= 0 && t.MaxTTL <= l.AgentTTL, field+".max_ttl", "at most limits.agent_ttl")
		p.unless(t.MaxDepth == nil || *t.MaxDepth >= 0 && *t.MaxDepth <= chain.MaxDepth, field+".max_depth", "0 to 8")
	}
}

// domain gives the domain's limits.
func (l Limits) domain() delegation.Limits {
	out := delegation.DefaultLimits()
	out.AgentTTL, out.WorkloadTTL, out.GrantLife = l.AgentTTL, l.WorkloadTTL, l.GrantLife
	out.TaskAgents, out.Rekeys, out.RequireConfirmation = l.TaskAgents, l.Rekeys, l.RequireConfirmation
	out.AgentTypes = make(map[string]delegation.TypeLimit, len(l.AgentTypes))
	for name, t := range l.AgentTypes {
		out.AgentTypes[name] = delegation.TypeLimit{MaxTTL: t.MaxTTL, MaxDepth: t.MaxDepth}
	}
	return out
}
