package record

// Terms are what an entry with this body is found by: the ids in its envelope, and the serial or the decision that its body is
// about. The index has nothing else, so that it can be made anew from the entries.
func Terms(env Envelope, body any) []Term {
	out := make([]Term, 0, 6)
	for _, t := range []Term{
		{Kind: "user", ID: env.User},
		{Kind: "agent", ID: env.Agent},
		{Kind: "agent", ID: env.Parent},
		{Kind: "task", ID: env.Task},
		{Kind: "grant", ID: env.Grant},
		{Kind: "orchestrator", ID: env.Orchestrator},
		about(body),
	} {
		if t.ID != "" {
			out = append(out, t)
		}
	}
	return out
}

func about(body any) Term {
	switch b := body.(type) {
	case IssueBody:
		return Term{Kind: "serial", ID: b.Serial}
	case FailBody:
		return Term{Kind: "serial", ID: b.Serial}
	case TokenBody:
		return Term{Kind: "serial", ID: b.Serial}
	case DecisionBody:
		return Term{Kind: "decision", ID: b.DecisionID}
	default:
		return Term{}
	}
}

// TermsOf are those of an entry as it stands in the log.
func TermsOf(env Envelope) ([]Term, error) {
	body, err := aboutBody(env)
	if err != nil {
		return nil, err
	}
	return Terms(env, body), nil
}

func aboutBody(env Envelope) (any, error) {
	switch env.Type {
	case TypeIssue:
		return DecodeBody[IssueBody](env)
	case TypeIssueFailed, TypeIssueUnknown:
		return DecodeBody[FailBody](env)
	case TypeToken:
		return DecodeBody[TokenBody](env)
	case TypeDecision:
		return DecodeBody[DecisionBody](env)
	default:
		return nil, nil
	}
}
