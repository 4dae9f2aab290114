package siem

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	collogs "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	logs "go.opentelemetry.io/proto/slim/otlp/logs/v1"
	resource "go.opentelemetry.io/proto/slim/otlp/resource/v1"
	"google.golang.org/protobuf/proto"

	"github.com/signet-pki/signet/audit/ocsf"
)

const (
	maxAnswer = 64 << 10 // bytes of a collector's answer
	protobuf  = "application/x-protobuf"
)

// otlp sends each batch as one request, whose answer says what was taken.
type otlp struct {
	url    string
	token  string // path
	client *http.Client
}

// newOTLP follows no redirect (events and token are for this collector alone) and uses no proxy of the environment.
func newOTLP(c Config) *otlp {
	return &otlp{url: c.Target.url, token: c.TokenFile, client: &http.Client{
		Timeout:       within,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: (&net.Dialer{Timeout: dialIn}).DialContext, TLSClientConfig: c.tls(), TLSHandshakeTimeout: dialIn,
			DisableCompression: true, MaxResponseHeaderBytes: 64 << 10, MaxIdleConns: 1, MaxConnsPerHost: 1, IdleConnTimeout: time.Minute,
		},
	}}
}

func (*otlp) rest() time.Duration { return 250 * time.Millisecond }

func (o *otlp) send(ctx context.Context, events []ocsf.Event) error {
	body, err := proto.Marshal(request(events))
	if err != nil {
		return err
	}
	// Not after the client's own: a server that we hang up on may end its answer well, just in time to look whole.
	ctx, cancel := context.WithTimeout(ctx, o.client.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, o.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", protobuf)
	r.Header.Set("User-Agent", "signet")
	if o.token != "" {
		// Read each time: it may be short-lived, and is kept nowhere.
		token, err := os.ReadFile(o.token)
		if err != nil {
			return sendError{error: fmt.Errorf("token_file: %w", err), lasting: true}
		}
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	resp, err := o.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case len(text) > maxAnswer:
		return fmt.Errorf("an answer of more than %d bytes", maxAnswer)
	}
	return judge(resp.StatusCode, resp.Header, text)
}

// judge is nil only if the collector says that it has everything. OTLP/HTTP, "Failures": 429, 502, 503 and 504 pass; it would have
// the client drop what other failures met, which an audit trail does not: that waits for a person, who sees it.
func judge(status int, header http.Header, text []byte) error {
	switch {
	case status == http.StatusOK, status == http.StatusNoContent:
		return accepted(header, text)
	case status == http.StatusBadRequest, status == http.StatusRequestEntityTooLarge, status == http.StatusUnprocessableEntity:
		return sendError{error: fmt.Errorf("the collector answered %d", status), content: true}
	case status == http.StatusTooManyRequests, status >= 500:
		return sendError{error: fmt.Errorf("the collector answered %d", status), after: retryAfter(header)}
	}
	return sendError{error: fmt.Errorf("the collector answered %d", status), lasting: true}
}

func accepted(header http.Header, text []byte) error {
	if len(text) == 0 {
		return nil // no partial success (proto3), or a collector that does without
	}
	if kind, _, err := mime.ParseMediaType(header.Get("Content-Type")); err != nil || kind != protobuf || header.Get("Content-Encoding") != "" {
		return sendError{error: errors.New("the answer is not that of an OTLP collector"), lasting: true}
	}
	var v collogs.ExportLogsServiceResponse
	if err := proto.Unmarshal(text, &v); err != nil {
		return sendError{error: errors.New("the answer is not that of an OTLP collector"), lasting: true}
	}
	if p := v.GetPartialSuccess(); p.GetRejectedLogRecords() != 0 {
		// The same request is not sent again: its events are, in smaller ones, to find out which it is.
		return sendError{error: fmt.Errorf("the collector rejects %d: %.200q", p.GetRejectedLogRecords(), p.GetErrorMessage()), content: true}
	}
	return nil
}

// retryAfter reads seconds; a date is left alone, for whose clock would it be.
func retryAfter(header http.Header) time.Duration {
	n, err := strconv.ParseUint(header.Get("Retry-After"), 10, 31)
	if err != nil {
		return 0
	}
	return min(time.Duration(n)*time.Second, maxAfter)
}

var numbers = map[ocsf.Severity]logs.SeverityNumber{
	ocsf.Informational: logs.SeverityNumber_SEVERITY_NUMBER_INFO, ocsf.Low: logs.SeverityNumber_SEVERITY_NUMBER_INFO2,
	ocsf.Medium: logs.SeverityNumber_SEVERITY_NUMBER_WARN, ocsf.High: logs.SeverityNumber_SEVERITY_NUMBER_ERROR,
}

// request has the events in one scope of one resource: they are of one log.
func request(events []ocsf.Event) *collogs.ExportLogsServiceRequest {
	scope := &logs.ScopeLogs{Scope: &common.InstrumentationScope{Name: "signet/siem"}}
	for _, e := range events {
		at := uint64(e.Time.UnixNano())
		scope.LogRecords = append(scope.LogRecords, &logs.LogRecord{
			TimeUnixNano: at, ObservedTimeUnixNano: at, SeverityNumber: numbers[e.Severity], SeverityText: e.Severity.String(),
			EventName: "signet." + string(e.Type), Body: text(string(e.JSON)),
			Attributes: []*common.KeyValue{
				{Key: "signet.origin", Value: text(e.Origin)},
				{Key: "signet.index", Value: &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: int64(min(e.Index, math.MaxInt64))}}},
				{Key: "signet.leaf_hash", Value: text(hex.EncodeToString(e.LeafHash[:]))},
			},
		})
	}
	return &collogs.ExportLogsServiceRequest{ResourceLogs: []*logs.ResourceLogs{{
		Resource: &resource.Resource{Attributes: []*common.KeyValue{
			{Key: "service.name", Value: text("signet")}, {Key: "service.instance.id", Value: text(events[0].Origin)},
		}},
		ScopeLogs: []*logs.ScopeLogs{scope},
	}}}
}

func text(s string) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: s}}
}

// plain leaves out the addresses, which change with each connection and mean nothing.
func plain(err error) string {
	var op *net.OpError
	var u *url.Error
	switch {
	case errors.As(err, &op):
		return op.Op + ": " + op.Err.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &u) && u.Timeout():
		return "no answer in time"
	case errors.As(err, &u):
		return u.Err.Error()
	}
	return err.Error()
}
