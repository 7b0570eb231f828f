package schedule

import "math"

// Never is a time that does not come.
const Never int64 = math.MaxInt64

// A heap has the element with the least key first. An element is in it once at
// most and keeps its own place there, so that its key can change. container/heap
// would do the same through an interface, with an allocation for each element.
type heap[E any] struct {
	nodes []node[E]
	place func(E) *int32 // where an element keeps its index plus one; zero: not in the heap
}

type node[E any] struct {
	key int64
	of  E
}

// len returns how many there are.
func (h *heap[E]) len() int { return len(h.nodes) }

// key returns the least key, Never if there is none.
func (h *heap[E]) key() int64 {
	if len(h.nodes) == 0 {
		return Never
	}
	return h.nodes[0].key
}

// first returns the element with the least key. There has to be one.
func (h *heap[E]) first() E { return h.nodes[0].of }

// last returns one of the greater keys. There has to be one.
func (h *heap[E]) last() E { return h.nodes[len(h.nodes)-1].of }

// set inserts e under key, or moves it there if it is in the heap. Never removes it,
// so being in a heap is a matter of the key alone. Keys are stored, and not computed
// when compared: computed ones change before their element is moved, and the heap
// is out of order.
func (h *heap[E]) set(e E, key int64) {
	i := int(*h.place(e)) - 1
	switch {
	case key == Never && i < 0:
		return
	case key == Never:
		h.remove(i)
		return
	case i < 0:
		i = len(h.nodes)
		h.nodes = append(h.nodes, node[E]{})
	}
	h.put(i, node[E]{key, e})
}

// remove takes out the element at i. The last one fills the hole.
func (h *heap[E]) remove(i int) {
	last := len(h.nodes) - 1
	*h.place(h.nodes[i].of) = 0
	moved := h.nodes[last]
	h.nodes[last] = node[E]{}
	h.nodes = h.nodes[:last]
	if i < last {
		h.put(i, moved)
	}
	if last == 0 && cap(h.nodes) > 64 {
		h.nodes = nil // an outage is over
	}
}

// put writes n at i, a hole, and lets it rise or sink from there.
func (h *heap[E]) put(i int, n node[E]) {
	for up := (i - 1) / 2; i > 0 && n.key < h.nodes[up].key; up = (i - 1) / 2 {
		h.write(i, h.nodes[up])
		i = up
	}
	for down := 2*i + 1; down < len(h.nodes); down = 2*i + 1 {
		if right := down + 1; right < len(h.nodes) && h.nodes[right].key < h.nodes[down].key {
			down = right
		}
		if n.key <= h.nodes[down].key {
			break
		}
		h.write(i, h.nodes[down])
		i = down
	}
	h.write(i, n)
}

// write stores n at i, and its index in the element.
func (h *heap[E]) write(i int, n node[E]) {
	h.nodes[i] = n
	*h.place(n.of) = int32(i) + 1
}
