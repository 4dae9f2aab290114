package workload

import (
	"context"
	"time"

	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// api is the service of the SPIFFE Workload API. What it does not have (JWT-SVIDs) answers Unimplemented.
type api struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	server *Server
}

// errNone is the answer that the specification has for who has no identity: clients ask again.
var errNone = status.Error(codes.PermissionDenied, "no identity issued")

// marked demands the header that a browser or a confused proxy cannot be made to send (SPIFFE Workload Endpoint §6.1). Envoy does
// not send it, so its methods are named here as those that do without: what keeps others out is that the socket is its owner's.
func marked(ctx context.Context, method string) error {
	switch method {
	case secret.SecretDiscoveryService_StreamSecrets_FullMethodName, secret.SecretDiscoveryService_FetchSecrets_FullMethodName,
		secret.SecretDiscoveryService_DeltaSecrets_FullMethodName:
		return nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get("workload.spiffe.io"); len(v) != 1 || v[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	return nil
}

func unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := marked(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := marked(ss.Context(), info.FullMethod); err != nil {
		return err
	}
	return handler(srv, ss)
}

// FetchX509SVID streams certificate, key and roots.
func (a *api) FetchX509SVID(_ *workload.X509SVIDRequest, out grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	return a.follow(out.Context(), func(i Identity) error {
		return out.Send(&workload.X509SVIDResponse{Svids: []*workload.X509SVID{{
			SpiffeId: i.id.String(), X509Svid: join(i.certs), X509SvidKey: i.key, Bundle: join(i.roots),
		}}})
	})
}

// FetchX509Bundles streams the roots alone.
func (a *api) FetchX509Bundles(_ *workload.X509BundlesRequest, out grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	return a.follow(out.Context(), func(i Identity) error {
		return out.Send(&workload.X509BundlesResponse{Bundles: map[string][]byte{"spiffe://" + i.id.TrustDomain(): join(i.roots)}})
	})
}

// follow sends each identity while it is valid. A stream without one ends.
func (a *api) follow(ctx context.Context, send func(Identity) error) error {
	for {
		i, changed := a.server.get()
		left := time.Until(i.notAfter)
		if left <= 0 {
			return errNone
		}
		if err := send(i); err != nil {
			return err
		}
		timer := time.NewTimer(left)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return status.FromContextError(ctx.Err()).Err()
		}
		timer.Stop()
	}
}
