package quota

import (
	"context"
	"sync"
)

// Meter remembers the tightest quota that the requests under one context met.
type Meter struct {
	mu    sync.Mutex
	seen  bool
	state State
}

type meterKey struct{}

// Watch gives a context whose requests are seen by the Meter.
func Watch(ctx context.Context) (context.Context, *Meter) {
	m := new(Meter)
	return context.WithValue(ctx, meterKey{}, m), m
}

// Tightest is the State with the least left; ok is false where no quota was met.
func (m *Meter) Tightest() (s State, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state, m.seen
}

func note(ctx context.Context, s State) {
	m, ok := ctx.Value(meterKey{}).(*Meter)
	if !ok {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.seen || s.Left < m.state.Left || s.Left == m.state.Left && s.Next > m.state.Next {
		m.seen, m.state = true, s
	}
}
