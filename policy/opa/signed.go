package opa

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/signet-pki/signet/policy"
)

// signatures is the name of the file that a bundle is signed by.
const signatures = ".signatures.json"

// defaultPlugin is what `opa build` writes where no other program signs.
const defaultPlugin = "_default"

// maxToken bounds the one JWT in it: 512 files with a hash each fit many times.
const maxToken = 1 << 20

// verify checks the bundle's signature with OPA's own verifier, and gives the key that made it. OPA's reader verifies once
// more when it reads the files; here each way to fail gets a code of its own, and what OPA leaves open is closed: the
// algorithm in the token's header, weak hashes, and whose key id counts.
func (k *Keys) verify(files map[string][]byte) (Key, error) {
	token, config, err := tokenOf(files)
	if err != nil {
		return Key{}, err
	}
	key, err := k.signer(token)
	if err != nil {
		return Key{}, err
	}
	signed, err := bundle.VerifyBundleSignature(config, key.config())
	if err != nil {
		return Key{}, &policy.BundleError{Code: policy.BundleSignature, Detail: err.Error(), Err: err}
	}
	return key, checkSigned(files, signed)
}

func tokenOf(files map[string][]byte) (string, bundle.SignaturesConfig, error) {
	var config bundle.SignaturesConfig
	text, ok := files[signatures]
	if !ok {
		return "", config, policy.RefuseBundle(policy.BundleUnsigned, "%s is missing", signatures)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&config); err != nil {
		return "", config, policy.RefuseBundle(policy.BundleSignatures, "%s: %v", signatures, err)
	}
	if len(config.Signatures) != 1 || config.Plugin != "" && config.Plugin != defaultPlugin || len(config.Signatures[0]) > maxToken {
		return "", config, policy.RefuseBundle(policy.BundleSignatures, "%s: exactly one token, and no plugin", signatures)
	}
	return config.Signatures[0], config, nil
}

// signer finds the pinned key that a token names, in its header or, as older signers write it, in its claim keyid.
func (k *Keys) signer(token string) (Key, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return Key{}, policy.RefuseBundle(policy.BundleSignatures, "%s: not a compact JWT", signatures)
	}
	var header struct{ Alg, Kid string }
	var claims struct {
		KeyID string `json:"keyid"`
	}
	if err := errors.Join(decodePart(parts[0], &header), decodePart(parts[1], &claims)); err != nil {
		return Key{}, policy.RefuseBundle(policy.BundleSignatures, "%s: %v", signatures, err)
	}
	id := header.Kid
	if id == "" {
		id = claims.KeyID
	}
	key, ok := k.byID[id]
	switch {
	case !ok:
		return Key{}, policy.RefuseBundle(policy.BundleKeyUnknown, "the key id %.64q is not pinned", id)
	case header.Kid != "" && claims.KeyID != "" && header.Kid != claims.KeyID:
		return Key{}, policy.RefuseBundle(policy.BundleKeyUnknown, "the token names two keys")
	case header.Alg != key.algorithm:
		return Key{}, policy.RefuseBundle(policy.BundleAlgorithm, "alg is %.20q, the key %s is for %s alone", header.Alg, key.ID, key.algorithm)
	}
	return key, nil
}

func decodePart(part string, v any) error {
	b, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// checkSigned compares what is there with what was signed, both ways.
func checkSigned(files map[string][]byte, signed map[string]bundle.FileInfo) error {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if name == signatures {
			continue
		}
		info, ok := signed[name]
		if !ok {
			return policy.RefuseBundle(policy.BundleFileUnsigned, "%q is not covered by the signature", name)
		}
		if !slices.Contains([]string{"SHA-256", "SHA-384", "SHA-512"}, info.Algorithm) {
			return policy.RefuseBundle(policy.BundleAlgorithm, "%q is hashed with %.20q", name, info.Algorithm)
		}
		// The call takes the file off the list.
		if err := bundle.VerifyBundleFile(name, *bytes.NewBuffer(files[name]), signed); err != nil {
			return &policy.BundleError{Code: policy.BundleFileChanged, Detail: err.Error(), Err: err}
		}
	}
	if left := slices.Sorted(maps.Keys(signed)); len(left) > 0 {
		return policy.RefuseBundle(policy.BundleFileMissing, "%.100q is signed and not there", left[0])
	}
	return nil
}

// signatureFile says whether OPA would take a file for one with signatures, in whatever folder.
func signatureFile(name string) bool { return path.Base(name) == signatures }
