package appliance

import "github.com/signet-pki/signet/delegation/quota"

// Quotas bound what each caller may ask for in a time. They are counted for identities and tasks, never for addresses, and anew
// after a restart. A quota that is left out has its default.
type Quotas struct {
	// Task counts agents asked for in one task, and whatever its agents ask for (default rate 1000, burst 10000).
	Task *Quota `yaml:"task,omitempty"`
	// User counts the same for one user, across tasks and orchestrators (default rate 2000, burst 20000).
	User *Quota `yaml:"user,omitempty"`
	// Orchestrator counts what one orchestrator and its agents ask for (default rate 4000, burst 40000).
	Orchestrator *Quota `yaml:"orchestrator,omitempty"`
	// Service counts the decisions that one service asks for (default rate 5000, burst 50000).
	Service *Quota `yaml:"service,omitempty"`
}

// Quota is one of them: rate and burst, or unlimited.
type Quota struct {
	// Rate is how many requests a second come back, 0.1 for six a minute.
	Rate float64 `yaml:"rate,omitempty"`
	// Burst is how many there can be at once.
	Burst int `yaml:"burst,omitempty"`
	// Unlimited counts nothing.
	Unlimited bool `yaml:"unlimited,omitempty"`
}

func (q Quotas) check(p *problems) {
	q.Task.check(p, "quotas.task")
	q.User.check(p, "quotas.user")
	q.Orchestrator.check(p, "quotas.orchestrator")
	q.Service.check(p, "quotas.service")
}

func (q *Quota) check(p *problems, field string) {
	if q == nil {
		return
	}
	if err := quota.Limit(*q).Check(); err != nil {
		p.unless(false, field, err.Error())
	}
}

// limits gives the domain's.
func (q Quotas) limits() quota.Limits {
	def := quota.Default()
	return quota.Limits{
		Task: q.Task.orElse(def.Task), User: q.User.orElse(def.User),
		Orchestrator: q.Orchestrator.orElse(def.Orchestrator), Service: q.Service.orElse(def.Service),
	}
}

func (q *Quota) orElse(def quota.Limit) quota.Limit {
	if q == nil {
		return def
	}
	return quota.Limit(*q)
}
