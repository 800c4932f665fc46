package workload

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
)

// TestTableEqualsMap compares random histories with a Go map, and sees to it
// that no table changes after another was made of it.
func TestTableEqualsMap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	type version struct {
		table table[int, int]
		want  map[int]int
	}
	for round := range 20 {
		now := version{newTable[int, int](), map[int]int{}}
		var old []version
		batch := &edit{}
		for step := range 3000 {
			key := r.IntN(1 + 400*round)
			now.want = maps.Clone(now.want)
			if r.IntN(3) == 0 {
				delete(now.want, key)
				now.table = now.table.del(batch, key)
			} else {
				now.want[key] = step
				now.table = now.table.set(batch, key, step)
			}
			// A batch ends when its table is published.
			if r.IntN(50) == 0 {
				old = append(old, now)
				batch = &edit{}
				if r.IntN(4) == 0 {
					batch = nil
				}
			}
		}
		for i, v := range append(old, now) {
			if diff := differs(v.table, v.want); diff != "" {
				t.Fatalf("round %d, version %d: %s", round, i, diff)
			}
		}
	}
}

// TestTableCollisions uses keys whose hashes cannot differ: the list below the
// last bit of the hash.
func TestTableCollisions(t *testing.T) {
	tab, want := newTable[int, int](), map[int]int{}
	n := &node[int, int]{}
	for i := range 5 {
		n, _ = tab.put(nil, n, hashBits, 0, slot[int, int]{key: i, value: i})
		want[i] = i
	}
	n, added := tab.put(nil, n, hashBits, 0, slot[int, int]{key: 3, value: 33})
	if want[3] = 33; added {
		t.Error("a key that was there was added")
	}
	n = n.drop(nil, hashBits, 0, 1)
	delete(want, 1)
	got := map[int]int{}
	n.all(func(k, v int) bool { got[k] = v; return true })
	if !maps.Equal(got, want) {
		t.Errorf("entries = %v, want %v", got, want)
	}
}

func differs(tab table[int, int], want map[int]int) string {
	if tab.len() != len(want) {
		return fmt.Sprintf("len = %d, want %d", tab.len(), len(want))
	}
	if got := maps.Collect(tab.all()); !maps.Equal(got, want) {
		return fmt.Sprintf("all = %v, want %v", got, want)
	}
	for k, v := range want {
		if got, ok := tab.get(k); !ok || got != v {
			return fmt.Sprintf("get(%d) = %d, %v; want %d", k, got, ok, v)
		}
	}
	if _, ok := tab.get(-1); ok {
		return "a key that never was is there"
	}
	return ""
}
