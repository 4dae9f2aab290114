package softhsmtest

import (
	"context"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-pki/signet/internal/testrig/policybundle"
	"github.com/signet-pki/signet/policy"
)

// TestSoakReload changes the policy under 32 services that ask without a pause. Nobody gets an error; each answer is wholly of one
// bundle that was active meanwhile, and so is its entry. 3 times as fast as it goes in an ordinary run, 20 times and one each
// second in a long one.
func TestSoakReload(t *testing.T) {
	reloads, pace := uint64(3), time.Millisecond
	if os.Getenv("SIGNET_SOAK") != "" {
		reloads, pace = 20, time.Second
	}
	dir := newDir(t)
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	s := newSecurity(c, dir)
	_, task := c.task(c.orchestrator)
	a, err := spawn(t.Context(), c.orchestrator, task)
	must(t, err)
	r := &reloading{security: s, agent: a, asked: make(chan struct{}, 32)}
	r.activate(1)
	began := time.Now()
	r.during(func(failed <-chan struct{}) {
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for n := range reloads {
			r.newAnswers(failed)
			<-tick.C
			r.activate(n + 2)
		}
		r.newAnswers(failed)
	})
	took := time.Since(began).Round(time.Millisecond)
	var log [][]byte
	for _, e := range c.entries(0) {
		log = append(log, e.raw)
	}
	answers, err := r.Recorded(log)
	if err != nil || len(answers) != int(reloads)+1 {
		t.Fatalf("%v %v", answers, err)
	}
	t.Logf("%s, %d entries; answers by revision: %v; %d that policy had no time for", took, len(log), answers, r.late.Load())
}

// reloading is an appliance whose policy changes while it is asked.
type reloading struct {
	policybundle.Reloading
	*security
	agent *agent
	asked chan struct{}
	late  atomic.Int64
}

func (r *reloading) activate(revision uint64) {
	r.t.Helper()
	r.Activate(revision, func() { r.makeActive(policybundle.Telling(revision)) })
}

// during has 32 services ask, each over a connection of its own, until do is done.
func (r *reloading) during(do func(failed <-chan struct{})) {
	r.t.Helper()
	ctx, stop := context.WithCancel(r.t.Context())
	var workers sync.WaitGroup
	defer workers.Wait()
	defer stop()
	for range cap(r.asked) {
		service := r.person(r.service.cert)
		workers.Go(func() {
			defer stop() // the first that fails ends all
			for ctx.Err() == nil {
				if err := r.Ask(func() (policybundle.Answer, error) { return r.ask(context.WithoutCancel(ctx), service) }); err != nil {
					r.t.Error(err)
					return
				}
				select {
				case r.asked <- struct{}{}:
				default:
				}
			}
		})
	}
	do(ctx.Done())
}

// newAnswers waits for some answers of the bundle that is active now: those that were counted before, and those to what was asked
// before, are fewer.
func (r *reloading) newAnswers(failed <-chan struct{}) {
	for range 3 * cap(r.asked) {
		select {
		case <-r.asked:
		case <-failed:
		}
	}
}

// ask asks until there is an answer of a bundle's: on a busy machine policy may run out of time first, whatever the bundle.
func (r *reloading) ask(ctx context.Context, service *person) (policybundle.Answer, error) {
	for {
		out, err := decide(ctx, service, r.agent)
		if err != nil {
			return policybundle.Answer{}, err
		}
		if slices.Contains(out.Context.Reasons, policy.ReasonTimeout) || slices.Contains(out.Context.Reasons, policy.ReasonBusy) {
			r.late.Add(1)
			continue
		}
		a := policybundle.Answer{Allow: out.Decision, Reasons: out.Context.Reasons, Obligations: out.Context.Obligations, Advice: out.Context.Advice}
		if out.Context.AuditID != nil {
			a.Entry = *out.Context.AuditID
		}
		return a, nil
	}
}
