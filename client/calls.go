package client

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	v1 "github.com/signet-pki/signet/api/v1"
)

// RegisterOrchestrator makes an orchestrator known; an operator's act. The join token is in the answer, once.
func (c *Client) RegisterOrchestrator(ctx context.Context, q v1.OrchestratorRegistration, o ...Option) (v1.OrchestratorRegistered, error) {
	return post[v1.OrchestratorRegistered](ctx, c, "/v1/orchestrators", q, o)
}

// RegisterService makes a service known and gives its certificate; an operator's act.
func (c *Client) RegisterService(ctx context.Context, q v1.ServiceRegistration, o ...Option) (v1.Certificate, error) {
	return post[v1.Certificate](ctx, c, "/v1/services", q, o)
}

// RegisterOperator makes a person known and gives the certificate; an operator's act.
func (c *Client) RegisterOperator(ctx context.Context, q v1.OperatorRegistration, o ...Option) (v1.Certificate, error) {
	return post[v1.Certificate](ctx, c, "/v1/operators", q, o)
}

// Attest gives a registered orchestrator its certificate.
func (c *Client) Attest(ctx context.Context, name string, a v1.Attestation, o ...Option) (v1.Certificate, error) {
	return post[v1.Certificate](ctx, c, "/v1/orchestrators/"+url.PathEscape(name)+"/certificate", a, o)
}

// Challenge begins an attestation by TPM; client/devid has the rest.
func (c *Client) Challenge(ctx context.Context, name string, q v1.ChallengeRequest, o ...Option) (v1.Challenge, error) {
	return post[v1.Challenge](ctx, c, "/v1/orchestrators/"+url.PathEscape(name)+"/challenge", q, o)
}

// RenewOrchestrator gives an orchestrator a new certificate over this client's own.
func (c *Client) RenewOrchestrator(ctx context.Context, name, csr string, o ...Option) (v1.Certificate, error) {
	return c.Attest(ctx, name, v1.Attestation{Method: v1.MethodRenew, CSR: csr}, o...)
}

// RenewService gives a service a new certificate over this client's own.
func (c *Client) RenewService(ctx context.Context, name, csr string, o ...Option) (v1.Certificate, error) {
	return post[v1.Certificate](ctx, c, "/v1/services/"+url.PathEscape(name)+"/certificate", v1.Renewal{CSR: csr}, o)
}

// RequestGrant asks for a user's consent, which happens at the answer's ConsentURL.
func (c *Client) RequestGrant(ctx context.Context, q v1.GrantRequest, o ...Option) (v1.Grant, error) {
	return post[v1.Grant](ctx, c, "/v1/grants", q, o)
}

// Grant tells where a grant stands.
func (c *Client) Grant(ctx context.Context, id string) (v1.Grant, error) {
	return get[v1.Grant](ctx, c, "/v1/grants/"+url.PathEscape(id))
}

// GrantDocument gives the canonical grant that a user with a certificate is to sign.
func (c *Client) GrantDocument(ctx context.Context, id, issuer, subject string) ([]byte, error) {
	return c.bytes(ctx, "/v1/grants/"+url.PathEscape(id)+"/document?"+url.Values{"issuer": {issuer}, "subject": {subject}}.Encode())
}

// SignGrant brings a user's signature under a grant. It needs no certificate.
func (c *Client) SignGrant(ctx context.Context, id string, q v1.GrantSignature, o ...Option) (v1.GrantConsent, error) {
	return post[v1.GrantConsent](ctx, c, "/v1/grants/"+url.PathEscape(id)+"/signature", q, o)
}

// ExchangeToken presents a user's token for a grant that the caller asked for.
func (c *Client) ExchangeToken(ctx context.Context, id string, q v1.TokenExchange, o ...Option) (v1.GrantConsent, error) {
	return post[v1.GrantConsent](ctx, c, "/v1/grants/"+url.PathEscape(id)+"/token", q, o)
}

// OpenTask opens the task of a grant.
func (c *Client) OpenTask(ctx context.Context, q v1.TaskRequest, o ...Option) (v1.Task, error) {
	return post[v1.Task](ctx, c, "/v1/tasks", q, o)
}

