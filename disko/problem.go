package disko

import "fmt"

// Problem is what a machine's board makes of a layout.
type Problem struct {
	Stops bool   `json:"stops"` // an install does not begin; else it is a warning
	Path  string `json:"path"`  // in the layout
	Text  string `json:"text"`  // what is wrong, and how it is mended, for people
}

// String is the whole explanation.
func (p Problem) String() string {
	if p.Path == "" {
		return p.Text
	}
	return fmt.Sprintf("%s: %s", p.Path, p.Text)
}
