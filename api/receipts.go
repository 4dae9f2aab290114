package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	v1 "github.com/signet-pki/signet/api/v1"
)

const (
	defaultReceipts = 20
	maxReceipts     = 100
	maxSeen         = 1000 // entries of a term that one page looks at, the caller's or not
)

func receiptRoutes() []route {
	return []route{
		give("findReceipts", http.MethodGet, "/v1/audit/receipts", known,
			"Receipts of the entries of one certificate, agent, task or decision, oldest first", (*Server).findReceipts).
			query(param{"serial", "hex"}, param{"agent", "UUID"}, param{"task", "UUID"}, param{"decision", "UUID"},
				param{"limit", "1 to 100; 20 by default"}, cursorParam).
			with(func(r *route) {
				r.own = "orchestrators, agents, services: of entries that name them; the payload is for auditors"
			}),
	}
}

// findReceipts lets the index find and the proofs prove. Whom an entry does not name learns nothing of it.
func (s *Server) findReceipts(c *call) (v1.ReceiptPage, error) {
	none := v1.ReceiptPage{}
	from, limit, err := c.pageOf(defaultReceipts, maxReceipts)
	if err != nil {
		return none, err
	}
	kind, id, err := c.term()
	if err != nil {
		return none, err
	}
	if kind == "" {
		return none, invalid(codeBadParameter, "serial", "one of serial, agent, task and decision is required")
	}
	// One more than is looked at tells whether there is a next page.
	indexes, err := s.cfg.Log.Lookup(c.ctx, kind, id, from, maxSeen+1)
	if err != nil {
		return none, err
	}
	out, size := v1.ReceiptPage{Receipts: []v1.FoundReceipt{}}, 0
	for i, n := range indexes {
		if i == maxSeen || len(out.Receipts) == limit || size > pageBytes {
			out.NextCursor = strconv.FormatUint(n, 10)
			break
		}
		r, err := s.foundReceipt(c, n)
		if errors.Is(err, errNotTheirs) {
			continue
		}
		if err != nil {
			return none, err
		}
		out.Receipts = append(out.Receipts, r)
		size += len(r.Receipt)
	}
	return out, nil
}

// foundReceipt makes the receipt of an entry that the index found. One that nothing signed covers yet comes without it.
func (s *Server) foundReceipt(c *call, index uint64) (v1.FoundReceipt, error) {
	out := v1.FoundReceipt{Index: index}
	e, err := s.cfg.Log.Entry(c.ctx, index)
	if err == nil {
		err = c.concerned(e)
	}
	if err != nil {
		return out, err
	}
	raw, err := s.cfg.Log.Receipt(c.ctx, index, false)
	if errors.Is(err, ErrNotSealed) {
		return out, nil
	}
	if err == nil {
		out.Receipt, err = c.shownReceipt(raw)
	}
	return out, err
}

// errNotTheirs: the entry does not name the caller.
var errNotTheirs = errors.New("api: an entry of others")

// concerned says whether the caller may have an entry's receipt.
func (c *call) concerned(e Entry) error {
	var p parties
	if err := json.Unmarshal(e.Envelope, &p); err != nil {
		return err
	}
	if !p.names(c.by) {
		return errNotTheirs
	}
	return nil
}

// shownReceipt is a receipt as the caller may see it.
func (c *call) shownReceipt(raw []byte) ([]byte, error) {
	if roleOf(c.by) == auditor {
		return raw, nil
	}
	return withhold(raw)
}
