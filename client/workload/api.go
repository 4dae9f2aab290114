package workload

import (
	"context"
	"time"

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

// marked demands the header that a browser or a confused proxy cannot be made to send (SPIFFE Workload Endpoint §6.1).
func marked(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get("workload.spiffe.io"); len(v) != 1 || v[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	return nil
}

func unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := marked(ctx); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := marked(ss.Context()); err != nil {
		return err
	}
	return handler(srv, ss)
}

// FetchX509SVID streams certificate, key and roots.
func (a *api) FetchX509SVID(_ *workload.X509SVIDRequest, out grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	return a.follow(out.Context(), func(i Identity) error {
		return out.Send(&workload.X509SVIDResponse{Svids: []*workload.X509SVID{{
			SpiffeId: i.id.String(), X509Svid: i.svid, X509SvidKey: i.key, Bundle: i.bundle,
		}}})
	})
}

// FetchX509Bundles streams the roots alone.
func (a *api) FetchX509Bundles(_ *workload.X509BundlesRequest, out grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	return a.follow(out.Context(), func(i Identity) error {
		return out.Send(&workload.X509BundlesResponse{Bundles: map[string][]byte{"spiffe://" + i.id.TrustDomain(): i.bundle}})
	})
}

// follow sends each identity while it is valid. A stream without one ends with the answer that the specification has for
// who has no identity: clients ask again.
func (a *api) follow(ctx context.Context, send func(Identity) error) error {
	for {
		i, changed := a.server.get()
		left := time.Until(i.notAfter)
		if left <= 0 {
			return status.Error(codes.PermissionDenied, "no identity issued")
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
