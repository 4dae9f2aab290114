package hsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
)

// isolated is a token whose module runs in a process of its own, so that a module that crashes, hangs or writes where it
// should not takes nothing down but that process. The process keeps the sessions as any token does, and heals them; here
// it is started, watched, and started again.
//
// A call that the process did not survive is not repeated. After such an end one signature at a time is tried until one
// succeeds, and all others are refused at once.
type isolated struct {
	token    *Token
	command  []string
	slots    chan struct{} // one for each call inside the process
	starting chan struct{} // held by whoever starts a process
	process  atomic.Pointer[process]
	refused  atomic.Pointer[failure] // the token refused the PIN: final
	doubted  atomic.Bool             // a process ended badly, and none has signed since
	trial    chan struct{}           // held by the signature that is tried
}

func openIsolated(ctx context.Context, set settings, command []string, log *slog.Logger) (*Token, error) {
	t := newToken(set, log)
	t.apart = &isolated{
		token: t, command: command, slots: make(chan struct{}, set.sessions), starting: make(chan struct{}, 1), trial: make(chan struct{}, 1),
	}
	if _, err := t.apart.running(ctx); err != nil {
		return nil, err
	}
	return t, nil
}

// call takes a slot and asks the process, which is started if there is none.
func (i *isolated) call(ctx context.Context, q request) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, i.token.timeout)
	defer cancel()
	if err := i.usable(); err != nil {
		return reply{}, err
	}
	select {
	case i.slots <- struct{}{}:
	case <-ctx.Done():
		return reply{}, fmt.Errorf("hsm: wait for a session: %w", ctx.Err())
	}
	p, err := i.running(ctx)
	if err != nil {
		<-i.slots
		return reply{}, err
	}
	r, err := p.ask(ctx, i.token.timeout, q, func() { <-i.slots })
	return r, i.remember(err)
}

// usable is what no new process would change.
func (i *isolated) usable() error {
	if i.token.closed.Load() {
		return ErrClosed
	}
	if f := i.refused.Load(); f != nil {
		return f
	}
	return nil
}

// remember keeps a refused PIN from being presented by another process.
func (i *isolated) remember(err error) error {
	var f *failure
	if errors.Is(err, ErrPIN) && errors.As(err, &f) {
		i.refused.Store(f)
	}
	return err
}

// running gives the process, and starts one when there is none: one caller for all, and after failures in a row not at once.
func (i *isolated) running(ctx context.Context) (*process, error) {
	if p := i.process.Load(); p != nil && p.alive() {
		return p, nil
	}
	select {
	case i.starting <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: wait for the module's process: %w", ErrUnavailable, ctx.Err())
	}
	defer func() { <-i.starting }()
	if err := i.usable(); err != nil {
		return nil, err
	}
	if p := i.process.Load(); p != nil && p.alive() {
		return p, nil
	}
	if err := i.token.backOff(ctx); err != nil {
		return nil, fmt.Errorf("%w: wait for the module's process: %w", ErrUnavailable, err)
	}
	// Whoever comes next needs it too: it is not given up because the first caller is.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), i.token.timeout)
	defer cancel()
	return i.start(ctx)
}

func (i *isolated) start(ctx context.Context) (*process, error) {
	t := i.token
	p, err := spawn(i.command, t.log, i.ended)
	if err != nil {
		t.recovered()
		return nil, fmt.Errorf("hsm: start the module's process: %w: %w", ErrUnavailable, err)
	}
	_, err = p.ask(ctx, t.timeout, request{Op: opOpen, Open: &opening{
		Module: t.module, Token: t.label, PIN: t.pin, PINFile: t.pinFile, Sessions: t.sessions, Timeout: t.timeout,
	}}, func() {})
	if err != nil {
		p.end(err)
		<-p.ended
		return nil, i.remember(err)
	}
	for _, k := range t.handedOut() {
		i.rebind(ctx, p, k)
	}
	i.process.Store(p)
	return p, nil
}

