package extauthz

import (
	"encoding/binary"
	"fmt"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	envoytype "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	// Path is that of the method (gRPC over HTTP/2, "Requests").
	Path = "/envoy.service.auth.v3.Authorization/Check"
	// Media is the type of its bodies; "+proto" may follow.
	Media = "application/grpc"
)

// The headers that an allowed request carries to the upstream, in place of any that the client sent under these names.
const (
	HeaderDecision = "x-signet-decision" // the decision's id
	HeaderAgent    = "x-signet-agent"    // the agent's SPIFFE ID
)

// frameHead is a byte that says whether the message is compressed, and four of its length.
const frameHead = 5

// maxNesting bounds messages within messages. A header's or an extension's value needs four; metadata is deeper, and not read.
const maxNesting = 100

// Request is a CheckRequest.
type Request struct{ attributes *auth.AttributeContext }

// Read takes a body that is exactly one message, not compressed.
func Read(body []byte) (Request, error) {
	if len(body) < frameHead || body[0] != 0 || int64(binary.BigEndian.Uint32(body[1:])) != int64(len(body)-frameHead) {
		return Request{}, &Fault{Kind: Malformed, Detail: "exactly one gRPC message, not compressed"}
	}
	var m auth.CheckRequest
	err := proto.UnmarshalOptions{RecursionLimit: maxNesting, DiscardUnknown: true}.Unmarshal(body[frameHead:], &m)
	if err != nil {
		return Request{}, &Fault{Kind: Malformed, Detail: "no CheckRequest of envoy.service.auth.v3"}
	}
	return Request{m.GetAttributes()}, nil
}

// Allow is the answer that lets a request through.
func Allow(decisionID, agent string) ([]byte, error) {
	return frame(&auth.CheckResponse{
		Status: &status.Status{Code: int32(code.Code_OK)},
		HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{
			Headers: []*core.HeaderValueOption{header(HeaderDecision, decisionID), header(HeaderAgent, agent)},
		}},
	})
}

// Deny is the answer that refuses one, with what the client gets: a status, which must be one of HTTP's errors, and JSON.
func Deny(httpStatus int, body []byte) ([]byte, error) {
	word := code.Code_PERMISSION_DENIED
	if httpStatus == int(envoytype.StatusCode_Unauthorized) {
		word = code.Code_UNAUTHENTICATED
	}
	return frame(&auth.CheckResponse{
		Status: &status.Status{Code: int32(word)},
		HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{
			Status:  &envoytype.HttpStatus{Code: envoytype.StatusCode(httpStatus)}, //nolint:gosec // a status has three digits
			Headers: []*core.HeaderValueOption{header("content-type", "application/json"), header("cache-control", "no-store")},
			Body:    string(body),
		}},
	})
}

// header replaces: Envoy sets what has no "append", and newer versions look at the action.
func header(name, value string) *core.HeaderValueOption {
	return &core.HeaderValueOption{
		Header:       &core.HeaderValue{Key: name, Value: value},
		AppendAction: core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

func frame(m *auth.CheckResponse) ([]byte, error) {
	out, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, frameHead, 512), m)
	if err != nil {
		return nil, fmt.Errorf("extauthz: %w", err)
	}
	binary.BigEndian.PutUint32(out[1:], uint32(len(out)-frameHead)) //nolint:gosec // an answer is some kilobytes
	return out, nil
}
