package bundle

import (
	"io/fs"
	"strconv"
	"strings"

	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/rotation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/evidence"
)

// Paths inside a bundle (docs/formats/bundle.md).
const (
	pathManifest   = "MANIFEST.sha256"
	pathReadme     = "README.verify"
	pathPolicyText = "policy.txt"
	pathCheckpoint = "log/checkpoint"
	pathRotations  = "log/rotations.jsonl"
	pathEventLog   = "eventlog"
	pathSelection  = "selection.json"
	pathRoot       = "certs/root.pem"
	pathAudit      = "certs/audit.pem"
	pathAKCert     = "certs/ak-cert.pem"
	pathEK         = "certs/ek.pem"
	pathAK         = "certs/ak.pem"
	pathAKBinding  = "certs/ak-binding.json"
	pathTPMKeys    = "certs/tpm-keys.json"

	dirLog       = "log/"
	dirTile      = "log/tile/"
	dirEntries   = "entries/"
	dirPayloads  = "payloads/"
	dirSeals     = "seals/"
	dirEvidence  = "evidence/"
	dirJWS       = "delegators/"
	dirPolicy    = "policy/"
	dirIssued    = "certs/issued/"
	prefixIssuer = "certs/issuing-"
)

// chunk is the number of lines of an entries, payloads or delegators file, and the width of a full tile.
const chunk = merkle.TileWidth

// Bounds of what a verifier reads. A bundle beyond them is refused, not read in part.
const (
	maxFiles     = 1 << 22
	maxPath      = 200
	maxManifest  = maxFiles * 160
	maxSmall     = 256 << 10 // seals, statements, certificates, binding, README, tiles
	maxEvidence  = evidence.MaxBytes
	maxPolicy    = 64 << 20
	maxEventLog  = 16 << 20
	maxEnvelope  = record.MaxEnvelope
	maxPayload   = record.MaxPayload
	maxJWS       = chain.MaxDelegationBytes
	maxTreeSize  = 1 << 40
	maxEntryFile = chunk * (maxEnvelope + 1)
	maxLine      = maxPayload*4/3 + 512 // base64, and the other fields of a payload line
	maxPayFile   = chunk * (maxLine + 1)
	maxJWSFile   = chunk * (maxJWS + 128)
	maxIssuers   = 64
)

func entriesPath(n uint64) string    { return dirEntries + dec(n) + ".jsonl" }
func payloadsPath(n uint64) string   { return dirPayloads + dec(n) + ".jsonl" }
func delegatorsPath(n uint64) string { return dirJWS + dec(n) + ".jsonl" }
func issuedPath(index uint64) string { return dirIssued + dec(index) + ".pem" }
func issuerPath(n int) string        { return prefixIssuer + strconv.Itoa(n) + ".pem" }
func evidencePath(id string) string  { return dirEvidence + id + ".json" }
func policyPath(hash string) string  { return dirPolicy + hash + ".tar.gz" }

func sealPath(n uint64, suffix string) string { return dirSeals + dec(n) + suffix }

func dec(n uint64) string { return strconv.FormatUint(n, 10) }

// tilePath is the path of a hash tile below log/ (C2SP tlog-tiles).
func tilePath(level int, index uint64, width int) string {
	return dirLog + merkle.Path(level, index, width)
}

// sealSuffixes in the order of writing.
func sealSuffixes() []string {
	return []string{".txt", ".quote", ".quote.sig", ".pcrs", ".nv", ".nv.sig"}
}

// number reads the canonical decimal between prefix and suffix.
func number(path, prefix, suffix string) (uint64, bool) {
	rest, ok := strings.CutPrefix(path, prefix)
	if !ok {
		return 0, false
	}
	text, ok := strings.CutSuffix(rest, suffix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 63)
	return n, err == nil && dec(n) == text
}

// sizeLimit is the most that a file of this path may hold; ok is false for a path that has no place in a bundle.
func sizeLimit(path string) (limit int64, ok bool) {
	switch path {
	case pathManifest:
		return maxManifest, true
	case pathReadme, pathSelection, pathPolicyText, pathCheckpoint, pathRoot, pathAudit, pathAKCert, pathEK, pathAK, pathAKBinding, pathTPMKeys:
		return maxSmall, true
	case pathEventLog:
		return maxEventLog, true
	case pathRotations:
		return rotation.MaxProofs, true
	}
	if strings.HasPrefix(path, dirTile) {
		_, _, _, err := merkle.ParsePath(strings.TrimPrefix(path, dirLog))
		return chunk * merkle.HashSize, err == nil
	}
	if strings.HasPrefix(path, dirSeals) {
		return maxSmall, validSealPath(path)
	}
	for _, kind := range []struct {
		prefix, suffix string
		limit          int64
	}{
		{dirEntries, ".jsonl", maxEntryFile},
		{dirPayloads, ".jsonl", maxPayFile},
		{dirJWS, ".jsonl", maxJWSFile},
		{dirIssued, ".pem", maxSmall},
		{prefixIssuer, ".pem", maxSmall},
	} {
		if _, ok := number(path, kind.prefix, kind.suffix); ok {
			return kind.limit, true
		}
	}
	if id, found := strings.CutPrefix(path, dirEvidence); found {
		return maxEvidence, strings.HasSuffix(id, ".json") && !strings.Contains(id, "/")
	}
	if digest, found := strings.CutPrefix(path, dirPolicy); found {
		digest, found = strings.CutSuffix(digest, ".tar.gz")
		return maxPolicy, found && isHash(digest)
	}
	return 0, false
}

func validSealPath(path string) bool {
	for _, suffix := range sealSuffixes() {
		if _, ok := number(path, dirSeals, suffix); ok {
			return true
		}
	}
	return false
}

// isHash reports whether s is a SHA-256 in lower-case hexadecimal.
func isHash(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// validPath refuses what could leave a directory or confuse a tool that reads MANIFEST.sha256.
func validPath(path string) bool {
	if !fs.ValidPath(path) || path == "." || len(path) > maxPath {
		return false
	}
	for _, r := range path {
		if r <= ' ' || r >= 0x7f || r == '\\' || r == ':' {
			return false
		}
	}
	return true
}
