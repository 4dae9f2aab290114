package client

import (
	"io"
	"net/http"
)

// Over makes every request go through rt.
func (c *Client) Over(rt http.RoundTripper) { c.http.Transport = rt }

// ReadEvents reads a stream.
func ReadEvents(in io.Reader, take func(data string) error) error { return readEvents(in, take) }

// Known is how many certificates are remembered.
func (v *Verifier) Known() int { return len(v.known.m) }

// Forget makes every certificate a new one.
func (v *Verifier) Forget() {
	v.known = newCache[[32]byte, acquaintance](maxKnown)
	if err := v.trustIn(v.trust.Load().Intermediates); err != nil {
		panic(err)
	}
}

// NewCache shows the cache to its test.
func NewCache(limit int) interface {
	Put(k, v int)
	Len() int
} {
	return testCache{newCache[int, int](limit)}
}

type testCache struct{ c *cache[int, int] }

func (c testCache) Put(k, v int) { c.c.put(k, v) }
func (c testCache) Len() int     { return len(c.c.m) }
