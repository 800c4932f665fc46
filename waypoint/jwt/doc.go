// Package jwt says who has written a request, by the signed tokens (JSON Web
// Tokens, RFC 7519) that it carries.
//
// # The path of a token
//
// [Compile] makes an [Authentication] of what the control plane sent: rules, each
// about one issuer. [Check] looks at the places where rules expect tokens. What it
// finds there must be good by a rule that reads that place: issuer, key, signature,
// time, audience, in this order; else the request is refused with a [Refused]. A
// request without a token passes, and has no principal. [Result.Apply] then takes
// the tokens out of the request and puts claims in, as the rules say.
//
// # What security rests on
//
// Signatures are checked by go-jose, with the algorithms of [Algorithms] and no
// others: none and those with shared secrets do not exist here. A key is only used
// for algorithms of its own kind, and only keys of the rule are used: never one that
// a token brings along. A rule without keys refuses.
//
// Fields that rules write are taken out of every request, token or not.
//
//	rule.go     rules, compiled
//	locate.go   where tokens are, and taking them out
//	keys.go     key sets
//	verify.go   is this token good
//	token.go    what a token says
//	check.go    the tokens of a request
//	limits.go   bounds on what others can make us hold
//
// It does no I/O: keys that are fetched come from a [Remote].
package jwt
