// Command etcd is the key-value store of the embedded Kubernetes. Its own module names its main
// package after the module's version, so it is given a name here.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
