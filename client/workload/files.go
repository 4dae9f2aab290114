package workload

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
)

// Files are where somebody else keeps an identity, PEM.
type Files struct{ Cert, Key, Roots string }

const maxFile = 1 << 20

// Load reads the identity as it is now.
func (f Files) Load(now time.Time) (Identity, error) {
	var text [3][]byte
	for i, path := range [...]string{f.Cert, f.Key, f.Roots} {
		var err error
		if text[i], err = read(path); err != nil {
			return Identity{}, err
		}
	}
	cert, err := tls.X509KeyPair(text[0], text[1])
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %s, %s: %w", ErrIdentity, f.Cert, f.Key, err)
	}
	roots, err := chain.ParsePEM(text[2], chain.MaxChain)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %s: %w", ErrIdentity, f.Roots, err)
	}
	return NewIdentity(&cert, roots, now)
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("workload: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only: nothing is lost
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("workload: %s: %w", path, err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("workload: %s: more than %d bytes", path, maxFile)
	}
	return data, nil
}

// Follow gives the server what the files hold, whenever that changes, until ctx ends. Files that do not fit together, as while
// they are being replaced, change nothing; warn is told what is wrong with them, once.
func (f Files) Follow(ctx context.Context, s *Server, every time.Duration, warn func(error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var served [32]byte
	said := ""
	for {
		i, err := f.Load(time.Now())
		switch sum := i.sum(); {
		case err != nil && err.Error() != said:
			said = err.Error()
			warn(err)
		case err == nil && sum != served:
			served, said = sum, ""
			s.Set(i)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
