package lab

import (
	"net"
	"sync"
	"time"
)

// Slow is a network on which all of a server's answers together go out at so many bytes a second.
func Slow(l net.Listener, rate int64) net.Listener { return &slowListener{Listener: l, rate: rate} }

type slowListener struct {
	net.Listener
	rate int64
	mu   sync.Mutex
	free time.Time // when the network has carried what it was given
}

func (l *slowListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return slowConn{c, l}, err
}

// carry waits until the network has carried so many bytes.
func (l *slowListener) carry(bytes int) {
	l.mu.Lock()
	if now := time.Now(); l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(bytes) * time.Second / time.Duration(l.rate))
	until := l.free
	l.mu.Unlock()
	time.Sleep(time.Until(until))
}

type slowConn struct {
	net.Conn
	over *slowListener
}

func (c slowConn) Write(p []byte) (int, error) {
	c.over.carry(len(p))
	return c.Conn.Write(p)
}
