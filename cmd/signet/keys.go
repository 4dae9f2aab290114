package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
)

// holder says which key the new certificate is for, and where the certificate goes.
type holder struct {
	KeyOut  string `name:"key-out" placeholder:"FILE" xor:"holder" required:"" help:"Make a P-256 key and write it there, for its owner alone; or make it in the TPM, at a free handle: tpm:handle=0x81…."`
	KeyIn   string `name:"key-in" placeholder:"FILE" xor:"holder" required:"" help:"Use this key, PEM or tpm:handle=0x81…, as a retry does."`
	CSR     string `name:"csr" placeholder:"FILE" xor:"holder" required:"" help:"Use this certification request, PEM: its key stays where it is."`
	CertOut string `name:"cert-out" placeholder:"FILE" help:"Write the certificate chain there, PEM, leaf first; required with a key or CSR."`
}

// subject is the key that a certificate is asked for.
type subject struct {
	csr    string
	public crypto.PublicKey
	made   string // the file of the key or token that this run made
	key    crypto.Signer
	token  string // SHA-256 of the token, base64url, where there is no key yet
}

// prepare makes or reads the key. A new key is on disk before anybody is asked to certify it.
func (h holder) prepare(s *session) (subject, error) {
	if h.CertOut == "" {
		return subject{}, errors.New("--cert-out: required")
	}
	if err := absent("--cert-out", h.CertOut); err != nil {
		return subject{}, err
	}
	switch {
	case h.CSR != "":
		return readCSR(h.CSR)
	case h.KeyIn != "":
		key, err := s.readKey(h.KeyIn)
		if err != nil {
			return subject{}, fmt.Errorf("--key-in: %w", err)
		}
		return request(key)
	}
	if inTPM(h.KeyOut) {
		return s.makeInTPM(h.KeyOut)
	}
	if err := absent("--key-out", h.KeyOut); err != nil {
		return subject{}, err
	}
	key, err := makeKey(h.KeyOut)
	if err != nil {
		return subject{}, fmt.Errorf("--key-out: %w", err)
	}
	out, err := request(key)
	out.made = h.KeyOut
	return out, err
}

func request(key crypto.Signer) (subject, error) {
	csr, err := client.CSR(key)
	return subject{csr: csr, public: key.Public(), key: key}, err
}

func makeKey(path string) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writeBytes(path, 0o600, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func readKey(path string) (crypto.Signer, error) {
	data, err := readFile(path, maxFile)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s: not PEM", path)
	}
	var key any
	if block.Type == "EC PRIVATE KEY" {
		key, err = x509.ParseECPrivateKey(block.Bytes)
	} else {
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: not a private key", path) // the cause may tell of its bytes
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: a %T cannot sign", path, key)
	}
	return signer, nil
}

func readCSR(path string) (subject, error) {
	data, err := readFile(path, maxFile)
	if err != nil {
		return subject{}, fmt.Errorf("--csr: %w", err)
	}
	req, err := chain.ParseCSR(data)
	if err != nil {
		return subject{}, fmt.Errorf("--csr: %s: %w", path, err)
	}
	return subject{csr: string(data), public: req.Public}, nil
}

// keep writes the certificate, once it is for this key.
func (h holder) keep(sub subject, issued []string) error {
	text := []byte(strings.Join(issued, ""))
	if err := certifies(text, sub.public); err != nil {
		return fmt.Errorf("the answer's certificates: %w", err)
	}
	if err := writeBytes(h.CertOut, 0o644, text); err != nil {
		return fmt.Errorf("--cert-out: %w", err)
	}
	return nil
}

func certifies(issued []byte, key crypto.PublicKey) error {
	certs, err := chain.ParsePEM(issued, chain.MaxChain)
	if err != nil {
		return err
	}
	public, ok := certs[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(key) {
		return errors.New("the leaf is for another key")
	}
	return nil
}

// discard removes the key that this run made, if its request was refused for good. After any other failure the
// certificate may exist: the key stays, for a retry.
func (s *session) discard(sub subject, err error) error {
	if !ambiguous(err) {
		return unsent(sub, err)
	}
	if sub.made != "" {
		s.say("signet: the new key is kept; retry the same request with --key-in %s", sub.made)
	}
	return err
}

// unsent removes the key that this run made for a request that came to nothing.
func unsent(sub subject, err error) error {
	if sub.made == "" {
		return err
	}
	return errors.Join(err, os.Remove(sub.made))
}

// ambiguous says whether a failed request may have been carried out.
func ambiguous(err error) bool {
	var p *client.Problem
	return !errors.As(err, &p) || p.Status/100 != 4 || p.Status == http.StatusConflict
}

// spiffeID is whom a certificate names.
func spiffeID(leaf *x509.Certificate) (chain.ID, error) {
	if leaf == nil || len(leaf.URIs) != 1 {
		return chain.ID{}, errors.New("the certificate names no SPIFFE ID")
	}
	return chain.ParseID(leaf.URIs[0].String())
}
