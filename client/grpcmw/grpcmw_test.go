package grpcmw_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/client/grpcmw"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/internal/testrig/hospital"
)

type text = wrapperspb.StringValue

// ward is a gRPC service of the hospital.
type ward struct {
	t        *testing.T
	h        *hospital.Hospital
	verifier *client.Verifier
	address  string
	entered  chan struct{} // a handler waits
	ended    chan error    // what ended it
}

func (w *ward) who(ctx context.Context) (*text, error) {
	p, ok := client.FromContext(ctx)
	if !ok {
		w.t.Error("no principal")
	}
	return wrapperspb.String(p.User.Subject), nil
}

// echo answers each message, and does not look at its context.
func (w *ward) echo(_ any, s grpc.ServerStream) error {
	for {
		in := new(text)
		if err := s.RecvMsg(in); err != nil {
			w.ended <- err
			return err
		}
		if err := s.SendMsg(in); err != nil {
			w.ended <- err
			return err
		}
	}
}

// flood sends until it cannot, to a client that does not read.
func (w *ward) flood(_ any, s grpc.ServerStream) error {
	in := new(text)
	if err := s.RecvMsg(in); err != nil {
		return err
	}
	for {
		if err := s.SendMsg(wrapperspb.String(strings.Repeat("a", 1<<16))); err != nil {
			w.ended <- err
			return nil //nolint:nilerr // a handler that hides why it ended
		}
	}
}

// wait is a call that takes longer than its caller's identity lasts, and answers all the same.
func (w *ward) wait(ctx context.Context) (*text, error) {
	w.entered <- struct{}{}
	<-ctx.Done()
	w.ended <- context.Cause(ctx)
	return wrapperspb.String("too late"), nil
}

func (w *ward) unary(name string, do func(context.Context) (*text, error)) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: name, Handler: func(_ any, ctx context.Context, dec func(any) error, in grpc.UnaryServerInterceptor) (any, error) {
		req := new(text)
		if err := dec(req); err != nil {
			return nil, err
		}
		return in(ctx, req, &grpc.UnaryServerInfo{FullMethod: "/ward/" + name}, func(ctx context.Context, _ any) (any, error) { return do(ctx) })
	}}
}

func open(t *testing.T, plain bool) *ward {
	t.Helper()
	h := hospital.New(t)
	v, err := client.NewVerifier(h.Config())
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Refresh(t.Context(), h.Appliance(t, h.JWT)); err != nil {
		t.Fatal(err)
	}
	w := &ward{t: t, h: h, verifier: v, entered: make(chan struct{}, 1), ended: make(chan error, 1)}
	demand := func(_ context.Context, method string) (client.Demand, error) {
		if method == "/ward/Odd" {
			return client.Demand{}, errors.New("?")
		}
		return client.Demand{Scope: hospital.Scope(t, "database:read:patients")}, nil
	}
	own := h.Listener(t)
	creds := credentials.NewTLS(client.ServerTLS(func() (*tls.Certificate, error) { return own, nil }))
	if plain {
		creds = insecure.NewCredentials()
	}
	srv := grpc.NewServer(grpc.Creds(creds), grpc.UnaryInterceptor(grpcmw.Unary(v, demand)), grpc.StreamInterceptor(grpcmw.Stream(v, demand)))
	srv.RegisterService(&grpc.ServiceDesc{
		ServiceName: "ward", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{w.unary("Who", w.who), w.unary("Odd", w.who), w.unary("Wait", w.wait)},
		Streams: []grpc.StreamDesc{
			{StreamName: "Echo", Handler: w.echo, ServerStreams: true, ClientStreams: true},
			{StreamName: "Flood", Handler: w.flood, ServerStreams: true, ClientStreams: true},
		},
	}, w)
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.address = ln.Addr().String()
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *ward) as(cert *tls.Certificate, plain bool) *grpc.ClientConn {
	w.t.Helper()
	conf := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true} //nolint:gosec // the server is not what is tested
	if cert != nil {
		conf.Certificates = []tls.Certificate{*cert}
	}
	creds := credentials.NewTLS(conf)
	if plain {
		creds = insecure.NewCredentials()
	}
	c, err := grpc.NewClient(w.address, grpc.WithTransportCredentials(creds))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return c
}

// refused wants a status with this code, whose ErrorInfo names this reason.
func refused(t *testing.T, err error, code codes.Code, reason string) {
	t.Helper()
	s := status.Convert(err)
	if s.Code() != code {
		t.Fatalf("%v, want %s", err, code)
	}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetReason() == reason && info.GetDomain() == grpcmw.Domain {
			return
		}
	}
	t.Errorf("%v does not name %s", err, reason)
}

func call(ctx context.Context, c *grpc.ClientConn, method string) (string, error) {
	out := new(text)
	err := c.Invoke(ctx, "/ward/"+method, wrapperspb.String(""), out)
	return out.GetValue(), err
}

