package review

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/policy"
)

// Answer is what policy said.
type Answer struct {
	Allow           bool
	Reasons         []string
	ObligationsHash string // as in the log's decisions; "" where there are none
}

func (a Answer) equal(b Answer) bool {
	return a.Allow == b.Allow && slices.Equal(a.Reasons, b.Reasons) && a.ObligationsHash == b.ObligationsHash
}

// answerOf is a decision as the log has it.
func answerOf(d policy.Decision) (Answer, error) {
	out := Answer{Allow: d.Allow, Reasons: d.Reasons}
	if len(d.Obligations) == 0 {
		return out, nil
	}
	b, err := json.Marshal(d.Obligations)
	if err != nil {
		return out, fmt.Errorf("review: obligations: %w", err)
	}
	out.ObligationsHash = digest(b)
	return out, nil
}

// Question is an entry about which policy was asked.
type Question struct {
	Index      uint64
	Time       time.Time
	DecisionID string // of access decisions
	Policy     string // digest of the bundle that answered
	Input      policy.Input
	Answer     Answer // policy's own
}

// errOverruled is of decisions that policy allowed and that were denied all the same: nothing that it says changes them.
var errOverruled = errors.New("review: overruled")

// errBusy is of questions that policy had no place to answer.
var errBusy = errors.New("review: not evaluated")

// errOther is of entries about which policy is never asked.
var errOther = errors.New("review: another kind of entry")

// asked is what the bodies and payloads of the entries have in common.
type asked struct {
	body struct {
		DecisionID      string   `json:"decision_id"`
		Allow           bool     `json:"allow"`
		PolicyAllow     bool     `json:"policy_allow"`
		Reasons         []string `json:"reasons"`
		InputHash       string   `json:"input_hash"`
		ObligationsHash string   `json:"obligations_hash"`
	}
	payload struct {
		Input json.RawMessage `json:"input"`
	}
}

// question reads an entry. The errors are those of this package.
func question(e record.Stored) (Question, error) {
	env, err := record.Check(e.Envelope)
	if err != nil {
		return Question{}, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	q := Question{Index: e.Index, Time: env.Time, Policy: env.Policy}
	switch env.Type {
	case record.TypeDecision, record.TypeIssue, record.TypeEnrollment, record.TypeToken, record.TypeDeny:
	default:
		return q, errOther
	}
	var a asked
	if err := json.Unmarshal(env.Body, &a.body); err != nil {
		return q, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	switch {
	case a.body.InputHash == "" && env.Type == record.TypeDecision:
		return q, ErrNoInput
	case a.body.InputHash == "":
		return q, errOther
	case env.PayloadHash != "" && e.Payload == nil:
		return q, ErrErased
	}
	return a.read(q, env, e.Payload)
}

// read takes the input, which must be the one that the envelope has the digest of.
func (a asked) read(q Question, env record.Envelope, payload []byte) (Question, error) {
	if err := json.Unmarshal(payload, &a.payload); err != nil {
		return q, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	if digest(a.payload.Input) != a.body.InputHash {
		return q, fmt.Errorf("%w: another digest", ErrUnreadable)
	}
	var err error
	if q.Input, err = policy.Parse(a.payload.Input); err != nil {
		return q, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	q.DecisionID = a.body.DecisionID
	q.Answer = Answer{Allow: a.body.Allow, Reasons: a.body.Reasons, ObligationsHash: a.body.ObligationsHash}
	switch {
	case env.Type != record.TypeDecision:
		q.Answer.Allow = env.Type != record.TypeDeny
	case a.body.PolicyAllow && !a.body.Allow:
		return q, errOverruled
	}
	if slices.Contains(q.Answer.Reasons, policy.ReasonBusy) {
		return q, errBusy
	}
	return q, nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
