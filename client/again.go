package client

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// maxRetryAfter is the longest Retry-After, in seconds, that is taken for one.
const maxRetryAfter = 24 * 60 * 60

// send gives the body of a 2xx answer. What a quota refuses is asked for again when the appliance says so, if it may be
// repeated: reads, requests with an Idempotency-Key, and what repeatable marks. The Client's timeout is of all attempts.
func (c *Client) send(req *http.Request) ([]byte, error) {
	began := time.Now()
	body, pause, err := c.try(req)
	if pause == 0 || !mayRepeat(req) {
		return body, err
	}
	ctx, cancel := context.WithDeadline(req.Context(), began.Add(c.http.Timeout))
	defer cancel()
	for pause > 0 && wait(ctx, pause) {
		next := req.Clone(ctx)
		if req.GetBody != nil {
			if next.Body, err = req.GetBody(); err != nil {
				return nil, err
			}
		}
		body, pause, err = c.try(next)
	}
	return body, err
}

// wait says whether ctx lasts longer than the pause, after it; at once where it does not.
func wait(ctx context.Context, pause time.Duration) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= pause {
		return false
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// pauseOf is the Retry-After of a refusal by a quota, 0 where there is none. A date would need a common clock (RFC 9110
// §10.2.3); the appliance sends none.
func pauseOf(resp *http.Response) time.Duration {
	if resp.StatusCode != http.StatusTooManyRequests {
		return 0
	}
	n, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 32)
	if err != nil || n > maxRetryAfter {
		return 0
	}
	return max(time.Duration(n), 1) * time.Second
}

type repeatKey struct{}

// repeatable marks a request that does the same twice as once, by what is in its body.
func repeatable(o []Option) []Option {
	return append(slices.Clone(o), func(r *http.Request) {
		*r = *r.WithContext(context.WithValue(r.Context(), repeatKey{}, true))
	})
}

func mayRepeat(r *http.Request) bool {
	return r.Method == http.MethodGet || r.Header.Get("Idempotency-Key") != "" || r.Context().Value(repeatKey{}) != nil
}
