package backup

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"filippo.io/age"

	"github.com/signet-pki/signet/internal/durable"
)

// Names in the archive, and in the encrypted one inside.
const (
	nameDescription = "backup.json"
	nameData        = "data.age"
	nameHead        = "HEAD.sha256" // of all before the data
	nameManifest    = "MANIFEST.json"
)

const (
	block    = 512     // of tar
	partSize = 4 << 20 // of what is written without knowing how long it will be
)

// manifestEntry is one file of the data.
type manifestEntry struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Create writes a file that must not exist, mode 0600, reads it back with the key that it is about to forget, and compares every
// digest. It is durable when Create returns its SHA-256; after an error it is gone. fill adds the data.
func Create(path string, d Description, fill func(*Writer) error) (digest [sha256.Size]byte, err error) {
	d.Format = Format
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return digest, fmt.Errorf("backup: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return digest, fmt.Errorf("backup: %w", err)
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	if err := write(f, d, identity, fill); err != nil {
		return digest, err
	}
	if err := errors.Join(f.Chmod(0o600), f.Sync(), durable.SyncDir(filepath.Dir(path))); err != nil {
		return digest, fmt.Errorf("backup: %w", err)
	}
	return verify(f, identity)
}

// verify reads all that was written.
func verify(f *os.File, identity *age.X25519Identity) (digest [sha256.Size]byte, err error) {
	b, err := read(f)
	if err != nil {
		return digest, fmt.Errorf("read back: %w", err)
	}
	err = b.extract(identity, func(_ string, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	})
	if err != nil {
		return digest, fmt.Errorf("read back: %w", err)
	}
	return b.digest, nil
}

func write(f *os.File, d Description, identity *age.X25519Identity, fill func(*Writer) error) error {
	text, err := d.marshal()
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if len(text) > maxDescription {
		return fmt.Errorf("backup: a description of %d bytes", len(text))
	}
	groups, err := d.groups()
	if err != nil {
		return err
	}
	out := tar.NewWriter(f)
	if err := addFile(out, nameDescription, text); err != nil {
		return err
	}
	for _, g := range groups {
		layers, err := d.layered(g, identity)
		if err != nil {
			return err
		}
		if err := addFile(out, g.name(), layers); err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return writeData(f, identity, fill)
}

// writeData writes the last member, whose header it knows when it has written it.
func writeData(f *os.File, identity *age.X25519Identity, fill func(*Writer) error) error {
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	head, err := headDigest(f, at)
	if err != nil {
		return err
	}
	if _, err := f.Write(make([]byte, block)); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	sealed, err := age.Encrypt(f, identity.Recipient())
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	w := &Writer{tar: tar.NewWriter(sealed)}
	err = w.Add(nameHead, head)
	if err == nil {
		err = fill(w)
	}
	if err == nil {
		err = w.finish()
	}
	if err := errors.Join(err, sealed.Close()); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	end, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	size := end - at - block
	if _, err := f.Write(make([]byte, (block-size%block)%block+2*block)); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	h, err := headerBlock(nameData, size)
	if err == nil {
		_, err = f.WriteAt(h, at)
	}
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}

// headDigest is what the data say of the bytes before them.
func headDigest(f *os.File, end int64) ([]byte, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, end)); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	return fmt.Appendf(nil, "%x\n", sum.Sum(nil)), nil
}

// headerBlock is a member's header, which always fits one block.
func headerBlock(name string, size int64) ([]byte, error) {
	var out bytes.Buffer
	err := tar.NewWriter(&out).WriteHeader(header(name, size))
	if err == nil && out.Len() != block {
		err = fmt.Errorf("a header of %d bytes", out.Len())
	}
	return out.Bytes(), err
}

func header(name string, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, Format: tar.FormatGNU}
}

func addFile(out *tar.Writer, name string, data []byte) error {
	if err := out.WriteHeader(header(name, int64(len(data)))); err != nil {
		return fmt.Errorf("backup: %s: %w", name, err)
	}
	if _, err := out.Write(data); err != nil {
		return fmt.Errorf("backup: %s: %w", name, err)
	}
	return nil
}

// Writer takes the data.
type Writer struct {
	tar      *tar.Writer
	manifest []manifestEntry
}

// Add adds a file.
func (w *Writer) Add(name string, data []byte) error {
	sum := sha256.Sum256(data)
	w.manifest = append(w.manifest, manifestEntry{Name: name, Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:])})
	return addFile(w.tar, name, data)
}

// Stream adds a file of unknown length, in parts: name.0, name.1, and so on.
func (w *Writer) Stream(name string, r io.Reader) error {
	buf := make([]byte, partSize)
	for n := 0; ; n++ {
		size, err := io.ReadFull(r, buf)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return err
		}
		if size > 0 {
			if err := w.Add(fmt.Sprintf("%s.%d", name, n), buf[:size]); err != nil {
				return err
			}
		}
		if last {
			return nil
		}
	}
}

func (w *Writer) finish() error {
	text, err := json.Marshal(w.manifest)
	if err != nil {
		return err
	}
	if err := addFile(w.tar, nameManifest, text); err != nil {
		return err
	}
	return w.tar.Close()
}

// summed counts and hashes what is read.
type summed struct {
	r    io.Reader
	hash hash.Hash
	size int64
}

func (s *summed) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.hash.Write(p[:n])
	s.size += int64(n)
	return n, err
}
