package archtest

// row says what one package, or with a trailing /... a folder of them, may import. The first matching row counts.
type row struct {
	pattern string
	imports []string // packages of this module that it may import directly, as patterns
	never   []string // import paths forbidden at any depth; a path covers what is below it
	noCgo   bool     // no package outside the standard library that uses cgo, at any depth
	pure    bool     // never noSystem, no cgo, compiles for js/wasm
}

const (
	badger  = "github.com/dgraph-io"
	echo    = "github.com/labstack/echo"
	opa     = "github.com/open-policy-agent/opa"
	pkcs11  = "github.com/miekg/pkcs11"
	crypto1 = "github.com/ThalesGroup/crypto11"
	gotpm   = "github.com/google/go-tpm"
	grpc    = "google.golang.org/grpc"
	envoy   = "github.com/envoyproxy/go-control-plane"
	tessera = "github.com/transparency-dev/tessera"
)

var (
	noSystem   = []string{"net/http", "os/exec"}
	noServer   = []string{badger, echo, opa, pkcs11, crypto1}
	noVerifier = []string{badger, echo, opa, pkcs11, crypto1, "net/http", "os/exec"}
)

// everything below cmd: what the wiring may import. testrig is kept out of it by importers.
var everything = []string{
	"api/...", "audit/...", "ca/...", "client/...", "delegation/...", "firmware-notes", "hsm", "policy/...", "store", "tpm/...", "web/...",
	"internal/...",
}

