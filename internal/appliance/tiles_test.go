package appliance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/transparency-dev/merkle/rfc6962"
	tapi "github.com/transparency-dev/tessera/api"
	tclient "github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// sizes are trees with a partial tile, with full ones, and with three levels of them.
const (
	smallLog = 700
	largeLog = 1<<16 + 300
)

// get reads a path of the log.
func get(ctx context.Context, c *http.Client, address string) (int, http.Header, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, nil, nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, body, err
}

// sumdb reads the log as the Go checksum database's client reads its own: golang.org/x/mod/sumdb/tlog.
type sumdb struct {
	s *served
	c *http.Client

	mu    sync.Mutex
	saved int // tiles that tlog found in agreement with the tree
}

func (r *sumdb) Height() int { return 8 }

func (r *sumdb) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, t := range tiles {
		path := "tile/" + strings.TrimPrefix(t.Path(), "tile/8/") // tlog-tiles has the height in no path
		status, _, body, err := get(r.s.t.Context(), r.c, r.s.url+path)
		if err != nil || status != http.StatusOK {
			return nil, fmt.Errorf("%s: %d, %w", path, status, err)
		}
		out[i] = body
	}
	return out, nil
}

func (r *sumdb) SaveTiles(tiles []tlog.Tile, _ [][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.saved += len(tiles)
}

// tree reads the checkpoint with the key alone.
func (r *sumdb) tree() (tlog.Tree, error) {
	_, _, body, err := get(r.s.t.Context(), r.c, r.s.url+"checkpoint")
	if err != nil {
		return tlog.Tree{}, err
	}
	n, err := note.Open(body, note.VerifierList(r.s.verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	return parseTree(n.Text)
}

// parseTree reads the three lines of a checkpoint.
func parseTree(text string) (tlog.Tree, error) {
	origin, rest, _ := strings.Cut(text, "\n")
	tree, err := tlog.ParseTree([]byte("go.sum database tree\n" + rest))
	if err == nil && origin != readersOrigin {
		err = fmt.Errorf("a log of %q", origin)
	}
	return tree, err
}

// proves has tlog make proofs out of tiles and check them: of the entries in the tree, and from older trees to it.
func (r *sumdb) proves(tree tlog.Tree) error {
	hashes := tlog.TileHashReader(tree, r)
	for _, n := range []int64{0, 1, 255, 256, 257, tree.N / 2, tree.N - 2, tree.N - 1} {
		leaf, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, n)})
		if err != nil {
			return err
		}
		proof, err := tlog.ProveRecord(tree.N, n, hashes)
		if err != nil {
			return err
		}
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, n, leaf[0]); err != nil {
			return fmt.Errorf("entry %d: %w", n, err)
		}
		old, err := tlog.TreeHash(n+1, hashes)
		if err != nil {
			return err
		}
		between, err := tlog.ProveTree(tree.N, n+1, hashes)
		if err != nil {
			return err
		}
		if err := tlog.CheckTree(between, tree.N, tree.Hash, n+1, old); err != nil {
			return fmt.Errorf("tree of size %d: %w", n+1, err)
		}
	}
	return nil
}

// checks is all that this reader looks at.
func (r *sumdb) checks() error {
	tree, err := r.tree()
	if err != nil {
		return err
	}
	return r.proves(tree)
}

// fetcher is Tessera's reader over HTTP.
func (s *served) fetcher(c *http.Client) *tclient.HTTPFetcher {
	s.t.Helper()
	root, err := url.Parse(s.url)
	must(s.t, err)
	f, err := tclient.NewHTTPFetcher(root, c)
	must(s.t, err)
	return f
}

// fsck has Tessera recompute the log: every entry, every tile, the root.
func (s *served) fsck(c *http.Client) error {
	hash := func(raw []byte) ([][]byte, error) {
		var b tapi.EntryBundle
		if err := b.UnmarshalText(raw); err != nil {
			return nil, err
		}
		var out [][]byte
		for _, e := range b.Entries {
			out = append(out, rfc6962.DefaultHasher.HashLeaf(e))
		}
		return out, nil
	}
	return fsck.New(readersOrigin, s.verifier, s.fetcher(c), hash, fsck.Opts{N: 4}).Check(s.t.Context())
}

// Software that knows C2SP tlog-tiles, and not Signet, verifies the log over its endpoints.
func TestForeignReadersVerifyTheLog(t *testing.T) {
	s := serveLog(t, largeLog)
	public, seen := s.reader()
	r := &sumdb{s: s, c: public}
	must(t, r.checks())
	if r.saved == 0 || seen.partly.Load() == 0 {
		t.Errorf("tlog took %d tiles, %d of them partial", r.saved, seen.partly.Load())
	}
	auditor, seen := s.reader(s.auditor)
	must(t, s.fsck(auditor))
	for _, path := range []string{"/tile/2/000.p/1", "/tile/1/000", "/tile/1/001.p/1", "/tile/0/255", "/tile/entries/256"} {
		if _, ok := seen.asked.Load(path); !ok {
			t.Errorf("Tessera did not ask for %s", path)
		}
	}
	if err := s.fsck(public); err == nil {
		t.Error("entries without an auditor's certificate")
	}
}

