package tpm

import (
	"bytes"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/signet-pki/signet/tpm/quote"
)

// ErrKeyFile means that a file is no "TSS2 PRIVATE KEY" of the kind that this package loads.
var ErrKeyFile = errors.New("not a loadable TSS2 key file")

const (
	pemTSS2      = "TSS2 PRIVATE KEY"
	maxKeyFile   = 8 << 10
	maxSensitive = 1024
)

// loadableKey is id-loadablekey of the TCG's arc: a blob for TPM2_Load.
func loadableKey() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 23, 133, 10, 1, 3} }

// The optional fields of a TPMKey, by context-specific tag.
const (
	fieldEmptyAuth   = 0
	fieldPolicy      = 1
	fieldSecret      = 2
	fieldAuthPolicy  = 3
	fieldDescription = 4
	fieldRSAParent   = 5
)

// KeyFile is a signing key below the SRK as it is kept outside the TPM: its public area, and its private one encrypted by the SRK,
// which only this TPM can use. It is no secret; who has the file can use the key only through the TPM, with its authorisation value.
//
// The format is the ASN.1 key format for TPM keys, PEM "TSS2 PRIVATE KEY", which OpenSSL's TPM providers read and write too:
// id-loadablekey, parent SRKHandle, no policy.
type KeyFile struct {
	key       *quote.HeldKey
	private   []byte // content of the TPM2B_PRIVATE
	emptyAuth bool
}

// ParseKeyFile reads one PEM block and nothing around it. [ErrKeyFile] says what is not as it should be; [ErrUnsuitable] that the
// key is not an unrestricted signing key on P-256 or P-384, made in a TPM, that cannot leave it.
func ParseKeyFile(data []byte) (KeyFile, error) {
	f, err := parseKeyPEM(data)
	if err != nil {
		return KeyFile{}, fmt.Errorf("tpm: key file: %w", err)
	}
	return f, nil
}

func parseKeyPEM(data []byte) (KeyFile, error) {
	if len(data) > maxKeyFile {
		return KeyFile{}, fmt.Errorf("%w: more than %d bytes", ErrKeyFile, maxKeyFile)
	}
	// pem.Decode skips what stands before a block.
	if !bytes.HasPrefix(data, []byte("-----BEGIN "+pemTSS2+"-----")) {
		return KeyFile{}, fmt.Errorf("%w: it does not begin with a PEM block %q", ErrKeyFile, pemTSS2)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != pemTSS2 || len(block.Headers) != 0 || len(bytes.TrimSpace(rest)) != 0 {
		return KeyFile{}, fmt.Errorf("%w: not one PEM block without headers", ErrKeyFile)
	}
	return parseKeyDER(block.Bytes)
}

// parseKeyDER reads a TPMKey.
func parseKeyDER(der []byte) (KeyFile, error) {
	var f KeyFile
	input, s := cryptobyte.String(der), cryptobyte.String(nil)
	var kind asn1.ObjectIdentifier
	if !input.ReadASN1(&s, cbasn1.SEQUENCE) || !input.Empty() || !s.ReadASN1ObjectIdentifier(&kind) {
		return f, fmt.Errorf("%w: not DER of a TPMKey", ErrKeyFile)
	}
	if !kind.Equal(loadableKey()) {
		return f, fmt.Errorf("%w: type %v is not %v, a loadable key", ErrKeyFile, kind, loadableKey())
	}
	if err := f.readOptions(&s); err != nil {
		return f, err
	}
	var parent uint64
	var public, private cryptobyte.String
	if !s.ReadASN1Integer(&parent) || !s.ReadASN1(&public, cbasn1.OCTET_STRING) || !s.ReadASN1(&private, cbasn1.OCTET_STRING) || !s.Empty() {
		return f, fmt.Errorf("%w: parent, public and private part are cut short or followed by more", ErrKeyFile)
	}
	if parent != SRKHandle {
		return f, fmt.Errorf("%w: its parent is %#x, not the storage root key at %v", ErrKeyFile, parent, quote.Handle(SRKHandle))
	}
	return f, f.readParts(public, private)
}

// readOptions reads the optional fields, in their order. What would change how the key is used is refused, for it would be ignored.
func (f *KeyFile) readOptions(s *cryptobyte.String) error {
	for number := range uint8(fieldRSAParent + 1) {
		var field cryptobyte.String
		var present bool
		if !s.ReadOptionalASN1(&field, &present, cbasn1.Tag(number).Constructed().ContextSpecific()) {
			return fmt.Errorf("%w: field [%d] is cut short", ErrKeyFile, number)
		}
		if !present {
			continue
		}
		ok := false
		switch number {
		case fieldEmptyAuth:
			ok = readBoolean(&field, &f.emptyAuth) && field.Empty()
		case fieldDescription: // for people
			var text cryptobyte.String
			ok = field.ReadASN1(&text, cbasn1.UTF8String) && field.Empty()
		case fieldPolicy, fieldSecret, fieldAuthPolicy, fieldRSAParent:
		}
		if !ok {
			return fmt.Errorf("%w: field [%d] is not supported", ErrKeyFile, number)
		}
	}
	return nil
}

// readBoolean takes 1 for true, too: OpenSSL's provider for TPMs writes it, though DER's is 255 (X.690, 11.1).
func readBoolean(s *cryptobyte.String, out *bool) bool {
	var b cryptobyte.String
	if !s.ReadASN1(&b, cbasn1.BOOLEAN) || len(b) != 1 || (b[0] > 1 && b[0] != 0xff) {
		return false
	}
	*out = b[0] != 0
	return true
}

func (f *KeyFile) readParts(public, private cryptobyte.String) (err error) {
	var area, sensitive cryptobyte.String
	if !public.ReadUint16LengthPrefixed(&area) || !public.Empty() || !private.ReadUint16LengthPrefixed(&sensitive) || !private.Empty() {
		return fmt.Errorf("%w: public or private part is no TPM2B", ErrKeyFile)
	}
	if len(sensitive) == 0 || len(sensitive) > maxSensitive {
		return fmt.Errorf("%w: private part of %d bytes", ErrKeyFile, len(sensitive))
	}
	f.private = bytes.Clone(sensitive)
	if f.key, err = quote.ParseHeldKey(area); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsuitable, err)
	}
	return nil
}

// PEM is the file, which [ParseKeyFile] reads.
func (f KeyFile) PEM() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(loadableKey())
		if f.emptyAuth {
			b.AddASN1(cbasn1.Tag(fieldEmptyAuth).Constructed().ContextSpecific(), func(b *cryptobyte.Builder) { b.AddASN1Boolean(true) })
		}
		b.AddASN1Uint64(SRKHandle)
		for _, part := range [][]byte{f.key.Marshal(), f.private} {
			b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) {
				b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(part) })
			})
		}
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("tpm: key file: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemTSS2, Bytes: der}), nil
}

// EmptyAuth says that the key needs no authorisation value. Where it is false it may need one: tpm2-tools writes false for all keys.
func (f KeyFile) EmptyAuth() bool { return f.emptyAuth }

// Key is the public part.
func (f KeyFile) Key() *quote.HeldKey { return f.key }
