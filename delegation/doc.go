// Package delegation decides who may act for whom: it registers the workloads that ask, keeps grants and tasks, issues
// agent identities that never exceed what a user consented to, answers access requests, and revokes.
//
// Every state change and every answer is an entry of the audit log, and the state here is a projection of that log: an
// entry and the keys that it changes commit in one transaction, whose preconditions re-check what was read before. The
// order of an issuance is fixed: check, decide, prepare, append and wait until durable, sign, release (docs/ARCHITECTURE.md).
//
// The package refuses by default: a missing answer, an unknown enumeration, a lost write or a stale seal is a refusal
// with a code. It touches no key, device, network or engine; those come in through the small interfaces of service.go.
// All methods of Service are safe for concurrent use.
package delegation
