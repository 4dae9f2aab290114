package appliance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/witness"
)

const (
	askWithin   = 10 * time.Second // for one question and its answer
	maxAskAgain = time.Minute      // between questions to a witness that fails
)

// asker asks one witness to cosign one seal after the other, the newest each time. The witness is not believed: what is kept of
// its answers is a signature of its pinned key over exactly that checkpoint.
type asker struct {
	key    witness.Key
	url    string
	client *http.Client
	proof  func(ctx context.Context, from, to uint64) ([][32]byte, error)
	keep   func(ctx context.Context, s checkpoint.Sealed, key witness.Key, line []byte) error
	raise  func(ctx context.Context, key witness.Key, c *conflict) error
	log    *slog.Logger

	known   uint64                // the size that the witness had last
	said    string                // the last thing that was logged
	trouble atomic.Pointer[error] // why the last seal is not cosigned; nil: it is, or was not asked about yet
}

// conflict: the witness knows another tree than this log's.
type conflict struct {
	head   checkpoint.Checkpoint // ours
	other  uint64                // the witness's size, where that is what differs
	detail string
}

func (c *conflict) Error() string { return "it knows another tree of this log: " + c.detail }

// Run asks until ctx or the log ends. after is the last seal that this witness has cosigned.
func (a *asker) Run(ctx context.Context, next func(ctx context.Context, after uint64) (checkpoint.Sealed, error), after uint64) error {
	defer a.client.CloseIdleConnections()
	failures := 0
	for {
		sealed, err := next(ctx, after)
		if err != nil {
			return nil // the log or ctx ended
		}
		err = a.ask(ctx, sealed)
		if ctx.Err() != nil {
			return nil
		}
		a.settle(ctx, err)
		if err == nil {
			after, failures = sealed.Number, 0
			continue
		}
		failures++
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(pullDelay(0, failures, fraction()), maxAskAgain)):
		}
	}
}

// settle tells what came of a question: in the log when it changes, and to readiness.
func (a *asker) settle(ctx context.Context, err error) {
	text, level := "the witness cosigns", slog.LevelInfo
	if err == nil {
		a.trouble.Store(nil)
	} else {
		a.trouble.Store(&err)
		text, level = "no cosignature: "+plain(err), slog.LevelWarn
	}
	var c *conflict
	if errors.As(err, &c) {
		level = slog.LevelError
		if err := a.raise(ctx, a.key, c); err != nil {
			a.log.LogAttrs(ctx, slog.LevelError, "a witness's conflict is not recorded", slog.Any("error", err))
		}
	}
	if text != a.said {
		a.said = text
		a.log.LogAttrs(ctx, level, text, slog.String("witness", a.key.Name()))
	}
}

// ask gets a seal's checkpoint cosigned: at most two questions, the second from the size that the witness told.
func (a *asker) ask(ctx context.Context, sealed checkpoint.Sealed) error {
	seal, err := checkpoint.ParseSeal(sealed.Text)
	if err != nil {
		return err
	}
	head := checkpoint.Checkpoint{Origin: seal.Origin, Size: seal.Size, Root: seal.Root}
	for range 2 {
		line, err := a.once(ctx, head, sealed.Checkpoint)
		if err != nil {
			return err
		}
		if line != nil {
			return a.keep(ctx, sealed, a.key, line)
		}
	}
	return errors.New("it told two sizes in a row")
}

// once asks from the known size. Without a line and without an error the witness told another size.
func (a *asker) once(ctx context.Context, head checkpoint.Checkpoint, signed []byte) (line []byte, err error) {
	old := min(a.known, head.Size)
	proof, err := a.proof(ctx, old, head.Size)
	if err != nil {
		return nil, err
	}
	got, err := a.post(ctx, witness.Request{Old: old, Proof: proof, Checkpoint: signed}.Marshal())
	if err != nil {
		return nil, err
	}
	switch got.status {
	case http.StatusOK:
		if line, err = a.key.Pick(head, got.body); err == nil {
			a.known = head.Size
		}
		return line, err
	case http.StatusConflict:
		return nil, a.other(head, old, got)
	case http.StatusUnprocessableEntity:
		return nil, &conflict{head: head, other: old, detail: fmt.Sprintf("422: it refuses the proof from size %d", old)}
	}
	return nil, fmt.Errorf("it answered %d", got.status)
}

// other reads a 409.
func (a *asker) other(head checkpoint.Checkpoint, old uint64, got answer) error {
	size, err := witness.ParseSize(got.body)
	if err != nil || got.media != witness.MediaSize {
		return errors.New("it answered 409 without a size")
	}
	switch {
	case size > head.Size:
		return &conflict{head: head, other: size, detail: fmt.Sprintf("409: it cosigned size %d, this log has %d", size, head.Size)}
	case size == old && old == head.Size:
		return &conflict{head: head, other: size, detail: fmt.Sprintf("409: it cosigned another root at size %d", size)}
	case size == old:
		return fmt.Errorf("it answered 409 with the size that it was asked from, %d", size)
	}
	a.known = size
	return nil
}

// answer is what a witness said, bounded.
type answer struct {
	status int
	media  string
	body   []byte
}

func (a *asker) post(ctx context.Context, body []byte) (answer, error) {
	// Not after the client's own: what we hang up on must not look whole.
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(a.url, "/")+witness.Path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Content-Type", "text/plain; charset=utf-8")
	resp, err := a.client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	if resp.Header.Get("Content-Encoding") != "" {
		return answer{}, errors.New("it encoded its answer")
	}
	out := answer{status: resp.StatusCode}
	out.media, _, _ = mime.ParseMediaType(resp.Header.Get("Content-Type"))
	out.body, err = io.ReadAll(io.LimitReader(resp.Body, witness.MaxAnswer+1))
	switch {
	case err != nil:
		return answer{}, err
	case ctx.Err() != nil:
		return answer{}, ctx.Err()
	case len(out.body) > witness.MaxAnswer:
		return answer{}, fmt.Errorf("it answered %d with more than %d bytes", out.status, witness.MaxAnswer)
	}
	return out, nil
}
