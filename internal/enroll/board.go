package enroll

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"provision/disko"
	"provision/hosts"
	"provision/internal/boards"
	"provision/internal/bootable"
)

// AutoBoard is the choice of whatever board the machine is recognised as.
const AutoBoard = "auto"

// board sets the host's board and checks that it suits the architecture and the layout. An empty name and [AutoBoard]
// mean the board that the machine was recognised as; if that is not known yet, the host's board stays empty until the
// machine netboots.
func (s *Service) board(name string, h *hosts.Host, layout *disko.Layout) error {
	h.Board = ""
	seen := name == "" || name == AutoBoard
	if seen {
		name = s.seenBoard(*h)
	}
	if name == "" {
		return nil
	}
	b, err := boards.Parse(name)
	switch {
	case err != nil:
		return err
	case b.Arch != h.Arch && seen:
		return fmt.Errorf("the machine was seen to be %s, which is %s, and the flake builds %s for %s: "+
			"choose another host or another machine, or name its board with --board", b, b.Arch, h.Name, h.Arch)
	case b.Arch != h.Arch:
		return fmt.Errorf("the board %s is %s, and the flake builds %s for %s: choose another --board or another host",
			b, b.Arch, h.Name, h.Arch)
	}

	h.Board = b.Name
	var stops []string
	for _, p := range problems(*h, layout) {
		if p.Stops {
			stops = append(stops, p.String())
		}
	}

	if len(stops) > 0 {
		return fmt.Errorf("the layout of %s does not suit its board, %s (--board says if it is another):\n  %s",
			h.Name, b, strings.Join(stops, "\n  "))
	}
	return nil
}

// seenBoard returns the board that the machine was recognised as, or that the host had with the same MACs; empty if it
// was not seen.
func (s *Service) seenBoard(h hosts.Host) string {
	for _, d := range s.Hosts.Discovered() {
		if d.Board != "" && slices.Contains(h.MACs, d.MAC) {
			return d.Board
		}
	}
	old, err := s.Hosts.Get(h.Name)
	if err == nil && sameMACs(old.MACs, h.MACs) {
		return old.Board
	}
	return ""
}

// chosenBoard returns the board for a host by the name that the operator chose, or the one that its machine was
// recognised as.
func (s *Service) chosenBoard(ctx context.Context, h hosts.Host, name string) (string, error) {
	if name == "" || name == AutoBoard {
		for _, d := range s.Hosts.Discovered() {
			if d.Board != "" && slices.Contains(h.MACs, d.MAC) {
				return d.Board, nil
			}
		}
		return "", nil
	}

	found, err := s.Evaluate(ctx, h.Flake, h.Name, h.Choices)
	if err == nil {
		err = s.board(name, &h, found.Layout)
	}
	return h.Board, err
}

// sameMACs reports whether two lists have the same MACs, in any order.
func sameMACs(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// problems returns the warnings about a layout, and what does not work with it on the host's board.
func problems(h hosts.Host, layout *disko.Layout) []disko.Problem {
	b, err := boards.Parse(h.Board)
	if err != nil { // the board is not known yet
		return layout.Problems()
	}
	return append(layout.Problems(), bootable.Problems(layout, b)...)
}
