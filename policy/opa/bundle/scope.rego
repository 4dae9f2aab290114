# Scope tokens as Signet reads them: segments divided by ":"; a last segment "*" stands for one or more further segments.
package signet.scope

covers(token, wanted) if token == wanted

covers(token, wanted) if {
	endswith(token, ":*")
	startswith(wanted, trim_suffix(token, "*"))
}

# overlaps holds when some scope is in both tokens.
overlaps(a, b) if covers(a, b)

overlaps(a, b) if covers(b, a)

# all_covered holds when each wanted token is covered by one of the tokens. Nothing wanted is not covered.
all_covered(tokens, wanted) if {
	count(wanted) > 0
	every w in wanted {
		some t in tokens
		covers(t, w)
	}
}
