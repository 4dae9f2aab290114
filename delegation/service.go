package delegation

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/quota"
	"github.com/signet-pki/signet/delegation/workload"
	"github.com/signet-pki/signet/policy"
)

// Log keeps entries and the state that they change. Append returns once both are durable; an error that wraps a
// precondition's own error rejected this entry alone. Put is for what can be made again: it may be lost in a crash.
type Log interface {
	Append(ctx context.Context, e record.Entry) (Position, error)
	Put(ctx context.Context, m []record.Mutation) error
	Get(key string) (value []byte, ok bool, err error)
	Scan(ctx context.Context, prefix, after string, limit int, fn func(key string, value []byte) error) error
}

// Prepared is a linted to-be-signed certificate. Nothing of it is signed yet.
type Prepared interface {
	TBS() []byte
	Hash() [32]byte
	Facts() Facts
}

// Facts are what an entry says about a certificate beside its hash.
type Facts struct {
	Serial              string // as chain.Serial
	NotBefore, NotAfter time.Time
	IssuerSPKIHash      [32]byte
}

// Template is what a certificate is to say.
type Template struct {
	ID         chain.ID
	SPKI       []byte
	NotAfter   time.Time
	Delegation []byte   // the extension's value, for agents only
	DNSNames   []string // listeners only
	IPs        []net.IP // likewise
}

// Certifier is the certification authority. Issue signs a Prepared once and gives the chain, leaf first, without the
// root; Resume makes stored bytes signable again, for a retry.
type Certifier interface {
	Prepare(t Template) (Prepared, error)
	Resume(kind chain.Kind, tbs []byte) (Prepared, error)
	Issue(ctx context.Context, p Prepared) ([][]byte, error)
	Limit(kind chain.Kind) time.Time // no certificate of that kind lives longer
}

// Statements signs what relying services verify with the keys of GET /v1/jwks: events and access tokens. Sign gives the
// compact JWS over claims, a JSON object, with the header's typ; its signature is verified before it is released.
type Statements interface {
	Sign(ctx context.Context, typ string, claims any) (string, error)
}

// Policy is the policy engine; it always answers, and its zero answer denies.
type Policy interface {
	Decide(ctx context.Context, in policy.Input) policy.Decision
}

// Config is what a Service needs.
type Config struct {
	Origin  string // of the log: the audience of delegations
	Trust   *chain.Trust
	Log     Log
	Records Records
	// Archive is where entries go that the log forgets; nil: it forgets none.
	Archive   Archive
	Certifier Certifier
	// Statements is the JWT key.
	Statements Statements
	Policy     Policy
	// Bundles changes what Policy answers from; nil: it never changes.
	Bundles Bundles
	// Resources are what may be asked about; the zero value has none, and every access is refused.
	Resources chain.Catalogue
	// Ready refuses to issue and to decide while it returns an error: a device is gone or the last seal is too old.
	Ready func() error
	// Signing refuses what would be logged and then not be signed: the signing key is away, or has too much to do.
	Signing func() error
	// Pseudonym gives the keyed hash that stands for a user in envelopes and indexes.
	Pseudonym func(issuer, subject string) string
	// Workloads are the issuers of workloads' tokens, by name; nil refuses the method oidc_jwt.
	Workloads map[string]*workload.Issuer
	// TPM verifies what orchestrators' TPMs show; nil refuses the method tpm_devid.
	TPM TPM
	// Provider says whether the identity provider answers; a grant that nobody could consent to is not taken.
	Provider func(ctx context.Context) error
	// Clients are the issuers of the identity providers whose users may consent, with the appliance's client_id at each.
	Clients map[string]string
	Proofs  Proofs
	Limits  Limits
	Now     func() time.Time
	Rand    io.Reader
	Logger  *slog.Logger
}

// Limits bounds what may be asked for.
type Limits struct {
	AgentTTL     time.Duration // longest life of an agent
	WorkloadTTL  time.Duration // of orchestrators and services
	OperatorTTL  time.Duration
	GrantLife    time.Duration // longest time from consent to deadline
	PendingGrant time.Duration // how long a grant waits for consent
	JoinToken    time.Duration
	// AttestationAge is how long certificates are renewed after an attestation or a service's registration.
	AttestationAge time.Duration
	MaxDepth       int
	Enrollment     time.Duration // life of an enrolment token
	TaskAgents     int           // agents of one task, of all levels
	Rekeys         int           // of one agent
	Heartbeat      time.Duration // of the revocation feed
	AgentTypes     map[string]TypeLimit
	// RequireConfirmation refuses every spawn without its delegator's signature; sub-agents always need one.
	RequireConfirmation bool
	Quotas              quota.Limits
	MalformedBurst      int // malformed requests recorded one by one in a minute, before they are counted together
}

