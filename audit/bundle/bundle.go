// Package bundle is Signet's evidence format: bundles, which hold everything that an auditor needs for a range of audit entries, and
// receipts, which prove that one entry was recorded; and the full verification of both, offline.
//
// It writes what it can verify and nothing else: a fixed layout with fixed bytes. On reading it refuses what is not part of the
// format (links, unknown files, other spellings, sizes beyond the bounds), names every failing check with its entry or seal and
// file, never stops at the first, and tells integrity (nothing here was changed) from completeness (nothing is missing). Without a trust file the anchors
// are the evidence's own and the report says so.
//
// It is pure: no network, processes, clock, randomness or cgo; it compiles to WebAssembly. It does not fetch anything, decide
// whether an identity provider or a TPM maker is to be trusted, or say who may see a bundle: bundles hold personal data.
//
// All functions are safe for concurrent use. The formats stand in docs/formats/bundle.md and docs/formats/receipt.md.
package bundle
