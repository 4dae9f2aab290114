package api

import (
	"net/http"
	"reflect"
	"slices"

	"github.com/signet-pki/signet/api/extauthz"
	v1 "github.com/signet-pki/signet/api/v1"
)

var (
	limitParam  = param{"limit", "1 to 1000; 100 by default"}
	cursorParam = param{"cursor", "next_cursor of the page before"}
)

// table is every endpoint, in the order of the documents. What is not in it does not exist.
func table() []route {
	return slices.Concat(identityRoutes(), workRoutes(), accessRoutes(), policyRoutes(), reviewRoutes(), auditRoutes(), receiptRoutes(), proofRoutes(), publicRoutes())
}

func identityRoutes() []route {
	return []route{
		take("registerOrchestrator", "/v1/orchestrators", operator, http.StatusCreated,
			"Register an orchestrator and get its join token", (*Server).registerOrchestrator).retriable(),
		take("attestOrchestrator", "/v1/orchestrators/{name}/certificate", anyone, http.StatusCreated,
			"Attest an orchestrator, or renew over the connection's certificate, and get a certificate", (*Server).attest),
		take("challengeOrchestrator", "/v1/orchestrators/{name}/challenge", anyone, http.StatusOK,
			"Begin an attestation by TPM (tpm_devid): get the challenge that only this TPM can answer", (*Server).challenge),
		take("registerService", "/v1/services", operator, http.StatusCreated,
			"Register a service, which may ask for decisions, and get its certificate", (*Server).registerService).retriable(),
		take("renewService", "/v1/services/{name}/certificate", service, http.StatusCreated,
			"Renew a service's certificate over the present one", (*Server).renewService).
			with(func(r *route) { r.own = "their own" }),
		take("registerOperator", "/v1/operators", operator, http.StatusCreated,
			"Register a person with a role, and get the certificate", (*Server).registerOperator).retriable(),
		take("submitAct", "/v1/acts", operator, http.StatusOK,
			"Have an act carried out that enough custodians signed", (*Server).submitAct).with(func(r *route) { r.maxBody, r.slow = maxActBody, true }),
		give("readCustodians", http.MethodGet, "/v1/custodians", staff,
			"The custodians who must agree to acts", (*Server).readCustodians),
	}
}

func workRoutes() []route {
	return []route{
		take("requestGrant", "/v1/grants", orchestrator, http.StatusCreated,
			"Ask a user for consent; the user goes to consent_url", (*Server).requestGrant).retriable().counted(),
		give("readGrant", http.MethodGet, "/v1/grants/{id}", orchestrator|staff,
			"Where a grant stands", (*Server).readGrant).with(func(r *route) { r.own = "orchestrators: their own" }),
		bytesOf("readGrantDocument", http.MethodGet, "/v1/grants/{id}/document", orchestrator|staff, mediaJSON,
			"The canonical grant that a user with a certificate is to sign", (*Server).grantDocument).
			query(param{"issuer", "of the user's identity provider"}, param{"subject", "the user's, there"}).
			with(func(r *route) { r.own = "orchestrators: their own" }),
		take("signGrant", "/v1/grants/{id}/signature", anyone, http.StatusOK,
			"Consent by a user's signature under the grant, which is the only proof (consent type jws)", (*Server).signGrant),
		take("exchangeToken", "/v1/grants/{id}/token", orchestrator, http.StatusOK,
			"Consent by a user's token, RFC 8693's subject_token (consent type token_exchange, the weakest)", (*Server).exchangeToken).
			with(func(r *route) { r.own = "their own" }).counted(),
		take("openTask", "/v1/tasks", orchestrator, http.StatusCreated,
			"Open the task of a grant", (*Server).openTask).retriable().counted(),
		give("readTask", http.MethodGet, "/v1/tasks/{id}", orchestrator|staff,
			"Where a task stands", (*Server).readTask).with(func(r *route) { r.own = "orchestrators: their own" }),
		give("completeTask", http.MethodPost, "/v1/tasks/{id}/complete", orchestrator,
			"Complete a task, which revokes its agents", (*Server).completeTask).with(func(r *route) { r.own = "their own" }),
		take("spawnAgent", "/v1/agents", orchestrator, http.StatusCreated,
			"Spawn an agent and get its certificate, or a token for it", awaiting((*Server).spawn, spawnEntry)).retriable().counted().sealable(),
		take("spawnAgents", "/v1/agents:batch", orchestrator, http.StatusOK,
			"Spawn up to 128 agents, each with its own result", awaiting((*Server).spawnBatch, batchEntries)).
			with(func(r *route) { r.pattern, r.maxBody = `/v1/agents\:batch`, maxBatchBody }).counted().sealable(),
		take("certifyAgent", "/v1/agents/{id}/certificate", anyone, http.StatusCreated,
			"Redeem an enrolment token, which needs no certificate; or replace the key of the calling agent", awaiting((*Server).certifyAgent, spawnEntry)).
			with(func(r *route) { r.own = "with a token: who knows it; without: agents, for themselves" }).counted().sealable(),
		take("delegateAgent", "/v1/agents/{id}/delegations", agent, http.StatusCreated,
			"Spawn a sub-agent of the calling agent, likewise", awaiting((*Server).delegate, spawnEntry)).retriable().counted().sealable(),
		take("issueToken", "/v1/tokens", agent, http.StatusCreated,
			"Get an access token for one service, bound to the connection's certificate", (*Server).issueToken).counted(),
		give("readAgentChain", http.MethodGet, "/v1/agents/{id}/chain", known,
			"What an agent's identity stands on", (*Server).agentChain).
			with(func(r *route) { r.own = "orchestrators: of their own; agents: themselves" }),
	}
}

