package images

import (
	"fmt"
	"time"
)

// gigabit is the throughput of HTTP on a link of 1 Gbit/s, in bytes per second, without the overhead of Ethernet, IP
// and TCP (1448 of 1538 bytes are payload).
const gigabit = 1e9 / 8 * 1448 / 1538

// TFTPTime returns how long TFTP takes for size bytes. A block is sent when the previous one was acknowledged (RFC
// 1350), so each takes a round trip in addition to its time on a link of 1 Gbit/s. blksize (RFC 2348) is in bytes, and
// at least 1.
func TFTPTime(size int64, blksize int, roundTrip time.Duration) time.Duration {
	blocks := size/int64(blksize) + 1 // the last block is shorter, or empty
	return time.Duration(blocks)*roundTrip + time.Duration(float64(size)/gigabit*float64(time.Second))
}

// HTTPTime returns how long HTTP takes for size bytes at 1 Gbit/s.
func HTTPTime(size int64) time.Duration {
	return time.Duration(float64(size) / gigabit * float64(time.Second))
}

// TFTPLoad is a file that a machine loads over TFTP.
type TFTPLoad struct {
	What string // for people: "the kernel"
	Size int64  // bytes
}

// quickRound and slowRound are the assumed limits of a round trip on a LAN, including the time that firmware needs for
// a block. Messages say that they are assumptions.
const (
	quickRound = 300 * time.Microsecond
	slowRound  = time.Millisecond
)

// tftpMatters is the shortest expected time of a load that people are told about.
const tftpMatters = 5 * time.Second

// Slow says, for people, that a load takes long over TFTP, and how long; empty if it takes less than tftpMatters. block
// is the measured time for a block with this machine, or 0 if there was no measurement.
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

// BoardLoads returns what a board loads of an image over TFTP: the packed kernel and the first stage, if they have been
// made. If the packed kernel has not, its size is at most that of the image's kernel, which is returned instead.
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
