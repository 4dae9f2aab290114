package audit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/keytree"
	"github.com/signet-pki/signet/internal/durable"
	"github.com/signet-pki/signet/store"
)

// snapshotHeader is the first line of a snapshot. docs/formats/backup.md has the rest.
const snapshotHeader = "signet/log-snapshot@v1\n"

const (
	maxSnapshotKeys = 64 << 20 // of payload.keys
	maxStoredKey    = 4 << 10

	maxSnapshotStart = 32 << 10 // its first two lines
)

// errSnapshot: not what Backup writes.
var errSnapshot = errors.New("audit: not a snapshot of a log")

// SnapshotInfo is the second line of a snapshot: what it is of, in clear, so that a reader knows before it reads on.
type SnapshotInfo struct {
	Checkpoint []byte `json:"checkpoint"` // signed note over exactly the entries in it
	KeyBytes   int    `json:"key_bytes"`  // of payload.keys, which follow
}

// Backup writes a snapshot of the log: all that the store holds at one moment, the keys of payloads, and a checkpoint signed over
// exactly these entries. Appends go on meanwhile. The keys are read first: of what is erased later the snapshot still has them, and
// of what was erased before it has none. A log that is read-only has none to give.
func (l *Log) Backup(ctx context.Context, w io.Writer) error {
	if err := l.state.refusal(); err != nil {
		return err
	}
	keys, err := os.ReadFile(l.vault.path)
	if err != nil {
		return fmt.Errorf("audit: backup: %w", err)
	}
	out := bufio.NewWriterSize(w, 1<<16)
	err = l.db.View(func(t *store.Txn) error {
		note, err := l.signSnapshot(ctx, t)
		if err != nil {
			return err
		}
		info, err := json.Marshal(SnapshotInfo{Checkpoint: note, KeyBytes: len(keys)})
		if err != nil {
			return err
		}
		for _, b := range [][]byte{[]byte(snapshotHeader), append(info, '\n'), keys} {
			if _, err := out.Write(b); err != nil {
				return err
			}
		}
		return writeItems(ctx, out, t)
	})
	if err != nil {
		return fmt.Errorf("audit: backup: %w", err)
	}
	return out.Flush()
}

// signSnapshot signs the head that a transaction sees. A batch is readable a moment before it is acknowledged; what is signed is
// acknowledged first.
func (l *Log) signSnapshot(ctx context.Context, t *store.Txn) ([]byte, error) {
	raw, err := t.Get([]byte(keyHead))
	if err != nil {
		return nil, err
	}
	h, err := parseHead(raw)
	if err != nil {
		return nil, err
	}
	for tick := time.NewTicker(time.Millisecond); l.Head().Size < h.checkpoint.Size; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return nil, ctx.Err()
		case <-tick.C:
		}
		if err := l.state.refusal(); err != nil {
			tick.Stop()
			return nil, err
		}
	}
	signer, err := l.signerAt(ctx, h.checkpoint.Size)
	if err != nil {
		return nil, err
	}
	return checkpoint.Sign(h.checkpoint, signer)
}

// writeItems writes all keys, and an empty one behind them with their number.
func writeItems(ctx context.Context, out *bufio.Writer, t *store.Txn) error {
	n, buf := uint64(0), []byte(nil)
	err := t.Items(func(i store.Item) error {
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		buf = binary.AppendUvarint(buf[:0], uint64(len(i.Key)))
		buf = append(buf, i.Key...)
		packed := byte(0)
		if i.Packed {
			packed = 1
		}
		buf = binary.AppendUvarint(append(buf, packed), i.Expires)
		buf = binary.AppendUvarint(buf, uint64(len(i.Value)))
		_, err := out.Write(buf)
		if err == nil {
			_, err = out.Write(i.Value)
		}
		return err
	})
	if err != nil {
		return err
	}
	_, err = out.Write(binary.AppendUvarint(binary.AppendUvarint(nil, 0), n))
	return err
}