// ended is called by the process that has ended.
func (i *isolated) ended(p *process) {
	if i.token.closed.Load() {
		return
	}
	i.doubted.Store(true)
	i.token.recovered()
	i.token.log.Warn("hsm: the module's process has ended", slog.String("token", i.token.label), slog.Any("reason", p.gone()))
}

// rebind makes sure that a key is still the same.
func (i *isolated) rebind(ctx context.Context, p *process, k *Key) {
	r, err := p.ask(ctx, i.token.timeout, request{Op: opFind, URI: k.URI()}, func() {})
	if err == nil {
		_, public, wrong := r.publicHalf()
		if err = wrong; err == nil && !k.public.Equal(public) {
			err = ErrKeyChanged
		}
	}
	if err != nil {
		err = fmt.Errorf("%w: key %s in a new process: %w", ErrUnavailable, k.uri, err)
	}
	k.bound.Store(&binding{err: err})
}

func (i *isolated) check(ctx context.Context) error {
	if _, err := i.call(ctx, request{Op: opCheck}); err != nil {
		return err
	}
	if i.trying() {
		return errTrial
	}
	ctx, cancel := context.WithTimeout(ctx, i.token.timeout)
	defer cancel()
	for _, k := range i.token.handedOut() {
		if k.bound.Load().err == nil {
			continue
		}
		if p := i.process.Load(); p != nil {
			i.rebind(ctx, p, k) // it may have come back
		}
		if err := k.bound.Load().err; err != nil {
			return err
		}
	}
	return nil
}

// find looks a key up, or has it made.
func (i *isolated) find(ctx context.Context, u URI, q request) (*Key, error) {
	r, err := i.call(ctx, q)
	if err != nil {
		return nil, err
	}
	algorithm, public, err := r.publicHalf()
	if err != nil {
		return nil, err
	}
	return i.token.register(nil, u, located{algorithm: algorithm, public: public})
}

func (i *isolated) info(ctx context.Context) (Info, error) {
	r, err := i.call(ctx, request{Op: opInfo})
	if err != nil {
		return Info{}, err
	}
	if r.Info == nil {
		return Info{}, fmt.Errorf("%w: no information", ErrUnavailable)
	}
	return *r.Info, nil
}

func (i *isolated) sign(ctx context.Context, k *Key, digest []byte) ([]byte, error) {
	if err := k.bound.Load().err; err != nil {
		return nil, err
	}
	if i.doubted.Load() {
		select {
		case i.trial <- struct{}{}:
			defer func() { <-i.trial }()
		default:
			return nil, errTrial
		}
	}
	r, err := i.call(ctx, request{Op: opSign, URI: k.URI(), Digest: digest})
	if err != nil {
		return nil, err
	}
	sig, err := k.finish(digest, r.Signature)
	if err == nil {
		i.doubted.Store(false)
		i.token.succeeded()
	}
	return sig, err
}

var errTrial = fmt.Errorf("%w: the module's process ended badly, and one signature at a time is tried", ErrUnavailable)

func (i *isolated) ready() error {
	if err := i.usable(); err != nil {
		return err
	}
	if p := i.process.Load(); !p.alive() {
		return p.gone()
	}
	if i.trying() {
		return errTrial
	}
	return nil
}

// trying says that a signature is under way which shows whether the module is well again.
func (i *isolated) trying() bool { return i.doubted.Load() && len(i.trial) > 0 }

// close lets the process log out, and ends it if it does not within ctx.
func (i *isolated) close(ctx context.Context) error {
	select {
	case i.starting <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-i.starting }()
	p := i.process.Load()
	if p == nil {
		return nil
	}
	_ = p.requests.Close() // the end of it, to the process
	select {
	case <-p.ended:
	case <-ctx.Done():
		p.end(ErrClosed)
		<-p.ended
	}
	return nil
}