// Task tells where a task stands.
func (c *Client) Task(ctx context.Context, id string) (v1.Task, error) {
	return get[v1.Task](ctx, c, "/v1/tasks/"+url.PathEscape(id))
}

// CompleteTask ends a task and with it the agents that work on it.
func (c *Client) CompleteTask(ctx context.Context, id string, o ...Option) (v1.Task, error) {
	return post[v1.Task](ctx, c, "/v1/tasks/"+url.PathEscape(id)+"/complete", struct{}{}, o)
}

// Spawn gives an agent its identity. A retry with the same SpawnID gives the same certificate.
func (c *Client) Spawn(ctx context.Context, q v1.SpawnRequest, o ...Option) (v1.Spawned, error) {
	return post[v1.Spawned](ctx, c, "/v1/agents", q, repeatable(o))
}

// Delegate gives a sub-agent its identity, asked for by its parent.
func (c *Client) Delegate(ctx context.Context, parent string, q v1.SpawnRequest, o ...Option) (v1.Spawned, error) {
	return post[v1.Spawned](ctx, c, "/v1/agents/"+url.PathEscape(parent)+"/delegations", q, repeatable(o))
}

// AccessToken gives the calling agent a token for one service, bound to the certificate of this connection.
func (c *Client) AccessToken(ctx context.Context, q v1.TokenRequest) (v1.Token, error) {
	return post[v1.Token](ctx, c, "/v1/tokens", q, nil)
}

// SpawnBatch asks for up to v1.MaxSpawnBatch agents. The error is about the batch; each spawn has its own result, in order.
// One that is rate_limited can be sent again.
func (c *Client) SpawnBatch(ctx context.Context, q []v1.SpawnRequest, o ...Option) ([]v1.SpawnResult, error) {
	out, err := post[v1.SpawnBatchResults](ctx, c, "/v1/agents:batch", v1.SpawnBatch{Spawns: q}, o)
	if err == nil && len(out.Results) != len(q) {
		err = fmt.Errorf("client: POST /v1/agents:batch: %d results for %d spawns", len(out.Results), len(q))
	}
	return out.Results, err
}

// Enroll redeems an agent's token. It needs no certificate. A retry with the same key gets the same certificate; the
// token in another's hands ends the agent.
func (c *Client) Enroll(ctx context.Context, agent, token, csr string, o ...Option) (v1.Spawned, error) {
	return post[v1.Spawned](ctx, c, agentCertificate(agent), v1.AgentCertificateRequest{CSR: csr, EnrollmentToken: token}, repeatable(o))
}

// Rekey gives the connected agent a certificate for its next key. SignRekey makes the link.
func (c *Client) Rekey(ctx context.Context, agent, link, csr string, o ...Option) (v1.Spawned, error) {
	return post[v1.Spawned](ctx, c, agentCertificate(agent), v1.AgentCertificateRequest{CSR: csr, Link: link}, repeatable(o))
}

func agentCertificate(agent string) string {
	return "/v1/agents/" + url.PathEscape(agent) + "/certificate"
}

// AgentChain shows what an agent's identity stands on.
func (c *Client) AgentChain(ctx context.Context, id string) (v1.AgentChain, error) {
	return get[v1.AgentChain](ctx, c, "/v1/agents/"+url.PathEscape(id)+"/chain")
}

// Verify reports each check of a chain.
func (c *Client) Verify(ctx context.Context, q v1.VerifyRequest) (v1.VerifyReport, error) {
	return post[v1.VerifyReport](ctx, c, "/v1/verify", q, nil)
}

// Evaluate asks for one access decision (AuthZEN 1.0). A denial is no error.
func (c *Client) Evaluate(ctx context.Context, q v1.EvaluationRequest) (v1.EvaluationResponse, error) {
	return post[v1.EvaluationResponse](ctx, c, "/access/v1/evaluation", q, repeatable(nil))
}

// EvaluateSealed asks likewise, and waits as WaitSealed says.
func (c *Client) EvaluateSealed(ctx context.Context, q v1.EvaluationRequest) (v1.EvaluationResponse, error) {
	return post[v1.EvaluationResponse](ctx, c, "/access/v1/evaluation", q, repeatable([]Option{WaitSealed()}))
}