func accessRoutes() []route {
	authzen := func(r *route) { r.access = true }
	return []route{
		take("verify", "/v1/verify", known, http.StatusOK,
			"Check a certificate chain, each check by itself; nothing is decided or recorded", (*Server).verify),
		take("evaluate", "/access/v1/evaluation", service|agent, http.StatusOK,
			"AuthZEN 1.0 access evaluation: may this agent do that?", awaiting((*Server).evaluate, decisionEntry)).with(authzen).
			with(func(r *route) { r.own = "agents: about themselves" }).counted().sealable(),
		take("evaluateAll", "/access/v1/evaluations", service|agent, http.StatusOK,
			"AuthZEN 1.0 access evaluations: up to 100 decisions, each with its own answer", awaiting((*Server).evaluateAll, decisionEntries)).with(authzen).
			with(func(r *route) {
				r.request, r.reads = reflect.TypeFor[v1.EvaluationsRequest](), reflect.TypeFor[evaluationsBody]()
				r.maxBody, r.own = maxEvaluationsBody, "agents: about themselves"
			}).counted().sealable(),
		metadataRoute("readAccessConfiguration", wellKnown),
		metadataRoute("readAccessMetadataAt", wellKnown+"/{path}").with(func(r *route) {
			r.pattern, r.own = wellKnown+"/*", "where the public URL has that path, and only there"
		}),
		bytesOf("checkEnvoy", http.MethodPost, extauthz.Path, service, extauthz.Media,
			"Envoy's external authorization (gRPC): may the agent that this Envoy holds a connection with do that?", (*Server).checkEnvoy).
			with(func(r *route) { r.grpc, r.maxBody = true, maxCheck }).counted(),
		opaRoute().counted(),
		take("revoke", "/v1/revocations", orchestrator|operator|officer, http.StatusCreated,
			"Revoke a certificate, agent, subtree, task, grant, user or orchestrator, and all below it", (*Server).revoke).retriable().
			with(func(r *route) { r.own = "orchestrators: their own agents, tasks and grants" }),
		give("listRevocations", http.MethodGet, "/v1/revocations", orchestrator|service|staff,
			"Revocations in the order in which they were made", (*Server).listRevocations).
			query(limitParam, cursorParam, param{"wait", "seconds to wait for something new, at most 25; 0 by default"}),
		bytesOf("streamRevocations", http.MethodGet, "/v1/revocations/stream", orchestrator|service|staff, mediaEvents,
			"The signed feed of revocations as server-sent events; Last-Event-ID or cursor resumes it", (*Server).stream).
			query(cursorParam).with(func(r *route) { r.stream = true }),
		take("pollRevocations", "/v1/revocations/poll", orchestrator|service|staff, http.StatusOK,
			"The signed feed of revocations by polls (RFC 8936): acknowledge events, and get those that the caller has not", (*Server).pollEvents).
			query(param{"wait", "seconds to wait for an event unless returnImmediately, at most 25, the default"}),
	}
}

