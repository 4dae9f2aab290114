package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/signet-pki/signet/delegation/event"
)

// maxLine bounds a line of the stream: a token and the field's name.
const maxLine = event.MaxBytes + 64

// errSilent ends a connection on which nothing came for too long.
var errSilent = errors.New("client: feed: nothing came for too long")

// events reads server-sent events (HTML Living Standard §9.2) and gives the data of each, until the stream ends or take
// refuses one.
func (c *Client) events(ctx context.Context, cursor string, silence time.Duration, take func(data string) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// A connection may be dead and not know it.
	watch := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer watch.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/v1/revocations/stream?cursor="+url.QueryEscape(cursor), nil)
	if err != nil {
		return fmt.Errorf("client: feed: %w", err)
	}
	req.Header.Set("Accept", "text/event-stream")
	unbounded := *c.http
	unbounded.Timeout = 0 // it has no end; silence ends it
	resp, err := unbounded.Do(req)
	if err != nil {
		return fmt.Errorf("client: feed: %w", errors.Join(err, context.Cause(ctx)))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil {
			return fmt.Errorf("client: feed: %w", err)
		}
		return refusal(req, resp, body)
	}
	err = readEvents(resp.Body, func(data string) error {
		watch.Reset(silence)
		return take(data)
	})
	return errors.Join(err, context.Cause(ctx))
}

// readEvents gives the data of each whole event; what is cut off in the middle is none.
func readEvents(in io.Reader, take func(data string) error) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	data := ""
	for lines.Scan() {
		line := lines.Text()
		switch {
		case line == "":
			if data != "" {
				if err := take(data); err != nil {
					return err
				}
			}
			data = ""
		case strings.HasPrefix(line, "data:"):
			if data != "" {
				return errors.New("client: feed: an event of two lines")
			}
			data = strings.TrimPrefix(strings.TrimPrefix(line, "data:"), " ")
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("client: feed: %w", err)
	}
	return io.ErrUnexpectedEOF
}