// PeekSnapshot tells what a snapshot is of, and takes nothing from in, whose buffer must hold 64 KiB.
func PeekSnapshot(in *bufio.Reader) (info SnapshotInfo, err error) {
	for n := len(snapshotHeader) + 1; n <= maxSnapshotStart; n++ {
		b, err := in.Peek(n)
		if err != nil {
			return info, fmt.Errorf("%w: %w", errSnapshot, err)
		}
		if b[n-1] == '\n' {
			return parseSnapshotInfo(b)
		}
	}
	return info, fmt.Errorf("%w: second line", errSnapshot)
}

func parseSnapshotInfo(lines []byte) (info SnapshotInfo, err error) {
	text, ok := bytes.CutPrefix(lines, []byte(snapshotHeader))
	if !ok {
		return info, errSnapshot
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&info); err != nil || info.KeyBytes < 0 || info.KeyBytes > maxSnapshotKeys {
		return info, fmt.Errorf("%w: second line", errSnapshot)
	}
	return info, nil
}

// ReadSnapshot makes the directory of a log out of what [Log.Backup] wrote, and gives the signed checkpoint in it. Nothing of it is
// verified yet: [Fsck] does that. dir must not exist; after an error it may, and is no log.
func ReadSnapshot(dir string, r io.Reader) (note []byte, err error) {
	in := bufio.NewReaderSize(r, 1<<16)
	info, keys, err := readSnapshotStart(in)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	body, _, _ := bytes.Cut(info.Checkpoint, []byte("\n\n"))
	head, err := checkpoint.ParseBody(append(bytes.Clone(body), '\n'))
	if err != nil {
		return nil, fmt.Errorf("%w: checkpoint: %w", errSnapshot, err)
	}
	first := append(line{size: head.Size, root: head.Root}.marshal(), '\n')
	if err := errors.Join(durable.Create(filepath.Join(dir, headsName), first, 0o600), durable.Create(filepath.Join(dir, keysName), keys, 0o600)); err != nil {
		return nil, err
	}
	items := itemReader{in: in}
	if err := store.Fill(filepath.Join(dir, storeDir), store.Options{}, items.next); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: bytes behind its end", errSnapshot)
	}
	return info.Checkpoint, durable.SyncDir(dir)
}

func readSnapshotStart(in *bufio.Reader) (info SnapshotInfo, keys []byte, err error) {
	if info, err = PeekSnapshot(in); err != nil {
		return info, nil, err
	}
	for range 2 {
		if _, err := in.ReadSlice('\n'); err != nil {
			return info, nil, fmt.Errorf("%w: %w", errSnapshot, err)
		}
	}
	keys, err = io.ReadAll(io.LimitReader(in, int64(info.KeyBytes)))
	if err != nil || len(keys) != info.KeyBytes {
		return info, nil, fmt.Errorf("%w: it ends within the keys", errSnapshot)
	}
	if _, err := keytree.Parse(keys); err != nil {
		return info, nil, fmt.Errorf("%w: %w", errSnapshot, err)
	}
	return info, keys, nil
}

// itemReader reads what writeItems wrote.
type itemReader struct {
	in *bufio.Reader
	n  uint64
}

func (r *itemReader) next() (store.Item, error) {
	item, err := r.read()
	if err != nil && !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return item, fmt.Errorf("%w: item %d: %w", errSnapshot, r.n, err)
	}
	return item, err
}

func (r *itemReader) read() (item store.Item, err error) {
	if item.Key, err = r.bytes(maxStoredKey); err != nil {
		return item, err
	}
	if len(item.Key) == 0 {
		n, err := binary.ReadUvarint(r.in)
		if err != nil || n != r.n {
			return item, io.ErrUnexpectedEOF
		}
		return item, io.EOF
	}
	r.n++
	packed, err := r.in.ReadByte()
	if err != nil || packed > 1 {
		return item, io.ErrUnexpectedEOF
	}
	item.Packed = packed == 1
	if item.Expires, err = binary.ReadUvarint(r.in); err != nil {
		return item, io.ErrUnexpectedEOF
	}
	item.Value, err = r.bytes(store.MaxValue)
	return item, err
}

// bytes reads a length and as many bytes; nothing is allocated before the length is known to be in bounds.
func (r *itemReader) bytes(limit uint64) ([]byte, error) {
	n, err := binary.ReadUvarint(r.in)
	if err != nil || n > limit {
		return nil, io.ErrUnexpectedEOF
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r.in, b); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return b, nil
}
