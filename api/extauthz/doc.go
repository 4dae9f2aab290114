// Package extauthz reads and writes the messages of Envoy's external authorization (envoy.service.auth.v3,
// Authorization/Check), each in the one frame that gRPC puts a unary call's message in (gRPC over HTTP/2).
//
// It decides nothing, and does not say who asks: package api authenticates the Envoy and asks the domain. It takes the
// agent's certificate, on the word of that Envoy, which held the TLS handshake, and never a header, a principal by name
// or an address. What two readers of a path could understand differently names no resource and is refused.
//
// All functions are pure and safe for concurrent use.
package extauthz
