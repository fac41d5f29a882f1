package hosts

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// NoTPM2 is the word for no PCRs at all: it ends what an earlier enrolment chose.
const NoTPM2 = "off"

// ParsePCRs reads the registers of a TPM2 whose values let it open the host's disks: numbers from
// 0 to 23, joined by + or a comma. They come back in order, joined by +, and [NoTPM2] as nothing.
// Those that cannot be the same in the installer and in the installed system are refused.
func ParsePCRs(s string) (string, error) {
	if s == NoTPM2 {
		return "", nil
	}
	var all []int
	for _, word := range strings.Split(strings.ReplaceAll(s, ",", "+"), "+") {
		n, err := strconv.ParseUint(word, 10, 31)
		if err != nil || n > 23 {
			return "", fmt.Errorf("--tpm2=%s: write PCRs as numbers from 0 to 23, joined by +, such as --tpm2=0+2+7; or %s", s, NoTPM2)
		}
		if what := changing(int(n)); what != "" {
			return "", fmt.Errorf("--tpm2=%s: PCR %d measures %s: the TPM would never open the disks; "+
				"choose of 0, 2, 3 and 7, or run systemd-cryptenroll on the installed host", s, n, what)
		}
		all = append(all, int(n))
	}
	slices.Sort(all)
	var words []string
	for _, n := range slices.Compact(all) {
		words = append(words, strconv.Itoa(n))
	}
	return strings.Join(words, "+"), nil
}

// changing says what a PCR measures that differs between the installer and the installed system,
// by the TCG's PC Client Platform Firmware Profile and https://uapi-group.org/specifications/specs/linux_tpm_pcr_registry/.
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
