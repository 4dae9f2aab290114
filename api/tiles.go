package api

import (
	"net/http"
	"strconv"
	"strings"
)

// tileWidth is the number of hashes in a full tile (C2SP tlog-tiles).
const tileWidth = 256

// immutable is for what never changes once it exists.
const immutable = "public, max-age=31536000, immutable"

func (s *Server) checkpoint(*call) (reply, error) {
	b := s.cfg.Log.Checkpoint()
	if b == nil {
		return reply{}, ErrNotFound
	}
	return reply{status: http.StatusOK, raw: b, media: mediaText, cache: "no-cache"}, nil
}

// tilePath is a parsed tile's path.
type tilePath struct {
	entries bool
	level   int
	index   uint64
	width   int
}

// parseTile reads what follows /tile/: <L>/<N>[.p/<W>] or entries/<N>[.p/<W>], where N is in groups of three digits, all
// but the last with an x before them. Each tile has exactly one path.
func parseTile(path string) (tilePath, bool) {
	var t tilePath
	level, rest, ok := strings.Cut(path, "/")
	if !ok {
		return t, false
	}
	if t.entries = level == "entries"; !t.entries {
		n, err := number(level)
		if err != nil || n > 63 {
			return t, false
		}
		t.level = int(n)
	}
	t.width = tileWidth
	if body, width, partial := strings.Cut(rest, ".p/"); partial {
		n, err := number(width)
		if err != nil || n < 1 || n >= tileWidth {
			return t, false
		}
		rest, t.width = body, int(n)
	}
	t.index, ok = parseTileIndex(rest)
	return t, ok
}

func parseTileIndex(s string) (uint64, bool) {
	groups := strings.Split(s, "/")
	if len(groups) > 6 {
		return 0, false
	}
	var n uint64
	for i, g := range groups {
		if i < len(groups)-1 {
			rest, ok := strings.CutPrefix(g, "x")
			if !ok || i == 0 && rest == "000" {
				return 0, false
			}
			g = rest
		}
		v, err := strconv.ParseUint(g, 10, 16)
		if err != nil || len(g) != 3 {
			return 0, false
		}
		n = n*1000 + v
	}
	return n, true
}

// tile serves hashes to everybody, and entries, which are envelopes, to auditors.
func (s *Server) tile(c *call) (reply, error) {
	t, ok := parseTile(c.param("*"))
	if !ok {
		return reply{}, ErrNotFound
	}
	var raw []byte
	var err error
	if t.entries {
		if err := s.admitAuditor(c); err != nil {
			return reply{}, err
		}
		raw, err = s.cfg.Log.EntryTile(c.ctx, t.index, t.width)
	} else {
		raw, err = s.cfg.Log.Tile(c.ctx, t.level, t.index, t.width)
	}
	if err != nil {
		return reply{}, err
	}
	out := reply{status: http.StatusOK, raw: raw, media: mediaBinary}
	if !t.entries {
		out.cache = immutable
	}
	return out, nil
}

// admitAuditor asks the table's question within a public row. From there on the request is one that is recorded.
func (s *Server) admitAuditor(c *call) error {
	narrow := *c.route
	narrow.allowed = auditor
	c.route = &narrow
	return s.admit(c)
}