func reviewRoutes() []route {
	return []route{
		take("explainPolicy", "/v1/policy/explain", operator|officer|auditor, http.StatusOK,
			"How policy comes to an answer, about a recorded decision or an input; who asks is recorded", (*Server).explain).
			with(func(r *route) { r.maxBody = maxInputBody }),
		bytesOf("replayBundle", http.MethodPost, "/v1/policy/bundles/{name}/replay", operator|officer|auditor, mediaLines,
			"Which recorded answers a bundle, or `active`, would give otherwise: lines of JSON, the totals last", (*Server).replay).
			with(func(r *route) { r.request, r.slow = reflect.TypeFor[v1.ReplayRequest](), true }),
	}
}

func metadataRoute(id, path string) route {
	return bytesOf(id, http.MethodGet, path, anyone, mediaJSON, "AuthZEN metadata", (*Server).accessConfiguration).
		with(func(r *route) { r.response = reflect.TypeFor[v1.AccessConfiguration]() })
}

func auditRoutes() []route {
	return []route{
		give("searchEntries", http.MethodGet, "/v1/audit/entries", auditor,
			"Entries of the log, by one term or all", (*Server).searchEntries).query(
			param{"agent", "UUID"}, param{"task", "UUID"}, param{"grant", "UUID"}, param{"user", "pseudonym as in envelopes"},
			param{"orchestrator", "name"}, param{"serial", "hex"}, param{"decision", "UUID"}, limitParam, cursorParam),
		give("readEntry", http.MethodGet, "/v1/audit/entries/{index}", auditor,
			"One entry with its payload", (*Server).readEntry),
		bytesOf("readReceipt", http.MethodGet, "/v1/audit/entries/{index}/receipt", known, mediaJSON,
			"The proof that an entry is in the sealed log", (*Server).readReceipt).
			query(param{"wait", "sealed: wait until the entry is sealed"}).
			with(func(r *route) {
				r.own = "orchestrators, agents, services: entries that name them; the payload is for auditors"
			}),
		give("readSeal", http.MethodGet, "/v1/audit/seals/{number}", staff,
			"One seal with the TPM's statements", (*Server).readSeal),
		bytesOf("exportBundle", http.MethodGet, "/v1/audit/export", auditor, "application/x-tar",
			"The evidence bundle, as a tar", (*Server).exportBundle).with(func(r *route) { r.slow = true }),
		bytesOf("exportSelection", http.MethodPost, "/v1/audit/export", auditor, "application/x-tar",
			"The evidence about one user, task or agent: all envelopes, and of its entries what stands beside them", (*Server).exportSelection).
			with(func(r *route) { r.request, r.slow = reflect.TypeFor[v1.ExportRequest](), true }),
		take("eraseRecords", "/v1/erasures", privacy, http.StatusCreated,
			"Destroy the payloads about a user, or of listed entries, for good", (*Server).erase).with(func(r *route) { r.slow = true }),
		take("pruneEntries", "/v1/audit/prunes", officer, http.StatusCreated,
			"Archive the oldest entries, verify the archive, and prune them from the log", (*Server).prune).with(func(r *route) { r.slow = true }),
		give("readRetention", http.MethodGet, "/v1/audit/retention", anyone,
			"The minimum index (C2SP tlog-tiles, Pruning), and the entry that says where the entries before it are", (*Server).readRetention),
		bytesOf("readCheckpoint", http.MethodGet, "/checkpoint", anyone, mediaText,
			"The signed head of the log (C2SP tlog-checkpoint)", (*Server).checkpoint),
		bytesOf("addCheckpoint", http.MethodPost, "/add-checkpoint", anyone, mediaText,
			"Cosign the checkpoint of another log, as its witness (C2SP tlog-witness); 409 tells the size to begin from", (*Server).addCheckpoint).
			with(func(r *route) { r.plain, r.own = true, "logs that this appliance witnesses" }),
		bytesOf("readTile", http.MethodGet, "/tile/{path}", anyone, mediaBinary,
			"A tile of hashes (C2SP tlog-tiles); entry tiles are for auditors", (*Server).tile).
			with(func(r *route) { r.pattern, r.own = "/tile/*", "entries: auditors only" }),
	}
}

