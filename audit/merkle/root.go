package merkle

import (
	"math/bits"
	"sync"
)

// parallelFrom is the number of leaves from which a second core pays.
const parallelFrom = 1 << 12

// Root hashes all leaves of a tree. With workers above 1 it uses that many goroutines, all ended on return.
func Root(leaves []Hash, workers int) Hash {
	if len(leaves) == 0 {
		return EmptyRoot()
	}
	return rootOf(leaves, workers)
}

func rootOf(leaves []Hash, workers int) Hash {
	if len(leaves) == 1 {
		return leaves[0]
	}
	// The left part is the largest power of two smaller than n (RFC 6962 §2.1).
	split := 1 << (bits.Len(uint(len(leaves)-1)) - 1)
	if workers <= 1 || len(leaves) < parallelFrom {
		return NodeHash(rootOf(leaves[:split], 1), rootOf(leaves[split:], 1))
	}
	var left Hash
	var wg sync.WaitGroup
	wg.Go(func() { left = rootOf(leaves[:split], workers/2) })
	right := rootOf(leaves[split:], workers-workers/2)
	wg.Wait()
	return NodeHash(left, right)
}
