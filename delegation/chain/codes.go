package chain

// Every cause has its own stable code. Codes are part of the API: they stand in problems, reports and the audit log, and
// never change their meaning.

// Why a check was not evaluated.
const (
	CodeNotRequested     = "not_requested"            // the caller named nothing to compare with
	CodeFormatFailed     = "format_failed"            // there is no delegation to look at
	CodeNoCertificate    = "no_certificate"           // there is no leaf to look at
	CodeNoTrust          = "no_trust_bundle"          // the caller gave no trust bundle
	CodeNoConfirmation   = "confirmation_absent"      // a hop has no delegator's JWS, or it was not supplied
	CodeNoDelegatorKey   = "delegator_key_absent"     // a delegator's or a child's key was not supplied
	CodeOrchestratorKey  = "orchestrator_key_vouched" // the grant names another key of the orchestrator: only the CA vouches for this one
	CodeNoReceipt        = "no_receipt"               // no receipt was presented
	CodeNoRevocations    = "no_revocations"           // no revocation feed was given
	CodeNoStalenessLimit = "no_staleness_limit"       // the caller gave no limit
)

// path.
const (
	CodeChainEmpty          = "chain_empty"
	CodeChainTooLong        = "chain_too_long"
	CodeCertificateTooLarge = "certificate_too_large"
	CodeClockMissing        = "clock_missing" // also of deadline and freshness
	CodeSANMissing          = "san_missing"
	CodeSANMalformed        = "san_malformed"
	CodeSANMultiple         = "san_uri_not_single"
	CodeSANOther            = "san_other_name"
	CodeSPIFFEID            = "spiffe_id_invalid"
	CodeTrustDomain         = "trust_domain_mismatch"
	CodeLeafIsCA            = "leaf_is_ca"
	CodeLeafKeyUsage        = "leaf_key_usage"
	CodeLeafExtKeyUsage     = "leaf_ext_key_usage"
	CodePathUntrusted       = "path_untrusted"
	CodeCAExpired           = "ca_expired"
	CodeCANotYetValid       = "ca_not_yet_valid"
	CodePathNameConstraint  = "path_name_constraint"
	CodePathKeyUsage        = "path_ext_key_usage"
	CodePathCritical        = "path_critical_extension"
	CodePathInvalid         = "path_invalid"              // anything else of RFC 5280 §6
	CodeCertificateNotYet   = "certificate_not_yet_valid" // Identify only; deadline has its own
	CodeCertificateExpired  = "certificate_expired"       // Identify only; deadline has its own
)

// format.
const (
	CodeExtensionMissing   = "extension_missing"
	CodeExtensionDuplicate = "extension_duplicate"
	CodeExtensionCritical  = "extension_critical"
	CodeExtensionTooLarge  = "extension_too_large"
	CodeDER                = "der_malformed" // wrong tag, wrong or non-minimal length, missing field
	CodeDERTrailing        = "der_trailing"
	CodeDERInteger         = "der_integer" // non-minimal or out of range
	CodeVersion            = "version_unknown"
	CodeIdentifier         = "identifier_invalid" // task or grant id: not 16 bytes, or all zero
	CodeHash               = "hash_invalid"       // not 32 bytes, or all zero
	CodeText               = "text_invalid"       // issuer or subject
	CodeConsent            = "consent_type_unknown"
	CodeScope              = "scope_invalid"
	CodeTime               = "time_invalid"
	CodeHopCount           = "hop_count"
	CodeHopID              = "hop_id_invalid"
	CodeHopKind            = "hop_kind" // Hops[0] is no orchestrator, or another hop no agent
	CodeHopTrustDomain     = "hop_trust_domain"
	CodeHopConfirmation    = "orchestrator_confirmation" // Hops[0] has no delegator who could have signed
)

// binding.
const (
	CodeBindingID  = "binding_id_mismatch"
	CodeBindingKey = "binding_key_mismatch"
)

// principal.
const (
	CodePrincipal            = "principal_mismatch" // another user
	CodeOrchestratorMismatch = "orchestrator_mismatch"
)

// attenuation.
const (
	CodeGrantScope = "grant_scope_exceeds" // the orchestrator's scope exceeds the grant's
	CodeHopScope   = "hop_scope_exceeds"   // a hop's scope exceeds its parent's
)