// DefaultLimits are those of a fresh appliance.
func DefaultLimits() Limits {
	return Limits{
		AgentTTL: 10 * time.Minute, WorkloadTTL: 24 * time.Hour, OperatorTTL: 30 * 24 * time.Hour,
		GrantLife: 24 * time.Hour, PendingGrant: 15 * time.Minute, JoinToken: 10 * time.Minute,
		AttestationAge: 30 * 24 * time.Hour,
		MaxDepth:       8, Enrollment: time.Minute, TaskAgents: 10_000, Rekeys: 512, Heartbeat: 5 * time.Second, Quotas: quota.Default(), MalformedBurst: 20,
	}
}

// Service is the domain. Make it with New; start Run to have its aggregated entries written.
type Service struct {
	cfg           Config
	revoked       *revocations
	feed          *feed
	callers       *cache[[32]byte, identity]
	registrations *cache[string, registration]
	grants        *cache[string, *grantState]
	tasks         *cache[string, *taskState]
	released      *cache[[32]byte, Position] // TBS hashes signed since the start
	malformed     *aggregator
	keeper        chan kept
	turns         turns
	slots         *slots
	policy        *policyTurn
	quotas        *quota.Quotas
	pruning       sync.Mutex
	tokens        [32]byte // keys the tokens that this process makes

	challengeKey [32]byte // seals challenges to TPMs
}

// New loads the revocations and gives a Service that is ready to answer.
func New(ctx context.Context, cfg Config) (*Service, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	s := &Service{
		cfg:           cfg,
		callers:       newCache[[32]byte, identity](4096),
		registrations: newCache[string, registration](4096),
		grants:        newCache[string, *grantState](8192),
		tasks:         newCache[string, *taskState](8192),
		released:      newCache[[32]byte, Position](16384),
		malformed:     newAggregator(cfg.Limits.MalformedBurst),
		keeper:        make(chan kept, 1024),
		turns:         turns{busy: make(map[string]chan struct{})},
		slots:         newSlots(cfg.Log, cfg.Limits.TaskAgents),
		policy:        newPolicyTurn(),
		quotas:        quota.New(cfg.Limits.Quotas),
	}
	var err error
	if s.tokens, err = s.secret(); err != nil {
		return nil, err
	}
	if s.challengeKey, err = s.secret(); err != nil {
		return nil, fmt.Errorf("delegation: make a key: %w", err)
	}
	s.revoked, err = loadRevocations(ctx, cfg.Log, cfg.Now())
	if err != nil {
		return nil, fmt.Errorf("delegation: load revocations: %w", err)
	}
	s.feed = newFeed(s.revoked.epoch)
	return s, nil
}

func (c Config) check() error {
	if err := c.Limits.Quotas.Check(); err != nil {
		return fmt.Errorf("delegation: %w", err)
	}
	if c.Origin == "" || c.Trust == nil {
		return errors.New("delegation: origin and trust bundle are required")
	}
	if c.Log == nil || c.Certifier == nil || c.Statements == nil || c.Policy == nil {
		return errors.New("delegation: log, certifier, statements and policy are required")
	}
	if c.Ready == nil || c.Signing == nil || c.Provider == nil || c.Proofs == nil || c.Pseudonym == nil || c.Now == nil || c.Rand == nil || c.Logger == nil {
		return errors.New("delegation: ready, provider, proofs, pseudonym, clock, randomness and logger are required")
	}
	return nil
}

// Run does what no request waits for, until ctx ends: it stores released signatures and writes what was aggregated.
func (s *Service) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.runKeeper(ctx) })
	g.Go(func() error { return s.runMalformed(ctx) })
	g.Go(func() error { return s.runDrop(ctx) })
	g.Go(func() error { return s.runFeed(ctx) })
	return g.Wait()
}

// dropEvery is how often revocations are looked at that nothing valid can name any more.
const dropEvery = time.Minute

func (s *Service) runDrop(ctx context.Context) error {
	tick := time.NewTicker(dropEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.revoked.drop(s.cfg.Now())
			s.feed.drop(s.cfg.Now())
		}
	}
}

func (s *Service) runMalformed(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return s.flushMalformed(context.WithoutCancel(ctx))
		case <-tick.C:
			if err := s.flushMalformed(ctx); err != nil {
				s.cfg.Logger.Warn("malformed requests were not recorded", slog.Any("error", err))
			}
		}
	}
}

// newID makes a UUIDv7.
func (s *Service) newID() (string, error) {
	id, err := uuidv7(s.cfg.Rand, s.cfg.Now())
	if err != nil {
		return "", internal("make an id", err)
	}
	return id, nil
}

// secret makes 256 random bits.
func (s *Service) secret() ([32]byte, error) {
	var b [32]byte
	if _, err := io.ReadFull(s.cfg.Rand, b[:]); err != nil {
		return b, internal("read randomness", err)
	}
	return b, nil
}

func tbsHash(c *x509.Certificate) [32]byte { return sha256.Sum256(c.RawTBSCertificate) }
