package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// By is what a selection is by.
type By string

// The kinds of selections.
const (
	ByUser  By = "user"  // the keyed pseudonym in envelopes
	ByTask  By = "task"  // a UUID
	ByAgent By = "agent" // a UUID: the agent, and all agents below it
)

// Selection asks for what belongs to one user, task or agent. Such a bundle holds every envelope all the same, so that who verifies
// it finds by themselves what belongs to it, and what stands beside the envelopes of these entries alone.
type Selection struct {
	By By     `json:"by"`
	ID string `json:"id"`
}

// Check refuses what no entry can belong to.
func (s Selection) Check() error {
	switch s.By {
	case ByUser:
		if isHash(s.ID) {
			return nil
		}
		return errors.New("selection: id: not a user's pseudonym, 64 lower-case hexadecimal digits")
	case ByTask, ByAgent:
		if raw, err := chain.ParseUUID(s.ID); err == nil && chain.FormatUUID(raw) == s.ID {
			return nil
		}
		return errors.New("selection: id: not a UUID in lower case")
	default:
		return errors.New("selection: by: not user, task or agent")
	}
}

// String names it for people.
func (s Selection) String() string { return string(s.By) + " " + s.ID }

// ParseSelection reads selection.json, in the one spelling that [Write] gives it.
func ParseSelection(data []byte) (Selection, error) {
	line, whole := bytes.CutSuffix(data, []byte("\n"))
	if !whole {
		return Selection{}, errors.New("selection: does not end in a line feed")
	}
	var s Selection
	if err := exact(line, &s); err != nil {
		return Selection{}, fmt.Errorf("selection: %w", err)
	}
	if err := s.Check(); err != nil {
		return Selection{}, err
	}
	return s, nil
}

func (s Selection) marshal() ([]byte, error) {
	var out bytes.Buffer
	err := jsonLine(&out, s)
	return out.Bytes(), err
}

// choice is what a selection comes to over the envelopes of a bundle. Writer and verifier make it by the same code from the same
// envelopes, never from an index. A nil choice is that of everything. It does not change once it is made.
type choice struct {
	Selection
	grants   map[string]bool // of the user, or of the task
	tasks    map[string]bool // of the user
	agents   map[string]bool // the agent, and those below it
	consents map[string]bool // grants whose evidence the chains rest on
	supports map[uint64]bool // issue entries whose certificates and statements they rest on

	keys   map[string]uint64 // of the hops of these chains, by hash: the first entry with it, as far as it was read
	signed map[string]uint64 // delegators' statements, likewise
}

// choose reads the given files of entries twice: forwards for what is below the selection, and backwards for what the chains found rest on,
// since delegators stand before whom they delegate to. read gives the lines of a file. Lines that are no entries belong to nothing.
func choose(ctx context.Context, s Selection, files []uint64, read func(n uint64) ([][]byte, error)) (*choice, error) {
	c := &choice{
		Selection: s, grants: map[string]bool{}, tasks: map[string]bool{}, agents: map[string]bool{}, consents: map[string]bool{}, supports: map[uint64]bool{},
		keys: map[string]uint64{}, signed: map[string]uint64{},
	}
	if s.By == ByAgent {
		c.agents[s.ID] = true
	}
	pass := func(order iter.Seq2[int, uint64], take func(n uint64, list [][]byte)) error {
		for _, n := range order {
			list, err := read(n)
			if err = errors.Join(err, ctx.Err()); err != nil {
				return err
			}
			take(n, list)
		}
		return nil
	}
	if err := pass(slices.All(files), c.learnFile); err != nil {
		return nil, err
	}
	if err := pass(slices.Backward(files), c.needFile); err != nil {
		return nil, err
	}
	for _, firsts := range []map[string]uint64{c.keys, c.signed} {
		for _, index := range firsts {
			c.supports[index] = true
		}
	}
	return c, nil
}

func (c *choice) learnFile(_ uint64, list [][]byte) {
	for _, line := range list {
		if env, err := record.Check(line); err == nil {
			c.learn(&env)
		}
	}
}

func (c *choice) needFile(n uint64, list [][]byte) {
	for i, line := range slices.Backward(list) {
		if !bytes.Contains(line, []byte(record.TypeIssue)) && bytes.IndexByte(line, '\\') < 0 {
			continue // without escapes the word would stand there
		}
		if env, err := record.Check(line); err == nil {
			c.need(n*chunk+uint64(i), &env) //nolint:gosec // G115: at most 256
		}
	}
}

