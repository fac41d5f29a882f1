package hosts

import "container/list"

// recent is a map that knows which of its values was set longest ago, in constant time however many there are.
type recent[V any] struct {
	byKey map[string]*list.Element
	order list.List // of used[V]; the one set longest ago is first
}

// used is an element of recent.order.
type used[V any] struct {
	key   string
	value V
}

// get returns a value without changing the order.
func (r *recent[V]) get(key string) (v V, ok bool) {
	e := r.byKey[key]
	if e == nil {
		return v, false
	}
	return e.Value.(used[V]).value, true
}

// use sets a value, and makes it the newest.
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

// oldest returns the value that was set longest ago. It panics if there is none.
func (r *recent[V]) oldest() (key string, v V) {
	u := r.order.Front().Value.(used[V])
	return u.key, u.value
}

// all returns the values, the one set longest ago first.
func (r *recent[V]) all() []V {
	all := make([]V, 0, r.len())
	for e := r.order.Front(); e != nil; e = e.Next() {
		all = append(all, e.Value.(used[V]).value)
	}
	return all
}
