package api

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"sync"

	"github.com/labstack/echo/v4"

	v1 "github.com/signet-pki/signet/api/v1"
)

// Server serves the API. Make it with New.
type Server struct {
	cfg     Config
	echo    *echo.Echo
	routes  []route
	metrics *metrics
	work    chan struct{} // one place for each request at a time of a caller with an identity
	public  chan struct{} // likewise of others, who must not fill it
	knocks  chan struct{} // likewise of those that send a body: a slow sender must not keep readers out
	waits   chan struct{} // likewise for slow ones
	streams chan struct{} // likewise for readers of the feed
	heavy   chan struct{} // likewise for what brings or compiles a policy: bodies of 16 MiB
	sealing chan struct{} // likewise for requests at work whose answer waits for a seal: no more than half of them
	closing chan struct{} // closed by endStreams when the server ends

	endStreams func()

	openapi []byte
	page    []byte
	bundle  bundles
	buffers buffers
	headers headers

	evaluation *shape  // of one evaluation of several
	metadata   []byte  // of AuthZEN
	scenario   Permits // of the conformance profile alone
}

// maxHeavy is how many requests about policy bundles are at work: one of them is compiled at a time.
const maxHeavy = 4

// New checks the configuration and makes a Server. Nothing runs yet.
func New(cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	s, err := newServer(cfg, table())
	if err != nil {
		return nil, err
	}
	if s.bundle, err = newBundles(cfg.Trust); err != nil {
		return nil, err
	}
	if s.openapi, err = document(s.routes); err != nil {
		return nil, fmt.Errorf("api: openapi: %w", err)
	}
	s.page, err = docsPage(s.routes)
	return s, err
}

// newServer makes a Server of these endpoints.
func newServer(cfg Config, routes []route) (*Server, error) {
	cfg.Limits = cfg.Limits.withDefaults()
	s := &Server{
		cfg: cfg, echo: echo.New(), routes: routes,
		headers: newHeaders(),
		work:    make(chan struct{}, cfg.Limits.Concurrency), public: make(chan struct{}, cfg.Limits.Concurrency), knocks: make(chan struct{}, cfg.Limits.Concurrency), waits: make(chan struct{}, cfg.Limits.SlowRequests),
		streams: make(chan struct{}, cfg.Limits.Streams), closing: make(chan struct{}),
		heavy: make(chan struct{}, maxHeavy), sealing: make(chan struct{}, (cfg.Limits.Concurrency+1)/2),
	}
	s.endStreams = sync.OnceFunc(func() { close(s.closing) })
	var err error
	if s.metrics, err = newMetrics(cfg.Metrics); err != nil {
		return nil, fmt.Errorf("api: metrics: %w", err)
	}
	if s.evaluation, err = shapeOf(reflect.TypeFor[v1.Evaluation]()); err != nil {
		return nil, err
	}
	if s.metadata, err = accessMetadata(cfg.PublicURL); err != nil {
		return nil, err
	}
	return s, s.register()
}

// register makes the table and the mounts reachable.
func (s *Server) register() error {
	s.echo.Logger.SetOutput(io.Discard)
	s.echo.HTTPErrorHandler = s.unrouted
	for i := range s.routes {
		r := &s.routes[i]
		if body := cmp.Or(r.reads, r.request); body != nil {
			var err error
			if r.shape, err = shapeOf(body); err != nil {
				return err
			}
		}
		s.echo.Add(r.method, r.echoPath(), s.serve(r))
	}
	for prefix, h := range s.cfg.Mounts {
		r := &route{
			id: "mount", path: prefix, allowed: anyone,
			handle: func(_ *Server, c *call) (reply, error) { return c.hand(h) },
		}
		s.echo.Any(prefix+"*", s.serve(r))
	}
	return nil
}

// Handler is the whole API, for a listener that asks for client certificates without verifying them.
func (s *Server) Handler() http.Handler { return s.echo }

// Run serves ln over TLS 1.3 until ctx ends, then finishes what runs, for at most Limits.Shutdown. Client certificates
// are asked for and verified here, not in the handshake, so that a refusal has a code and an entry. There are no session
// tickets: resumption would skip the certificate.
func (s *Server) Run(ctx context.Context, ln net.Listener, cfg *tls.Config) error {
	if cfg == nil || len(cfg.Certificates) == 0 && cfg.GetCertificate == nil {
		return errors.New("api: the listener has no certificate")
	}
	srv := &http.Server{
		Handler: s.echo, TLSConfig: listenerTLS(cfg), MaxHeaderBytes: s.cfg.Limits.MaxHeader,
		ReadHeaderTimeout: s.cfg.Limits.HeaderTimeout, ReadTimeout: s.cfg.Limits.ReadTimeout,
		WriteTimeout: s.cfg.Limits.ReadTimeout + s.cfg.Limits.Request, IdleTimeout: s.cfg.Limits.Idle,
		// Its lines name source addresses, which mean nothing here and belong in no log that is kept.
		ErrorLog: slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: 128, MaxReadFrameSize: 64 << 10},
	}
	srv.RegisterOnShutdown(s.endStreams)
	failed := make(chan error, 1)
	go func() { failed <- srv.ServeTLS(ln, "", "") }()
	select {
	case err := <-failed:
		return fmt.Errorf("api: serve: %w", err)
	case <-ctx.Done():
	}
	err := s.stop(ctx, srv)
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("api: serve: %w", served))
	}
	return err
}

// stop lets running requests end, and cuts off what does not in time.
func (s *Server) stop(ctx context.Context, srv *http.Server) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Limits.Shutdown)
	defer cancel()
	err := srv.Shutdown(ctx)
	if err == nil {
		return nil
	}
	return errors.Join(fmt.Errorf("api: shutdown: %w", err), srv.Close())
}

func listenerTLS(cfg *tls.Config) *tls.Config {
	out := cfg.Clone()
	out.MinVersion, out.MaxVersion = tls.VersionTLS13, tls.VersionTLS13
	out.ClientAuth, out.ClientCAs = tls.RequestClientCert, nil
	out.SessionTicketsDisabled, out.GetConfigForClient = true, nil
	out.VerifyConnection, out.VerifyPeerCertificate = nil, nil
	return out
}
