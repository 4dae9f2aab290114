package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/internal/devkit"
)

// floors are the costs of the parts, which nobody avoids.
type floors struct {
	key     *ecdsa.PrivateKey
	digest  [32]byte
	sig     []byte
	token   *hsm.Token
	hsmKey  *hsm.Key
	sign    time.Duration // P-256 in software
	verify  time.Duration
	hsm     time.Duration // P-256 by the token, its verification included
	hash    time.Duration // SHA-256 of 1 KiB
	sync    time.Duration // append of 4 KiB and fsync
	spawn   time.Duration // TLS POST of a spawn's size, CPU of the server
	decide  time.Duration // likewise of a decision's
	network time.Duration // the first's round trip, one client
}

// The sizes in bytes of the requests and answers, about those of the real ones.
const (
	spawnAsk, spawnAnswer   = 1600, 2400
	decideAsk, decideAnswer = 2400, 900
)

func (f *floors) print(w io.Writer) {
	_, _ = fmt.Fprintf(w, "\nFloors, µs: P-256 sign %.0f and verify %.0f in software, by the token with its verification %.0f; append and fsync of 4 KiB %.0f;"+
		" SHA-256 of 1 KiB %.1f; TLS POST of a spawn's size %.0f of server CPU (round trip %.0f), of a decision's %.0f.\n",
		micros(f.sign), micros(f.verify), micros(f.hsm), micros(f.sync), micros(f.hash), micros(f.spawn), micros(f.network), micros(f.decide))
}

func (b *bench) measureFloors(ctx context.Context) error {
	f := &b.floors
	if err := f.openToken(ctx, filepath.Join(b.tmp, "devices")); err != nil {
		return err
	}
	var err error
	if f.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	if f.sig, err = ecdsa.SignASN1(rand.Reader, f.key, f.digest[:]); err != nil {
		return err
	}
	block := make([]byte, 1024)
	const n = 2000
	if f.sign, err = f.loop(ctx, n, f.signSoftware); err != nil {
		return err
	}
	if f.verify, err = f.loop(ctx, n, f.verifySoftware); err != nil {
		return err
	}
	if f.hsm, err = f.loop(ctx, n, f.signToken); err != nil {
		return err
	}
	f.hash, err = f.loop(ctx, 20*n, func(context.Context, int, int) error {
		_ = sha256.Sum256(block)
		return nil
	})
	if err != nil {
		return err
	}
	if f.sync, err = b.appendSync(ctx, 4096, 500); err != nil {
		return err
	}
	return b.echoFloors(ctx)
}

func (f *floors) openToken(ctx context.Context, dir string) error {
	if err := devkit.Make(ctx, dir, devkit.InSoftHSM); err != nil {
		return err
	}
	devices, err := devkit.Start(ctx, dir)
	if err != nil {
		return err
	}
	module := devices.Module()
	if err := devices.Stop(); err != nil {
		return err
	}
	f.token, err = hsm.Open(ctx, hsm.Config{Module: module, Token: devkit.TokenIssuing, PINFile: devkit.PINFile(dir, devkit.TokenIssuing)}, nil)
	if err != nil {
		return err
	}
	f.hsmKey, err = f.token.Generate(ctx, "bench", hsm.P256)
	return err
}

func (f *floors) signSoftware(context.Context, int, int) error {
	_, err := ecdsa.SignASN1(rand.Reader, f.key, f.digest[:])
	return err
}

func (f *floors) verifySoftware(context.Context, int, int) error {
	if !ecdsa.VerifyASN1(&f.key.PublicKey, f.digest[:], f.sig) {
		return fmt.Errorf("a signature does not verify")
	}
	return nil
}

func (f *floors) signToken(ctx context.Context, _, _ int) error {
	_, err := f.hsmKey.SignContext(ctx, f.digest[:], crypto.SHA256)
	return err
}

// loop is the median of five times what one operation costs this process, alone.
func (f *floors) loop(ctx context.Context, n int, do func(context.Context, int, int) error) (time.Duration, error) {
	return f.loopOf(ctx, n, sample.cost, do)
}

// loopOf is the same for another figure than CPU time.
func (f *floors) loopOf(ctx context.Context, n int, of func(sample) time.Duration, do func(context.Context, int, int) error) (time.Duration, error) {
	var all []sample
	for range 5 {
		s, err := load(ctx, 1, n, self{}, do)
		if err != nil {
			return 0, err
		}
		all = append(all, s)
	}
	return time.Duration(medianOf(all, func(s sample) float64 { return float64(of(s)) }).mid), nil
}

// appendSync is the time that an append of size bytes and its fsync take.
func (b *bench) appendSync(ctx context.Context, size, n int) (time.Duration, error) {
	file, err := os.Create(filepath.Join(b.tmp, "floor"))
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.Remove(file.Name()) }() // goes with the directory at the latest
	defer func() { _ = file.Close() }()           // nobody reads it
	data := bytes.Repeat([]byte{'x'}, size)
	each := func(s sample) time.Duration { return perOp(s.wall, s.ops) }
	return b.floors.loopOf(ctx, n, each, func(context.Context, int, int) error {
		if _, err := file.Write(data); err != nil {
			return err
		}
		return file.Sync()
	})
}

// echoFloors measures a server that does nothing with what it is sent.
func (b *bench) echoFloors(ctx context.Context) (err error) {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	server, err := startChild(ctx, filepath.Join(b.tmp, "echo.log"), program, "-echo")
	if err != nil {
		return err
	}
	defer func() { err = joined(err, server.stop()) }()
	own, err := selfSigned()
	if err != nil {
		return err
	}
	// Nobody's certificate, and nothing to lose to an impostor.
	conf := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{own}} //nolint:gosec // see above
	posters := newPosters(8, conf, false)
	defer closePosters(posters)
	cost := func(workers, ask, answer int) ([]sample, error) {
		body := make([]byte, ask)
		do := func(ctx context.Context, w, _ int) error {
			status, text, err := posters[w].post(ctx, server.url, body, answer)
			if err == nil && status != 200 {
				err = unexpected(status, text)
			}
			return err
		}
		if _, err := load(ctx, workers, 100, server, do); err != nil {
			return nil, err
		}
		return b.repeat(fmt.Sprintf("floor: TLS POST, %d callers, %d bytes", workers, ask), func() (sample, error) {
			return load(ctx, workers, 20000/b.scale, server, do)
		})
	}
	spawn, err := cost(8, spawnAsk, spawnAnswer)
	if err != nil {
		return err
	}
	decide, err := cost(8, decideAsk, decideAnswer)
	if err != nil {
		return err
	}
	one, err := cost(1, spawnAsk, spawnAnswer)
	if err != nil {
		return err
	}
	cpu := func(s sample) float64 { return float64(s.cost()) }
	b.floors.spawn, b.floors.decide = time.Duration(medianOf(spawn, cpu).mid), time.Duration(medianOf(decide, cpu).mid)
	b.floors.network = time.Duration(medianOf(one, func(s sample) float64 { return float64(s.percentile(0.5)) }).mid)
	return nil
}
