// Package api serves Signet's HTTP API: it reads and bounds requests, tells callers by their client certificates, admits
// them by one table of endpoints and roles, and puts the domain's answers and refusals into JSON (package api/v1).
//
// It decides nothing about grants, agents or access: package delegation does. It refuses whatever two readers could read
// differently (the rules are in docs/decisions/0009-api.md), every body beyond its bound, every role that the
// table does not name, and every certificate of another CA, each with its own code and, where the log takes it, an entry.
// Source addresses and X-Forwarded-* headers are never read.
//
// New starts nothing; Run serves until its context ends and joins what it started. A Server is safe for concurrent use.
package api
