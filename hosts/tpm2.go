package hosts

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// PCRs are the registers of a TPM 2.0 to which the keys of the host's disks are sealed: numbers from 0 to 23, sorted
// and joined by +, as systemd-cryptenroll takes them. Empty: the TPM opens no disk.
type PCRs string

// NoTPM2 is the word for no PCRs. It ends what an earlier enrolment chose.
const NoTPM2 = "off"

// UnmarshalText reads numbers that are joined by + or a comma. [NoTPM2] and the empty text mean none.
func (p *PCRs) UnmarshalText(text []byte) error {
	s := string(text)
	*p = ""
	if s == NoTPM2 || s == "" {
		return nil
	}
	var all []int
	for word := range strings.SplitSeq(strings.ReplaceAll(s, ",", "+"), "+") {
		n, err := strconv.ParseUint(word, 10, 31)
		if err != nil || n > 23 {
			return fmt.Errorf("--tpm2=%s: write PCRs as numbers from 0 to 23, joined by +, such as --tpm2=0+2+7; or %s",
				s, NoTPM2)
		}
		all = append(all, int(n))
	}

	slices.Sort(all)
	var numbers []string
	for _, n := range slices.Compact(all) {
		numbers = append(numbers, strconv.Itoa(n))
	}
	*p = PCRs(strings.Join(numbers, "+"))
	return nil
}

// MarshalText implements [encoding.TextMarshaler].
func (p PCRs) MarshalText() ([]byte, error) { return []byte(cmp.Or(p, NoTPM2)), nil }

// check returns an error for PCRs that cannot have the same value in the installer and in the installed system.
func (p PCRs) check() error {
	for number := range strings.SplitSeq(string(p), "+") {
		n, err := strconv.Atoi(number)
		if err != nil {
			continue // the empty value: no PCRs
		}
		if what := changing(n); what != "" {
			return fmt.Errorf("--tpm2=%s: PCR %d measures %s: the TPM would never open the disks; "+
				"choose of 0, 2, 3 and 7, or run systemd-cryptenroll on the installed host", p, n, what)
		}
	}
	return nil
}

// changing says what a PCR measures that differs between the installer and the installed system, or returns "" if it
// may be the same. Sources: the TCG's PC Client Platform Firmware Profile, and
// https://uapi-group.org/specifications/specs/linux_tpm_pcr_registry/.
func changing(pcr int) string {
	switch {
	case pcr == 1:
		return "the firmware's settings with its boot entries, to which the install adds one"
	case pcr == 5:
		return "the partition table, which the install writes"
	case pcr == 4 || 8 <= pcr && pcr <= 14:
		return "what is started, and that is the installer now and the installed system later"
	}
	return ""
}
