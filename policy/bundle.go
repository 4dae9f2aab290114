package policy

import (
	"fmt"
	"strconv"
)

// Codes of a refused bundle. They are part of the API and never change.
const (
	BundleUnreadable     = "bundle_unreadable"      // no gzip, no tar, or cut off
	BundleTooLarge       = "bundle_too_large"       // a bound of size or number
	BundleFile           = "bundle_bad_file"        // a link, a name that leaves the archive or stands twice, a file that does not belong
	BundleUnsigned       = "bundle_unsigned"        // no .signatures.json
	BundleSignatures     = "bundle_signatures"      // more than one, or none that can be read
	BundleKeyUnknown     = "bundle_key_unknown"     // signed by a key that is not pinned
	BundleAlgorithm      = "bundle_algorithm"       // not the algorithm of that key, or a weak hash
	BundleSignature      = "bundle_signature"       // the signature does not verify
	BundleFileUnsigned   = "bundle_file_unsigned"   // a file that the signature does not name
	BundleFileChanged    = "bundle_file_changed"    // a file that is not the one that was signed
	BundleFileMissing    = "bundle_file_missing"    // the signature names a file that is not there
	BundleManifest       = "bundle_manifest"        // older Rego, compiled code, or no manifest at all
	BundleRevision       = "bundle_revision"        // not a decimal number greater than 0
	BundleDowngrade      = "bundle_downgrade"       // not newer than what was active
	BundleData           = "bundle_data"            // data out of bounds, or no JSON
	BundleCompile        = "bundle_compile"         // does not compile strictly, with the functions that are allowed
	BundleTests          = "bundle_tests"           // its own tests do not pass, or there are none
	BundleNameReserved   = "bundle_name_reserved"   // the name of what is pulled
	BundleNameBad        = "bundle_name"            // not a name
	BundleUnknown        = "bundle_unknown"         // there is no candidate of that name
	BundleTooMany        = "bundle_too_many"        // as many candidates as may be
	BundleOutdated       = "bundle_outdated"        // the digest is not that of the candidate
	BundleSecondPerson   = "second_person_required" // the same person approved already
	BundlesNotConfigured = "bundles_not_configured" // no key is pinned
)

// BundleError is why a bundle is refused. Detail is for whoever made it.
type BundleError struct {
	Code   string
	Detail string
	Tests  []TestResult // of the bundle's own tests, where they ran
	Err    error
}

// Error says what is wrong.
func (e *BundleError) Error() string { return "policy bundle: " + e.Code + ": " + e.Detail }

// Unwrap gives the cause.
func (e *BundleError) Unwrap() error { return e.Err }

// RefuseBundle makes a BundleError.
func RefuseBundle(code, format string, args ...any) *BundleError {
	return &BundleError{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// Bundle is what is known of a bundle that could decide.
type Bundle struct {
	Digest   string // lower-case hex SHA-256 of Archive
	Revision string // a number if the bundle is signed
	KeyID    string // of the pinned key that it is signed by; "" for an unsigned one
	KeyHash  string // hex SHA-256 of that key's SPKI
	Archive  []byte // canonical, its signature included
	Tests    []TestResult
}

// TestResult is the outcome of one of a bundle's own tests.
type TestResult struct {
	Name   string // such as data.signet.access_test.test_analyst_reads
	Passed bool
	Detail string // why not
}

// ParseRevision reads the revision of a signed bundle: a decimal number of at most 15 digits (what every reader of
// JSON holds exactly), greater than 0, in its one spelling, so that revisions have an order that everybody sees. The default bundle counts as 0.
func ParseRevision(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil || n == 0 || len(text) > 15 || strconv.FormatUint(n, 10) != text {
		return 0, RefuseBundle(BundleRevision, ".manifest: revision is %.40q, not a decimal number greater than 0", text)
	}
	return n, nil
}
