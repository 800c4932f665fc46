package capture

import (
	"fmt"
	"net/netip"
	"syscall"
)

// Share is how many connections one pod may have at once in one direction: an
// eighth of the descriptors of this process. A connection takes up to two, so
// that a pod whose clients never close, or that is flooded from both sides,
// leaves half of them to the other pods of the node.
func Share() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return leastShare
	}
	return int(min(max(limit.Cur/8, leastShare), mostShare))
}

// The ends of what Share returns. The upper one is our choice: beyond it the
// memory counts, some 10 KB per connection.
const (
	leastShare = 64
	mostShare  = 1 << 17
)

// CrowdError is why a connection was refused: the pod has as many as it may.
type CrowdError struct {
	Client, Target netip.AddrPort
	Max            int
}

// Error names both ends and the limit.
func (e *CrowdError) Error() string {
	return fmt.Sprintf("%v called %v, and the pod has %d connections already, the most for one pod", e.Client, e.Target, e.Max)
}

// CrowdHint says what an operator can do about a [CrowdError].
const CrowdHint = "does the application close its connections? Else raise LimitNOFILE: a pod may use an eighth of it in each direction"
