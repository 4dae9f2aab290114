package chain

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gowebpki/jcs"
)

const (
	grantVersion     = 1
	maxOriginBytes   = 256
	maxClientIDBytes = 256
)

// GrantDocument is what the user consents to. Its only form is canonical JSON (RFC 8785), and SHA-256 of that is the
// WebAuthn challenge, the OIDC nonce and the par_hash of the first delegation.
type GrantDocument struct {
	GrantID         string    // UUIDv7
	Random          [32]byte  // 256 random bits, so that the hash tells nothing
	Origin          string    // of the log: printable ASCII, at most 256 bytes
	Issuer          string    // OIDC iss of the identity provider
	ClientID        string    // OIDC client_id of the consent
	Subject         string    // OIDC sub of the expected user
	TaskID          string    // UUIDv7
	Task            string    // purpose, for people: 1 to MaxTaskRunes printable runes
	Scope           Scope     //
	MaxDepth        int       // 1 to MaxDepth
	NotAfter        time.Time // UTC, whole seconds
	AgentTypes      []string  // 1 to MaxAgentTypes, distinct
	Orchestrator    string    // SPIFFE ID
	OrchestratorKey [32]byte  // SHA-256 of its SubjectPublicKeyInfo
}

// grantJSON is the wire form. All members are required.
type grantJSON struct {
	Version         int      `json:"v"`
	GrantID         string   `json:"grant_id"`
	Random          string   `json:"random"`
	Origin          string   `json:"origin"`
	Issuer          string   `json:"issuer"`
	ClientID        string   `json:"client_id"`
	Subject         string   `json:"subject"`
	TaskID          string   `json:"task_id"`
	Task            string   `json:"task"`
	Scope           []string `json:"scope"`
	MaxDepth        int      `json:"max_depth"`
	NotAfter        string   `json:"not_after"` // 2006-01-02T15:04:05Z
	AgentTypes      []string `json:"agent_types"`
	Orchestrator    string   `json:"orchestrator"`
	OrchestratorKey string   `json:"orchestrator_key"`
}

const grantTimeLayout = "2006-01-02T15:04:05Z"

// Canonical validates the document and returns its bytes.
func (g GrantDocument) Canonical() ([]byte, error) {
	if err := g.validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGrantDocument, err)
	}
	data, err := json.Marshal(grantJSON{
		Version: grantVersion, GrantID: g.GrantID, Random: encodeBase64(g.Random[:]), Origin: g.Origin, Issuer: g.Issuer,
		ClientID: g.ClientID, Subject: g.Subject, TaskID: g.TaskID, Task: g.Task, Scope: g.Scope.Strings(), MaxDepth: g.MaxDepth,
		NotAfter: g.NotAfter.UTC().Format(grantTimeLayout), AgentTypes: g.AgentTypes, Orchestrator: g.Orchestrator,
		OrchestratorKey: encodeBase64(g.OrchestratorKey[:]),
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGrantDocument, err)
	}
	canonical, err := jcs.Transform(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGrantDocument, err)
	}
	if len(canonical) > MaxGrantBytes {
		return nil, fmt.Errorf("%w: %d bytes; at most %d are allowed", ErrGrantDocument, len(canonical), MaxGrantBytes)
	}
	return canonical, nil
}

// Hash is SHA-256 of Canonical.
func (g GrantDocument) Hash() ([32]byte, error) {
	canonical, err := g.Canonical()
	if err != nil {
		return [32]byte{}, err
	}
	return sha256.Sum256(canonical), nil
}

// Nonce is Hash in base64url, as the OIDC nonce and the WebAuthn challenge spell it.
func (g GrantDocument) Nonce() (string, error) {
	sum, err := g.Hash()
	if err != nil {
		return "", err
	}
	return encodeBase64(sum[:]), nil
}

// Grant is the part that goes into certificates. evidence is SHA-256 of the consent's evidence.
func (g GrantDocument) Grant(consent ConsentType, evidence [32]byte) (Grant, error) {
	if err := g.validate(); err != nil {
		return Grant{}, fmt.Errorf("%w: %w", ErrGrantDocument, err)
	}
	id, err := ParseUUID(g.GrantID)
	if err != nil {
		return Grant{}, fmt.Errorf("%w: grant_id: %w", ErrGrantDocument, err)
	}
	out := Grant{
		Issuer: g.Issuer, Subject: g.Subject, GrantID: id, Consent: consent, EvidenceHash: evidence,
		Scope: slices.Clone(g.Scope), NotAfter: g.NotAfter.UTC(), MaxDepth: g.MaxDepth,
	}
	if err := out.validate(); err != nil {
		return Grant{}, within("grant", err)
	}
	return out, nil
}

