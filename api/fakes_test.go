package api

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/ca"
	"github.com/signet-pki/signet/ca/ceremony"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/policy"
)

// memoryLog keeps entries in memory, checks preconditions at commit as the real log does, and shows itself as an api.Log.
type memoryLog struct {
	mu      sync.Mutex
	state   map[string][]byte
	entries []record.Entry
	broken  error         // what Export fails with, after some bytes
	sealed  uint64        // size of the last sealed tree
	sealing chan struct{} // closed by the next seal
	signed  atomic.Bool   // a signed checkpoint covers every entry
	minimum atomic.Uint64 // entries from 256 up to it were pruned
}

func (l *memoryLog) Append(_ context.Context, e record.Entry) (delegation.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := e.Check(); err != nil {
		return delegation.Position{}, err
	}
	for _, m := range e.Mutations {
		if !l.holds(m) {
			return delegation.Position{}, fmt.Errorf("precondition on %q: %w", m.Key, m.Pre.Err)
		}
	}
	l.apply(e.Mutations)
	l.entries = append(l.entries, e)
	return delegation.Position{Index: uint64(len(l.entries) - 1), LeafHash: record.LeafHash(e.Envelope)}, nil
}

func (l *memoryLog) holds(m record.Mutation) bool {
	v, ok := l.state[m.Key]
	switch m.Pre.Op {
	case record.Absent:
		return !ok
	case record.Present:
		return ok
	case record.Equal:
		return ok && bytes.Equal(v, m.Pre.Value)
	case record.None:
	}
	return true
}

func (l *memoryLog) apply(ms []record.Mutation) {
	for _, m := range ms {
		switch {
		case m.CheckOnly:
		case m.Delete:
			delete(l.state, m.Key)
		default:
			l.state[m.Key] = m.Value
		}
	}
}

func (l *memoryLog) Put(_ context.Context, ms []record.Mutation) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.apply(ms)
	return nil
}

func (l *memoryLog) Get(key string) ([]byte, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, ok := l.state[key]
	return v, ok, nil
}

