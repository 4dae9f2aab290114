package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
)

// allowance is added to the end that a delegator signs where it asks for a lifetime: the appliance counts from its own
// clock, a little later.
const allowance = time.Minute

// child is what is asked for, by an orchestrator or by a parent.
type child struct {
	holder
	retry
	TokenOut string        `name:"token-out" placeholder:"FILE" xor:"holder" required:"" help:"Make a token there, for its owner alone, that the agent redeems with a key of its own."`
	Type     string        `name:"type" required:"" help:"The agent's type."`
	Scope    []string      `name:"scope" required:"" sep:"none" placeholder:"TOKEN" help:"What the agent may do; repeatable."`
	TTL      time.Duration `name:"ttl" help:"How long it lives; as long as allowed by default."`
	MaxDepth int           `name:"max-depth" help:"Levels of sub-agents below it."`
	Sealed   bool          `name:"sealed" help:"Wait until the TPM has sealed the entry; the answer says whether it has."`
	SpawnID  string        `name:"spawn-id" placeholder:"UUID" help:"A UUIDv7 that becomes the agent's id; a retry names the first attempt's."`
}

func (q child) options() []client.Option {
	out := q.retry.options()
	if q.Sealed {
		out = append(out, client.WaitSealed())
	}
	return out
}

// prepare makes or reads the key, or makes the token. The appliance gets its hash alone.
func (q child) prepare(s *session) (subject, error) {
	if q.TokenOut == "" {
		return q.holder.prepare(s)
	}
	if q.CertOut != "" {
		return subject{}, errors.New("--cert-out: with a token there is no certificate yet")
	}
	if err := absent("--token-out", q.TokenOut); err != nil {
		return subject{}, err
	}
	token, hash, err := client.NewEnrollmentToken()
	if err == nil {
		err = writeBytes(q.TokenOut, 0o600, []byte(token+"\n"))
	}
	return subject{token: hash, made: q.TokenOut}, err
}

func (q child) request(task string, sub subject) (v1.SpawnRequest, error) {
	ttl, err := wholeSeconds("--ttl", q.TTL)
	if err != nil {
		return v1.SpawnRequest{}, err
	}
	out := v1.SpawnRequest{
		TaskID: task, SpawnID: q.SpawnID, AgentType: q.Type, Scope: q.Scope, TTL: ttl, MaxDepth: q.MaxDepth, CSR: sub.csr, EnrollmentHash: sub.token,
	}
	if out.SpawnID == "" {
		out.SpawnID, err = client.NewSpawnID()
	}
	return out, err
}

// sign adds the delegator's statement.
func (q child) sign(s *session, cert *tls.Certificate, b *basis, sub subject, req *v1.SpawnRequest) error {
	limit := b.limit
	if q.TTL > 0 {
		if end := s.now().Add(q.TTL + allowance); end.Before(limit) {
			limit = end
		}
	}
	own, err := spiffeID(cert.Leaf)
	if err != nil {
		return fmt.Errorf("--cert: %w", err)
	}
	req.Confirmation, err = client.SignSpawn(cert, b.origin, b.parent, sub.public, own.TrustDomain(), *req, limit)
	return err
}

// receive writes the new identity and shows it.
func (q child) receive(s *session, sub subject, out v1.Spawned) error {
	if sub.token != "" {
		expires := ""
		if out.EnrollmentExpires != nil {
			expires = timeText(*out.EnrollmentExpires)
		}
		return s.print(out, row{"agent", out.AgentID}, row{"identity", out.SPIFFEID}, row{"not after", timeText(out.NotAfter)},
			row{"token", sub.made}, row{"redeem until", expires}, receiptRow(out.AuditReceipt))
	}
	if err := q.keep(sub, out.CertificateChain); err != nil {
		return err
	}
	return s.print(out, row{"agent", out.AgentID}, row{"identity", out.SPIFFEID}, row{"not after", timeText(out.NotAfter)},
		row{"certificate", q.CertOut}, row{"key", sub.made}, receiptRow(out.AuditReceipt))
}

// failed keeps what a retry needs.
func (q child) failed(s *session, sub subject, req v1.SpawnRequest, err error) error {
	if sub.token != "" {
		return unsent(sub, err) // a token that nobody redeems expires by itself
	}
	if err = s.discard(sub, err); q.SpawnID == "" && ambiguous(err) {
		s.say("signet: and with --spawn-id %s", req.SpawnID)
	}
	return err
}

type spawnCommand struct {
	child   `embed:""`
	Task    string `name:"task" required:"" placeholder:"ID" help:"The task that it works on."`
	Confirm bool   `name:"confirm" default:"true" negatable:"" help:"Sign the delegation with the orchestrator's key."`
}

