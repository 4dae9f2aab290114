package api

import (
	"errors"
	"net/http"

	v1 "github.com/signet-pki/signet/api/v1"
)

// proofRoutes prove by hashes alone, which tiles give to everybody too: so they are everybody's.
func proofRoutes() []route {
	return []route{
		give("proveInclusion", http.MethodGet, "/v1/audit/proof/inclusion", anyone,
			"The path from an entry's leaf to the root of the tree of a size (RFC 6962 §2.1.1)", (*Server).proveInclusion).
			query(param{"index", "of the entry"}, param{"size", "of the tree, which is a checkpoint's"}),
		give("proveConsistency", http.MethodGet, "/v1/audit/proof/consistency", anyone,
			"The proof that one tree is the beginning of a later one (RFC 6962 §2.1.2)", (*Server).proveConsistency).
			query(param{"from", "size of the earlier tree"}, param{"to", "size of the later one"}),
		bytesOf("readProof", http.MethodGet, "/v1/audit/entries/{index}/proof", anyone, mediaText,
			"The entry's C2SP tlog-proof: its path, and the signed checkpoint that it leads to; without the entry", (*Server).readProof),
	}
}

// numbers reads two parameters that are required.
func (c *call) numbers(first, second string) (a, b uint64, err error) {
	if a, err = number(c.query.Get(first)); err != nil {
		return 0, 0, invalid(codeBadParameter, first, "a decimal number")
	}
	if b, err = number(c.query.Get(second)); err != nil {
		return 0, 0, invalid(codeBadParameter, second, "a decimal number")
	}
	return a, b, nil
}

func (s *Server) proveInclusion(c *call) (v1.InclusionProof, error) {
	index, size, err := c.numbers("index", "size")
	if err != nil {
		return v1.InclusionProof{}, err
	}
	if index >= size {
		return v1.InclusionProof{}, invalid(codeBadParameter, "index", "below size")
	}
	path, err := s.cfg.Log.Inclusion(c.ctx, index, size)
	return v1.InclusionProof{Index: index, Size: size, Hashes: wireHashes(path)}, err
}

func (s *Server) proveConsistency(c *call) (v1.ConsistencyProof, error) {
	from, to, err := c.numbers("from", "to")
	if err != nil {
		return v1.ConsistencyProof{}, err
	}
	if from > to {
		return v1.ConsistencyProof{}, invalid(codeBadParameter, "from", "at most to")
	}
	path, err := s.cfg.Log.Consistency(c.ctx, from, to)
	return v1.ConsistencyProof{From: from, To: to, Hashes: wireHashes(path)}, err
}

func wireHashes(path [][32]byte) [][]byte {
	out := make([][]byte, len(path))
	for i := range path {
		out[i] = path[i][:]
	}
	return out
}

func (s *Server) readProof(c *call) (reply, error) {
	n, err := number(c.param("index"))
	if err != nil {
		return reply{}, errNoEntry()
	}
	raw, err := s.cfg.Log.Proof(c.ctx, n)
	if errors.Is(err, ErrNotFound) {
		return reply{}, errNoEntry()
	}
	return reply{status: http.StatusOK, raw: raw, media: mediaText}, err
}
