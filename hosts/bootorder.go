package hosts

import "cmp"

// BootOrder is what an install does to the order in which the machine's firmware tries its boot entries.
type BootOrder string

// The boot orders.
const (
	OrderKeep      BootOrder = "keep"       // as the host's own boot loader leaves it
	OrderDiskFirst BootOrder = "disk-first" // the entry of the new system comes first; none is removed
)

// Words returns all boot orders, for error messages and completion.
func (o *BootOrder) Words() []string { return stringsOf(OrderDiskFirst, OrderKeep) }

// UnmarshalText reads a boot order; the empty text means [OrderKeep].
func (o *BootOrder) UnmarshalText(text []byte) error {
	return choose(o, "--boot-order", "an order", text, o.Words())
}

// MarshalText implements [encoding.TextMarshaler].
func (o BootOrder) MarshalText() ([]byte, error) { return []byte(cmp.Or(o, OrderKeep)), nil }
