// Package proxies asks the node proxies of a cluster what they hold: the
// certificates they show, the roots they trust, and the pods they serve. It
// reads the config_dump of each, which the proxies of the ambient ecosystem
// have in common.
package proxies
