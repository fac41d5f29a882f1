package hosts

import "cmp"

// BootOrder is what an install does to the order in which the machine's firmware tries its boot entries.
type BootOrder string

// The orders.
const (
	OrderKeep      BootOrder = "keep"       // whatever the host's own boot loader makes of it
	OrderDiskFirst BootOrder = "disk-first" // the new system's entry is the first; none is removed
)

// Words are all orders.
func (o *BootOrder) Words() []string { return stringsOf(OrderDiskFirst, OrderKeep) }

// UnmarshalText reads an order; empty is [OrderKeep].
func (o *BootOrder) UnmarshalText(text []byte) error {
	return choose(o, "--boot-order", "an order", text, o.Words())
}

// MarshalText implements [encoding.TextMarshaler].
func (o BootOrder) MarshalText() ([]byte, error) { return []byte(cmp.Or(o, OrderKeep)), nil }
