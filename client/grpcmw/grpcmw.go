// Package grpcmw is the middleware of package client for gRPC servers: interceptors that verify the caller of every call, and
// of a stream at every message in both directions. A stream ends when its caller's identity does, also while it waits.
//
// It takes the caller from the TLS connection (credentials.NewTLS with client.ServerTLS) and, where the Verifier takes access
// tokens, from the metadata "authorization"; from nothing else. It is safe for concurrent use.
package grpcmw

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/signet-pki/signet/client"
)

// Domain is that of the ErrorInfo in a refusal's status; its Reason is the first of the refusal's codes.
const Domain = "signet"

// Demand says what a call of a method ("/package.Service/Method") needs.
type Demand func(ctx context.Context, method string) (client.Demand, error)

// Unary verifies the caller of each call.
func Unary(v *client.Verifier, demand Demand) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		s, err := open(ctx, v, demand, info.FullMethod)
		if err != nil {
			return nil, refused(err)
		}
		defer s.Close()
		resp, err := handler(s.Context(), req) //nolint:contextcheck // made from ctx
		// What took longer than the identity lasted is not answered.
		if refusal := s.Check(); refusal != nil {
			return nil, refused(refusal)
		}
		return resp, err
	}
}

// Stream verifies the caller of each stream, at its start and at every message.
func Stream(v *client.Verifier, demand Demand) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		s, err := open(ss.Context(), v, demand, info.FullMethod)
		if err != nil {
			return refused(err)
		}
		defer s.Close()
		err = handler(srv, &stream{ServerStream: ss, session: s})
		if refusal := s.Check(); refusal != nil {
			return refused(refusal)
		}
		return err
	}
}

func open(ctx context.Context, v *client.Verifier, demand Demand, method string) (*client.Session, error) {
	d, err := demand(ctx, method)
	if err != nil {
		return nil, &client.Refusal{Status: http.StatusBadRequest, Reasons: []string{"bad_request"}}
	}
	var c client.Credentials
	if p, ok := peer.FromContext(ctx); ok {
		if t, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			c.Certificates = t.State.PeerCertificates
		}
	}
	c.Authorization = metadata.ValueFromIncomingContext(ctx, "authorization")
	return v.Open(ctx, c, d)
}

// stream asks for the identity around every message.
type stream struct {
	grpc.ServerStream
	session *client.Session
}

func (s *stream) Context() context.Context { return s.session.Context() }

// RecvMsg gives a message only to a handler whose caller is still who it was when the message arrived.
func (s *stream) RecvMsg(m any) error {
	if err := s.unlessEnded(func() error { return s.ServerStream.RecvMsg(m) }); err != nil {
		return err
	}
	return s.check()
}

func (s *stream) SendMsg(m any) error {
	if err := s.check(); err != nil {
		return err
	}
	return s.unlessEnded(func() error { return s.ServerStream.SendMsg(m) })
}

func (s *stream) check() error {
	if err := s.session.Check(); err != nil {
		return refused(err)
	}
	return nil
}

// unlessEnded waits for what may take for ever, or for the end of the identity. What is left waiting ends with the stream,
// which the server closes when the handler returns.
func (s *stream) unlessEnded(act func() error) error {
	done := make(chan error, 1)
	go func() { done <- act() }()
	select {
	case err := <-done:
		return err
	case <-s.Context().Done():
		return refused(context.Cause(s.Context()))
	}
}

// refused is the status of a refusal: the codes of HTTP in gRPC's words.
func refused(err error) error {
	r, ok := errors.AsType[*client.Refusal](err)
	if !ok {
		return status.FromContextError(err).Err()
	}
	code := codes.Internal
	switch r.Status {
	case http.StatusBadRequest:
		code = codes.InvalidArgument
	case http.StatusUnauthorized:
		code = codes.Unauthenticated
	case http.StatusForbidden:
		code = codes.PermissionDenied
	case http.StatusServiceUnavailable:
		code = codes.Unavailable
	}
	s := status.New(code, strings.Join(r.Reasons, ", "))
	if detailed, err := s.WithDetails(&errdetails.ErrorInfo{Reason: r.Reasons[0], Domain: Domain}); err == nil {
		s = detailed
	}
	return s.Err()
}
