package backup

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"filippo.io/age"
)

const (
	maxManifest = 64 << 20
	maxLayers   = 64 << 10
	maxIdentity = 4 << 10
)

// Backup is an open file.
type Backup struct {
	file        *os.File
	description Description
	head        []byte // digest of what is before the data
	layers      map[string][]byte
	data, size  int64 // where the encrypted data are
	digest      [sha256.Size]byte
}

// Open reads what is not encrypted, and hashes the file. The caller closes it.
func Open(path string) (*Backup, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	b, err := read(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return b, nil
}

// Close closes the file.
func (b *Backup) Close() error { return b.file.Close() }

// Description is what anybody can read.
func (b *Backup) Description() Description { return b.description }

// Digest is the SHA-256 of the whole file.
func (b *Backup) Digest() [sha256.Size]byte { return b.digest }

// Layers are the files for the groups, by name below layers/, and which custodians take them off, in order.
func (b *Backup) Layers(fn func(name string, custodians []string, data []byte) error) error {
	groups, err := b.description.groups()
	if err != nil {
		return err
	}
	for _, g := range groups {
		names := make([]string, len(g))
		for i, n := range g {
			names[i] = b.description.Custodians[n-1].Name
		}
		if err := fn(strings.TrimPrefix(g.name(), "layers/"), names, b.layers[g.name()]); err != nil {
			return err
		}
	}
	return nil
}

func read(f *os.File) (*Backup, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	b := &Backup{file: f, layers: map[string][]byte{}}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	b.digest = [sha256.Size]byte(sum.Sum(nil))
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	in := tar.NewReader(f)
	text, err := member(in, nameDescription, maxDescription)
	if err != nil {
		return nil, err
	}
	if b.description, err = parseDescription(text); err != nil {
		return nil, err
	}
	groups, err := b.description.groups()
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		if b.layers[g.name()], err = member(in, g.name(), maxLayers); err != nil {
			return nil, err
		}
	}
	return b, b.findData(in)
}

// findData notes where the last member is. Behind it nothing may be but what ends a tar archive.
func (b *Backup) findData(in *tar.Reader) (err error) {
	h, err := in.Next()
	if err != nil || !isRegular(h, nameData) {
		return fmt.Errorf("%w: no %s", ErrFormat, nameData)
	}
	if b.data, err = b.file.Seek(0, io.SeekCurrent); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	b.size = h.Size
	have := make([]byte, block)
	if _, err := b.file.ReadAt(have, b.data-block); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if want, err := headerBlock(nameData, b.size); err != nil || !bytes.Equal(have, want) {
		return fmt.Errorf("%w: header of %s", ErrFormat, nameData)
	}
	if b.head, err = headDigest(b.file, b.data-block); err != nil {
		return err
	}
	tail, err := io.ReadAll(io.NewSectionReader(b.file, b.data+b.size, 4*block))
	want := (block-b.size%block)%block + 2*block
	if err != nil || int64(len(tail)) != want || slices.ContainsFunc(tail, func(c byte) bool { return c != 0 }) {
		return fmt.Errorf("%w: its end", ErrFormat)
	}
	return nil
}

func isRegular(h *tar.Header, name string) bool {
	return h.Typeflag == tar.TypeReg && h.Name == name && h.Size >= 0
}

// member reads the next member, which must have that name.
func member(in *tar.Reader, name string, limit int64) ([]byte, error) {
	h, err := in.Next()
	if err != nil || !isRegular(h, name) || h.Size > limit {
		return nil, fmt.Errorf("%w: no %s", ErrFormat, name)
	}
	data, err := io.ReadAll(in)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrFormat, name, err)
	}
	return data, nil
}

// ParseIdentity reads the key of a file, as the last custodian of a group got it.
func ParseIdentity(text []byte) (*age.X25519Identity, error) {
	if len(text) > maxIdentity {
		return nil, errors.New("backup: not the key of a backup")
	}
	id, err := age.ParseX25519Identity(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, errors.New("backup: not the key of a backup: it is the line that the last custodian of a group gets, and begins with AGE-SECRET-KEY-1")
	}
	return id, nil
}

