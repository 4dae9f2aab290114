package swtpmd

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Command codes (Part 2, 6.5.2).
const (
	ccContextLoad   = 0x161
	ccContextSave   = 0x162
	ccFlushContext  = 0x165
	ccGetCapability = 0x17a
)

const (
	htTransient  = 0x80 // the most significant byte of a handle tells its kind (Part 2, 7.2)
	htHMAC       = 0x02
	htPolicy     = 0x03
	firstVirtual = 0x80ff0000 // a TPM counts its own from 0x80000000
	tagSessions  = 0x8002     // TPM_ST_SESSIONS: the command has an authorisation area
)

var errRefused = errors.New("refused")

// attributes say where handles are in a command and its response (TPMA_CC, Part 2, 8.9).
type attributes uint32

func (a attributes) handles() int  { return int(a >> 25 & 7) }
func (a attributes) returns() bool { return a>>28&1 == 1 }

// learn asks once which commands the TPM has (TPM_CAP_COMMANDS, Part 2, 6.12).
func (m *Manager) learn(l *tpmLink) error {
	if m.commands != nil {
		return nil
	}
	list, ok, err := l.run(ccGetCapability, []byte{0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 0})
	if err != nil {
		return err
	}
	const before = 1 + 4 + 4 // moreData, capability, count
	if !ok || len(list) < before {
		return errors.New("swtpmd: the TPM does not list its commands")
	}
	m.commands = map[uint32]attributes{}
	for each := range slices.Chunk(list[before:], 4) {
		if len(each) == 4 {
			a := binary.BigEndian.Uint32(each)
			m.commands[a&0xffff] = attributes(a)
		}
	}
	return nil
}

// inside is what one command has put into the TPM.
type inside struct {
	objects  map[uint32]uint32 // the client's handle, by the TPM's
	sessions []uint32
}

func (m *Manager) swap(l *tpmLink, command []byte) ([]byte, error) {
	code := binary.BigEndian.Uint32(command[6:])
	if code == ccFlushContext && len(command) == headerSize+4 {
		if h := binary.BigEndian.Uint32(command[headerSize:]); m.forget(h) {
			return []byte{0x80, 0x01, 0, 0, 0, headerSize, 0, 0, 0, 0}, nil
		}
	}
	a := m.commands[code]
	in := inside{objects: map[uint32]uint32{}}
	if err := m.enter(l, command, a, &in); err != nil {
		return nil, err
	}
	response, err := l.ask(command)
	if err != nil {
		return nil, err
	}
	if a.returns() && succeeded(response) && len(response) >= headerSize+4 {
		m.adopt(response[headerSize:], &in)
	}
	return response, m.leave(l, in)
}

// forget drops an object that the client flushes. Sessions are flushed by the TPM, also saved ones (Part 3, 28.4).
func (m *Manager) forget(h uint32) bool {
	delete(m.sessions, h)
	_, ours := m.objects[h]
	delete(m.objects, h)
	return ours
}

// enter loads what the command names. What the TPM does not load any more, for it was reset, stays as it is: the TPM refuses it.
func (m *Manager) enter(l *tpmLink, command []byte, a attributes, in *inside) error {
	end := headerSize + 4*a.handles()
	if len(command) < end {
		return nil // the TPM's to refuse
	}
	for at := headerSize; at < end; at += 4 {
		h := binary.BigEndian.Uint32(command[at:])
		if err := m.enterObject(l, h, command[at:], in); err != nil {
			return err
		}
		if err := m.enterSession(l, h, in); err != nil {
			return err
		}
	}
	if binary.BigEndian.Uint16(command) != tagSessions {
		return nil
	}
	for _, h := range authorising(command[end:]) {
		if err := m.enterSession(l, h, in); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) enterObject(l *tpmLink, h uint32, place []byte, in *inside) error {
	saved, ours := m.objects[h]
	if !ours {
		return nil
	}
	loaded, ok, err := l.run(ccContextLoad, saved)
	if err != nil {
		return err
	}
	if !ok || len(loaded) < 4 {
		delete(m.objects, h)
		return nil
	}
	own := binary.BigEndian.Uint32(loaded)
	binary.BigEndian.PutUint32(place, own)
	in.objects[own] = h
	return nil
}

func (m *Manager) enterSession(l *tpmLink, h uint32, in *inside) error {
	saved, ours := m.sessions[h]
	if !ours || slices.Contains(in.sessions, h) {
		return nil
	}
	_, ok, err := l.run(ccContextLoad, saved)
	if err != nil {
		return err
	}
	if !ok {
		delete(m.sessions, h)
		return nil
	}
	in.sessions = append(in.sessions, h)
	return nil
}

// authorising lists the sessions of an authorisation area (Part 1, 18.4.2); what is malformed the TPM refuses.
func authorising(area []byte) []uint32 {
	if len(area) < 4 {
		return nil
	}
	size, rest := binary.BigEndian.Uint32(area), area[4:]
	if uint64(size) > uint64(len(rest)) {
		return nil
	}
	var found []uint32
	for rest = rest[:size]; len(rest) >= 4; {
		found = append(found, binary.BigEndian.Uint32(rest))
		var ok bool
		if rest, ok = skip(rest[4:]); !ok || len(rest) < 1 { // nonce
			return found
		}
		if rest, ok = skip(rest[1:]); !ok { // attributes, HMAC
			return found
		}
	}
	return found
}

// skip leaves a TPM2B out.
func skip(b []byte) ([]byte, bool) {
	if len(b) < 2 {
		return nil, false
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	if n > len(b) {
		return nil, false
	}
	return b[n:], true
}

// adopt names what the command made.
func (m *Manager) adopt(handle []byte, in *inside) {
	h := binary.BigEndian.Uint32(handle)
	switch h >> 24 {
	case htTransient:
		in.objects[h] = m.next
		binary.BigEndian.PutUint32(handle, m.next)
		m.next++
		// Clients lose handles; the oldest is the least missed.
		delete(m.objects, m.next-maxObjects)
	case htHMAC, htPolicy:
		in.sessions = append(in.sessions, h)
	}
}

// leave takes everything out of the TPM. A session that ended with the command cannot be saved, and is none any more.
func (m *Manager) leave(l *tpmLink, in inside) error {
	for own, h := range in.objects {
		place := binary.BigEndian.AppendUint32(nil, own)
		saved, ok, err := l.run(ccContextSave, place)
		if err != nil {
			return err
		}
		if _, flushed, err := l.run(ccFlushContext, place); err != nil || !ok || !flushed {
			return fmt.Errorf("swtpmd: object %#x does not leave the TPM: %w", own, cmp.Or(err, errRefused))
		}
		m.objects[h] = saved
	}
	for _, h := range in.sessions {
		saved, ok, err := l.run(ccContextSave, binary.BigEndian.AppendUint32(nil, h))
		if err != nil {
			return err
		}
		delete(m.sessions, h)
		if ok {
			m.sessions[h] = saved
		}
	}
	return nil
}