func publicRoutes() []route {
	free := func(r *route) { r.free = true }
	return []route{
		bytesOf("consentPage", http.MethodGet, "/consent/{grant_id}", anyone, mediaHTML,
			"The page on which a user consents", (*Server).consent).with(func(r *route) { r.pattern = "/consent/*" }),
		bytesOf("consentAnswer", http.MethodPost, "/consent/{grant_id}", anyone, mediaHTML,
			"The user's answer, a form", (*Server).consent).with(func(r *route) { r.pattern = "/consent/*" }),
		bytesOf("accountPage", http.MethodGet, "/account", anyone, mediaHTML,
			"The page on which a user sees and withdraws what they granted", (*Server).consent),
		bytesOf("accountAnswer", http.MethodPost, "/account", anyone, mediaHTML,
			"The user's changes there, a form", (*Server).consent),
		bytesOf("consentCallback", http.MethodGet, "/v1/grants/callback/{provider}", anyone, mediaHTML,
			"Where the identity provider sends the user back to", (*Server).consent),
		bytesOf("receiveEvent", http.MethodPost, "/v1/events", anyone, mediaJSON,
			"An identity provider's Security Event Token, pushed (RFC 8935): a revoked session ends the user's grants", (*Server).receiveEvent).
			with(func(r *route) { r.setPush, r.status = true, http.StatusAccepted }),
		bytesOf("readTrustBundle", http.MethodGet, "/v1/trust-bundle", anyone, mediaJSON,
			"The roots as a SPIFFE bundle, or as PEM", (*Server).trustBundle).
			query(param{"format", "jwks (default), pem (roots), issuing-pem (issuing CAs)"}).
			with(func(r *route) { r.response = reflect.TypeFor[v1.Bundle]() }),
		bytesOf("readKeys", http.MethodGet, "/v1/jwks", anyone, mediaJSON,
			"The keys that events and access tokens are signed with, as a JWK set; x5c leads to a root", (*Server).keys).
			with(func(r *route) { r.response = reflect.TypeFor[v1.KeySet]() }),
		bytesOf("readCRL", http.MethodGet, "/crl/{name}.crl", anyone, "application/pkix-crl",
			"An issuing CA's revocation list, DER", (*Server).crl).with(func(r *route) { r.pattern = "/crl/:file" }),
		give("live", http.MethodGet, "/livez", anyone, "The process answers", (*Server).live).with(free),
		bytesOf("ready", http.MethodGet, "/readyz", anyone, mediaJSON, "The appliance can work; staff see why not", (*Server).ready).
			with(free).with(func(r *route) { r.response = reflect.TypeFor[v1.Ready]() }),
		bytesOf("readMetrics", http.MethodGet, "/metrics", staff, mediaText, "Prometheus metrics", (*Server).showMetrics),
		bytesOf("readOpenAPI", http.MethodGet, "/openapi.json", anyone, mediaJSON, "This API as OpenAPI 3.1", (*Server).openAPI),
		bytesOf("readDocs", http.MethodGet, "/docs", anyone, mediaHTML, "The endpoints and who may call them", (*Server).docs),
	}
}
