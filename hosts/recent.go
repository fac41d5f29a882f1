package hosts

import "container/list"

// recent is values by key that know which of them was used longest ago, however many there are.
type recent[V any] struct {
	byKey map[string]*list.Element
	order list.List // of used[V]; the one used longest ago is first
}

type used[V any] struct {
	key   string
	value V
}

// get returns a value without using it.
func (r *recent[V]) get(key string) (v V, ok bool) {
	e := r.byKey[key]
	if e == nil {
		return v, false
	}
	return e.Value.(used[V]).value, true
}

// use sets a value.
func (r *recent[V]) use(key string, v V) {
	if e := r.byKey[key]; e != nil {
		e.Value = used[V]{key, v}
		r.order.MoveToBack(e)
		return
	}
	if r.byKey == nil {
		r.byKey = make(map[string]*list.Element)
	}
	r.byKey[key] = r.order.PushBack(used[V]{key, v})
}

func (r *recent[V]) drop(key string) {
	if e := r.byKey[key]; e != nil {
		r.order.Remove(e)
		delete(r.byKey, key)
	}
}

func (r *recent[V]) len() int { return len(r.byKey) }

// oldest is the value that was used longest ago; there must be one.
func (r *recent[V]) oldest() (key string, v V) {
	u := r.order.Front().Value.(used[V])
	return u.key, u.value
}

// all is every value, the one used longest ago first.
func (r *recent[V]) all() []V {
	all := make([]V, 0, r.len())
	for e := r.order.Front(); e != nil; e = e.Next() {
		all = append(all, e.Value.(used[V]).value)
	}
	return all
}
