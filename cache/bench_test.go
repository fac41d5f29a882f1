package cache

import (
	"os"
	"testing"
)

func TestServeByHand(t *testing.T) {
	top := os.Getenv("TOP")
	if top == "" {
		t.Skip()
	}
	c := new(Cache)
	url := serve(t, c, nil)
	all := infos(t, top)
	s, err := c.Open(loopback, all)
	must(t, err)
	must(t, os.WriteFile("/tmp/cl/env", []byte("URL="+url+s.Token+"\nKEY="+s.PublicKey+"\n"), 0o644))
	<-t.Context().Done()
}
