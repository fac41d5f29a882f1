package hosts

// BootOrder is what an install does to the order in which the machine's firmware tries its boot entries.
type BootOrder string

// The orders.
const (
	OrderKeep      BootOrder = "keep"       // whatever the host's own boot loader makes of it
	OrderDiskFirst BootOrder = "disk-first" // the new system's entry is the first; none is removed
)

// ParseBootOrder reads an order; empty is [OrderKeep].
func ParseBootOrder(s string) (BootOrder, error) {
	return choose("--boot-order", "an order", s, OrderKeep, OrderDiskFirst, OrderKeep)
}
