package swtpmd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	maxMessage  = 8 << 10
	headerSize  = 10 // tag, size, command or response code (Part 1, 18)
	maxClients  = 16 // that are connected at a time
	maxObjects  = 256
	commandTime = time.Minute
)

// Manager stands before a software TPM as the kernel's /dev/tpmrm0 stands before a chip: what a command loads or starts is taken
// out of the TPM again and put back for the next one that names it, so that its client does not meet the three places that a TPM
// has. It is for one client: who connects finds what others made. When the TPM has lost its memory, its own refusals are handed on.
type Manager struct {
	upstream string
	listener net.Listener
	done     chan struct{}
	serving  sync.WaitGroup

	tpm      sync.Mutex // one command at a time; guards what follows
	commands map[uint32]attributes
	objects  map[uint32][]byte // contexts by the handle that the client knows
	sessions map[uint32][]byte // contexts by handle, which a session keeps
	next     uint32
}

// Manage serves the TPM of the socket upstream on another one, until Close.
func Manage(ctx context.Context, upstream, socket string) (*Manager, error) {
	if err := errors.Join(removeFile(socket), removeFile(socket+".ctrl")); err != nil {
		return nil, fmt.Errorf("swtpmd: %w", err)
	}
	// The tools' TCTI wants a control socket, which needs no management.
	if err := os.Symlink(upstream+".ctrl", socket+".ctrl"); err != nil {
		return nil, fmt.Errorf("swtpmd: %w", err)
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("swtpmd: %w", err)
	}
	m := &Manager{
		upstream: upstream, listener: ln, done: make(chan struct{}),
		objects: map[uint32][]byte{}, sessions: map[uint32][]byte{}, next: firstVirtual,
	}
	m.serving.Go(m.accept)
	return m, nil
}

// Close ends the service; what is still in the TPM's contexts is forgotten.
func (m *Manager) Close() error {
	close(m.done)
	err := errors.Join(m.listener.Close(), removeFile(m.listener.Addr().String()+".ctrl"))
	m.serving.Wait()
	return err
}

func (m *Manager) accept() {
	places := make(chan struct{}, maxClients)
	for {
		conn, err := m.listener.Accept()
		if err != nil {
			return // closed
		}
		places <- struct{}{}
		m.serving.Go(func() {
			defer func() { <-places }()
			m.serve(conn)
		})
	}
}

// serve answers until the client leaves. A TPM that is not there ends the connection, as it ends those of its own.
func (m *Manager) serve(conn net.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	m.serving.Go(func() {
		select {
		case <-m.done:
			cancel()
		case <-ctx.Done():
		}
	})
	defer func() { _ = conn.Close() }() // nothing is left to lose
	for {
		command, err := readMessage(conn)
		if err != nil {
			return
		}
		response, err := m.execute(ctx, command)
		if err != nil {
			return
		}
		if _, err := conn.Write(response); err != nil {
			return
		}
	}
}

// readMessage reads a command or a response; both have their whole length at offset 2 (Part 1, 18).
func readMessage(r io.Reader) ([]byte, error) {
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[2:])
	if size < headerSize || size > maxMessage {
		return nil, io.ErrUnexpectedEOF
	}
	message := make([]byte, size)
	copy(message, header)
	_, err := io.ReadFull(r, message[headerSize:])
	return message, err
}

// execute has the TPM run one command, with what it names in place, and leaves the TPM empty.
func (m *Manager) execute(ctx context.Context, command []byte) ([]byte, error) {
	m.tpm.Lock()
	defer m.tpm.Unlock()
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", m.upstream)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // nothing is left to lose
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	link := &tpmLink{conn}
	if err := m.learn(link); err != nil {
		return nil, err
	}
	return m.swap(link, command)
}

// tpmLink is a connection to the TPM, for one command and what it needs.
type tpmLink struct{ io.ReadWriter }

func (l *tpmLink) ask(command []byte) ([]byte, error) {
	if _, err := l.Write(command); err != nil {
		return nil, err
	}
	return readMessage(l)
}

// run gives the parameters of a successful response; ok tells whether it is one.
func (l *tpmLink) run(code uint32, body []byte) (parameters []byte, ok bool, err error) {
	command := []byte{0x80, 0x01, 0, 0, 0, 0} // TPM_ST_NO_SESSIONS
	command = append(binary.BigEndian.AppendUint32(command, code), body...)
	binary.BigEndian.PutUint32(command[2:], uint32(len(command))) // #nosec G115 -- at most maxMessage
	response, err := l.ask(command)
	if err != nil {
		return nil, false, err
	}
	return response[headerSize:], succeeded(response), nil
}

func succeeded(response []byte) bool { return binary.BigEndian.Uint32(response[6:]) == 0 }