// EvaluateAll asks for several access decisions at once (AuthZEN 1.0, Access Evaluations).
func (c *Client) EvaluateAll(ctx context.Context, q v1.EvaluationsRequest, o ...Option) (v1.EvaluationsResponse, error) {
	return post[v1.EvaluationsResponse](ctx, c, "/access/v1/evaluations", q, o)
}

// Revoke ends a thing and all below it.
func (c *Client) Revoke(ctx context.Context, q v1.RevocationRequest, o ...Option) (v1.Revocation, error) {
	return post[v1.Revocation](ctx, c, "/v1/revocations", q, o)
}

// Erase destroys payloads for good.
func (c *Client) Erase(ctx context.Context, q v1.ErasureRequest) (v1.Erasure, error) {
	return post[v1.Erasure](ctx, c, "/v1/erasures", q, nil)
}

// SubmitAct has an act carried out that enough custodians signed; an operator's part in it.
func (c *Client) SubmitAct(ctx context.Context, q v1.ActRequest) (v1.ActDone, error) {
	return post[v1.ActDone](ctx, c, "/v1/acts", q, nil)
}

// Custodians are who must agree to an act.
func (c *Client) Custodians(ctx context.Context) (v1.Custodians, error) {
	return get[v1.Custodians](ctx, c, "/v1/custodians")
}

// Prune archives the oldest entries and prunes them from the log. Writing and verifying an archive takes its time: ctx bounds it, and not
// the client's timeout.
func (c *Client) Prune(ctx context.Context, q v1.PruneRequest) (v1.Prune, error) {
	unbounded := *c.http
	unbounded.Timeout = 0
	return post[v1.Prune](ctx, &Client{base: c.base, http: &unbounded}, "/v1/audit/prunes", q, nil)
}

// Retention tells which entries the log still has.
func (c *Client) Retention(ctx context.Context) (v1.Retention, error) {
	return get[v1.Retention](ctx, c, "/v1/audit/retention")
}

// Keys gives the keys that events and access tokens are signed with. What they say of themselves is not verified here.
func (c *Client) Keys(ctx context.Context) (v1.KeySet, error) {
	return get[v1.KeySet](ctx, c, "/v1/jwks")
}

// Revocations lists what is revoked, after a cursor.
func (c *Client) Revocations(ctx context.Context, cursor string) (v1.RevocationPage, error) {
	return get[v1.RevocationPage](ctx, c, "/v1/revocations?cursor="+url.QueryEscape(cursor))
}

// PollFeed acknowledges events of the revocation feed and gets those that were not (RFC 8936). It waits for one for half of
// the client's timeout, unless q says otherwise. The tokens are not verified here, and there is no heartbeat: NewFeed knows
// how fresh it is.
func (c *Client) PollFeed(ctx context.Context, q v1.FeedPoll) (v1.FeedEvents, error) {
	wait := min(25, int(c.http.Timeout.Seconds()/2))
	return post[v1.FeedEvents](ctx, c, "/v1/revocations/poll?wait="+strconv.Itoa(wait), q, nil)
}

// Entry gives an entry of the log.
func (c *Client) Entry(ctx context.Context, index uint64) (v1.Entry, error) {
	return get[v1.Entry](ctx, c, "/v1/audit/entries/"+strconv.FormatUint(index, 10))
}

// Entries finds entries: query is like agent=ID or task=ID.
func (c *Client) Entries(ctx context.Context, query url.Values) (v1.EntryPage, error) {
	return get[v1.EntryPage](ctx, c, "/v1/audit/entries?"+query.Encode())
}

