package images

import (
	"errors"
	"os"
)

// ISO is not written yet.
func (m BootMedium) ISO(f *os.File) error { return errors.New("not written yet") }
