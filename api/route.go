package api

import (
	"net/http"
	"reflect"
	"strings"
)

// route is one row of the table: it routes, admits, documents and handles an endpoint.
type route struct {
	id       string // operationId
	method   string
	path     string // OpenAPI's form
	pattern  string // Echo's, where it is not derived from path
	summary  string
	allowed  role
	own      string // what a role admitted may see of it, for people
	request  reflect.Type
	reads    reflect.Type // what the body is decoded as, where request says more than is looked at at once
	response reflect.Type
	status   int
	produces string // media type of the answer
	params   []param

	idempotent bool   // honours Idempotency-Key
	limited    bool   // counts for quotas
	access     bool   // AuthZEN's habits instead of ours
	setPush    bool   // RFC 8935's habits instead of ours
	grpc       bool   // gRPC's habits instead of ours
	free       bool   // answers also when the server is full
	slow       bool   // may take long: counted apart
	stream     bool   // lasts until somebody ends it: counted apart
	heavy      bool   // compiles a policy: counted apart, few at a time
	maxBody    int64  // where it is more than of others
	upload     string // media type of a body that is no JSON
	plain      bool   // takes a body of plain text

	handle func(*Server, *call) (reply, error)
	shape  *shape // of reads or request
}

// param is a query parameter. Others are refused.
type param struct{ name, about string }

const (
	mediaJSON   = "application/json"
	mediaText   = "text/plain; charset=utf-8"
	mediaBinary = "application/octet-stream"
	mediaPEM    = "application/x-pem-file"
	mediaEvent  = "application/secevent+jwt"
	mediaHTML   = "text/html; charset=utf-8"
)

// reply is a successful answer: a value to be written as JSON, bytes, or what a handler wrote by itself.
type reply struct {
	status int
	body   any
	raw    []byte
	media  string
	cache  string // Cache-Control; no-store by default
	done   bool
}

// take makes a row whose handler gets a decoded body of type Q.
func take[Q, R any](id, path string, allowed role, status int, summary string, h func(*Server, *call, *Q) (R, error)) route {
	return route{
		id: id, method: http.MethodPost, path: path, summary: summary, allowed: allowed,
		request: reflect.TypeFor[Q](), response: reflect.TypeFor[R](), status: status, produces: mediaJSON,
		handle: func(s *Server, c *call) (reply, error) {
			q := new(Q)
			if err := s.read(c, q); err != nil {
				return reply{}, err
			}
			r, err := h(s, c, q)
			return reply{status: status, body: r}, err
		},
	}
}

// give makes a row without a body in the request.
func give[R any](id, method, path string, allowed role, summary string, h func(*Server, *call) (R, error)) route {
	return route{
		id: id, method: method, path: path, summary: summary, allowed: allowed,
		response: reflect.TypeFor[R](), status: http.StatusOK, produces: mediaJSON,
		handle: func(s *Server, c *call) (reply, error) {
			r, err := h(s, c)
			return reply{status: http.StatusOK, body: r}, err
		},
	}
}

// bytesOf makes a row whose answer is not JSON.
func bytesOf(id, method, path string, allowed role, produces, summary string, h func(*Server, *call) (reply, error)) route {
	return route{
		id: id, method: method, path: path, summary: summary, allowed: allowed, status: http.StatusOK, produces: produces, handle: h,
	}
}

func (r route) with(change func(*route)) route {
	change(&r)
	return r
}

func (r route) query(params ...param) route { r.params = params; return r }
func (r route) retriable() route            { r.idempotent = true; return r }
func (r route) counted() route              { r.limited = true; return r }

// echoPath is the path as Echo's router wants it.
func (r route) echoPath() string {
	if r.pattern != "" {
		return r.pattern
	}
	return strings.NewReplacer("{", ":", "}", "").Replace(r.path)
}

// pathParams are the names in the path.
func (r route) pathParams() []string {
	var out []string
	for _, part := range strings.Split(r.path, "{")[1:] {
		name, _, _ := strings.Cut(part, "}")
		out = append(out, name)
	}
	return out
}
