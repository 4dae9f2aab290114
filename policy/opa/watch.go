package opa

import (
	"context"
	"errors"
	"math"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/topdown"
)

// Bounds of how many calls of Go's may be in each other, of 250 bytes of stack each. OPA evaluates what comes next within what came
// before, so each step that holds and each pair of parts that are equal is on the stack of all later ones: about twelve calls a
// step. A stack that is larger takes longer to grow and to be looked through than a decision may take, and a full one, of 1 GB,
// ends the process. A bundle's tests ask for many decisions in one evaluation, and only the second concerns them.
const (
	maxFrames     = 16 << 10
	maxTestFrames = 128 << 10
)

const (
	lookEvery  = 5 * time.Millisecond // how often the depth of an evaluation is looked at: most have ended before the first time
	lookEvents = 8192                 // and of tests, in OPA's events
)

var errDeep = errors.New("the evaluation is nested too deep")

// deeper says whether more than n calls are in each other.
func deeper(n int) bool {
	var pc [1]uintptr
	return runtime.Callers(n, pc[:]) > 0
}

const (
	running uint32 = iota
	look           // how deep it is, at the next step
	ended
)

// watch ends an evaluation when it has taken too long, or is too deep. OPA asks it at each step, on the stack that counts.
type watch struct {
	state    atomic.Uint32
	deep     atomic.Bool // why it ended
	deadline time.Time
	expired  chan struct{} // closed when the time is over
	timer    *time.Timer
}

func startWatch(timeout time.Duration) *watch {
	w := &watch{deadline: time.Now().Add(timeout), expired: make(chan struct{})}
	w.timer = time.AfterFunc(math.MaxInt64, w.tick) // which uses the timer
	w.timer.Reset(min(lookEvery, timeout))
	return w
}

func (w *watch) tick() {
	left := time.Until(w.deadline)
	if left <= 0 {
		w.Cancel()
		close(w.expired)
		return
	}
	if w.state.CompareAndSwap(running, look); w.state.Load() != ended {
		w.timer.Reset(min(lookEvery, left))
	}
}

func (w *watch) stop() {
	w.Cancel()
	w.timer.Stop()
}

// Cancel ends the evaluation.
func (w *watch) Cancel() { w.state.Store(ended) }

// Cancelled says whether the evaluation is to end.
func (w *watch) Cancelled() bool {
	switch w.state.Load() {
	case running:
		return false
	case ended:
		return true
	}
	if deeper(maxFrames) {
		w.deep.Store(true)
		w.Cancel()
		return true
	}
	w.state.CompareAndSwap(look, running)
	return w.state.Load() == ended
}

// depthTracer ends tests that are too deep: OPA's runner of tests has no place for a watch.
type depthTracer struct {
	events atomic.Uint32
	end    context.CancelCauseFunc
}

// Enabled says that events are wanted.
func (*depthTracer) Enabled() bool { return true }

// Config asks for no values of variables.
func (*depthTracer) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent looks at the depth now and then.
func (t *depthTracer) TraceEvent(topdown.Event) {
	if t.events.Add(1)%lookEvents == 0 && deeper(maxTestFrames) {
		t.end(errDeep)
	}
}