// belongs says whether an entry is one of those that were asked for. Where an entry names no user, that of its grant is meant, or of its task; where
// it names no task, that of its grant.
func (c *choice) belongs(env *record.Envelope) bool {
	switch {
	case c == nil:
		return true
	case c.By == ByUser:
		return env.User == c.ID || env.User == "" && (c.grants[env.Grant] || env.Grant == "" && c.tasks[env.Task])
	case c.By == ByTask:
		return env.Task == c.ID || env.Task == "" && c.grants[env.Grant]
	case c.By == ByAgent:
		return c.agents[env.Agent] || c.agents[env.Parent] || slices.ContainsFunc(agentsOf(env), func(id string) bool { return c.agents[id] })
	}
	return false
}

// beside says whether certificate and statements of an issue entry belong into the bundle: its own, and those of the chains' delegators.
func (c *choice) beside(index uint64, env *record.Envelope) bool {
	return c == nil || c.supports[index] || c.belongs(env)
}

// consent says whether a grant's evidence belongs into the bundle.
func (c *choice) consent(grant string) bool { return c == nil || c.consents[grant] }

// learn notes grants and agents, which come before what is done under them.
func (c *choice) learn(env *record.Envelope) {
	switch {
	case c.By == ByAgent && (env.Type == record.TypeIssue || env.Type == record.TypeEnrollment) && c.belongs(env):
		for _, id := range append(agentsBelow(env, c.agents), env.Agent) {
			if id != "" {
				c.agents[id] = true
			}
		}
	case env.Type == record.TypeGrant && env.Grant != "" && (c.By == ByUser && env.User == c.ID || c.By == ByTask && env.Task == c.ID):
		c.grants[env.Grant], c.consents[env.Grant] = true, true
		if env.Task != "" {
			c.tasks[env.Task] = true
		}
	}
}

// need notes what a chosen entry, or one that a chosen one rests on, rests on itself.
func (c *choice) need(index uint64, env *record.Envelope) {
	if env.Type != record.TypeIssue {
		return
	}
	body, err := record.DecodeBody[record.IssueBody](*env)
	if err != nil {
		return // reported with the entry
	}
	chosen := c.belongs(env)
	if _, known := c.keys[body.SPKIHash]; known {
		c.keys[body.SPKIHash], chosen = index, true
	}
	if n := len(body.Hops); n > 0 {
		if _, known := c.signed[body.Hops[n-1].Confirmation]; known {
			c.signed[body.Hops[n-1].Confirmation], chosen = index, true
		}
	}
	if chosen {
		c.rest(index, env.Grant, &body)
	}
}

// rest notes what the chain of an issue entry is verified with. Until an earlier entry has it, it counts as this one's.
func (c *choice) rest(index uint64, grant string, body *record.IssueBody) {
	note := func(in map[string]uint64, hash string) {
		if _, known := in[hash]; !known && hash != "" {
			in[hash] = index
		}
	}
	if grant != "" {
		c.consents[grant] = true
	}
	for _, hop := range body.Hops {
		note(c.keys, hop.SPKIHash)
		note(c.signed, hop.Confirmation)
	}
	if body.Rekey != nil {
		note(c.keys, body.Rekey.PreviousSPKIHash)
	}
}

// agentsOf are the agents in the chain of an entry.
func agentsOf(env *record.Envelope) []string {
	switch env.Type {
	case record.TypeIssue, record.TypeEnrollment, record.TypeDecision:
	default:
		return nil
	}
	var body struct {
		Hops []struct {
			ID string `json:"id"`
		} `json:"hops"`
	}
	if len(env.Body) == 0 || json.Unmarshal(env.Body, &body) != nil {
		return nil // reported with the entry
	}
	var out []string
	for _, hop := range body.Hops {
		if id, err := chain.ParseID(hop.ID); err == nil && id.Kind() == chain.Agent {
			out = append(out, id.AgentID())
		}
	}
	return out
}

// agentsBelow are those of a chain that come after one of these.
func agentsBelow(env *record.Envelope, of map[string]bool) []string {
	list := agentsOf(env)
	i := slices.IndexFunc(list, func(id string) bool { return of[id] })
	if i < 0 {
		return nil
	}
	return list[i:]
}
