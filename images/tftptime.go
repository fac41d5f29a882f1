package images

import (
	"fmt"
	"time"
)

// gigabit is what HTTP brings over a cable of 1 Gbit/s, in bytes a second, with
// what Ethernet, IP and TCP add taken off (1448 of 1538 bytes).
const gigabit = 1e9 / 8 * 1448 / 1538

// TFTPTime is how long TFTP takes for so many bytes: a block goes out when the
// one before it was acknowledged (RFC 1350), so each costs a round trip beside its time
// on a wire of 1 Gbit/s. blksize (RFC 2348) is at least 1.
func TFTPTime(size int64, blksize int, roundTrip time.Duration) time.Duration {
	blocks := size/int64(blksize) + 1 // the last one is short, or empty
	return time.Duration(blocks)*roundTrip + time.Duration(float64(size)/gigabit*float64(time.Second))
}

// HTTPTime is how long HTTP takes for so many bytes over 1 Gbit/s.
func HTTPTime(size int64) time.Duration {
	return time.Duration(float64(size) / gigabit * float64(time.Second))
}

// TFTPLoad is what a machine loads over TFTP.
type TFTPLoad struct {
	What string // in words: "the kernel"
	Size int64  // bytes
}

// A round trip between two machines on a LAN, with the time that firmware takes
// for a block. It is an assumption, said as one.
const (
	quickRound = 300 * time.Microsecond
	slowRound  = time.Millisecond
)

// tftpMatters is how long a machine may load without a word about it.
const tftpMatters = 5 * time.Second

// Slow says what takes its time over TFTP and how long, if it is long enough to
// be said; else it is empty. block is what a block was measured to take with this
// machine, and 0 if nothing was.
func (l TFTPLoad) Slow(blksize int, block time.Duration) string {
	longest := TFTPTime(l.Size, blksize, max(block, 0))
	if block <= 0 {
		longest = TFTPTime(l.Size, blksize, slowRound)
	}
	if longest < tftpMatters {
		return ""
	}
	head := fmt.Sprintf("%s (%d MB) takes about", l.What, (l.Size+500_000)/1_000_000)
	tail := fmt.Sprintf("HTTP boot would take %.1f s", HTTPTime(l.Size).Seconds())
	if block > 0 {
		return fmt.Sprintf("%s %.0f s over TFTP at %.1f ms a block, as measured with this machine; %s", head, longest.Seconds(), block.Seconds()*1000, tail)
	}
	shortest := TFTPTime(l.Size, blksize, quickRound)
	return fmt.Sprintf("%s %.0f to %.0f s over TFTP at %.1f to %.0f ms a block (assumed: none was measured yet); %s", head,
		shortest.Seconds(), longest.Seconds(), quickRound.Seconds()*1000, slowRound.Seconds()*1000, tail)
}

// BoardLoads are what a board loads of an image over TFTP: the packed kernel and
// the first stage, as far as they were made, and else the image's kernel, which is
// the most that the packed one can be.
func (c *Catalog) BoardLoads(img Image) []TFTPLoad {
	loads := []TFTPLoad{{"the kernel", img.Kernel.Size}}
	if f, err := c.readPacked(img.Kernel.SHA256); err == nil {
		loads[0].Size = f.Size
	}
	if program, err := c.program(img.Arch); err == nil {
		if f, err := c.readFirst(firstStageRecord(img, program)); err == nil {
			loads = append(loads, TFTPLoad{"the first stage", f.Size})
		}
	}
	return loads
}