// Ready tells how the appliance is; with reasons for staff. A not ready appliance is no error.
func (c *Client) Ready(ctx context.Context) (v1.Ready, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/readyz", nil)
	if err != nil {
		return v1.Ready{}, fmt.Errorf("client: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return v1.Ready{}, fmt.Errorf("client: %w", err)
	}
	defer resp.Body.Close()
	return readReady(resp)
}

// ExplainPolicy tells how policy comes to an answer.
func (c *Client) ExplainPolicy(ctx context.Context, q v1.ExplainRequest) (v1.Explanation, error) {
	return post[v1.Explanation](ctx, c, "/v1/policy/explain", q, nil)
}

// maxReplayLine bounds a line of a replay.
const maxReplayLine = 1 << 20

// ReplayPolicy puts recorded questions to a bundle again and calls changed for each that it answers otherwise. Where the
// appliance stops for its time being up, Next of the totals is where to go on. An answer that breaks off is an error.
func (c *Client) ReplayPolicy(ctx context.Context, name string, q v1.ReplayRequest, changed func(v1.ReplayChange) error) (v1.ReplayTotals, error) {
	var none v1.ReplayTotals
	body, err := json.Marshal(q)
	if err != nil {
		return none, fmt.Errorf("client: encode request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/v1/policy/bundles/"+url.PathEscape(name)+"/replay", bytes.NewReader(body))
	if err != nil {
		return none, fmt.Errorf("client: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.stream(req)
	if err != nil {
		return none, err
	}
	defer resp.Body.Close()
	in := bufio.NewScanner(resp.Body)
	in.Buffer(nil, maxReplayLine)
	for in.Scan() {
		var line v1.ReplayLine
		if err := json.Unmarshal(in.Bytes(), &line); err != nil {
			return none, fmt.Errorf("client: replay: %w", err)
		}
		switch {
		case line.Totals != nil:
			return *line.Totals, nil
		case line.Change != nil:
			if err := changed(*line.Change); err != nil {
				return none, err
			}
		}
	}
	return none, fmt.Errorf("client: replay: the answer broke off: %w", cmp.Or(in.Err(), io.ErrUnexpectedEOF))
}

// Receipt gives the receipt of an entry as its file's bytes; sealed waits for the seal.
func (c *Client) Receipt(ctx context.Context, index uint64, sealed bool) ([]byte, error) {
	path := "/v1/audit/entries/" + strconv.FormatUint(index, 10) + "/receipt"
	if sealed {
		path += "?wait=sealed"
	}
	return c.bytes(ctx, path)
}

// Receipts finds receipts: query is serial=HEX, agent=ID, task=ID or decision=ID, of entries that name the caller.
func (c *Client) Receipts(ctx context.Context, query url.Values) (v1.ReceiptPage, error) {
	return get[v1.ReceiptPage](ctx, c, "/v1/audit/receipts?"+query.Encode())
}

// Proof gives an entry's C2SP tlog-proof as its file's bytes. It needs no certificate.
func (c *Client) Proof(ctx context.Context, index uint64) ([]byte, error) {
	return c.bytes(ctx, "/v1/audit/entries/"+strconv.FormatUint(index, 10)+"/proof")
}

// Checkpoint gives the newest signed checkpoint.
func (c *Client) Checkpoint(ctx context.Context) ([]byte, error) { return c.bytes(ctx, "/checkpoint") }

func (c *Client) bytes(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return c.send(req)
}

// Export streams the evidence bundle, a tar file, to w.
func (c *Client) Export(ctx context.Context, w io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/v1/audit/export", nil)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	return c.export(req, w)
}

// ExportSelection streams the evidence about one user, task or agent, likewise.
func (c *Client) ExportSelection(ctx context.Context, q v1.ExportRequest, w io.Writer) error {
	body, err := json.Marshal(q)
	if err != nil {
		return fmt.Errorf("client: encode request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/v1/audit/export", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	return c.export(req, w)
}

func (c *Client) export(req *http.Request, w io.Writer) error {
	resp, err := c.stream(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("client: export: %w", err)
	}
	return nil
}

// stream gives an answer that takes its time: ctx bounds it, and not the client's timeout.
func (c *Client) stream(req *http.Request) (*http.Response, error) {
	unbounded := *c.http
	unbounded.Timeout = 0
	resp, err := unbounded.Do(req)
	if err != nil {
		return nil, fmt.Errorf("client: %s %s: %w", req.Method, req.URL.Path, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("client: %s %s: %w", req.Method, req.URL.Path, err)
	}
	return nil, refusal(req, resp, body)
}
