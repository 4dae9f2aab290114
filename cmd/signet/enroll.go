package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
)

type agentCommands struct {
	Serve  serveCommand  `cmd:"" default:"withargs" help:"Serve an agent's certificate to software that knows SPIFFE (Workload API) or to Envoy (SDS). The default."`
	Enroll enrollCommand `cmd:"" help:"Redeem a token, as the agent, and get its certificate. Needs no certificate."`
	Rekey  rekeyCommand  `cmd:"" help:"Replace the key of the agent of --cert, and get a new certificate."`
	Batch  batchCommand  `cmd:"" help:"Spawn many agents, as their orchestrator. Exit status 1 if one of them was refused."`
}

type enrollCommand struct {
	holder    `embed:""`
	ID        string `arg:"" help:"The agent's id."`
	TokenFile string `name:"token-file" required:"" placeholder:"FILE" help:"The file with its token."`
}

func (q enrollCommand) Run(ctx context.Context, s *session) error {
	token, err := readToken(q.TokenFile)
	if err != nil {
		return fmt.Errorf("--token-file: %w", err)
	}
	c, err := s.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	sub, err := q.prepare(s)
	if err != nil {
		return err
	}
	out, err := c.Enroll(ctx, q.ID, token, sub.csr)
	return s.certified(q.holder, sub, out, err)
}

// certified keeps an agent's new certificate and shows it.
func (s *session) certified(h holder, sub subject, out v1.Spawned, err error) error {
	if err != nil {
		return s.discard(sub, err)
	}
	if err := h.keep(sub, out.CertificateChain); err != nil {
		return err
	}
	return s.print(out, row{"agent", out.AgentID}, row{"identity", out.SPIFFEID}, row{"not after", timeText(out.NotAfter)},
		row{"certificate", h.CertOut}, row{"key", sub.made}, receiptRow(out.AuditReceipt))
}

type rekeyCommand struct {
	holder `embed:""`
}

func (q rekeyCommand) Run(ctx context.Context, s *session) error {
	c, cert, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	own, err := spiffeID(cert.Leaf)
	if err != nil {
		return fmt.Errorf("--cert: %w", err)
	}
	if own.Kind() != chain.Agent {
		return fmt.Errorf("--cert: %s is no agent", own)
	}
	origin, err := c.Origin(ctx)
	if err != nil {
		return err
	}
	sub, err := q.prepare(s)
	if err != nil {
		return err
	}
	link, err := client.SignRekey(cert, origin, sub.public)
	if err != nil {
		return unsent(sub, err)
	}
	out, err := c.Rekey(ctx, own.AgentID(), link, sub.csr)
	return s.certified(q.holder, sub, out, err)
}

type batchCommand struct {
	File   string `arg:"" placeholder:"FILE" help:"The request: {\"spawns\": [{\"task_id\": …, \"csr\": …}, …]}, as POST /v1/agents:batch takes it."`
	OutDir string `name:"out-dir" placeholder:"DIR" help:"Write each certificate chain there, as <agent>.pem."`
}

func (q batchCommand) Run(ctx context.Context, s *session) error {
	data, err := readFile(q.File, maxFile)
	if err != nil {
		return err
	}
	var batch v1.SpawnBatch
	if err := json.Unmarshal(data, &batch); err != nil {
		return fmt.Errorf("%s: %w", q.File, err)
	}
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	results, err := c.SpawnBatch(ctx, batch.Spawns)
	if err != nil {
		return err
	}
	rows, refused := make([]row, len(results)), false
	for i, r := range results {
		id := batch.Spawns[i].SpawnID
		rows[i] = row{id, batchText(r)}
		refused = refused || r.Agent == nil
		if err := q.write(id, r.Agent); err != nil {
			return err
		}
	}
	if err := s.print(v1.SpawnBatchResults{Results: results}, rows...); err != nil {
		return err
	}
	if refused {
		return errRefused
	}
	return nil
}

// write keeps a certificate under the id that was asked for, which was checked to be no path.
func (q batchCommand) write(id string, agent *v1.Spawned) error {
	if q.OutDir == "" || agent == nil || len(agent.CertificateChain) == 0 {
		return nil
	}
	if _, err := chain.ParseUUID(id); err != nil {
		return errors.New("--out-dir: a spawn_id that is no UUID")
	}
	return writeBytes(filepath.Join(q.OutDir, id+".pem"), 0o644, []byte(strings.Join(agent.CertificateChain, "")))
}

func batchText(r v1.SpawnResult) string {
	switch {
	case r.Agent != nil && r.Agent.EnrollmentToken != "":
		return r.Agent.SPIFFEID + "  until " + timeText(r.Agent.NotAfter) + "  by token (--json shows it)"
	case r.Agent != nil:
		return r.Agent.SPIFFEID + "  until " + timeText(r.Agent.NotAfter)
	case r.Problem != nil:
		return "refused: " + (&client.Problem{Problem: *r.Problem}).Error()
	}
	return "refused"
}