func TestUnary(t *testing.T) {
	w := open(t, false)
	agent := w.h.Agent(t, time.Hour)
	c := w.as(agent, false)
	who, err := call(t.Context(), c, "Who")
	if err != nil || who != hospital.User().Subject {
		t.Fatalf("%q %v", who, err)
	}
	_, err = call(t.Context(), w.as(nil, false), "Who")
	refused(t, err, codes.Unauthenticated, "client_certificate_required")
	_, err = call(t.Context(), w.as(hospital.New(t).Agent(t, time.Hour), false), "Who")
	refused(t, err, codes.PermissionDenied, chain.CodePathUntrusted)
	_, err = call(t.Context(), c, "Odd")
	refused(t, err, codes.InvalidArgument, "bad_request")
	// The same connection, each call anew.
	w.h.Feed.Revoke(chain.RevTask, hospital.Task)
	_, err = call(t.Context(), c, "Who")
	refused(t, err, codes.PermissionDenied, chain.CodeTaskRevoked)
	w.h.Feed.Forget()
	w.h.Feed.Stop(time.Now().Add(-time.Hour))
	_, err = call(t.Context(), c, "Who")
	refused(t, err, codes.Unavailable, chain.CodeRevocationsStale)
	w.h.Feed.Stop(time.Time{})
	// An access token, for its own certificate alone.
	with := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+w.h.Sign(t, w.h.AccessToken(t, agent.Leaf)))
	if _, err := call(with, c, "Who"); err != nil {
		t.Error(err)
	}
	_, err = call(with, w.as(w.h.Agent(t, time.Hour), false), "Who")
	refused(t, err, codes.Unauthenticated, chain.CodeTokenBinding)
}

func TestPlainConnection(t *testing.T) {
	w := open(t, true)
	_, err := call(t.Context(), w.as(nil, true), "Who")
	refused(t, err, codes.Unauthenticated, "client_certificate_required")
}

func TestUnaryTooLate(t *testing.T) {
	w := open(t, false)
	go func() {
		<-w.entered
		w.h.Feed.Revoke(chain.RevAgent, hospital.Agent)
	}()
	out, err := call(t.Context(), w.as(w.h.Agent(t, time.Hour), false), "Wait")
	refused(t, err, codes.PermissionDenied, chain.CodeAgentRevoked)
	if out != "" {
		t.Errorf("answered %q", out)
	}
	if _, ok := errors.AsType[*client.Refusal](<-w.ended); !ok {
		t.Error("the handler's context did not end with the refusal")
	}
}

func (w *ward) stream(c *grpc.ClientConn, name string) grpc.ClientStream {
	w.t.Helper()
	s, err := c.NewStream(w.t.Context(), &grpc.StreamDesc{StreamName: name, ServerStreams: true, ClientStreams: true}, "/ward/"+name)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := s.SendMsg(wrapperspb.String("a")); err != nil {
		w.t.Fatal(err)
	}
	return s
}

func TestStream(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(*hospital.Feed)
		then bool // the client sends one more message
		code codes.Code
		why  string
	}{
		"revoked, next message": {func(f *hospital.Feed) { f.Revoke(chain.RevGrant, hospital.Grant) }, true, codes.PermissionDenied, chain.CodeGrantRevoked},
		"revoked, waiting":      {func(f *hospital.Feed) { f.Revoke(chain.RevGrant, hospital.Grant) }, false, codes.PermissionDenied, chain.CodeGrantRevoked},
		"stale, waiting":        {func(f *hospital.Feed) { f.Stop(time.Now().Add(-time.Hour)) }, false, codes.Unavailable, chain.CodeRevocationsStale},
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t, false)
			s := w.stream(w.as(w.h.Agent(t, time.Hour), false), "Echo")
			got := new(text)
			if err := s.RecvMsg(got); err != nil || got.GetValue() != "a" {
				t.Fatalf("%q %v", got.GetValue(), err)
			}
			c.end(w.h.Feed)
			if c.then {
				if err := s.SendMsg(wrapperspb.String("b")); err != nil {
					t.Fatal(err)
				}
			}
			refused(t, s.RecvMsg(new(text)), c.code, c.why)
			refused(t, <-w.ended, c.code, c.why)
		})
	}
}

// A handler whose client does not read is not kept by it.
func TestStreamBlockedInSend(t *testing.T) {
	w := open(t, false)
	s := w.stream(w.as(w.h.Agent(t, time.Hour), false), "Flood")
	got := new(text)
	if err := s.RecvMsg(got); err != nil {
		t.Fatal(err)
	}
	w.h.Feed.Revoke(chain.RevUser, chain.UserID(hospital.User().Issuer, hospital.User().Subject))
	refused(t, <-w.ended, codes.PermissionDenied, chain.CodeUserRevoked)
	for {
		if err := s.RecvMsg(new(text)); err != nil {
			// The handler said that all was well; the stream says why it ended.
			refused(t, err, codes.PermissionDenied, chain.CodeUserRevoked)
			return
		}
	}
}