// A log that grows while it is read stays one log: what belongs to an older checkpoint is served as long as there is a log.
func TestForeignReadersWhileTheLogGrows(t *testing.T) {
	s := serveLog(t, smallLog)
	c, seen := s.reader(s.auditor)
	f := s.fetcher(c)
	tracker, err := tclient.NewLogStateTracker(t.Context(), f.ReadTile, nil, s.verifier, readersOrigin, tclient.UnilateralConsensus(f.ReadCheckpoint))
	must(t, err)
	r := &sumdb{s: s, c: c}
	old, err := r.tree()
	must(t, err)
	var once sync.Once
	seen.alter = func(path string, body []byte) []byte {
		if path == "/checkpoint" {
			once.Do(func() { s.grow(600) }) // after the answer was made: the reader holds an older checkpoint
		}
		return body
	}
	must(t, s.fsck(c))
	must(t, r.proves(old)) // by partial tiles whose full ones exist now
	_, proof, _, err := tracker.Update(t.Context())
	must(t, err)
	if got := tracker.Latest().Size; got < uint64(old.N)+600 || len(proof) == 0 {
		t.Errorf("the tracker is at size %d with a proof of %d hashes", got, len(proof))
	}
	must(t, r.checks())
	must(t, s.fsck(c))
}

// What was changed on its way, or in the log, is noticed by whoever reads it.
func TestForeignReadersNoticeTampering(t *testing.T) {
	s := serveLog(t, smallLog)
	size := s.signedSize()
	last := fmt.Sprintf("%03d.p/%d", size/256, size%256)
	shorten := func(body []byte) []byte { return body[:len(body)-32] }
	swap := func(body []byte) []byte { return slices.Concat(body[32:64], body[:32], body[64:]) }
	for _, row := range []struct {
		path    string
		tamper  func([]byte) []byte
		tessera bool // whether it is to notice
		tlog    bool
	}{
		{"/checkpoint", oneBitOff, true, true},
		{"/tile/0/000", oneBitOff, true, true},
		{"/tile/0/001", swap, true, true},
		{"/tile/0/" + last, oneBitOff, true, true},
		{"/tile/0/" + last, shorten, true, true},
		{"/tile/1/000.p/2", oneBitOff, true, true},
		{"/tile/entries/000", oneBitOff, true, false},
		{"/tile/entries/" + last, oneBitOff, true, false},
		{"/tile/entries/" + last, func(b []byte) []byte { return b[:len(b)-1] }, true, false},
	} {
		changed := false
		c, w := s.reader(s.auditor)
		w.alter = func(path string, body []byte) []byte {
			if path != row.path {
				return body
			}
			changed = true
			return row.tamper(bytes.Clone(body))
		}
		if err := s.fsck(c); (err != nil) != row.tessera || !changed {
			t.Errorf("%s: Tessera says %v, changed: %v", row.path, err, changed)
		}
		if err := (&sumdb{s: s, c: c}).checks(); (err != nil) != row.tlog {
			t.Errorf("%s: tlog says %v", row.path, err)
		}
	}
}

// What is there is kept by caches for good, what changes by none, and what is not there yet by nobody.
func TestTilesAndCaches(t *testing.T) {
	s := serveLog(t, smallLog)
	c, _ := s.reader(s.auditor)
	const binary, forever, never = "application/octet-stream", "public, max-age=31536000, immutable", "no-store"
	size := s.log.Head().Size
	for _, row := range []struct {
		path         string
		status       int
		media, cache string
		bytes        int // -1: not looked at
	}{
		{"checkpoint", 200, "text/plain; charset=utf-8", "no-cache", -1},
		{"tile/0/000", 200, binary, forever, 8192},
		{"tile/0/002.p/1", 200, binary, forever, 32},
		{"tile/0/002.p/188", 200, binary, forever, 188 * 32},
		{"tile/0/000.p/7", 200, binary, forever, 7 * 32}, // no longer the edge
		{"tile/1/000.p/2", 200, binary, forever, 64},
		{"tile/entries/000", 200, binary, never, -1}, // for auditors alone
		{fmt.Sprintf("tile/0/002.p/%d", size-512+1), 404, "", never, -1},
		{"tile/0/002", 404, "", never, -1},
		{"tile/0/003.p/1", 404, "", never, -1},
		{"tile/0/900", 404, "", never, -1},
		{"tile/1/000", 404, "", never, -1},
		{"tile/1/000.p/3", 404, "", never, -1},
		{"tile/2/000.p/1", 404, "", never, -1},
		{"tile/0/002.p/0", 404, "", never, -1},
		{"tile/entries/002", 404, "", never, -1},
		{"tile/entries/003.p/1", 404, "", never, -1},
		{"tile/entries/x072/x057/x594/x037/x927/936", 404, "", never, -1}, // 2^56: its first entry is 0 in 64 bits
	} {
		status, h, body, err := get(t.Context(), c, s.url+row.path)
		must(t, err)
		if status != row.status || h.Get("Cache-Control") != row.cache || row.media != "" && h.Get("Content-Type") != row.media || row.bytes >= 0 && len(body) != row.bytes {
			t.Errorf("%s: %d, %q, %q, %d bytes", row.path, status, h.Get("Content-Type"), h.Get("Cache-Control"), len(body))
		}
	}
	if _, err := s.fetcher(c).ReadTile(t.Context(), 0, 9, 0); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("a tile that is not there: %v", err)
	}
}