func (l *memoryLog) Scan(_ context.Context, prefix, after string, limit int, fn func(string, []byte) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var keys []string
	for k := range l.state {
		if strings.HasPrefix(k, prefix) && k > after {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	for _, k := range keys[:min(limit, len(keys))] {
		if err := fn(k, l.state[k]); err != nil {
			return err
		}
	}
	return nil
}

// shown is the log as the API wants it.
type shownLog struct{ *memoryLog }

func (l shownLog) Pruned() (minimum, entry uint64, ok bool) {
	minimum = l.minimum.Load()
	return minimum, minimum + 7, minimum > 0
}

func (l shownLog) gone(n uint64) error {
	if n < 256 || n >= l.minimum.Load() {
		return nil
	}
	return fmt.Errorf("entry %d: %w", n, ErrPruned)
}

func (l shownLog) Entry(_ context.Context, n uint64) (Entry, error) {
	if err := l.gone(n); err != nil {
		return Entry{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n >= uint64(len(l.entries)) {
		return Entry{}, fmt.Errorf("entry %d: %w", n, ErrNotFound)
	}
	e := l.entries[n]
	return Entry{Index: n, Envelope: e.Envelope, Payload: e.Payload, Salt: e.Salt}, nil
}

func (l shownLog) Lookup(_ context.Context, kind, id string, from uint64, limit int) ([]uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []uint64
	for i, e := range l.entries {
		for _, t := range e.Terms {
			if t.Kind == kind && t.ID == id && uint64(i) >= from && len(out) < limit {
				out = append(out, uint64(i))
				break
			}
		}
	}
	return out, nil
}

func (l shownLog) Receipt(_ context.Context, n uint64, wait bool) ([]byte, error) {
	if !wait && !l.signed.Load() {
		return nil, fmt.Errorf("receipt: %w", ErrNotSealed)
	}
	return fmt.Appendf(nil, `{"index":%d,"envelope":"e30=","payload":"c2VjcmV0","salt":"c2FsdA==","proof":"a\n<b>"}`, n), nil
}

func (l shownLog) Export(_ context.Context, w io.Writer, of Selection) error {
	text := "a tar"
	if of != (Selection{}) {
		text = fmt.Sprintf("a tar of %s %s %v %s", of.Task, of.Agent, of.User, of.Pseudonym)
	}
	if _, err := io.WriteString(w, text); err != nil {
		return err
	}
	return l.broken
}

func (l shownLog) Checkpoint() []byte { return []byte("signet.example/log\n3\nhash\n") }

func (l shownLog) Tile(_ context.Context, level int, index uint64, width int) ([]byte, error) {
	if level > 0 || index > 0 {
		return nil, ErrNotFound
	}
	return bytes.Repeat([]byte{7}, 32*width), nil
}

func (l shownLog) EntryTile(_ context.Context, index uint64, _ int) ([]byte, error) {
	return []byte("entries"), l.gone(256 * index)
}

func (l shownLog) size() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.entries))
}

func (l shownLog) Inclusion(_ context.Context, _, size uint64) ([][32]byte, error) {
	if size > l.size() {
		return nil, fmt.Errorf("size %d: %w", size, ErrNotFound)
	}
	return [][32]byte{{1}, {2}}, nil
}

func (l shownLog) Consistency(_ context.Context, _, to uint64) ([][32]byte, error) {
	if to > l.size() {
		return nil, fmt.Errorf("size %d: %w", to, ErrNotFound)
	}
	return nil, nil
}

func (l shownLog) Proof(_ context.Context, n uint64) ([]byte, error) {
	if n >= l.size() {
		return nil, ErrNotFound
	}
	if n == l.size()-1 {
		return nil, ErrNotSealed
	}
	return fmt.Appendf(nil, "c2sp.org/tlog-proof@v1\nindex %d\n", n), nil
}

// WaitSealed knows the seal that the test made.
func (l shownLog) WaitSealed(ctx context.Context, index uint64) (uint64, error) {
	for {
		l.mu.Lock()
		covered, next := index < l.sealed, l.sealing
		l.mu.Unlock()
		if covered {
			return 7, nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// seal covers all entries that there are.
func (l *memoryLog) seal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sealed = uint64(len(l.entries))
	close(l.sealing)
	l.sealing = make(chan struct{})
}

func (l shownLog) Seal(_ context.Context, n uint64) (Seal, error) {
	if n > 1 {
		return Seal{}, ErrNotFound
	}
	b := []byte{1}
	return Seal{
		Number: n, Text: []byte("signet/seal@v1\n"), Quote: b, QuoteSig: b, PCRs: b, CounterAttest: b, CounterSig: b,
	}, nil
}

// count is the number of entries with this type and code.
func (l *memoryLog) count(typ record.Type, code string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, e := range l.entries {
		if env, err := record.Check(e.Envelope); err == nil && env.Type == typ && (code == "" || env.Code == code) {
			n++
		}
	}
	return n
}

func (l *memoryLog) at(t *testing.T, n uint64) record.Envelope {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	env, err := record.Check(l.entries[n].Envelope)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func (l *memoryLog) payload(n uint64) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entries[n].Payload
}

// softKeys makes the ceremony's keys in memory.
type softKeys map[string]crypto.Signer

func (k softKeys) Generate(_ context.Context, _ ceremony.Role, label string) (crypto.Signer, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	k[label] = key
	return key, "test:" + label, err
}

// certifier issues with real CAs over software keys.
type certifier struct{ agents, services *ca.Issuer }

type prepared struct {
	*ca.Prepared
	issuer *ca.Issuer
}

func (p prepared) Facts() delegation.Facts {
	return delegation.Facts{Serial: p.Serial(), NotBefore: p.NotBefore(), NotAfter: p.NotAfter(), IssuerSPKIHash: chain.SPKIHash(p.issuer.Certificate())}
}

func (c *certifier) of(k chain.Kind) *ca.Issuer {
	if k == chain.Agent {
		return c.agents
	}
	return c.services
}

func (c *certifier) Prepare(t delegation.Template) (delegation.Prepared, error) {
	var p *ca.Prepared
	var err error
	if t.ID.Kind() == chain.Agent {
		p, err = c.agents.PrepareAgent(ca.AgentRequest{
			SPIFFEID: t.ID.String(), CommonName: t.ID.AgentID(), SPKI: t.SPKI, NotAfter: t.NotAfter, Delegation: t.Delegation,
		}, time.Now())
	} else {
		p, err = c.services.PrepareService(ca.ServiceRequest{SPIFFEID: t.ID.String(), CommonName: t.ID.Name(), SPKI: t.SPKI, NotAfter: t.NotAfter}, time.Now())
	}
	return prepared{p, c.of(t.ID.Kind())}, err
}

func (c *certifier) Resume(k chain.Kind, tbs []byte) (delegation.Prepared, error) {
	p, err := c.of(k).Resume(tbs)
	return prepared{p, c.of(k)}, err
}

func (c *certifier) Issue(ctx context.Context, p delegation.Prepared) ([][]byte, error) {
	own, ok := p.(prepared)
	if !ok {
		return nil, errors.New("not prepared here")
	}
	cert, err := own.issuer.Issue(ctx, own.Prepared)
	if err != nil {
		return nil, err
	}
	return cert.Chain, nil
}

func (c *certifier) Limit(chain.Kind) time.Time { return time.Now().Add(24 * time.Hour) }

type permit struct{ w *world }

func (p permit) Decide(context.Context, policy.Input) policy.Decision {
	d := policy.Decision{Allow: true, Digest: "00", Advice: []json.RawMessage{[]byte(`{"id":"note"}`)}}
	if p.w.obliges {
		d.Obligations = []json.RawMessage{[]byte(`{"id":"mask"}`)}
	}
	return d
}

// noProofs accepts no consent that is given elsewhere than on the pages.
type noProofs struct{}

var errNoProof = &delegation.Error{Kind: delegation.Forbidden, Code: "signature_invalid", Field: "jws"}

func (noProofs) Signed(string) (delegation.Approval, error) { return delegation.Approval{}, errNoProof }

func (noProofs) Exchanged(context.Context, string, delegation.TokenExchange, func(string, string) ([]byte, error)) (delegation.Approval, error) {
	return delegation.Approval{}, errNoProof
}

func (noProofs) Event(context.Context, string) (delegation.IdentityEvent, error) {
	return delegation.IdentityEvent{}, &delegation.Error{Kind: delegation.Forbidden, Code: "set_key"}
}
