package hosts

import (
	"errors"
	"strings"
	"testing"
)

func TestParsePCRs(t *testing.T) {
	for s, want := range map[string]string{"": "", "7": "7", "0+2+7": "0+2+7", "7,0": "0+7", "23+7+7": "7+23", "07": "7", "off": ""} {
		var got PCRs
		if err := errors.Join(got.UnmarshalText([]byte(s)), got.check()); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
	for s, want := range map[string]string{
		"24": "from 0 to 23", "-1": "write", "7+": "write", "+7": "write", "7 0": "write", "0x7": "write",
		"seven": "write", "7;rm": "write", "99999999999999999999": "write", "٧": "write",
		"1": "PCR 1 measures the firmware's settings", "7+5": "PCR 5 measures the partition table", "0+4": "PCR 4 measures what is started",
		"8": "PCR 8", "9,7": "PCR 9", "10": "PCR 10", "11": "PCR 11 measures what is started", "12": "PCR 12", "13": "PCR 13", "14": "PCR 14",
	} {
		var got PCRs
		err := got.UnmarshalText([]byte(s))
		if err == nil {
			err = got.check()
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "--tpm2=") {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
}
