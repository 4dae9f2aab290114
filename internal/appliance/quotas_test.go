package appliance

import (
	"strings"
	"testing"

	"github.com/signet-pki/signet/delegation/quota"
)

// The example's quotas are the defaults, which its comments say.
func TestExampleQuotasAreTheDefaults(t *testing.T) {
	c, err := ParseConfig([]byte(example(t)))
	if err != nil {
		t.Fatal(err)
	}
	if c.Quotas.Task == nil || c.Quotas.limits() != quota.Default() {
		t.Errorf("%+v", c.Quotas.limits())
	}
	if none := (Quotas{}).limits(); none != quota.Default() {
		t.Errorf("without any: %+v", none)
	}
}

// A quota is set by itself, and what is half of one is refused by name.
func TestConfiguredQuotas(t *testing.T) {
	with := func(text string) (Config, error) {
		before, rest, ok := strings.Cut(example(t), "quotas:\n")
		_, after, more := strings.Cut(rest, "\n\n")
		if !ok || !more {
			t.Fatal("the example has no quotas")
		}
		return ParseConfig([]byte(before + "quotas:\n" + text + "\n" + after))
	}
	c, err := with("  user: {rate: 0.5, burst: 30}\n  service: {unlimited: true}\n")
	if err != nil {
		t.Fatal(err)
	}
	want := quota.Default()
	want.User, want.Service = quota.Limit{Rate: 0.5, Burst: 30}, quota.Limit{Unlimited: true}
	if got := c.Quotas.limits(); got != want {
		t.Errorf("%+v", got)
	}
	for text, field := range map[string]string{
		"  task: {}\n": "quotas.task", "  user: {rate: 5}\n": "quotas.user", "  orchestrator: {burst: 5}\n": "quotas.orchestrator",
		"  service: {rate: 5, burst: 5, unlimited: true}\n": "quotas.service", "  task: {rate: -1, burst: 5}\n": "quotas.task",
		"  task: {rate: 0.001, burst: 1000}\n": "quotas.task", "  agent: {rate: 1, burst: 1}\n": "agent", "  task: {rate: .nan, burst: 5}\n": "quotas.task",
		"  task: {rate: 1, burst: 1, window: 5}\n": "window",
	} {
		if _, err := with(text); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
