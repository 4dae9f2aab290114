// Package workload serves one agent's certificate to the processes of its own user, over the SPIFFE Workload API (X.509 part) and
// Envoy's Secret Discovery Service (v3), so that software which knows one of these and not Signet gets it, its key and the roots
// unchanged, and the next ones when they are renewed.
//
// Whoever may open the socket gets the key: the socket stands in a directory of its owner alone, and nothing else identifies
// a caller. JWT-SVIDs are not served. The package makes no key and asks nobody for certificates: it serves the [Identity]
// that it was given last, until that expires, and nothing afterwards.
//
// A [Server] is safe for concurrent use.
package workload
