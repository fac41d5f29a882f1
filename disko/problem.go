package disko

import "fmt"

// Problem is something in a layout that does not work, or may not work, on a machine's board.
type Problem struct {
	Stops bool   `json:"stops"` // the install does not begin; false: it is only a warning
	Path  string `json:"path"`  // attribute path in the layout; empty: it is about the layout as a whole
	Text  string `json:"text"`  // what is wrong and how to mend it, for people
}

// String returns the whole explanation.
func (p Problem) String() string {
	if p.Path == "" {
		return p.Text
	}
	return fmt.Sprintf("%s: %s", p.Path, p.Text)
}
