package appliance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/custody"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/internal/backup"
)

// snapshotName is the log in a backup; a former one is log.N.snapshot.
const snapshotName = "log.snapshot"

// backedUp is what is below Dir, besides the log, and in every backup as it is. What belongs to devices (PINs, sealed PINs), collectors
// and archives is not; nor are the heads that a witness signed, of which an older copy would contradict its signatures.
var backedUp = []string{"pki", "keys", "index.key"}

// Backup writes a backup to a file that must not exist: of the running appliance, which goes on, or of one that is stopped, whose
// devices it opens. It reads back what it wrote.
func Backup(ctx context.Context, c Config, path string, w io.Writer, log *slog.Logger) error {
	in, done, err := c.snapshot(ctx, log)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	digest, d, err := c.writeBackup(path, in)
	if err := errors.Join(err, done()); err != nil {
		return err
	}
	head, err := headOf(d.Checkpoint)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s: %d entries of %s, read back; SHA-256 %x\n%d of these custodians open it: %s\n",
		path, head.Size, head.Origin, digest, d.Threshold, strings.Join(namesOf(d.Custodians), ", "))
	return err
}

func (c *Config) writeBackup(path string, in *bufio.Reader) (digest [32]byte, d backup.Description, err error) {
	set, err := readSet(in)
	if err != nil {
		return digest, d, err
	}
	info, err := audit.PeekSnapshot(in)
	if err != nil {
		return digest, d, fmt.Errorf("backup: %w", err)
	}
	if d, err = describe(set, info.Checkpoint, time.Now()); err != nil {
		return digest, d, err
	}
	root, err := os.OpenRoot(c.Dir)
	if err != nil {
		return digest, d, err
	}
	defer root.Close()
	digest, err = backup.Create(path, d, func(w *backup.Writer) error {
		for _, name := range backedUp {
			if err := addTree(w, root, name); err != nil {
				return err
			}
		}
		return w.Stream(snapshotName, in)
	})
	return digest, d, err
}

func describe(set custody.Set, note []byte, now time.Time) (backup.Description, error) {
	head, err := headOf(note)
	if err != nil {
		return backup.Description{}, err
	}
	d := backup.Description{Origin: head.Origin, Checkpoint: note, Made: now.UTC().Truncate(time.Second), Set: set.ID(), Threshold: set.Threshold()}
	for _, m := range set.Custodians() {
		if m.Recipient != "" {
			d.Custodians = append(d.Custodians, backup.Custodian{Name: m.Name, Recipient: m.Recipient})
		}
	}
	return d, nil
}

func namesOf(c []backup.Custodian) []string {
	out := make([]string, len(c))
	for i := range c {
		out[i] = c[i].Name
	}
	return out
}

// headOf reads a note without verifying it.
func headOf(note []byte) (checkpoint.Checkpoint, error) {
	body, _, _ := strings.Cut(string(note), "\n\n")
	return checkpoint.ParseBody([]byte(body + "\n"))
}

// addTree adds a file, or the regular files of a folder. What is not there is left out.
func addTree(w *backup.Writer, root *os.Root, name string) error {
	return fs.WalkDir(root.FS(), name, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || e.IsDir() {
			return err
		}
		if !e.Type().IsRegular() {
			return fmt.Errorf("%s is no regular file", path)
		}
		if strings.HasPrefix(e.Name(), ".") {
			return nil // of a write that did not end
		}
		data, err := root.ReadFile(path)
		if err != nil {
			return err
		}
		return w.Add(path, data)
	})
}

// ErrNoCustodians: nobody was named who could agree to an act or open a backup.
var ErrNoCustodians = errors.New("no_custodians: the ceremony that began this log named no custodians")

// custodiansOf reads the set that is in force: that of leaf 0, or of the newest act that changed it.
func custodiansOf(ctx context.Context, log *audit.Log) (set custody.Set, err error) {
	err = log.Envelopes(ctx, func(index uint64, raw []byte) error {
		if index > 0 && !bytes.Contains(raw, []byte(`"`+record.TypeAct+`"`)) {
			return nil
		}
		env, err := record.Check(raw)
		if err != nil {
			return err
		}
		switch env.Type { //nolint:exhaustive // the others name no custodians
		case record.TypeCeremony:
			body, err := record.DecodeBody[record.Ceremony](env)
			if err == nil && body.Custodians != nil {
				set, err = custody.ParseSet(body.Custodians)
			}
			return err
		case record.TypeAct:
			set, err = succeeded(env, set)
			return err
		}
		return nil
	})
	if err == nil && set.Threshold() == 0 {
		err = ErrNoCustodians
	}
	return set, err
}

func succeeded(env record.Envelope, set custody.Set) (custody.Set, error) {
	body, err := record.DecodeBody[record.Act](env)
	if err != nil {
		return set, err
	}
	act, err := custody.ParseAct(body.Act)
	if err != nil || act.Kind != custody.ChangeCustodians {
		return set, err
	}
	return act.Successors()
}

