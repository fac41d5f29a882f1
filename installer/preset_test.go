package installer

import (
	"slices"
	"testing"

	"provision/disko"
	"provision/images"
)

// TestPresetsBoards: no board refuses the presets that are for it, and the Raspberry Pi 3 refuses a GPT.
func TestPresetsBoards(t *testing.T) {
	for _, p := range disko.Presets() {
		boards := []string{"pc", "uefi-aarch64"}
		switch {
		case p.Arch == "x86_64":
			boards = boards[:1]
		case p.Arch == "aarch64":
			boards = []string{p.Name} // they are called like their boards
		}
		for _, board := range boards {
			for _, problem := range boardProblems(t, p, board) {
				t.Errorf("%s on %s: %s", p.Name, board, problem)
			}
		}
		if p.Name == "rpi4" && len(boardProblems(t, p, "rpi3")) == 0 {
			t.Error("rpi3 has nothing against a GPT")
		}
	}
}

// boardProblems are those that stop an install.
func boardProblems(t *testing.T, p disko.Preset, board string) []disko.Problem {
	t.Helper()
	l, err := p.Layout()
	if err != nil {
		t.Fatal(err)
	}
	b, err := images.ParseBoard(board)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(BoardProblems(l, b), func(p disko.Problem) bool { return !p.Stops })
}