var table = []row{
	{pattern: "cmd/signetd", imports: []string{"internal/appliance", "internal/dev"}},
	{pattern: "cmd/signet", imports: []string{"client", "client/workload", "client/devid", "api/v1", "audit/custody", "delegation/chain"}, never: noServer, noCgo: true},
	{pattern: "cmd/signet-verify", imports: []string{"audit/bundle", "audit/record", "delegation/chain"}, never: noVerifier, noCgo: true},

	{pattern: "hsm"},
	{pattern: "tpm", imports: []string{"tpm/quote"}},
	{pattern: "tpm/quote", pure: true},

	{pattern: "ca", imports: []string{"ca/lint", "internal/durable"}},
	{pattern: "ca/lint", pure: true},
	{pattern: "ca/ceremony", imports: []string{"ca", "ca/lint", "internal/durable"}},

	{pattern: "api", imports: []string{"api/v1", "api/extauthz", "delegation", "delegation/chain", "delegation/event", "delegation/quota", "policy", "policy/review"}, never: []string{opa}},
	{pattern: "api/extauthz", imports: []string{"delegation/chain"}, never: noServer, noCgo: true},
	{pattern: "api/v1"},

	{pattern: "audit", imports: []string{"store", "audit/record", "audit/merkle", "audit/checkpoint", "audit/keytree", "audit/rotation", "internal/durable"}},
	{pattern: "audit/record", imports: []string{"audit/merkle", "audit/checkpoint"}, pure: true},
	{pattern: "audit/keytree", pure: true},
	{pattern: "audit/custody", imports: []string{"audit/record"}, never: noVerifier, pure: true},
	{pattern: "audit/rotation", imports: []string{"audit/record", "audit/merkle", "audit/checkpoint"}, never: noVerifier, pure: true},
	{pattern: "audit/ocsf", imports: []string{"audit/record"}, pure: true},
	{pattern: "audit/merkle", imports: []string{"audit/record", "audit/checkpoint"}, pure: true},
	{pattern: "audit/checkpoint", imports: []string{"audit/record", "audit/merkle"}, pure: true},
	{pattern: "audit/witness", imports: []string{"audit/merkle", "audit/checkpoint"}, never: noVerifier, pure: true},
	{
		pattern: "audit/bundle",
		imports: []string{"audit/record", "audit/merkle", "audit/checkpoint", "audit/custody", "audit/rotation", "audit/witness", "tpm/quote", "delegation/chain", "delegation/evidence"},
		never:   noVerifier,
		pure:    true,
	},

	{pattern: "firmware-notes"},
	{pattern: "softhsm-test", imports: append([]string{"internal/...", "client", "api/v1"}, everything...)},

	{pattern: "delegation", imports: []string{"audit/record", "policy", "delegation/chain", "delegation/event", "delegation/quota", "delegation/workload"}, never: []string{opa, echo}},
	{pattern: "delegation/chain", pure: true},
	{pattern: "delegation/event", imports: []string{"delegation/chain"}, pure: true},
	{pattern: "delegation/quota", pure: true},
	{pattern: "delegation/workload", pure: true},
	{pattern: "delegation/evidence", imports: []string{"delegation/chain"}, pure: true},
	{pattern: "delegation/consent", imports: []string{"delegation/chain", "delegation/evidence"}, never: []string{opa, echo}},

	{pattern: "policy", pure: true},
	{pattern: "policy/opa", imports: []string{"policy"}},
	{pattern: "policy/review", imports: []string{"policy", "audit/record"}, never: noServer},
	{pattern: "store", imports: []string{"internal/durable"}},

	{pattern: "client", imports: []string{"api/v1", "delegation/chain", "delegation/event"}, never: noServer, noCgo: true},
	{pattern: "client/devid", imports: []string{"client", "api/v1", "tpm", "tpm/quote"}, never: noServer, noCgo: true},
	{pattern: "client/...", imports: []string{"client", "api/v1", "delegation/chain"}, never: []string{badger, opa, pkcs11, crypto1}, noCgo: true},

	{pattern: "web/..."},
	{pattern: "examples/...", imports: []string{"client/...", "api/v1", "delegation/chain"}, never: []string{badger, opa, pkcs11, crypto1}, noCgo: true},

	{pattern: "internal/appliance/...", imports: everything},
	{pattern: "internal/backup", imports: []string{"internal/durable"}, never: append([]string{"net/http"}, noServer...), noCgo: true},
	{pattern: "internal/durable"},
	{pattern: "internal/siem", imports: []string{"audit/ocsf", "audit/record", "audit/checkpoint", "internal/durable"}, never: noServer, noCgo: true},
	{pattern: "internal/dev", imports: []string{"internal/appliance", "internal/demo", "internal/devkit/...", "internal/durable", "ca/ceremony"}},
	{pattern: "internal/demo/...", imports: []string{"client", "api/v1", "delegation/chain", "audit/bundle", "internal/demo/..."}, never: []string{badger, echo, opa, pkcs11, crypto1}},
	{pattern: "internal/devkit/...", imports: []string{"internal/swtpmd", "internal/durable", "hsm"}},
	{pattern: "internal/swtpmd", imports: []string{"internal/durable"}},
	{pattern: "internal/archtest"},
	{pattern: "internal/testrig/...", imports: everything},
	{pattern: "internal/bench/...", imports: everything},
}

// importers are the only packages whose non-test files may import what matches the pattern.
type importers struct {
	pattern string
	by      []string
}

var restricted = []importers{
	{pattern: "internal/testrig/...", by: []string{"internal/testrig/...", "softhsm-test"}},
	{pattern: "softhsm-test"},
	{pattern: "internal/archtest"},
	{pattern: "internal/bench/...", by: []string{"internal/bench/..."}},
	{pattern: "cmd/..."},
}

// borders keep each large library behind one package: direct imports by non-test files. (.golangci.yml has the same list,
// and applies it to tests.)
var borders = map[string][]string{
	echo:    {"api", "client/echomw"},
	opa:     {"policy/opa"},
	badger:  {"store"},
	pkcs11:  {"hsm", "internal/testrig/..."},
	crypto1: {"hsm", "internal/testrig/..."},
	gotpm:   {"tpm", "tpm/quote", "internal/testrig/..."},
	grpc:    {"client/grpcmw", "client/workload"},
	envoy:   {"client/workload", "api/extauthz"},
	tessera: {"internal/bench"}, // an oracle of tests, and a yardstick
}
