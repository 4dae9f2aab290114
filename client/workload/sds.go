package workload

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strconv"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// sds is Envoy's Secret Discovery Service, in the variant that sends all that a stream asked for each time. The incremental one
// answers Unimplemented.
type sds struct {
	secret.UnimplementedSecretDiscoveryServiceServer
	server *Server
}

// FetchSecrets answers once.
func (d *sds) FetchSecrets(_ context.Context, r *discovery.DiscoveryRequest) (*discovery.DiscoveryResponse, error) {
	i, _ := d.server.get()
	if time.Until(i.notAfter) <= 0 {
		return nil, errNone
	}
	names, err := subscribed(r)
	if err != nil {
		return nil, err
	}
	return i.response(names)
}

// StreamSecrets answers what is asked for first, what is asked for differently, and every identity that comes, until one ends
// without a next.
func (d *sds) StreamSecrets(stream secret.SecretDiscoveryService_StreamSecretsServer) error {
	s := subscriber{out: stream}
	requests, ended := s.receive()
	for {
		i, changed := d.server.get()
		left := time.Until(i.notAfter)
		if left <= 0 {
			return errNone
		}
		if err := s.push(i); err != nil {
			return err
		}
		timer := time.NewTimer(left)
		var err error
		select {
		case <-changed:
		case <-timer.C:
		case r := <-requests:
			err = s.take(r)
		case err = <-ended:
			timer.Stop()
			return err
		}
		timer.Stop()
		if err != nil {
			return err
		}
	}
}

// subscriber is the other end of a stream.
type subscriber struct {
	out     secret.SecretDiscoveryService_StreamSecretsServer
	names   []string // what it asked for last
	due     bool     // that has not been answered
	nonce   int      // of the last answer; 0 is none
	version string   // of the last answer
}

// receive reads requests until the stream is over, which it is when its handler returns, and then tells why; nil is the client's end.
func (s *subscriber) receive() (<-chan *discovery.DiscoveryRequest, <-chan error) {
	requests, ended := make(chan *discovery.DiscoveryRequest), make(chan error, 1)
	go func() {
		for {
			r, err := s.out.Recv()
			if err != nil {
				if errors.Is(err, io.EOF) {
					err = nil
				}
				ended <- err
				return
			}
			select {
			case requests <- r:
			case <-s.out.Context().Done(): // Recv tells why
			}
		}
	}()
	return requests, ended
}

// take notes what is asked for. A request with another nonce than the last answer's was made before that arrived, and is ignored; one
// with the last nonce accepts or rejects it (xDS protocol, ACK and NACK). Neither is answered unless it asks for something else:
// what was rejected would be rejected again.
func (s *subscriber) take(r *discovery.DiscoveryRequest) error {
	if s.nonce > 0 && r.GetResponseNonce() != strconv.Itoa(s.nonce) {
		return nil
	}
	names, err := subscribed(r)
	if err != nil {
		return err
	}
	s.due = s.nonce == 0 || !slices.Equal(names, s.names)
	s.names = names
	return nil
}

// push sends what is asked for, if it was not sent yet.
func (s *subscriber) push(i Identity) error {
	if !s.due && (s.nonce == 0 || i.version() == s.version) {
		return nil
	}
	out, err := i.response(s.names)
	if err != nil {
		return err
	}
	s.nonce++
	s.due, s.version, out.Nonce = false, out.GetVersionInfo(), strconv.Itoa(s.nonce)
	return s.out.Send(out)
}

// subscribed gives the names of a request, sorted.
func subscribed(r *discovery.DiscoveryRequest) ([]string, error) {
	if t := r.GetTypeUrl(); t != "" && t != secretType {
		return nil, status.Error(codes.InvalidArgument, "type_url: only "+secretType+" is served")
	}
	return slices.Compact(slices.Sorted(slices.Values(r.GetResourceNames()))), nil
}

// version names what an identity serves, the same on every stream and after a restart.
func (i Identity) version() string {
	sum := i.sum()
	return hex.EncodeToString(sum[:16])
}
