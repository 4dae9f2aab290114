package api

import (
	"crypto/sha256"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/signet-pki/signet/delegation"
)

// drainWithin is how long the sender of an oversized body may take to send what is thrown away.
const drainWithin = time.Second

// maxIdempotencyKey bounds Idempotency-Key, in bytes.
const maxIdempotencyKey = 255

// parameters reads the query. What the table does not name, and what stands twice, is refused: a mistyped wait=sealed
// must not look like an answer to it.
func (c *call) parameters() error {
	raw := c.echo.Request().URL.RawQuery
	if raw == "" || c.route.allowed&anyone != 0 && c.route.params == nil {
		return nil
	}
	q, err := url.ParseQuery(raw)
	if err != nil {
		return invalid(codeBadParameter, "", "the query is malformed")
	}
	for name, values := range q {
		if !c.route.knows(name) {
			return invalid(codeUnknownParameter, shown([]byte(name)), "this parameter is not known here")
		}
		// An empty cursor is the beginning; any other empty value is a script's unset variable.
		if len(values) != 1 || values[0] == "" && name != cursorParam.name {
			return invalid(codeBadParameter, name, "exactly one value")
		}
	}
	c.query = q
	return nil
}

func (r *route) knows(name string) bool {
	for _, p := range r.params {
		if p.name == name {
			return true
		}
	}
	return false
}

// idempotency reads the key, if the route honours one and the caller sent one. The hash is completed by the body.
func (c *call) idempotency() error {
	if !c.route.idempotent {
		return nil
	}
	keys := c.echo.Request().Header["Idempotency-Key"]
	if len(keys) == 0 {
		return nil
	}
	if len(keys) != 1 || !printable(keys[0], maxIdempotencyKey) {
		return invalid(codeBadIdempotencyKey, "Idempotency-Key", "one key of 1 to 255 printable ASCII characters")
	}
	c.idem.Key = keys[0]
	return nil
}

func printable(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// read takes the body into v, which is a pointer to the row's request type.
func (s *Server) read(c *call, v any) error {
	r := c.echo.Request()
	if err := checkMedia(r); err != nil {
		return err
	}
	body, err := s.body(c)
	if err != nil {
		return err
	}
	if f := decode(body, c.route.shape, c.route.access, v); f != nil {
		return f.refusal()
	}
	if c.idem.Key != "" {
		c.idem.Hash = requestHash(r.Method, r.URL.Path, body)
	}
	return nil
}

// requestHash is the SHA-256 of what was asked: a key used for another endpoint is used for another request.
func requestHash(method, path string, body []byte) [32]byte {
	h := sha256.New()
	io.WriteString(h, method+" "+path+"\n") //nolint:errcheck // a hash takes everything
	h.Write(body)
	return [32]byte(h.Sum(nil))
}

func checkMedia(r *http.Request) error {
	if r.Header.Get("Content-Encoding") != "" {
		return invalid(codeContentEncoding, "Content-Encoding", "bodies are not compressed")
	}
	media := r.Header.Get("Content-Type")
	if media == mediaJSON {
		return nil
	}
	name, params, err := mime.ParseMediaType(media)
	if err != nil || name != mediaJSON || params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8") {
		return invalid(codeMediaType, "Content-Type", "application/json in UTF-8")
	}
	return nil
}

// body reads all of the body, which is bounded in size and, by the connection's deadline, in time.
func (s *Server) body(c *call) ([]byte, error) {
	r := c.echo.Request()
	limit := max(s.cfg.Limits.MaxBody, c.route.maxBody)
	// net/http's own writer: told that a body is too large it closes the connection slowly, so that the client can read why.
	in := http.MaxBytesReader(c.echo.Response().Writer, r.Body, limit)
	if r.ContentLength > limit {
		// What the body says is known; it is taken, up to the limit, from a client that sends it now.
		_ = http.NewResponseController(c.echo.Response().Writer).SetReadDeadline(time.Now().Add(drainWithin))
		_, _ = io.Copy(io.Discard, in)
		return nil, tooLarge(limit)
	}
	var body []byte
	var err error
	if r.ContentLength >= 0 {
		body = make([]byte, r.ContentLength)
		_, err = io.ReadFull(in, body)
	} else {
		body, err = io.ReadAll(in)
	}
	if err != nil {
		return nil, unread(err, limit)
	}
	if len(body) == 0 {
		return nil, invalid(codeBodyMissing, "", "a JSON object is required")
	}
	return body, nil
}

func tooLarge(limit int64) error {
	return invalid(codeBodyTooLarge, "", "at most "+strconv.FormatInt(limit, 10)+" bytes")
}

func unread(err error, limit int64) error {
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return tooLarge(limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return invalid(codeBodyTimeout, "", "the body did not come in time")
	}
	return &delegation.Error{Kind: delegation.Invalid, Code: codeBodyIncomplete, Detail: "the body ended too early", Err: err}
}