// Extract gives the files of the data to fn, in order, parts of one as one. When it returns nil all of them had the digests of the
// manifest; before that nothing that fn was given counts. A key of another file is ErrFormat, too.
func (b *Backup) Extract(identity *age.X25519Identity, fn func(name string, r io.Reader) error) error {
	return b.extract(identity, func(name string, r io.Reader) error {
		if name == nameHead {
			return nil
		}
		return fn(name, r)
	})
}

func (b *Backup) extract(identity *age.X25519Identity, fn func(name string, r io.Reader) error) error {
	plain, err := age.Decrypt(io.NewSectionReader(b.file, b.data, b.size), identity)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	x := &extraction{in: tar.NewReader(plain), head: b.head}
	if err := x.run(fn); err != nil {
		return err
	}
	// age says at the end whether the end is the end.
	if rest, err := io.Copy(io.Discard, plain); err != nil || rest > 0 {
		return fmt.Errorf("%w: bytes behind the data: %d, %w", ErrFormat, rest, err)
	}
	return nil
}

// extraction is one pass over the data.
type extraction struct {
	in   *tar.Reader
	head []byte
	have []manifestEntry
	next *tar.Header // read ahead
}

func (x *extraction) run(fn func(string, io.Reader) error) error {
	for {
		h, err := x.header()
		if err != nil {
			return err
		}
		if h.Name == nameManifest {
			return x.manifest(h)
		}
		name, parts := strings.CutSuffix(h.Name, ".0")
		r := &parted{x: x, name: name, parts: parts, now: x.begin(h)}
		if err := fn(name, r); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			return err
		}
		if len(x.have) == 1 {
			if err := x.first(); err != nil {
				return err
			}
		}
	}
}

// first checks that the data begin with the digest of what is before them.
func (x *extraction) first() error {
	sum := sha256.Sum256(x.head)
	if f := x.have[0]; f.Name != nameHead || f.SHA256 != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("%w: what is before the data is not what was there", ErrFormat)
	}
	return nil
}

// header gives the next one.
func (x *extraction) header() (*tar.Header, error) {
	if h := x.next; h != nil {
		x.next = nil
		return h, nil
	}
	h, err := x.in.Next()
	if err != nil || h.Typeflag != tar.TypeReg {
		return nil, fmt.Errorf("%w: data: %w", ErrFormat, errors.Join(err))
	}
	return h, nil
}

func (x *extraction) begin(h *tar.Header) *open {
	return &open{name: h.Name, summed: summed{r: x.in, hash: sha256.New()}}
}

// open is a member that is read.
type open struct {
	name string
	summed
}

// end notes what was read.
func (x *extraction) end(m *open) {
	x.have = append(x.have, manifestEntry{Name: m.name, Size: m.size, SHA256: hex.EncodeToString(m.hash.Sum(nil))})
}

// manifest compares.
func (x *extraction) manifest(h *tar.Header) error {
	if h.Size > maxManifest {
		return fmt.Errorf("%w: manifest of %d bytes", ErrFormat, h.Size)
	}
	data, err := io.ReadAll(x.in)
	if err != nil {
		return fmt.Errorf("%w: manifest: %w", ErrFormat, err)
	}
	want, err := json.Marshal(x.have)
	if err != nil || !bytes.Equal(data, want) {
		return fmt.Errorf("%w: the files are not those of the manifest", ErrFormat)
	}
	if _, err := x.in.Next(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: files behind the manifest", ErrFormat)
	}
	return nil
}

// parted reads one file, and goes on with its next part where it has parts.
type parted struct {
	x     *extraction
	name  string
	parts bool
	n     int
	now   *open
}

func (p *parted) Read(buf []byte) (int, error) {
	for p.now != nil {
		n, err := p.now.Read(buf)
		if n > 0 || err == nil {
			return n, nil
		}
		if !errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("%w: %s: %w", ErrFormat, p.name, err)
		}
		p.x.end(p.now)
		if p.now = nil; !p.parts {
			break
		}
		h, err := p.x.header()
		if err != nil {
			return 0, err
		}
		if p.n++; h.Name != fmt.Sprintf("%s.%d", p.name, p.n) {
			p.x.next = h
			break
		}
		p.now = p.x.begin(h)
	}
	return 0, io.EOF
}