func readSet(in *bufio.Reader) (custody.Set, error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return custody.Set{}, fmt.Errorf("backup: the appliance gave nothing: %w", err)
	}
	var first struct {
		Custodians json.RawMessage `json:"custodians"`
		Error      string          `json:"error"`
	}
	if err := json.Unmarshal(line, &first); err != nil {
		return custody.Set{}, fmt.Errorf("backup: %w", err)
	}
	if first.Error != "" {
		return custody.Set{}, fmt.Errorf("backup: %s", first.Error)
	}
	return custody.ParseSet(first.Custodians)
}

// giveSnapshot writes a line with the custodians, or with what went wrong, and the log's snapshot.
func giveSnapshot(ctx context.Context, log *audit.Log, w io.Writer) error {
	set, err := custodiansOf(ctx, log)
	var text []byte
	if err == nil {
		text, err = set.Marshal()
	}
	first := map[string]any{"custodians": json.RawMessage(text)}
	if err != nil {
		first = map[string]any{"error": err.Error()}
	}
	line, encoding := json.Marshal(first)
	if encoding != nil {
		return encoding
	}
	if _, werr := w.Write(append(line, '\n')); werr != nil || err != nil {
		return errors.Join(err, werr)
	}
	return log.Backup(ctx, w)
}

// The socket by which a running appliance gives its snapshot to who owns its directory.
const (
	socketName   = "backup.sock"
	giveWithin   = time.Minute // for each piece: a reader that sleeps holds back the store
	pieceOfWrite = 1 << 20
)

func (c *Config) socket() string { return filepath.Join(c.Dir, socketName) }

// snapshot asks the daemon, or opens the log where none runs.
func (c *Config) snapshot(ctx context.Context, log *slog.Logger) (in *bufio.Reader, done func() error, err error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.socket())
	if err == nil {
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // reading then ends, and with it the file
		return bufio.NewReaderSize(conn, 1<<20), func() error { stop(); return conn.Close() }, nil
	}
	a := &Appliance{cfg: *c, logger: log}
	if a.devices, err = c.openDevices(ctx, log); err != nil {
		return nil, nil, errors.Join(err, a.close())
	}
	indexKey, err := os.ReadFile(c.indexKey())
	if err == nil {
		err = a.openLog(ctx, indexKey, time.Now)
	}
	if err != nil {
		return nil, nil, errors.Join(err, a.close())
	}
	r, w := io.Pipe()
	given := make(chan struct{})
	go func() {
		defer close(given)
		w.CloseWithError(giveSnapshot(ctx, a.log, w))
	}()
	return bufio.NewReaderSize(r, 1<<20), func() error {
		err := r.Close()
		<-given
		return errors.Join(err, a.close())
	}, nil
}

// runBackups serves the socket until ctx ends: one snapshot at a time.
func (a *Appliance) runBackups(ctx context.Context) error {
	if err := os.Remove(a.cfg.socket()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "unix", a.cfg.socket())
	if err != nil {
		// The path can be too long for a socket: the appliance serves without, and is backed up while it is stopped.
		a.logger.Warn("no backup while it runs", slog.Any("error", err))
		<-ctx.Done()
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() }) // the next Accept says so
	defer stop()
	if err := os.Chmod(a.cfg.socket(), 0o600); err != nil {
		return errors.Join(err, ln.Close())
	}
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil { // out of descriptors, say: no reason for the appliance to end
			a.logger.Warn("nobody can ask for a backup", slog.Any("error", err))
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		if err := a.give(ctx, conn); err != nil {
			a.logger.Warn("a backup was not made", slog.Any("error", err))
		} else {
			a.logger.Info("a backup was given", slog.String("socket", a.cfg.socket()))
		}
	}
}

func (a *Appliance) give(ctx context.Context, conn net.Conn) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	err := ownPeer(conn)
	if err == nil {
		err = giveSnapshot(ctx, a.log, paced{conn})
	}
	return errors.Join(err, conn.Close())
}

// ownPeer takes the appliance's own user and root, whatever the socket's mode has become.
func ownPeer(conn net.Conn) error {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("backup: not a Unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, credErr); err != nil {
		return err
	}
	if uid := int(cred.Uid); uid != 0 && uid != os.Geteuid() {
		return errors.New("backup: asked for by user " + strconv.Itoa(uid))
	}
	return nil
}

// paced gives each piece its time.
type paced struct{ net.Conn }

func (p paced) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		if err = p.SetWriteDeadline(time.Now().Add(giveWithin)); err != nil {
			return n, err
		}
		var m int
		m, err = p.Conn.Write(b[n:min(n+pieceOfWrite, len(b))])
		n += m
	}
	return n, err
}
