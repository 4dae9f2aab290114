package delegation

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/signet-pki/signet/audit/record"
)

// A lazy write stores up to keepBatch signatures, whose two mutations each one item takes, and waits keepLinger for
// them: each write of its own would cost a sync of the disk. A crash in between leaves issue_unknown.
const (
	keepBatch  = record.MaxMutations / 2
	keepLinger = 20 * time.Millisecond

	keepTimeout = 5 * time.Second
)

// kept is a signature on its way to the store.
type kept struct {
	tbs [32]byte
	der []byte
	at  Position
}

// keep queues a released certificate for the store. It blocks only when the store is far behind.
func (s *Service) keep(ctx context.Context, k kept) {
	select {
	case s.keeper <- k:
	case <-ctx.Done():
	}
}

// runKeeper stores signatures, many at a time: nobody waits for them, since the stored bytes can be signed again.
func (s *Service) runKeeper(ctx context.Context) error {
	for {
		select {
		case k := <-s.keeper:
			s.linger(ctx, k)
		case <-ctx.Done():
			return s.drainKeeper(context.WithoutCancel(ctx))
		}
	}
}

func (s *Service) drainKeeper(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	for {
		select {
		case k := <-s.keeper:
			s.store(ctx, s.waiting(k))
		default:
			return nil
		}
	}
}

// linger stores first and what follows it soon. When ctx ends meanwhile, they are stored all the same.
func (s *Service) linger(ctx context.Context, first kept) {
	timer := time.NewTimer(keepLinger)
	defer timer.Stop()
	batch := []kept{first}
	for len(batch) < keepBatch {
		select {
		case k := <-s.keeper:
			batch = append(batch, k)
			continue
		case <-timer.C:
		case <-ctx.Done():
		}
		break
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTimeout)
	defer cancel()
	s.store(ctx, batch)
}

// waiting is first and what is queued already.
func (s *Service) waiting(first kept) []kept {
	batch := []kept{first}
	for len(batch) < keepBatch {
		select {
		case k := <-s.keeper:
			batch = append(batch, k)
			continue
		default:
		}
		break
	}
	return batch
}

func (s *Service) store(ctx context.Context, batch []kept) {
	m := make([]record.Mutation, 0, 2*len(batch))
	for _, k := range batch {
		m = append(m, keepMutations(k)...)
	}
	if err := s.cfg.Log.Put(ctx, m); err != nil {
		s.cfg.Logger.Warn("signatures were not kept; a restart will report them as unknown", slog.Any("error", err))
	}
}

func keepMutations(k kept) []record.Mutation {
	name := hex.EncodeToString(k.tbs[:])
	return []record.Mutation{{Key: keyCert + name, Value: k.value(), Of: &k.at.Index}, {Key: keyOpen + name, Delete: true}}
}

// value is the certificate and, behind it, where its entry stands: 64 bits of index, big-endian, and the leaf hash.
func (k kept) value() []byte {
	out := append(make([]byte, 0, len(k.der)+positionSize), k.der...)
	out = binary.BigEndian.AppendUint64(out, k.at.Index)
	return append(out, k.at.LeafHash[:]...)
}

const positionSize = 8 + 32

// keptOf reads a value. The operator's certificate of the ceremony stands alone, without a position.
func keptOf(value []byte) (der []byte, at *Position, err error) {
	rest := cryptobyte.String(value)
	var whole cryptobyte.String
	if !rest.ReadASN1Element(&whole, asn1.SEQUENCE) || len(rest) != 0 && len(rest) != positionSize {
		return nil, nil, errors.New("delegation: a kept certificate is not one")
	}
	if len(rest) == positionSize {
		at = &Position{Index: binary.BigEndian.Uint64(rest), LeafHash: [32]byte(rest[8:])}
	}
	return whole, at, nil
}

// Certificate gives the released certificate of a TBS hash, DER.
func (s *Service) Certificate(tbs [32]byte) (der []byte, ok bool, err error) {
	der, _, err = s.kept(tbs)
	return der, der != nil, err
}

// kept reads what was stored of a released certificate; nothing, if none was.
func (s *Service) kept(tbs [32]byte) (der []byte, at *Position, err error) {
	value, ok, err := s.cfg.Log.Get(keyCert + hexOf(tbs))
	if err != nil || !ok {
		return nil, nil, err
	}
	return keptOf(value)
}

// Recover closes what a crash left open: for each entry whose signature may or may not have been released it appends
// issue_unknown, and revokes what was renewed over a revoked certificate and is not revoked yet. It has the log speak for the numbers of revocations too, so that they can be had while the log is silent.
// It runs once, before the first request.
func (s *Service) Recover(ctx context.Context) error {
	s.revoked.turn <- struct{}{}
	err := s.speakFor(ctx)
	<-s.revoked.turn
	if err != nil {
		return fmt.Errorf("delegation: recover: %w", err)
	}
	if err := s.closeOpen(ctx); err != nil {
		return err
	}
	if err := s.endAllRenewed(ctx); err != nil {
		return fmt.Errorf("delegation: recover: %w", err)
	}
	return nil
}

func (s *Service) closeOpen(ctx context.Context) error {
	open := map[string]string{}
	err := s.cfg.Log.Scan(ctx, keyOpen, "", 1<<16, func(key string, value []byte) error {
		open[strings.TrimPrefix(key, keyOpen)] = string(value)
		return nil
	})
	if err != nil {
		return fmt.Errorf("delegation: recover: %w", err)
	}
	for tbs, serial := range open {
		_, err := s.append(ctx, draft{
			env:       record.Envelope{Type: record.TypeIssueUnknown},
			body:      record.FailBody{Serial: serial, TBSHash: tbs},
			mutations: []record.Mutation{{Key: keyOpen + tbs, Delete: true}},
		})
		if err != nil {
			return fmt.Errorf("delegation: recover: %w", err)
		}
	}
	if len(open) > 0 {
		s.cfg.Logger.Warn("issuances were open when the appliance stopped", slog.Int("count", len(open)))
	}
	return nil
}
