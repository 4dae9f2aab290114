package swtpmd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// platformPCRs are those that a firmware separates from what comes after it (TCG PC Client Platform Firmware Profile, 3.3.4).
const platformPCRs = 8

// shutdown sends TPM2_Shutdown(TPM_SU_CLEAR) (Part 3, 9.4). Without it the next start is a power loss to the TPM.
func shutdown(ctx context.Context, socket string) error {
	if err := send(ctx, socket, []byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x45, 0, 0}); err != nil {
		return fmt.Errorf("swtpmd: shutdown: %w", err)
	}
	return nil
}

// measure extends PCRs 0 to 7 with a separator, as every firmware does: a real machine's registers are never all zero.
func measure(ctx context.Context, socket string) error {
	separator := sha256.Sum256(make([]byte, 4)) // EV_SEPARATOR
	for pcr := range uint32(platformPCRs) {
		// TPM2_PCR_Extend (Part 3, 22.2) with an empty password.
		command := []byte{0x80, 0x02, 0, 0, 0, 65, 0, 0, 0x01, 0x82}
		command = binary.BigEndian.AppendUint32(command, pcr)
		command = append(command, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0)
		command = append(command, 0, 0, 0, 1, 0, 0x0b)
		if err := send(ctx, socket, append(command, separator[:]...)); err != nil {
			return fmt.Errorf("extend PCR %d: %w", pcr, err)
		}
	}
	return nil
}

// NeverLock lets wrong authorisation values, and ends without a shutdown, which count as one, go on for ever
// (TPM2_DictionaryAttackParameters, Part 3, 25.3): for development, where a TPM is killed more often than it is attacked.
func (p *Process) NeverLock(ctx context.Context) error {
	command := []byte{0x80, 0x02, 0, 0, 0, 39, 0, 0, 0x01, 0x3a, 0x40, 0, 0, 0x0a, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0}
	command = append(command, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0, 0, 0, 1) // tries, seconds until one is forgiven, and after the owner's own
	if err := send(ctx, p.socket, command); err != nil {
		return fmt.Errorf("swtpmd: dictionary attack parameters: %w", err)
	}
	return nil
}

// send runs one command and reads no more of its response than whether it succeeded.
func send(ctx context.Context, socket string, command []byte) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is left to lose
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(command); err != nil {
		return err
	}
	response := make([]byte, 10)
	if _, err := io.ReadFull(conn, response); err != nil {
		return err
	}
	if !bytes.Equal(response[6:], []byte{0, 0, 0, 0}) {
		return fmt.Errorf("response code %x", response[6:])
	}
	return nil
}