func (q spawnCommand) Run(ctx context.Context, s *session) error {
	c, cert, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	var rests *basis
	if q.Confirm {
		if rests, err = spawnFrom(ctx, c, cert, q.Task); err != nil {
			return err
		}
	}
	sub, err := q.prepare(s)
	if err != nil {
		return err
	}
	req, err := q.request(q.Task, sub)
	if err == nil && rests != nil {
		err = q.sign(s, cert, rests, sub, &req)
	}
	if err != nil {
		return unsent(sub, err)
	}
	out, err := c.Spawn(ctx, req, q.options()...)
	if err != nil {
		return q.failed(s, sub, req, err)
	}
	return q.receive(s, sub, out)
}

// basis is what a delegation rests on.
type basis struct {
	origin string    // of the log
	parent [32]byte  // what the delegator's own right rests on
	limit  time.Time // when that ends
}

// spawnFrom reads the grant on which an orchestrator's delegation rests.
func spawnFrom(ctx context.Context, c *client.Client, cert *tls.Certificate, task string) (*basis, error) {
	t, err := c.Task(ctx, task)
	if err != nil {
		return nil, err
	}
	g, err := c.Grant(ctx, t.GrantID)
	if err != nil {
		return nil, err
	}
	parent, err := client.ParentHash(cert.Leaf, g.GrantHash)
	if err != nil {
		return nil, err
	}
	origin, err := c.Origin(ctx)
	if err != nil {
		return nil, err
	}
	return &basis{origin: origin, parent: parent, limit: t.NotAfter}, nil
}

type delegateCommand struct {
	child `embed:""`
}

func (q delegateCommand) Run(ctx context.Context, s *session) error {
	c, cert, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	parent, err := spiffeID(cert.Leaf)
	if err != nil {
		return fmt.Errorf("--cert: %w", err)
	}
	if parent.Kind() != chain.Agent {
		return fmt.Errorf("--cert: %s is no agent", parent)
	}
	task, rests, err := delegateFrom(ctx, c, cert, parent.AgentID())
	if err != nil {
		return err
	}
	sub, err := q.prepare(s)
	if err != nil {
		return err
	}
	req, err := q.request(task, sub)
	if err == nil {
		err = q.sign(s, cert, rests, sub, &req)
	}
	if err != nil {
		return unsent(sub, err)
	}
	out, err := c.Delegate(ctx, parent.AgentID(), req, q.options()...)
	if err != nil {
		return q.failed(s, sub, req, err)
	}
	return q.receive(s, sub, out)
}

// delegateFrom finds the task of an agent and what its delegation rests on: its own certificate, and the grant where
// nobody signed that.
func delegateFrom(ctx context.Context, c *client.Client, cert *tls.Certificate, id string) (string, *basis, error) {
	d, err := chain.Extract(cert.Leaf)
	if err != nil {
		return "", nil, fmt.Errorf("--cert: %w", err)
	}
	grantHash := ""
	if d.Hops[len(d.Hops)-1].Confirmation == nil {
		stands, err := c.AgentChain(ctx, id)
		if err != nil {
			return "", nil, err
		}
		grantHash = stands.GrantHash
	}
	b := &basis{limit: cert.Leaf.NotAfter}
	if b.parent, err = client.ParentHash(cert.Leaf, grantHash); err != nil {
		return "", nil, err
	}
	b.origin, err = c.Origin(ctx)
	return chain.FormatUUID(d.TaskID), b, err
}

type chainCommand struct {
	ID string `arg:"" help:"The agent's id."`
}

func (q chainCommand) Run(ctx context.Context, s *session) error {
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	out, err := c.AgentChain(ctx, q.ID)
	if err != nil {
		return err
	}
	rows := append([]row{{"agent", out.AgentID}, {"grant hash", out.GrantHash}}, delegationRows(out.Delegation)...)
	return s.print(out, rows...)
}

func delegationRows(d v1.Delegation) []row {
	rows := []row{
		{"task", d.TaskID},
		{"grant", d.Grant.GrantID},
		{"user", d.Grant.Subject + " of " + d.Grant.Issuer},
		{"consent", d.Grant.ConsentType},
		{"granted", scopeText(d.Grant.Scope)},
		{"until", timeText(d.Grant.NotAfter)},
	}
	for i, h := range d.Hops {
		text := h.ID + "  scope " + scopeText(h.Scope) + "  until " + timeText(h.NotAfter) + "  depth " + strconv.Itoa(h.MaxDepth)
		if h.ConfirmationHash != "" {
			text += "  confirmed"
		}
		rows = append(rows, row{"hop " + strconv.Itoa(i), text})
	}
	return rows
}
