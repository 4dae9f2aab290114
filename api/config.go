package api

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/policy/review"
)

// Identities tells and makes callers. RecordRefusal gives the entry's index, nil where none was written.
type Identities interface {
	Authenticate(certs []*x509.Certificate) (delegation.Caller, error)
	RecordRefusal(ctx context.Context, r delegation.Refusal) *uint64
	Register(ctx context.Context, by delegation.Caller, kind chain.Kind, q delegation.Registration) (delegation.Registered, error)
	Attesters
}

// Attesters give certificates to workloads that prove who they are.
type Attesters interface {
	Attest(ctx context.Context, a delegation.Attestation) (delegation.Issued, error)
	ChallengeTPM(ctx context.Context, q delegation.ChallengeRequest) (delegation.Challenge, error)
	Renew(ctx context.Context, by delegation.Caller, name string, csr []byte) (delegation.Issued, error)
}

// Work is grants and the tasks under them.
type Work interface {
	RequestGrant(ctx context.Context, by delegation.Caller, q delegation.GrantRequest) (delegation.Grant, error)
	Grant(by delegation.Caller, id string) (delegation.Grant, error)
	OpenTask(ctx context.Context, by delegation.Caller, q delegation.TaskRequest) (delegation.Task, error)
	Task(by delegation.Caller, id string) (delegation.Task, error)
}

// Consents are given elsewhere than on the consent pages, or ended by the user's identity provider.
type Consents interface {
	GrantDocumentFor(by delegation.Caller, id, issuer, subject string) ([]byte, error)
	ApproveSigned(ctx context.Context, id, jws string) (delegation.Grant, error)
	ReceiveEvent(ctx context.Context, set string) error
	ApproveExchanged(ctx context.Context, by delegation.Caller, id string, x delegation.TokenExchange) (delegation.Grant, error)
}

// Spawning gives agents and their keys certificates.
type Spawning interface {
	Spawn(ctx context.Context, by delegation.Caller, q delegation.SpawnRequest) (delegation.Spawned, error)
	Delegate(ctx context.Context, by delegation.Caller, parentID string, q delegation.SpawnRequest) (delegation.Spawned, error)
	Enroll(ctx context.Context, q delegation.Enrollment) (delegation.Spawned, error)
	Rekey(ctx context.Context, by delegation.Caller, q delegation.RekeyRequest) (delegation.Spawned, error)
}

// Agents is the life of agents, which ends with their task.
type Agents interface {
	Spawning
	AgentChain(ctx context.Context, by delegation.Caller, id string) (delegation.Lineage, error)
	CompleteTask(ctx context.Context, by delegation.Caller, id string) (delegation.Task, error)
}

// Tokens lets agents act where their certificate cannot be presented.
type Tokens interface {
	IssueToken(ctx context.Context, by delegation.Caller, q delegation.TokenRequest) (delegation.Token, error)
}

// Access answers about agents, and ends them.
type Access interface {
	Decide(ctx context.Context, by delegation.Caller, q delegation.DecisionRequest) (delegation.Decision, error)
	Verify(q delegation.VerifyRequest) (chain.Report, error)
	Revoke(ctx context.Context, by delegation.Caller, q delegation.RevokeRequest) (delegation.Revocation, error)
	Revocations(after delegation.Cursor, limit int) delegation.RevocationPage
}

// Feed is the signed feed of revocations.
type Feed interface {
	Feed(after delegation.Cursor, limit int) delegation.FeedPage
	PollFeed(by delegation.Caller, q delegation.FeedPoll) delegation.FeedPage
}

// Erasing destroys payloads.
type Erasing interface {
	Erase(ctx context.Context, by delegation.Caller, q delegation.EraseRequest) (delegation.Erasure, error)
}

// Retaining prunes the log.
type Retaining interface {
	Prune(ctx context.Context, by delegation.Caller, q delegation.PruneRequest) (delegation.Pruned, error)
}

// Reviewed records who reviews policy; Reviews does it.
type Reviewed interface {
	RecordReview(ctx context.Context, by delegation.Caller, action, target string, detail map[string]string) (delegation.Position, error)
}

// Reviews evaluates again what policy was asked. Its errors are those of package review.
type Reviews interface {
	Explain(ctx context.Context, q review.ExplainRequest) (review.Explained, error)
	Replay(ctx context.Context, q review.ReplayRequest, changed func(review.Change) error) (review.Totals, error)
}

// Deciding is the answers, and what is made of them later.
type Deciding interface {
	Access
	Erasing
	Retaining
	Reviewed
}

