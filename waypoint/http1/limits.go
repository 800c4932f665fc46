package http1

import "time"

// Limits on what a peer can make us hold. All are our choice where no source is
// named.
const (
	// maxHead is the largest head, in bytes. Others of the ecosystem take 60 KiB.
	maxHead = 64 << 10
	// maxFields is how many fields a head or a trailer may have.
	maxFields = 128
	// maxTrailer is the largest trailer, in bytes.
	maxTrailer = 16 << 10
	// maxChunkDigits bounds a chunk's size: 15 digits are 2^60 bytes.
	maxChunkDigits = 15
	// maxLengthDigits bounds Content-Length: 18 digits fit into an int64.
	maxLengthDigits = 18
	// bufferSize is what a connection reads at once, in bytes.
	bufferSize = 16 << 10
	// HeadTime is how long a head may take from its first byte.
	HeadTime = 10 * time.Second
)
