package jwt

import "time"

// Limits on what others send. All are our choice, but for Leeway.
const (
	// Leeway is by how much clocks may differ. Source: what the ecosystem allows.
	Leeway = 60 * time.Second
	// maxToken is the longest token that is read, in bytes. A request's fields have
	// a limit of their own.
	maxToken = 16 << 10
	// MaxKeySet is the largest key set that is read, in bytes.
	MaxKeySet = 256 << 10
	// maxKeys is how many keys of a set are kept.
	maxKeys = 200
	// maxTries is how many keys are tried for a token that names none.
	maxTries = 16
	// minRSA and maxRSA bound the modulus of RSA keys, in bits: weaker ones prove
	// nothing, and larger ones cost too much.
	minRSA, maxRSA = 2048, 8192
	// maxLocations is how many places of a request one rule may read.
	maxLocations = 32
)
