package main

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
)

// Between two looks at a grant.
const (
	firstPoll = 200 * time.Millisecond
	lastPoll  = 5 * time.Second
)

// The states of a grant that a wait tells apart.
const (
	grantPending = "pending"
	grantActive  = "active"
)

type grantCommands struct {
	Request requestGrantCommand `cmd:"" help:"Ask for a user's consent, as an orchestrator."`
	Show    showGrantCommand    `cmd:"" help:"Show where a grant stands."`
	Wait    waitGrantCommand    `cmd:"" help:"Wait until the user has answered. Exit status 1 if the grant is not active then."`
}

type requestGrantCommand struct {
	retry    `embed:""`
	Purpose  string   `name:"purpose" required:"" help:"The task in plain words: the user reads it."`
	Scope    []string `name:"scope" required:"" sep:"none" placeholder:"TOKEN" help:"What is asked for; repeatable."`
	NotAfter moment   `name:"not-after" required:"" placeholder:"TIME" help:"Until when: RFC 3339, or +8h from now."`
	MaxDepth int      `name:"max-depth" default:"1" help:"Levels of agents, 1 to 8."`
	Type     []string `name:"type" required:"" sep:"none" placeholder:"TYPE" help:"A type of agent that may act; repeatable."`
}

func (q requestGrantCommand) Run(ctx context.Context, s *session) error {
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	out, err := c.RequestGrant(ctx, v1.GrantRequest{
		Task: q.Purpose, Scope: q.Scope, NotAfter: q.NotAfter.from(s.now()), MaxDepth: q.MaxDepth, AgentTypes: q.Type,
	}, q.options()...)
	if err != nil {
		return err
	}
	return s.printGrant(out)
}

func (s *session) printGrant(g v1.Grant) error {
	return s.print(g, row{"grant", g.GrantID}, row{"status", g.Status}, row{"task", g.TaskID}, row{"purpose", g.Task},
		row{"scope", scopeText(g.Scope)}, row{"not after", timeText(g.NotAfter)}, row{"max depth", strconv.Itoa(g.MaxDepth)},
		row{"agent types", scopeText(g.AgentTypes)}, row{"orchestrator", g.Orchestrator}, row{"consent at", g.ConsentURL},
		row{"grant hash", g.GrantHash}, receiptRow(g.AuditReceipt))
}

type showGrantCommand struct {
	ID string `arg:"" help:"The grant's id."`
}

func (q showGrantCommand) Run(ctx context.Context, s *session) error {
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	out, err := c.Grant(ctx, q.ID)
	if err != nil {
		return err
	}
	return s.printGrant(out)
}

type waitGrantCommand struct {
	ID      string        `arg:"" help:"The grant's id."`
	Timeout time.Duration `name:"timeout" default:"10m" help:"How long to wait."`
}

func (q waitGrantCommand) Run(ctx context.Context, s *session) error {
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	limited, stop := context.WithTimeout(ctx, q.Timeout)
	defer stop()
	g, err := settled(limited, c, q.ID)
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		s.say("signet: the grant is still pending after %s", q.Timeout)
		return errRefused
	}
	if err != nil {
		return err
	}
	if err := s.printGrant(g); err != nil {
		return err
	}
	if g.Status != grantActive {
		return errRefused
	}
	return nil
}

// settled polls until the grant is no longer pending. Only an appliance that is busy or not ready is asked again.
func settled(ctx context.Context, c *client.Client, id string) (v1.Grant, error) {
	for pause := firstPoll; ; pause = min(pause*3/2, lastPoll) {
		g, err := c.Grant(ctx, id)
		if err == nil && g.Status != grantPending || err != nil && !passing(err) {
			return g, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return g, ctx.Err()
		}
	}
}

func passing(err error) bool {
	var p *client.Problem
	return errors.As(err, &p) && (p.Status == http.StatusTooManyRequests || p.Status == http.StatusServiceUnavailable)
}

type taskCommands struct {
	Open     openTaskCommand     `cmd:"" help:"Open the task of an active grant, as its orchestrator."`
	Show     showTaskCommand     `cmd:"" help:"Show where a task stands."`
	Complete completeTaskCommand `cmd:"" help:"End a task and with it the agents that work on it."`
}

type openTaskCommand struct {
	retry    `embed:""`
	Grant    string   `arg:"" help:"The grant's id."`
	Scope    []string `name:"scope" sep:"none" placeholder:"TOKEN" help:"Less than the grant's scope; repeatable."`
	NotAfter moment   `name:"not-after" placeholder:"TIME" help:"Earlier than the grant's end: RFC 3339, or +8h from now."`
}

func (q openTaskCommand) Run(ctx context.Context, s *session) error {
	return s.task(func(c *client.Client) (v1.Task, error) {
		return c.OpenTask(ctx, v1.TaskRequest{GrantID: q.Grant, Scope: q.Scope, NotAfter: q.NotAfter.from(s.now())}, q.options()...)
	})
}

type showTaskCommand struct {
	ID string `arg:"" help:"The task's id."`
}

func (q showTaskCommand) Run(ctx context.Context, s *session) error {
	return s.task(func(c *client.Client) (v1.Task, error) { return c.Task(ctx, q.ID) })
}

type completeTaskCommand struct {
	ID string `arg:"" help:"The task's id."`
}

func (q completeTaskCommand) Run(ctx context.Context, s *session) error {
	return s.task(func(c *client.Client) (v1.Task, error) { return c.CompleteTask(ctx, q.ID) })
}

// task does something with a task and shows it.
func (s *session) task(do func(*client.Client) (v1.Task, error)) error {
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	t, err := do(c)
	if err != nil {
		return err
	}
	return s.print(t, row{"task", t.TaskID}, row{"status", t.Status}, row{"grant", t.GrantID}, row{"scope", scopeText(t.Scope)},
		row{"not after", timeText(t.NotAfter)}, row{"max depth", strconv.Itoa(t.MaxDepth)}, row{"orchestrator", t.Orchestrator},
		receiptRow(t.AuditReceipt))
}
