// Package filter holds what may happen to a request between the route that it
// takes and the endpoint that it goes to. It decides and changes; it sends
// nothing.
//
//	authorization.go  policies: may this request pass
//	request.go        what one match of a policy asks of a request
//	chain.go          the filters of a route, in their order
//	headers.go        add, set and remove fields
//	redirect.go       answer with another place
//	rewrite.go        another path or host
//	cors.go           which pages of others may ask
//	fault.go          delays and errors on purpose
//	ratelimit.go      so many requests a time, to all or to each caller
//	answer.go         an answer that no application gave
//	retry.go          when to try again, and how often in all
//
// The connection's part of a policy is evaluated by internal/policy, as in the
// node proxy.
package filter
