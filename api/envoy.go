package api

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"github.com/signet-pki/signet/api/extauthz"
	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
)

// maxCheck bounds an Envoy's question: a client's headers, of which Envoy takes 60 KiB by default, and its certificate.
const maxCheck = 256 << 10

// checkEnvoy is Envoy's external authorization. An error says that the Envoy, or its message, is no good; whatever is wrong
// with the request that it asks about is an answer, which denies.
func (s *Server) checkEnvoy(c *call) (reply, error) {
	if err := checkGRPC(c.echo.Request()); err != nil {
		return reply{}, err
	}
	body, err := s.body(c)
	if err != nil {
		return reply{}, err
	}
	r, err := extauthz.Read(body)
	if err != nil {
		return reply{}, envoyFault(err)
	}
	message, err := s.envoyAnswer(c, r)
	if err != nil {
		return reply{}, err
	}
	s.sendGRPC(c, message)
	return reply{done: true}, nil
}

func checkGRPC(r *http.Request) error {
	if media := r.Header.Get("Content-Type"); media != extauthz.Media && media != extauthz.Media+"+proto" {
		return invalid(codeMediaType, "Content-Type", "application/grpc")
	}
	if r.ProtoMajor != 2 {
		return invalid(codeMediaType, "", "gRPC is spoken over HTTP/2")
	}
	return nil
}

func (s *Server) envoyAnswer(c *call, r extauthz.Request) ([]byte, error) {
	q, err := r.Question()
	if err != nil {
		return s.envoyRefusal(c, envoyFault(err))
	}
	d, err := s.cfg.Domain.Decide(c.ctx, c.by, delegation.DecisionRequest{
		Chain: s.completed(q.Certificate), ResourceType: q.ResourceType, ResourceID: q.ResourceID, Action: q.Action,
		Bare: true, // an Envoy lets through or not
	})
	if err != nil {
		return s.envoyRefusal(c, err)
	}
	// A permission that is not recorded is none. One that holds is of a certificate with one SPIFFE ID.
	if d.Allow && d.Position != nil {
		return extauthz.Allow(d.ID, q.Certificate.URIs[0].String())
	}
	out := v1.EnvoyDenial{Reasons: d.Reasons, DecisionID: d.ID}
	if d.Position != nil {
		out.AuditID = &d.Position.Index
	}
	return envoyDenial(http.StatusForbidden, out)
}

// envoyRefusal denies what could not be decided, and says so to the client: an error would leave it to the Envoy.
func (s *Server) envoyRefusal(c *call, err error) ([]byte, error) {
	e, status := s.judge(c, err)
	p := problemOf(e)
	switch status {
	case http.StatusUnauthorized, http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusInternalServerError:
	default:
		status = http.StatusForbidden
	}
	return envoyDenial(status, v1.EnvoyDenial{Reasons: []string{p.Code}, Field: p.Field, AuditID: p.AuditID})
}

func envoyDenial(status int, d v1.EnvoyDenial) ([]byte, error) {
	body, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	return extauthz.Deny(status, body)
}

// envoyFault puts a fault of the message into our codes.
func envoyFault(err error) error {
	f, ok := errors.AsType[*extauthz.Fault](err)
	if !ok {
		return err
	}
	switch f.Kind {
	case extauthz.NoCertificate:
		return refuse(delegation.Unauthenticated, codeCertificateRequired, f.Field, f.Detail)
	case extauthz.BadCertificate:
		return invalid(codeBadCertificate, f.Field, f.Detail)
	case extauthz.NoResource:
		return invalid(codeBadResource, f.Field, f.Detail)
	case extauthz.Malformed:
	}
	return invalid(codeBadMessage, f.Field, f.Detail)
}

// completed puts the appliance's own issuing CA behind a leaf that came alone. What the names say decides nothing: the path
// is verified.
func (s *Server) completed(leaf *x509.Certificate) []*x509.Certificate {
	for _, ca := range s.cfg.Trust.Issuing {
		if bytes.Equal(ca.RawSubject, leaf.RawIssuer) && bytes.Equal(ca.SubjectKeyId, leaf.AuthorityKeyId) {
			return []*x509.Certificate{leaf, ca}
		}
	}
	return []*x509.Certificate{leaf}
}

// sendGRPC sends the one message of a unary answer, and after it the status that it went well.
func (s *Server) sendGRPC(c *call, message []byte) {
	w := c.echo.Response()
	s.header(c, w.Header(), extauthz.Media, "")
	w.WriteHeader(http.StatusOK)
	w.Write(message) //nolint:errcheck // the client left: nobody to tell
	w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
}

// refuseGRPC sends a status alone, in the headers (gRPC over HTTP/2, "Trailers-Only").
func (s *Server) refuseGRPC(c *call, status int, text string) {
	w := c.echo.Response()
	s.header(c, w.Header(), extauthz.Media, "")
	w.Header().Set("Grpc-Status", strconv.Itoa(grpcStatus(status)))
	w.Header().Set("Grpc-Message", url.PathEscape(text))
	w.WriteHeader(http.StatusOK)
}

// grpcStatus says a refusal's status in gRPC's words.
func grpcStatus(status int) int {
	const invalidArgument, notFound, permissionDenied, exhausted, internal, unavailable, unauthenticated = 3, 5, 7, 8, 13, 14, 16
	switch status {
	case http.StatusUnauthorized:
		return unauthenticated
	case http.StatusForbidden:
		return permissionDenied
	case http.StatusNotFound:
		return notFound
	case http.StatusTooManyRequests, http.StatusRequestEntityTooLarge:
		return exhausted
	case http.StatusServiceUnavailable:
		return unavailable
	case http.StatusInternalServerError:
		return internal
	}
	return invalidArgument
}
