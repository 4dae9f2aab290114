package extauthz

import (
	"crypto/x509"
	"net/url"
	"strings"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/signet-pki/signet/delegation/chain"
)

// Question is what a request asks: may the agent of this certificate do that? Nothing of the certificate is verified.
type Question struct {
	Certificate  *x509.Certificate
	ResourceType string
	ResourceID   string
	Action       string
}

// Kind is what is wrong with a request. The zero Kind is the worst.
type Kind int

// The kinds.
const (
	Malformed      Kind = iota // not readable at all
	NoCertificate              // Envoy saw none, or was not told to pass it on
	BadCertificate             // not exactly one, as Envoy encodes it
	NoResource                 // names no resource or action
)

// Fault is why a request asks nothing. Its texts hold nothing of the request.
type Fault struct { //nolint:errname // the word of package api, too
	Kind          Kind
	Field, Detail string
}

// Error says which field it is about.
func (f *Fault) Error() string { return "extauthz: " + f.Field + ": " + f.Detail }

// The extensions of a route's check_settings, which the operator of the Envoy writes and no client reaches.
const (
	extType   = "resource_type"
	extID     = "resource_id"
	extAction = "action"
)

const (
	fieldCertificate = "attributes.source.certificate"
	fieldExtensions  = "attributes.context_extensions"
	fieldHTTP        = "attributes.request.http"
)

// Question reads the request: the certificate, and from the route's extensions the resource and the action. Where the route leaves
// out the id it is the path's, and where it leaves out the action it is the method's.
func (r Request) Question() (Question, error) {
	cert, err := certificate(r.attributes.GetSource().GetCertificate())
	if err != nil {
		return Question{}, err
	}
	ext, http := r.attributes.GetContextExtensions(), r.attributes.GetRequest().GetHttp()
	if err := checkExtensions(ext); err != nil {
		return Question{}, err
	}
	q := Question{Certificate: cert, ResourceType: ext[extType], ResourceID: ext[extID], Action: ext[extAction]}
	if q.ResourceID == "" {
		if q.ResourceID, err = pathID(http); err != nil {
			return Question{}, err
		}
	}
	if q.Action == "" {
		if q.Action, err = methodAction(http.GetMethod()); err != nil {
			return Question{}, err
		}
	}
	return q, nil
}

// certificate reads the one that Envoy encodes, as PEM, percent-encoded. A plus sign is one of base64's, not a space.
func certificate(text string) (*x509.Certificate, error) {
	if text == "" {
		return nil, &Fault{NoCertificate, fieldCertificate, "the client has none, or include_peer_certificate is off"}
	}
	pem, err := url.PathUnescape(text)
	if err != nil {
		return nil, &Fault{BadCertificate, fieldCertificate, "not percent-encoded"}
	}
	certs, err := chain.ParsePEM([]byte(pem), 1)
	if err != nil {
		return nil, &Fault{BadCertificate, fieldCertificate, "exactly one PEM certificate"}
	}
	return certs[0], nil
}

// checkExtensions refuses what is mistyped: it would leave the choice to the path or the method.
func checkExtensions(ext map[string]string) error {
	if ext[extType] == "" {
		return &Fault{NoResource, fieldExtensions + "." + extType, "the route has to say it"}
	}
	for name, value := range ext {
		switch name {
		case extType, extID, extAction:
			if value == "" {
				return &Fault{NoResource, fieldExtensions + "." + name, "it is empty"}
			}
		default:
			return &Fault{NoResource, fieldExtensions, "only resource_type, resource_id and action are known"}
		}
	}
	return nil
}

// reserved are bytes that servers decode, cut at, or take for a separator, the one that separates an id's segments, and the one
// that Envoy puts in place of whatever is not UTF-8: the upstream gets the path as it was.
const reserved = `%?#;\*:!`

// pathID is the id of the resource that a path names: its segments, joined by colons. No two paths have the same, and what
// a server might read as another path (a query, an encoded byte, a dot segment, an empty one) has none.
func pathID(http *auth.AttributeContext_HttpRequest) (string, error) {
	none := &Fault{NoResource, fieldHTTP + ".path", "it names no resource as it stands: nothing is decoded or normalised"}
	// Envoy leaves these two empty: all of it is in the path.
	rest, ok := strings.CutPrefix(http.GetPath(), "/")
	if !ok || http.GetQuery() != "" || http.GetFragment() != "" || strings.ContainsAny(rest, reserved) {
		return "", none
	}
	for segment := range strings.SplitSeq(rest, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return "", none
		}
	}
	return strings.ReplaceAll(rest, "/", ":"), nil
}

// methodAction is what a method does (RFC 9110 §9.3). Others, and other spellings, do nothing that has a name.
func methodAction(method string) (string, error) {
	switch method {
	case "GET", "HEAD":
		return "read", nil
	case "POST", "PUT", "PATCH":
		return "write", nil
	case "DELETE":
		return "delete", nil
	}
	return "", &Fault{NoResource, fieldHTTP + ".method", "GET, HEAD, POST, PUT, PATCH or DELETE, unless the route says the action"}
}
