package delegation

import (
	"context"
	"sync"
)

// turns lets requests about one agent wait for each other, so that a retry finds what the first attempt made. What
// must hold is checked at commit all the same.
type turns struct {
	mu   sync.Mutex
	busy map[string]chan struct{}
}

// take waits until nobody else works on id. The caller calls done.
func (t *turns) take(ctx context.Context, id string) (done func(), err error) {
	for {
		t.mu.Lock()
		other, taken := t.busy[id]
		if !taken {
			own := make(chan struct{})
			t.busy[id] = own
			t.mu.Unlock()
			return func() { t.give(id, own) }, nil
		}
		t.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, &Error{Kind: Unavailable, Code: "timeout", Detail: "an equal request took too long", Err: ctx.Err()}
		}
	}
}

func (t *turns) give(id string, own chan struct{}) {
	t.mu.Lock()
	delete(t.busy, id)
	t.mu.Unlock()
	close(own)
}
