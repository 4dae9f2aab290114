package api

import "sync"

// sideBySide does n pieces of one request, each by its index and some at a time, and returns when all are done.
func sideBySide(n, workers int, do func(i int)) {
	next := make(chan int, n)
	for i := range n {
		next <- i
	}
	close(next)
	var group sync.WaitGroup
	for range min(n, workers) {
		group.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	group.Wait()
}
