package main

import (
	"strings"
	"testing"
)

// TestConvert compares with what the real ssh-to-age (commit 2643a7f) printed.
func TestConvert(t *testing.T) {
	const key = `-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
QyNTUxOQAAACDtpH45DQMy6AAeJ92Qa8R0ouxExDFdh3cee/ho8xNfLgAAAJDADboJwA26
CQAAAAtzc2gtZWQyNTUxOQAAACDtpH45DQMy6AAeJ92Qa8R0ouxExDFdh3cee/ho8xNfLg
AAAEB/SjDf94H4ikDSpAW90Uf0DLMzkOzmOcIwWOizMjyZTu2kfjkNAzLoAB4n3ZBrxHSi
7ETEMV2Hdx57+GjzE18uAAAADHJvb3RAZ29sZGVuMQE=
-----END OPENSSH PRIVATE KEY-----
`
	var out strings.Builder
	if err := convert(&out, []byte(key)); err != nil {
		t.Fatal(err)
	}
	if want := "AGE-SECRET-KEY-10CW52W9EAMTMHXHCS6WWWKLPA4SLQY74LCV8LA762T2VJFD78VJS5M2W47\n"; out.String() != want {
		t.Errorf("%s, want %s", out.String(), want)
	}
}