// deadline.
const (
	CodeGrantDeadline       = "grant_deadline_exceeds"
	CodeHopDeadline         = "hop_deadline_exceeds"
	CodeCertificateDeadline = "certificate_deadline_mismatch"
	CodeNotYetValid         = "not_yet_valid"
	CodeDeadlinePassed      = "deadline_passed"
)

// depth.
const (
	CodeDepthTooLarge = "depth_too_large"
	CodeDepthNegative = "depth_negative"
	CodeGrantDepth    = "grant_depth_exceeds"
	CodeHopDepth      = "hop_depth_exceeds"
	CodeDuplicateID   = "duplicate_hop_id"
	CodeDuplicateKey  = "duplicate_hop_key"
)

// confirmation.
const (
	CodeConfirmationExtra    = "confirmation_misplaced"     // a JWS where no delegator is, or more than there are hops
	CodeConfirmationHash     = "confirmation_hash_mismatch" // not the JWS that the certificate names
	CodeDelegatorKey         = "delegator_key_mismatch"     // a supplied key is not the one that the hop names
	CodeConfirmationInvalid  = "confirmation_invalid"       // signature or form of the JWS
	CodeConfirmationParties  = "confirmation_parties"       // iss or sub
	CodeConfirmationAudience = "confirmation_audience"
	CodeConfirmationTask     = "confirmation_task"
	CodeConfirmationScope    = "confirmation_scope"
	CodeConfirmationDeadline = "confirmation_deadline"
	CodeConfirmationDepth    = "confirmation_depth"
	CodeConfirmationParent   = "confirmation_parent" // par_hash
	CodeConfirmationChildKey = "confirmation_child_key"
	CodeRekeyInvalid         = "rekey_link_invalid" // signature, form, agent, task or log of a re-key link
	CodeRekeyBroken          = "rekey_link_broken"  // the links do not lead from the key that was delegated to to the hop's
	CodeGrantDocument        = "grant_document_invalid"
	CodeGrantMismatch        = "grant_document_mismatch"
)

// logged.
const CodeNotLogged = "not_logged"

// scope.
const CodeScopeNotCovered = "scope_not_covered"

// revocation. With several, the broadest is the code and the detail lists all.
const (
	CodeUserRevoked         = "user_revoked"
	CodeGrantRevoked        = "grant_revoked"
	CodeTaskRevoked         = "task_revoked"
	CodeOrchestratorRevoked = "orchestrator_revoked"
	CodeParentRevoked       = "parent_agent_revoked"
	CodeSubtreeRevoked      = "subtree_revoked" // what is below an agent of the chain
	CodeAgentRevoked        = "agent_revoked"
	CodeCertificateRevoked  = "certificate_revoked"
)

// freshness.
const (
	CodeRevocationsStale  = "revocations_stale"
	CodeRevocationsFuture = "revocations_in_future"
)

// Access tokens (TokenError).
const (
	CodeTokenMalformed = "token_malformed" // form, header or claims; another algorithm than ES256 too
	CodeTokenType      = "token_type"
	CodeTokenKey       = "token_key_unknown"
	CodeTokenSignature = "token_signature"
	CodeTokenIssuer    = "token_issuer"
	CodeTokenAudience  = "token_audience"
	CodeTokenExpired   = "token_expired"
	CodeTokenFuture    = "token_not_yet_valid"        //nolint:gosec // G101: no credential
	CodeTokenUnbound   = "token_certificate_missing"  //nolint:gosec // G101: no credential; no certificate was presented beside the token
	CodeTokenBinding   = "token_certificate_mismatch" //nolint:gosec // G101: no credential
)

// Extend (AttenuationError).
const (
	CodeScopeExceeds    = "scope_exceeds_parent"
	CodeDeadlineExceeds = "deadline_exceeds_parent"
	CodeDepthExceeded   = "depth_exceeded"
	CodeDuplicateHop    = "duplicate_hop"
	CodeDuplicateHopKey = "duplicate_hop_key_reused"
	CodeTooManyHops     = "too_many_hops"
	CodeHopInvalid      = "hop_invalid"
)

// ParseCSR (CSRError).
const (
	CodeCSR          = "bad_csr"
	CodeCSRKey       = "bad_csr_key"
	CodeCSRSignature = "bad_csr_signature"
)