// ParseGrantDocument accepts exactly the bytes that Canonical returns: unknown, missing, duplicate and null members, other
// orders, spaces and spellings are refused.
func ParseGrantDocument(data []byte) (GrantDocument, error) {
	g, err := decodeGrant(data)
	if err != nil {
		return GrantDocument{}, fmt.Errorf("%w: %w", ErrGrantDocument, err)
	}
	again, err := g.Canonical()
	if err != nil {
		return GrantDocument{}, err
	}
	if !bytes.Equal(data, again) {
		return GrantDocument{}, fmt.Errorf("%w: not canonical JSON (RFC 8785)", ErrGrantDocument)
	}
	return g, nil
}

func decodeGrant(data []byte) (GrantDocument, error) {
	if len(data) > MaxGrantBytes {
		return GrantDocument{}, fmt.Errorf("%d bytes; at most %d are allowed", len(data), MaxGrantBytes)
	}
	var w grantJSON
	required := []string{
		"v", "grant_id", "random", "origin", "issuer", "client_id", "subject", "task_id", "task", "scope", "max_depth", "not_after",
		"agent_types", "orchestrator", "orchestrator_key",
	}
	if err := decodeObject(data, &w, required, nil); err != nil {
		return GrantDocument{}, err
	}
	if w.Version != grantVersion {
		return GrantDocument{}, fmt.Errorf("v: %d is not known", w.Version)
	}
	g := GrantDocument{
		GrantID: w.GrantID, Origin: w.Origin, Issuer: w.Issuer, ClientID: w.ClientID, Subject: w.Subject, TaskID: w.TaskID,
		Task: w.Task, MaxDepth: w.MaxDepth, AgentTypes: w.AgentTypes, Orchestrator: w.Orchestrator,
	}
	var err error
	if g.Random, err = decodeHash(w.Random); err != nil {
		return GrantDocument{}, fmt.Errorf("random: %w", err)
	}
	if g.OrchestratorKey, err = decodeHash(w.OrchestratorKey); err != nil {
		return GrantDocument{}, fmt.Errorf("orchestrator_key: %w", err)
	}
	if g.Scope, err = ParseScope(w.Scope); err != nil {
		return GrantDocument{}, err
	}
	if g.NotAfter, err = time.Parse(grantTimeLayout, w.NotAfter); err != nil {
		return GrantDocument{}, fmt.Errorf("not_after is not of the form %s", grantTimeLayout)
	}
	return g, nil
}

func (g *GrantDocument) validate() error {
	if _, err := ParseUUID(g.GrantID); err != nil {
		return fmt.Errorf("grant_id: %w", err)
	}
	if _, err := ParseUUID(g.TaskID); err != nil {
		return fmt.Errorf("task_id: %w", err)
	}
	if g.Random == ([32]byte{}) || g.OrchestratorKey == ([32]byte{}) {
		return fmt.Errorf("random or orchestrator_key is all zero")
	}
	if err := g.validateTexts(); err != nil {
		return err
	}
	if err := checkLimits(g.Scope, g.NotAfter, g.MaxDepth); err != nil {
		return err
	}
	if g.MaxDepth < 1 || g.MaxDepth > MaxDepth {
		return fmt.Errorf("max_depth is not in 1 to %d", MaxDepth)
	}
	id, err := ParseID(g.Orchestrator)
	if err != nil {
		return fmt.Errorf("orchestrator: %w", err)
	}
	if id.Kind() != Orchestrator {
		return fmt.Errorf("orchestrator names a %s", id.Kind())
	}
	return g.validateAgentTypes()
}

func (g *GrantDocument) validateTexts() error {
	if !printable(g.Origin, maxOriginBytes) {
		return fmt.Errorf("origin is not 1 to %d printable ASCII characters", maxOriginBytes)
	}
	if err := checkText("issuer", g.Issuer, MaxIssuerBytes); err != nil {
		return err
	}
	if err := checkText("client_id", g.ClientID, maxClientIDBytes); err != nil {
		return err
	}
	if err := checkText("subject", g.Subject, MaxSubjectBytes); err != nil {
		return err
	}
	// The user reads it on the consent page: no control, direction or line characters.
	if n := utf8.RuneCountInString(g.Task); n < 1 || n > MaxTaskRunes || !utf8.ValidString(g.Task) {
		return fmt.Errorf("task is not 1 to %d runes of UTF-8", MaxTaskRunes)
	}
	for _, r := range g.Task {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("task has the unprintable character %U", r)
		}
	}
	return nil
}

func (g *GrantDocument) validateAgentTypes() error {
	if len(g.AgentTypes) == 0 || len(g.AgentTypes) > MaxAgentTypes {
		return fmt.Errorf("agent_types has %d elements; 1 to %d are allowed", len(g.AgentTypes), MaxAgentTypes)
	}
	for i, t := range g.AgentTypes {
		if err := CheckAgentType(t); err != nil {
			return fmt.Errorf("agent_types[%d]: %w", i, err)
		}
		if slices.Contains(g.AgentTypes[:i], t) {
			return fmt.Errorf("agent_types[%d] is a duplicate", i)
		}
	}
	return nil
}
