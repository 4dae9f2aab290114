package hsm

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The files of a module's process, after its standard ones: a vendor's library may print what it likes.
const (
	requestsFD = 3
	repliesFD  = 4
)

const (
	// grace is what the process of a module allows a call beyond the appliance, which ends it first.
	grace = 5 * time.Second
	// farewell is how long the process of a module has to log out when the appliance has gone.
	farewell = 2 * time.Second
)

// ServeModule is the process of one token's module, started by a [Token] whose Config names its command. It ends when the
// appliance closes the pipe or has ended, however that came; signals are not for it. It never dumps core: it knows the PIN.
func ServeModule() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("hsm: serve module: %w", err)
	}
	requests, replies := os.NewFile(requestsFD, "requests"), os.NewFile(repliesFD, "replies")
	if err := serve(requests, replies); err != nil {
		return fmt.Errorf("hsm: serve module: %w", err)
	}
	return nil
}

// server answers for one token.
type server struct {
	token   *Token
	writing sync.Mutex
	replies io.Writer
}

func serve(requests io.Reader, replies io.Writer) error {
	var first request
	if err := readFrame(requests, &first); err != nil {
		return err
	}
	s := &server{replies: replies}
	if first.Op == opExamine {
		return s.examine(requests, first)
	}
	if first.Op != opOpen || first.Open == nil {
		return errors.New("the first request does not open a token")
	}
	o := first.Open
	token, err := openHere(context.Background(), settings{
		module: o.Module, label: o.Token, pin: o.PIN, pinFile: o.PINFile, sessions: o.Sessions, queue: maxQueue, timeout: o.Timeout + grace,
	}, slog.New(slog.DiscardHandler)) // the appliance logs what it is told
	if err != nil {
		return s.answer(reply{ID: first.ID, Error: failed(err)})
	}
	s.token = token
	defer s.leave()
	if err := s.answer(reply{ID: first.ID}); err != nil {
		return err
	}
	return s.serve(requests)
}

// serve runs each request on its own; the appliance asks no more at a time than the token has sessions, and one to
// look after it.
func (s *server) serve(requests io.Reader) error {
	places := make(chan struct{}, 2*maxSessions)
	for {
		var q request
		switch err := readFrame(requests, &q); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		places <- struct{}{}
		go func() { // ends with the process, if the module does not return
			defer func() { <-places }()
			r, err := s.do(context.Background(), q)
			if err != nil {
				r = reply{Error: failed(err)}
			}
			r.ID = q.ID
			_ = s.answer(r) // a pipe that is closed ends serve too
		}()
	}
}

func (s *server) do(ctx context.Context, q request) (reply, error) {
	switch q.Op {
	case opCheck:
		return reply{}, s.token.Check(ctx)
	case opFind:
		k, err := s.token.Signer(ctx, q.URI)
		return describe(k, err)
	case opGenerate:
		k, err := s.token.Generate(ctx, q.Label, q.Algorithm)
		return describe(k, err)
	case opSign:
		return s.sign(ctx, q)
	case opInfo:
		info, err := s.token.Info(ctx)
		return reply{Info: &info}, err
	case opOpen, opExamine:
	}
	return reply{}, fmt.Errorf("unknown request %q", q.Op)
}

func describe(k *Key, err error) (reply, error) {
	if err != nil {
		return reply{}, err
	}
	public, err := x509.MarshalPKIXPublicKey(k.Public())
	return reply{Public: public}, err
}

// sign leaves it to the appliance to verify.
func (s *server) sign(ctx context.Context, q request) (reply, error) {
	u, err := ParseURI(q.URI)
	if err != nil {
		return reply{}, err
	}
	k, ok := s.token.known(u)
	if !ok {
		if k, err = s.token.Signer(ctx, q.URI); err != nil {
			return reply{}, err
		}
	}
	sig, err := do(ctx, s.token, func(l *live, at session) ([]byte, error) { return k.raw(l, at, q.Digest) })
	return reply{Signature: sig}, err
}

func (s *server) answer(r reply) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return writeFrame(s.replies, r)
}

// leave logs out, if the module lets it.
func (s *server) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	_ = s.token.closeWithin(ctx) // the process ends all the same
}
