package dns

import "time"

// What a pod can make us hold. All are our choice; the reason is beside each.
const (
	// podQuestions is how many questions of one pod may wait for upstream. A pod
	// that asks 10,000 times a second has 50 waiting at a resolver that takes
	// 5 ms.
	podQuestions = 512
	// nodeQuestions is the same for all pods of a node. Each holds a socket, a
	// goroutine and a buffer, about 10 KB.
	nodeQuestions = 4096
	// podStreams is how many TCP connections of one pod may be open.
	podStreams = 64
	// streamIdle is how long a TCP connection may be quiet. Source: RFC 7766,
	// section 6.2.3: a few seconds.
	streamIdle = 10 * time.Second
	// patience bounds the wait for upstream. Most stub resolvers ask again after
	// 5 s.
	patience = 5 * time.Second
	// pictureWait is how long a question waits for the first picture of the
	// control plane. After that upstream is asked: names of the cluster must
	// not fail because the control plane is away.
	pictureWait = 2 * time.Second
	// largestQuestion is the most bytes of a question over UDP. Real ones have
	// below 512; an update may have more.
	largestQuestion = 4096
	// largestAnswer is the most bytes of our own answers over UDP. It stays
	// within the node, so that fragments do not matter.
	largestAnswer = 4096
	// mostAddresses is the most addresses of an answer. A headless service can
	// have thousands of endpoints, and a message holds 64 KiB.
	mostAddresses = 1024
	// mostStrangers is how many wrong answers a question bears before it is
	// given up: each is a guess of somebody who wants to be believed.
	mostStrangers = 64
	// relayIdle is how long a zone transfer may pause.
	relayIdle = 30 * time.Second
)

// ttl is how long our answers may be kept, in seconds. The ambient ecosystem's
// number.
const ttl = 30
