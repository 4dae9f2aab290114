package main

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/client/devid"
)

// inTPM says whether a key is named by its handle instead of a file.
func inTPM(key string) bool { return strings.HasPrefix(key, devid.Prefix) }

// machine is the TPM, which stays open as long as the command runs: its keys need it.
func (s *session) machine() (*devid.Machine, error) {
	if s.held != nil {
		return s.held, nil
	}
	m, err := devid.Open(s.ctx, s.TPM, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, fmt.Errorf("--tpm: %w", err)
	}
	s.held = m
	return m, nil
}

func (s *session) release() {
	if s.held == nil {
		return
	}
	if err := s.held.Close(); err != nil {
		s.say("signet: %v", err)
	}
}

// readKey reads a key file, or finds the key in the TPM.
func (s *session) readKey(name string) (crypto.Signer, error) {
	if !inTPM(name) {
		return readKey(name)
	}
	m, err := s.machine()
	if err != nil {
		return nil, err
	}
	return m.Key(s.ctx, name)
}

func (s *session) makeInTPM(name string) (subject, error) {
	m, err := s.machine()
	if err != nil {
		return subject{}, err
	}
	key, err := m.MakeKey(s.ctx, name)
	if err != nil {
		return subject{}, fmt.Errorf("--key-out: %w", err)
	}
	return request(key)
}

// loadPair is tls.LoadX509KeyPair, also for a key in the TPM.
func (s *session) loadPair() (tls.Certificate, error) {
	if !inTPM(s.Key) {
		return tls.LoadX509KeyPair(s.Cert, s.Key)
	}
	key, err := s.readKey(s.Key)
	if err != nil {
		return tls.Certificate{}, err
	}
	data, err := readFile(s.Cert, maxFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	cert := tls.Certificate{PrivateKey: key}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			cert.Certificate = append(cert.Certificate, block.Bytes)
		}
	}
	if len(cert.Certificate) == 0 {
		return tls.Certificate{}, fmt.Errorf("%s: no PEM certificate", s.Cert)
	}
	if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
		return tls.Certificate{}, fmt.Errorf("%s: %w", s.Cert, err)
	}
	if public, ok := cert.Leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key.Public()) {
		return tls.Certificate{}, errors.New("the certificate is for another key")
	}
	return cert, nil
}

type tpmCommand struct{}

// Run prints what an operator needs to register an orchestrator that attests by this TPM.
func (tpmCommand) Run(ctx context.Context, s *session) error {
	m, err := s.machine()
	if err != nil {
		return err
	}
	ek, err := m.EK(ctx)
	if err != nil {
		return err
	}
	return s.print(struct {
		EK string `json:"ek"`
	}{ek}, row{"endorsement key", ek})
}

// attestByTPM proves to be the machine that was registered.
func (q attestCommand) attestByTPM(ctx context.Context, s *session) error {
	if !inTPM(q.KeyIn) && !inTPM(q.KeyOut) {
		return errors.New("--devid: the key must be in the TPM: --key-in or --key-out tpm:handle=0x81…")
	}
	return q.obtain(s, func(c *client.Client, sub subject) (v1.Certificate, error) {
		m, err := s.machine()
		if err != nil {
			return v1.Certificate{}, err
		}
		return m.Attest(ctx, c, q.Name, sub.key)
	})
}
