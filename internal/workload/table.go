package workload

import (
	"hash/maphash"
	"iter"
	"math/bits"
	"slices"
)

const (
	// fanBits is how many bits of the hash one level of a table uses: our
	// choice, so that a node has at most 32 slots and a change copies few.
	fanBits = 5
	// hashBits is the size of a hash; below it there are only collisions.
	hashBits = 64
)

// A table is an immutable map: set and del return another table, which shares
// with the first all nodes on which no change lies. It is a hash trie (Bagwell,
// "Ideal Hash Trees", 2001). newTable makes one. Any goroutine may read it.
type table[K comparable, V any] struct {
	root *node[K, V]
	size int
	seed maphash.Seed
}

// node is a branch of a table: one slot for each set bit of fan, in the order of
// the bits. Below the last hash bit fan is unused and slots is a plain list.
type node[K comparable, V any] struct {
	fan   uint32
	edit  *edit // who may still change this node in place; see table.set
	slots []slot[K, V]
}

// slot is an entry, or a branch when child is set.
type slot[K comparable, V any] struct {
	child *node[K, V]
	key   K
	value V
}

// An edit is the right to change in place what was copied under it. One batch
// of changes has one edit; when the batch is published nobody uses it again, and
// so nothing of it changes any more.
type edit struct{ _ byte }

func newTable[K comparable, V any]() table[K, V] {
	return table[K, V]{seed: maphash.MakeSeed()}
}

// len returns the number of entries.
func (t table[K, V]) len() int { return t.size }

// get returns the value of key, or the zero value.
func (t table[K, V]) get(key K) (value V, ok bool) {
	if t.root == nil {
		return value, false
	}
	hash := maphash.Comparable(t.seed, key)
	n := t.root
	for shift := 0; shift < hashBits; shift += fanBits {
		bit := uint32(1) << (hash >> shift & (1<<fanBits - 1))
		if n.fan&bit == 0 {
			return value, false
		}
		s := &n.slots[n.index(bit)]
		if s.child == nil {
			if s.key == key {
				return s.value, true
			}
			return value, false
		}
		n = s.child
	}
	for i := range n.slots {
		if n.slots[i].key == key {
			return n.slots[i].value, true
		}
	}
	return value, false
}

// all yields the entries in no useful order.
func (t table[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		if t.root != nil {
			t.root.all(yield)
		}
	}
}

// set returns t with key bound to value. Nodes that e copied are changed in
// place; a nil e copies always.
func (t table[K, V]) set(e *edit, key K, value V) table[K, V] {
	if t.root == nil {
		t.root = &node[K, V]{edit: e}
	}
	var added bool
	t.root, added = t.put(e, t.root, 0, maphash.Comparable(t.seed, key), slot[K, V]{key: key, value: value})
	if added {
		t.size++
	}
	return t
}

// del returns t without key.
func (t table[K, V]) del(e *edit, key K) table[K, V] {
	if _, ok := t.get(key); !ok {
		return t
	}
	t.root = t.root.drop(e, 0, maphash.Comparable(t.seed, key), key)
	t.size--
	return t
}

// index returns where in slots the entry of bit is, or would be.
func (n *node[K, V]) index(bit uint32) int { return bits.OnesCount32(n.fan & (bit - 1)) }

// own returns n if e may change it, else a copy that e may change.
func (n *node[K, V]) own(e *edit) *node[K, V] {
	if e != nil && n.edit == e {
		return n
	}
	return &node[K, V]{fan: n.fan, edit: e, slots: slices.Clone(n.slots)}
}

// put sets s below n, at the level whose bits begin at shift.
func (t table[K, V]) put(e *edit, n *node[K, V], shift int, hash uint64, s slot[K, V]) (_ *node[K, V], added bool) {
	n = n.own(e)
	if shift >= hashBits {
		for i := range n.slots {
			if n.slots[i].key == s.key {
				n.slots[i] = s
				return n, false
			}
		}
		n.slots = append(n.slots, s)
		return n, true
	}
	bit := uint32(1) << (hash >> shift & (1<<fanBits - 1))
	i := n.index(bit)
	if n.fan&bit == 0 {
		n.fan |= bit
		n.slots = slices.Insert(n.slots, i, s)
		return n, true
	}
	at := &n.slots[i]
	switch {
	case at.child != nil:
		at.child, added = t.put(e, at.child, shift+fanBits, hash, s)
	case at.key == s.key:
		*at = s
	default:
		// Two keys in one place: both move one level down.
		child := &node[K, V]{edit: e}
		child, _ = t.put(e, child, shift+fanBits, maphash.Comparable(t.seed, at.key), *at)
		child, _ = t.put(e, child, shift+fanBits, hash, s)
		*at, added = slot[K, V]{child: child}, true
	}
	return n, added
}

// drop removes key, which is there, below n. A branch that is left with one
// entry is put in its parent's place, so that the same entries always make the
// same tree.
func (n *node[K, V]) drop(e *edit, shift int, hash uint64, key K) *node[K, V] {
	n = n.own(e)
	if shift >= hashBits {
		n.slots = slices.DeleteFunc(n.slots, func(s slot[K, V]) bool { return s.key == key })
		return n
	}
	bit := uint32(1) << (hash >> shift & (1<<fanBits - 1))
	i := n.index(bit)
	at := &n.slots[i]
	if at.child == nil {
		n.fan &^= bit
		n.slots = slices.Delete(n.slots, i, i+1)
		return n
	}
	at.child = at.child.drop(e, shift+fanBits, hash, key)
	if c := at.child; len(c.slots) == 1 && c.slots[0].child == nil {
		*at = c.slots[0]
	}
	return n
}

func (n *node[K, V]) all(yield func(K, V) bool) bool {
	for i := range n.slots {
		s := &n.slots[i]
		if s.child != nil {
			if !s.child.all(yield) {
				return false
			}
		} else if !yield(s.key, s.value) {
			return false
		}
	}
	return true
}
