package api

import (
	"errors"
	"fmt"
	"net/http"
)

const (
	mediaPlain = "text/plain"
	mediaSize  = "text/x.tlog.size"
)

// SizeConflictError is a Witness's answer to a request that does not begin at the size that it cosigned last.
type SizeConflictError struct{ Size uint64 }

func (e *SizeConflictError) Error() string {
	return fmt.Sprintf("api: the newest cosigned checkpoint has size %d", e.Size)
}

// addCheckpoint is C2SP tlog-witness. A 409 is how its callers learn the size to begin from: no refusal, and no entry.
func (s *Server) addCheckpoint(c *call) (reply, error) {
	if s.cfg.Witness == nil {
		return reply{}, ErrNotFound
	}
	if c.echo.Request().Header.Get("Content-Encoding") != "" {
		return reply{}, invalid(codeContentEncoding, "Content-Encoding", "bodies are not compressed")
	}
	body, err := s.body(c)
	if err != nil {
		return reply{}, err
	}
	lines, err := s.cfg.Witness(c.ctx, body)
	var other *SizeConflictError
	if errors.As(err, &other) {
		return reply{status: http.StatusConflict, raw: fmt.Appendf(nil, "%d\n", other.Size), media: mediaSize}, nil
	}
	return reply{status: http.StatusOK, raw: lines, media: mediaText}, err
}
