package workload

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// Bounds of one server. All callers are processes of one user, of which a few are expected.
const (
	maxConnections    = 64
	maxStreams        = 64        // of a connection
	maxRequest        = 512 << 10 // bytes; SPIFFE's are empty, and Envoy's list every extension it is built with. None is kept.
	connectionTimeout = 5 * time.Second
)

// Server hands out the identity that it was given last.
type Server struct {
	mu      sync.Mutex
	current Identity
	changed chan struct{} // closed when current is replaced
}

// New makes a Server that has nothing to hand out yet.
func New() *Server { return &Server{changed: make(chan struct{})} }

// Set replaces the identity. Everybody who is connected gets the new one.
func (s *Server) Set(i Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = i
	close(s.changed)
	s.changed = make(chan struct{})
}

// get gives the identity, and what is closed when there is another.
func (s *Server) get() (Identity, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current, s.changed
}

// Run serves on ln until ctx ends, and closes it.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	server := grpc.NewServer(
		grpc.MaxConcurrentStreams(maxStreams), grpc.MaxRecvMsgSize(maxRequest), grpc.ConnectionTimeout(connectionTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute}),
		grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream),
	)
	workload.RegisterSpiffeWorkloadAPIServer(server, &api{server: s})
	secret.RegisterSecretDiscoveryServiceServer(server, &sds{server: s})
	// The streams do not end by themselves: their clients find out, and come back to the next server.
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	err := server.Serve(netutil.LimitListener(ln, maxConnections))
	if ctx.Err() != nil && (err == nil || errors.Is(err, grpc.ErrServerStopped)) {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("workload: serve: %w", err)
	}
	return nil
}
