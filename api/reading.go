package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
)

const (
	defaultPage = 100
	maxPage     = 1000
	pageBytes   = 2 << 20 // of envelopes, after which a page ends early
)

// limit reads how much a page holds.
func (c *call) limit() (int, error) { return c.limitOf(defaultPage, maxPage) }

func (c *call) limitOf(usual, most int) (int, error) {
	text := c.query.Get("limit")
	if text == "" {
		return usual, nil
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 || limit > most {
		return 0, invalid(codeBadParameter, "limit", "1 to "+strconv.Itoa(most))
	}
	return limit, nil
}

// page reads cursor and limit.
func (c *call) page() (from uint64, limit int, err error) { return c.pageOf(defaultPage, maxPage) }

func (c *call) pageOf(usual, most int) (from uint64, limit int, err error) {
	if limit, err = c.limitOf(usual, most); err != nil {
		return 0, 0, err
	}
	if text := c.query.Get("cursor"); text != "" {
		if from, err = number(text); err != nil {
			return 0, 0, invalid(codeBadParameter, "cursor", "next_cursor of an earlier page")
		}
	}
	return from, limit, nil
}

var errNumber = errors.New("api: not a decimal number")

// number reads a canonical decimal number.
func number(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != text {
		return 0, errNumber
	}
	return n, nil
}

// terms are the kinds of index terms, which are the names of the query's parameters.
func terms() []string {
	return []string{"agent", "task", "grant", "user", "orchestrator", "serial", "decision"}
}

// term is the one that the query names; "" for none.
func (c *call) term() (kind, id string, err error) {
	for _, k := range terms() {
		v := c.query.Get(k)
		if v == "" {
			continue
		}
		if kind != "" {
			return "", "", invalid(codeBadParameter, k, "one term at a time")
		}
		if !printable(v, 256) {
			return "", "", invalid(codeBadParameter, k, "at most 256 printable ASCII characters")
		}
		kind, id = k, v
	}
	return kind, id, nil
}

func (s *Server) searchEntries(c *call) (v1.EntryPage, error) {
	none := v1.EntryPage{}
	from, limit, err := c.page()
	if err != nil {
		return none, err
	}
	kind, id, err := c.term()
	if err != nil {
		return none, err
	}
	// One more than is shown tells whether there is a next page.
	indexes, err := s.indexes(c.ctx, kind, id, from, limit+1)
	if err != nil {
		return none, err
	}
	out := v1.EntryPage{Entries: make([]v1.Entry, 0, min(len(indexes), limit))}
	size := 0
	for i, n := range indexes {
		if i == limit || size > pageBytes {
			out.NextCursor = strconv.FormatUint(n, 10)
			break
		}
		e, err := s.cfg.Log.Entry(c.ctx, n)
		if errors.Is(err, ErrNotFound) && kind == "" {
			break // the end of the log
		}
		if err != nil {
			return none, err
		}
		size += len(e.Envelope)
		out.Entries = append(out.Entries, wireEntry(e, false))
	}
	return out, nil
}

// indexes are those of a term, or without one all from there on.
func (s *Server) indexes(ctx context.Context, kind, id string, from uint64, limit int) ([]uint64, error) {
	if kind != "" {
		return s.cfg.Log.Lookup(ctx, kind, id, from, limit)
	}
	minimum, _, _ := s.cfg.Log.Pruned()
	out := make([]uint64, limit)
	for i := range out {
		if from >= tileWidth && from < minimum {
			from = minimum
		}
		out[i] = from
		from++
	}
	return out, nil
}

func wireEntry(e Entry, whole bool) v1.Entry {
	out := v1.Entry{Index: e.Index, Entry: e.Envelope, Envelope: e.Envelope}
	if whole {
		out.Payload, out.Salt = e.Payload, e.Salt
	}
	return out
}

// entry finds the entry that the path names.
func (s *Server) entry(c *call) (Entry, error) {
	n, err := number(c.param("index"))
	if err != nil {
		return Entry{}, errNoEntry()
	}
	e, err := s.cfg.Log.Entry(c.ctx, n)
	if errors.Is(err, ErrNotFound) {
		return Entry{}, errNoEntry()
	}
	return e, err
}

func errNoEntry() error {
	return refuse(delegation.NotFound, "entry_not_found", "index", "no such entry")
}

func (s *Server) readEntry(c *call) (v1.Entry, error) {
	e, err := s.entry(c)
	if err != nil {
		return v1.Entry{}, err
	}
	return wireEntry(e, true), nil
}

// parties are those whom an envelope names.
type parties struct {
	Agent        string `json:"agent"`
	Parent       string `json:"parent"`
	Orchestrator string `json:"orchestrator"`
	Service      string `json:"service"`
}

// names says whether an entry is about its reader. Staff read all: envelopes hold no personal data.
func (p parties) names(by delegation.Caller) bool {
	switch roleOf(by) {
	case orchestrator:
		return p.Orchestrator == by.ID.Name()
	case agent:
		return p.Agent == by.ID.AgentID() || p.Parent == by.ID.AgentID()
	case service:
		return p.Service == by.ID.Name()
	case operator, officer, auditor, privacy:
		return true
	default:
		return false
	}
}

func (s *Server) readReceipt(c *call) (reply, error) {
	e, err := s.entry(c)
	if err != nil {
		return reply{}, err
	}
	if err := c.concerned(e); errors.Is(err, errNotTheirs) {
		return reply{}, errNoEntry()
	} else if err != nil {
		return reply{}, err
	}
	wait, err := c.waitsSealed()
	if err != nil {
		return reply{}, err
	}
	raw, err := s.prove(c, e.Index, wait)
	if err != nil {
		return reply{}, err
	}
	raw, err = c.shownReceipt(raw)
	return reply{status: http.StatusOK, raw: raw, media: mediaJSON}, err
}

// withhold takes the payload out of a receipt: it names people, and parties have no more right to it than to the entry
// itself. A verifier reports it as withheld; everything else it proves as before.
func withhold(receipt []byte) ([]byte, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(receipt, &members); err != nil {
		return nil, fmt.Errorf("api: receipt: %w", err)
	}
	delete(members, "payload")
	delete(members, "salt")
	return json.Marshal(members)
}

// prove gets a receipt. Waiting takes one of the places for what is slow.
func (s *Server) prove(c *call, index uint64, wait bool) ([]byte, error) {
	if !wait {
		return s.cfg.Log.Receipt(c.ctx, index, false)
	}
	if !enter(s.waits) {
		return nil, refuse(delegation.Unavailable, codeOverloaded, "", "too many requests wait for a seal")
	}
	defer leave(s.waits)
	// Longer than other requests may take: a seal comes when the TPM has made it.
	ctx, cancel := context.WithTimeout(c.echo.Request().Context(), s.cfg.Limits.Slow)
	defer cancel()
	if err := extend(c.echo.Response(), s.cfg.Now().Add(s.cfg.Limits.Slow+s.cfg.Limits.Request)); err != nil {
		return nil, err
	}
	return s.cfg.Log.Receipt(ctx, index, true)
}

func (s *Server) readSeal(c *call) (v1.Seal, error) {
	n, err := number(c.param("number"))
	if err != nil {
		return v1.Seal{}, ErrNotFound
	}
	seal, err := s.cfg.Log.Seal(c.ctx, n)
	if err != nil {
		return v1.Seal{}, err
	}
	return v1.Seal{
		Number: seal.Number, Text: string(seal.Text), Checkpoint: string(seal.Checkpoint), Quote: seal.Quote, QuoteSignature: seal.QuoteSig,
		PCRs: seal.PCRs, Counter: seal.CounterAttest, CounterSignature: seal.CounterSig,
	}, nil
}

// patient moves the connection's deadline with each piece that it writes.
type patient struct {
	w     http.ResponseWriter
	now   func() time.Time
	limit time.Duration
}

func (p *patient) Write(b []byte) (int, error) {
	if err := extend(p.w, p.now().Add(p.limit)); err != nil {
		return 0, err
	}
	return p.w.Write(b)
}

// extend moves the deadline for writing the answer. What is no connection, such as a recorder, has none.
func extend(w http.ResponseWriter, until time.Time) error {
	if err := http.NewResponseController(w).SetWriteDeadline(until); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}
