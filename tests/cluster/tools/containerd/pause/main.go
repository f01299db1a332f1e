// Command pause does nothing. It holds a pod's namespaces, and those of the whole node, whose
// process 1 it is there: as such it buries orphans.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGTERM, syscall.SIGINT)
	for {
		// Before waiting, too: a child may have ended before anybody listened.
		for {
			if id, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); id <= 0 && err != syscall.EINTR {
				break
			}
		}
		if received := <-signals; received != syscall.SIGCHLD {
			return
		}
	}
}
