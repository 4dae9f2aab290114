package delegation

import "sync"

// cache is a bounded map of values that can be made again. When it is full an arbitrary entry goes: what it holds is
// cheap to rebuild, and an order would cost a write for each read.
type cache[K comparable, V any] struct {
	mu    sync.RWMutex
	m     map[K]V
	max   int
	drops uint64
}

func newCache[K comparable, V any](limit int) *cache[K, V] {
	return &cache[K, V]{m: make(map[K]V), max: limit}
}

func (c *cache[K, V]) get(k K) (V, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	v, ok := c.m[k]
	return v, ok
}

func (c *cache[K, V]) put(k K, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set(k, v)
}

// set is for who holds the lock.
func (c *cache[K, V]) set(k K, v V) {
	if _, ok := c.m[k]; !ok && len(c.m) >= c.max {
		for old := range c.m {
			delete(c.m, old)
			break
		}
	}
	c.m[k] = v
}

// loaded gives k's value, from load where it is not held. What load read before a drop is not kept: it may be what the
// drop was about.
func (c *cache[K, V]) loaded(k K, load func() (V, bool, error)) (V, bool, error) {
	if v, ok := c.get(k); ok {
		return v, true, nil
	}
	before := c.dropped()
	v, ok, err := load()
	if err != nil || !ok {
		return v, ok, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drops == before {
		c.set(k, v)
	}
	return v, true, nil
}

func (c *cache[K, V]) dropped() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.drops
}

func (c *cache[K, V]) drop(k K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drops++
	delete(c.m, k)
}