// Bundles shows policy bundles.
type Bundles interface {
	Bundles(ctx context.Context) ([]delegation.BundleStatus, error)
	Bundle(ctx context.Context, name string) (delegation.BundleStatus, error)
}

// Policies is the life of policy bundles.
type Policies interface {
	Bundles
	PushBundle(ctx context.Context, by delegation.Caller, name string, archive []byte) (delegation.BundleStatus, error)
	TestBundle(ctx context.Context, by delegation.Caller, name string) (delegation.BundleTest, error)
	ApproveBundle(ctx context.Context, by delegation.Caller, name, digest string) (delegation.BundleStatus, error)
}

// Delegations is what users grant, and what is done under it.
type Delegations interface {
	Work
	Consents
	Agents
	Tokens
}

// Upkeep is what keeps others up to date: relying services, and the policy that decides.
type Upkeep interface {
	Feed
	Policies
}

// Domain is what the API serves: *delegation.Service. Its errors are *delegation.Error.
type Domain interface {
	Identities
	Delegations
	Deciding
	Upkeep
}

var _ Domain = (*delegation.Service)(nil)

// What a Log says when it cannot give something. Other errors become 500, or 503 where the context ended.
var (
	ErrNotFound  = errors.New("api: not in the log")
	ErrNotSealed = errors.New("api: not sealed yet")
	ErrPruned    = errors.New("api: not in the log any more")
)

// Entries reads the log's entries. Lookup gives up to limit indexes of entries at or after from with the index term
// (user, agent, task, grant, orchestrator, serial or decision), ascending. Receipt gives a receipt, which is a JSON
// object, after waiting for the seal where that is asked for; it may hold the entry's payload and salt as members of
// these names, which the API takes out for all but auditors. Export writes the evidence bundle as a tar, of
// everything or of a selection.
type Entries interface {
	Entry(ctx context.Context, index uint64) (Entry, error)
	Lookup(ctx context.Context, kind, id string, from uint64, limit int) ([]uint64, error)
	Receipt(ctx context.Context, index uint64, waitSealed bool) ([]byte, error)
	Export(ctx context.Context, w io.Writer, of Selection) error
}

// Selection says whose entries an evidence bundle is about: one of these, or all where none is named.
type Selection struct {
	Task, Agent string
	User        *chain.User
	Pseudonym   string // a user, as entries name them
}

// Retained says what of the log is left: the minimum index, below which all but the first 256 entries give ErrPruned, and the index of
// the prune entry that says so; ok is false while nothing was pruned.
type Retained interface {
	Pruned() (minimum, entry uint64, ok bool)
}

// Tree reads what proves the log: the signed checkpoint (nil while there is none), tiles of hashes and of entries
// (C2SP tlog-tiles; a width of 256 is a full tile), and seals.
type Tree interface {
	Checkpoint() []byte
	Tile(ctx context.Context, level int, index uint64, width int) ([]byte, error)
	EntryTile(ctx context.Context, index uint64, width int) ([]byte, error)
	Seal(ctx context.Context, number uint64) (Seal, error)
}

// Proofs proves what a signed checkpoint can be compared with: paths of hashes between what the tree has, and an entry's
// C2SP tlog-proof to the newest sealed checkpoint or, where none covers it, the newest signed one. WaitSealed gives the number
// of a seal that covers the entry once there is one, at once where there is one already, also when ctx has ended.
type Proofs interface {
	Inclusion(ctx context.Context, index, size uint64) ([][32]byte, error)
	Consistency(ctx context.Context, from, to uint64) ([][32]byte, error)
	Proof(ctx context.Context, index uint64) ([]byte, error)
	WaitSealed(ctx context.Context, index uint64) (seal uint64, err error)
}

// Log is the audit log.
type Log interface {
	Entries
	Retained
	Tree
	Proofs
}

// Entry is one stored entry. Payload and Salt are nil where there is none or it was erased.
type Entry struct {
	Index    uint64
	Envelope json.RawMessage // exact bytes
	Payload  []byte
	Salt     []byte
}

// Seal is a sealed checkpoint.
type Seal struct {
	Number                    uint64
	Text, Checkpoint          []byte
	Quote, QuoteSig, PCRs     []byte
	CounterAttest, CounterSig []byte
}

// Severity is what a failed Condition means. The zero Severity makes the appliance not ready.
type Severity int

// The severities.
const (
	Error   Severity = iota // not ready
	Warning                 // shown
)

// String gives the word in JSON.
func (s Severity) String() string {
	if s == Warning {
		return "warning"
	}
	return "error"
}

