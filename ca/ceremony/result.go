package ceremony

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/signet-pki/signet/internal/durable"
)

// Certificate is one that was made.
type Certificate struct {
	Name   string // file name without ".pem": root, agent-ca-1, audit, ak-cert, operator
	KeyURI string // where its private key is; empty for the attestation key and the operator
	DER    []byte
	Leaf   *x509.Certificate // DER, parsed
}

// Result is what a ceremony made: certificates, references to keys, and the account of what was done. No secret.
type Result struct {
	Root           Certificate
	AgentCAs       []Certificate // in the order of their use
	ServiceCAs     []Certificate // likewise
	Audit          Certificate
	JWT            Certificate
	AttestationKey Certificate
	Operator       Certificate
	Transcript     []Step
}

// The acts of a ceremony.
const (
	ActGenerate = "generate"
	ActCertify  = "certify"
)

// Step is one act, for the log's first entry and for the people who attended. Hashes are SHA-256 in lower-case hex,
// times RFC 3339 UTC.
type Step struct {
	Act             string `json:"act"`
	Name            string `json:"name"`
	Role            Role   `json:"role,omitempty"`    // generate
	KeyURI          string `json:"key_uri,omitempty"` // absent for keys made elsewhere
	Issuer          string `json:"issuer,omitempty"`  // certify, here and below: the issuer's Name
	Subject         string `json:"subject,omitempty"`
	Serial          string `json:"serial,omitempty"`
	NotBefore       string `json:"not_before,omitempty"`
	NotAfter        string `json:"not_after,omitempty"`
	KeyHash         string `json:"spki_sha256,omitempty"`
	CertificateHash string `json:"certificate_sha256,omitempty"`
}

// ErrExists: an output is there already, and nothing was written.
var ErrExists = errors.New("ceremony: output exists")

const (
	transcriptFile = "transcript.json"
	outputMode     = 0o644 // certificates are public
)

// Outputs are the names of the files that Write will make.
func (p Plan) Outputs() []string {
	names := []string{"root.pem", "audit.pem", "jwt.pem", "ak-cert.pem", "operator.pem", transcriptFile}
	for _, s := range []series{p.agents, p.services} {
		for n := range s.count {
			names = append(names, s.name+"-"+strconv.Itoa(n+1)+".pem")
		}
	}
	return names
}

// CheckOutputs tells before any key is made whether Write would be refused: [ErrExists], with every path.
func (p Plan) CheckOutputs(dir string) error { return checkAbsent(dir, p.Outputs()) }

// Write puts each certificate as PEM into dir, which exists: root.pem, agent-ca-<n>.pem, service-ca-<n>.pem, audit.pem,
// jwt.pem, ak-cert.pem, operator.pem (with its issuing CA, ready for TLS) and transcript.json. If any of them exists with other content it is
// [ErrExists] and nothing is written; none is ever replaced. After nil all are durable. After another error some may
// have been written, and the same call writes the others.
func (r Result) Write(dir string) error {
	files, err := r.files()
	if err != nil {
		return err
	}
	missing := slices.DeleteFunc(files, func(f file) bool { return f.in(dir) })
	names := make([]string, len(missing))
	for n, f := range missing {
		names[n] = f.name
	}
	if err := checkAbsent(dir, names); err != nil {
		return err
	}
	for _, f := range missing {
		if err := durable.Create(filepath.Join(dir, f.name), f.data, outputMode); err != nil {
			return fmt.Errorf("ceremony: write: %w", err)
		}
	}
	return nil
}

type file struct {
	name string
	data []byte
}

// in says whether it is there, as it should be.
func (f file) in(dir string) bool {
	path := filepath.Join(dir, f.name)
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() != int64(len(f.data)) {
		return false
	}
	have, err := os.ReadFile(path)
	return err == nil && bytes.Equal(have, f.data)
}

func (r Result) files() ([]file, error) {
	if len(r.ServiceCAs) == 0 {
		return nil, errors.New("ceremony: write: the result is empty")
	}
	var files []file
	for _, c := range slices.Concat([]Certificate{r.Root}, r.AgentCAs, r.ServiceCAs, []Certificate{r.Audit, r.JWT, r.AttestationKey}) {
		files = append(files, file{name: c.Name + ".pem", data: encodePEM(c)})
	}
	files = append(files, file{name: r.Operator.Name + ".pem", data: encodePEM(r.Operator, r.ServiceCAs[0])})
	transcript, err := json.MarshalIndent(r.Transcript, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("ceremony: transcript: %w", err)
	}
	return append(files, file{name: transcriptFile, data: append(transcript, '\n')}), nil
}

func encodePEM(certs ...Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.DER}))
	}
	return b.Bytes()
}

func checkAbsent(dir string, names []string) error {
	var found []error
	for _, name := range names {
		path := filepath.Join(dir, name)
		// Lstat: a dangling link is taken too.
		switch _, err := os.Lstat(path); {
		case err == nil:
			found = append(found, fmt.Errorf("%w: %s", ErrExists, path))
		case !errors.Is(err, fs.ErrNotExist):
			found = append(found, fmt.Errorf("ceremony: outputs: %w", err))
		}
	}
	return errors.Join(found...)
}
