package witness

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Bounds of a policy.
const (
	maxPolicy  = 64 << 10
	maxMembers = 64 // logs, witnesses, groups: of each
)

// Policy says which cosignatures make a checkpoint valid (C2SP tlog-policy). The zero Policy is satisfied by nothing.
type Policy struct {
	logs      []Log
	witnesses []Key
	names     []string // of witnesses, in the policy
	nodes     map[string]node
	quorum    string
}

// node is a witness, or a group of which k members must have cosigned.
type node struct {
	witness int // index, or -1
	k       int
	members []string
}

const none = "none"

// NewPolicy is a log's own: k of these witnesses, each named as its key.
func NewPolicy(log string, witnesses []Key, k int) (text []byte, err error) {
	text = fmt.Appendf(nil, "log %s\n", log)
	if len(witnesses) == 0 {
		return append(text, "quorum none\n"...), nil
	}
	group := fmt.Sprintf("group witnesses %d", k)
	for _, w := range witnesses {
		text = fmt.Appendf(text, "witness %s %s\n", w.name, w.text)
		group += " " + w.name
	}
	text = fmt.Appendf(text, "%s\nquorum witnesses\n", group)
	_, err = ParsePolicy(text)
	return text, err
}

// ParsePolicy reads a policy. Errors match [ErrMalformed] and name the line.
func ParsePolicy(text []byte) (*Policy, error) {
	if len(text) > maxPolicy {
		return nil, fmt.Errorf("%w: a policy of more than %d bytes", ErrMalformed, maxPolicy)
	}
	body, ok := strings.CutSuffix(string(text), "\n")
	if !ok {
		return nil, fmt.Errorf("%w: the policy does not end with a line feed", ErrMalformed)
	}
	p := &Policy{nodes: map[string]node{}}
	used := map[string]bool{}
	for i, raw := range strings.Split(body, "\n") {
		if err := p.parseLine(raw, used); err != nil {
			return nil, fmt.Errorf("%w: policy, line %d: %w", ErrMalformed, i+1, err)
		}
	}
	if p.quorum == "" {
		return nil, fmt.Errorf("%w: the policy has no quorum", ErrMalformed)
	}
	return p, nil
}

func (p *Policy) parseLine(raw string, used map[string]bool) error {
	if i := strings.IndexFunc(raw, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }); i >= 0 {
		return fmt.Errorf("control character at byte %d", i+1)
	}
	// Blanks are space and tab alone; strings.Fields knows more.
	f := strings.FieldsFunc(raw, func(r rune) bool { return r == ' ' || r == '\t' })
	if len(f) == 0 || strings.HasPrefix(f[0], "#") {
		return nil
	}
	switch {
	case f[0] == "log" && (len(f) == 2 || len(f) == 3):
		return p.addLog(f[1])
	case f[0] == "witness" && (len(f) == 3 || len(f) == 4):
		return p.addWitness(f[1], f[2])
	case f[0] == "group" && len(f) >= 4:
		return p.addGroup(f[1], f[2], f[3:], used)
	case f[0] == "quorum" && len(f) == 2:
		return p.setQuorum(f[1])
	}
	return fmt.Errorf("not a line of a policy: %.40q with %d words", f[0], len(f))
}

func (p *Policy) addLog(key string) error {
	l, err := ParseLog(key)
	if err != nil {
		return err
	}
	if len(p.logs) == maxMembers || slices.ContainsFunc(p.logs, func(o Log) bool { return o.material == l.material }) {
		return fmt.Errorf("a second log of that key, or more than %d", maxMembers)
	}
	p.logs = append(p.logs, l)
	return nil
}

func (p *Policy) addWitness(name, key string) error {
	k, err := ParseKey(key)
	if err != nil {
		return err
	}
	if len(p.witnesses) == maxMembers || slices.ContainsFunc(p.witnesses, func(o Key) bool { return o.material == k.material }) {
		return fmt.Errorf("a second witness of that key, or more than %d", maxMembers)
	}
	if err := p.define(name, node{witness: len(p.witnesses)}); err != nil {
		return err
	}
	p.witnesses, p.names = append(p.witnesses, k), append(p.names, name)
	return nil
}

func (p *Policy) define(name string, n node) error {
	if _, taken := p.nodes[name]; taken || name == none {
		return fmt.Errorf("the name %.40q is taken", name)
	}
	p.nodes[name] = n
	return nil
}

func (p *Policy) addGroup(name, threshold string, members []string, used map[string]bool) error {
	if len(p.nodes)-len(p.witnesses) == maxMembers {
		return fmt.Errorf("more than %d groups", maxMembers)
	}
	g := node{witness: -1, members: members}
	switch threshold {
	case "any":
		g.k = 1
	case "all":
		g.k = len(members)
	default:
		k, err := strconv.Atoi(threshold)
		if err != nil || k < 1 || k > len(members) || strconv.Itoa(k) != threshold {
			return fmt.Errorf("%.40q of %d members", threshold, len(members))
		}
		g.k = k
	}
	for _, m := range members {
		if _, known := p.nodes[m]; !known || used[m] {
			return fmt.Errorf("%.40q is not defined before, or is a member already", m)
		}
		used[m] = true
	}
	return p.define(name, g)
}

func (p *Policy) setQuorum(name string) error {
	if _, known := p.nodes[name]; !known && name != none || p.quorum != "" {
		return fmt.Errorf("%.40q is not defined before, or is a second quorum", name)
	}
	p.quorum = name
	return nil
}

// Demands reports whether any cosignature is demanded.
func (p *Policy) Demands() bool { return p.quorum != none }

// Lists reports whether the policy accepts checkpoints of that verifier key: one that names no log accepts all.
func (p *Policy) Lists(logKey string) bool {
	return len(p.logs) == 0 || slices.ContainsFunc(p.logs, func(l Log) bool { return l.text == logKey })
}

// satisfied reports whether a node counts as having cosigned. Members were defined before, and each is in one group: it ends.
func (p *Policy) satisfied(name string, cosigned []bool) bool {
	n, known := p.nodes[name]
	if !known {
		return name == none
	}
	if n.witness >= 0 {
		return cosigned[n.witness]
	}
	have := 0
	for _, m := range n.members {
		if p.satisfied(m, cosigned) {
			have++
		}
	}
	return have >= n.k
}
