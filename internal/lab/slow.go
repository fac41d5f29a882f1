package lab

import (
	"net"
	"time"
)

// Slow is a network on which a server's answers go out at so many bytes a second.
func Slow(l net.Listener, rate int64) net.Listener { return slowListener{l, rate} }

type slowListener struct {
	net.Listener
	rate int64
}

func (l slowListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return slowConn{c, l.rate}, err
}

type slowConn struct {
	net.Conn
	rate int64
}

func (c slowConn) Write(p []byte) (int, error) {
	time.Sleep(time.Duration(len(p)) * time.Second / time.Duration(c.rate)) // as long as the network takes
	return c.Conn.Write(p)
}
