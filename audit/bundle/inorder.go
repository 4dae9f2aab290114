package bundle

import (
	"context"
	"sync"
)

// inOrder does work for each number below total on so many workers, and take for each in order on the caller's goroutine, while later work goes on. At
// most slots of them are between the two: number n has slot n modulo slots to itself from the beginning of its work to the end of its take. All
// goroutines have ended on return, with the context's error if that ended first.
func inOrder(ctx context.Context, workers int, slots, total uint64, work func(worker int, slot, n uint64), take func(slot, n uint64)) error {
	jobs := make(chan uint64, slots) // never full: no more than slots are under way
	done := make([]chan struct{}, slots)
	for i := range done {
		done[i] = make(chan struct{}, 1)
	}
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			for n := range jobs {
				if ctx.Err() == nil {
					work(w, n%slots, n)
				}
				done[n%slots] <- struct{}{}
			}
		})
	}
	defer group.Wait()
	defer close(jobs)
	for n := range min(slots, total) {
		jobs <- n
	}
	for n := range total {
		<-done[n%slots]
		if err := ctx.Err(); err != nil {
			return err
		}
		take(n%slots, n)
		if n+slots < total {
			jobs <- n + slots
		}
	}
	return nil
}
