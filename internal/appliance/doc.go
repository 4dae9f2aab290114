// Package appliance puts the parts together: it reads the configuration, opens tokens, TPM and log, and joins the
// listener and the background work in one group.
//
// New opens and checks everything and starts nothing; Run serves until its context ends, then stops in a fixed order:
// refuse new requests, drain, last checkpoint and seal, close the log, close the keys. Only this package knows which
// concrete type stands behind an interface of the others.
package appliance
