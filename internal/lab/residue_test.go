package lab

import (
	"slices"
	"testing"
)

func TestListeningPorts(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0201000A:1F90 0301000A:A000 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
   2: 00000000000000000000000000000000:3AA0 00000000000000000000000000000000:0000 0A 00000000:00000000 00:0 0 0 0 3 1 0
   3: broken
`
	if got, want := listeningPorts([]byte(table)), []int{15001, 15008}; !slices.Equal(got, want) {
		t.Errorf("listeningPorts = %v, want %v: only LISTEN, both families", got, want)
	}
}