// Condition is one thing that readiness depends on. Reason is for staff.
type Condition struct {
	Name     string
	OK       bool
	Reason   string
	Severity Severity
}

// Trust is what relying parties verify with.
type Trust struct {
	TrustDomain string
	Roots       []*x509.Certificate
	Issuing     []*x509.Certificate
	Sequence    uint64 // raised whenever Roots change
	// JWT are the certificates, by a root, of the keys that sign statements for relying services.
	JWT []*x509.Certificate
	// CRL gives the DER of an issuing CA's list; ErrNotFound for an unknown name.
	CRL func(name string) ([]byte, error)
}

// Limits bounds what a caller can make the server do. A zero field is its default.
type Limits struct {
	MaxBody       int64         // bytes of a request's body; 64 KiB
	MaxHeader     int           // bytes of a request's header; 16 KiB
	HeaderTimeout time.Duration // to send the header; 5 s
	ReadTimeout   time.Duration // to send the whole request; 15 s
	Request       time.Duration // to work on one; 30 s
	Slow          time.Duration // to wait for a seal, or between two pieces of an export; 2 min
	Idle          time.Duration // between two requests of a connection; 90 s
	Shutdown      time.Duration // to finish what runs when Run's context ends; 10 s
	Concurrency   int           // requests at a time with an identity, and as many without; 256
	SlowRequests  int           // of these, exports and waits for a receipt's seal; 32, counted apart
	Streams       int           // readers of the revocation feed at a time; 256, counted apart
	StreamWrite   time.Duration // for a reader of the feed to take a piece of it; 10 s
}

func (l Limits) withDefaults() Limits {
	orElse(&l.MaxBody, 64<<10)
	orElse(&l.MaxHeader, 16<<10)
	orElse(&l.HeaderTimeout, 5*time.Second)
	orElse(&l.ReadTimeout, 15*time.Second)
	orElse(&l.Request, 30*time.Second)
	orElse(&l.Slow, 2*time.Minute)
	orElse(&l.Idle, 90*time.Second)
	orElse(&l.Shutdown, 10*time.Second)
	orElse(&l.Concurrency, 256)
	orElse(&l.SlowRequests, 32)
	orElse(&l.Streams, 256)
	orElse(&l.StreamWrite, 10*time.Second)
	return l
}

func orElse[T int | int64 | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Config is what a Server needs. All is required except Consent, Mounts, Metrics and Limits.
type Config struct {
	Domain Domain
	Log    Log
	// Acts carries out what custodians agreed to; nil: nobody can.
	Acts Acts
	// Reviews looks at policy.
	Reviews Reviews
	Health  func(ctx context.Context) []Condition
	Trust   Trust
	// Consent serves /consent/* and GET /v1/grants/callback/* to browsers, which have no client certificate.
	Consent http.Handler
	// Mounts serves further paths by prefix, each beginning and ending with a slash. They are not authenticated here.
	Mounts map[string]http.Handler
	// Witness cosigns checkpoints of other logs: request and answer are C2SP tlog-witness's. nil: this is no witness. Its errors are
	// *delegation.Error or *SizeConflictError.
	Witness func(ctx context.Context, request []byte) (lines []byte, err error)
	// Metrics is the registry shown at /metrics, to which the server adds its own; nil makes one.
	Metrics *prometheus.Registry
	Limits  Limits
	Now     func() time.Time
	Logger  *slog.Logger
	// PublicURL is how clients reach the server: https, without a trailing slash.
	PublicURL string
}

func (c *Config) check() error {
	if c.Domain == nil || c.Log == nil || c.Reviews == nil || c.Health == nil || c.Now == nil || c.Logger == nil {
		return errors.New("api: domain, log, reviews, health, clock and logger are required")
	}
	if c.Trust.CRL == nil || len(c.Trust.Roots) == 0 || c.Trust.TrustDomain == "" {
		return errors.New("api: trust domain, roots and CRLs are required")
	}
	if len(c.Trust.JWT) == 0 {
		return errors.New("api: the certificate of the JWT key is required")
	}
	u, err := url.Parse(c.PublicURL)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.HasSuffix(c.PublicURL, "/") || u.RawQuery != "" {
		return errors.New("api: public_url is no https URL without a trailing slash")
	}
	for prefix, h := range c.Mounts {
		if h == nil || len(prefix) < 3 || prefix[0] != '/' || !strings.HasSuffix(prefix, "/") {
			return fmt.Errorf("api: mount %q: a handler, and a path between slashes", prefix)
		}
	}
	return nil
}
