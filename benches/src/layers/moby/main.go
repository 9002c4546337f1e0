// The peer of the rows about mounts: moby's own overlay2 driver and its comparison of two trees, called as
// its daemon calls them, but without the daemon. One command a line, one line of microseconds back.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/daemon/graphdriver"
	"github.com/docker/docker/daemon/graphdriver/overlay2"
	"github.com/docker/docker/pkg/archive"
	"github.com/docker/docker/pkg/reexec"
)

var driver graphdriver.Driver

// chain HOME COUNT: image layers upon each other, and a container's upon them.
func chain(home string, count int) (err error) {
	if driver, err = overlay2.Init(home, nil, nil, nil); err != nil {
		return err
	}
	parent := ""
	for nth := 0; nth < count; nth++ {
		id := fmt.Sprintf("l%d", nth)
		if err = driver.Create(id, parent, nil); err != nil {
			return err
		}
		parent = id
	}
	return driver.CreateReadWrite("top", parent, nil)
}

// getput: the container's layer mounted and unmounted once.
func getput() error {
	if _, err := driver.Get("top", ""); err != nil {
		return err
	}
	return driver.Put("top")
}

func do(words []string) error {
	switch {
	case words[0] == "chain" && len(words) == 3:
		count, err := strconv.Atoi(words[2])
		if err != nil {
			return err
		}
		return chain(words[1], count)
	case words[0] == "getput" && len(words) == 1:
		return getput()
	case words[0] == "changes" && len(words) == 4:
		found, err := archive.ChangesDirs(words[1], words[2])
		if err == nil && strconv.Itoa(len(found)) != words[3] {
			err = fmt.Errorf("%d changes found, not %s", len(found), words[3])
		}
		return err
	}
	return fmt.Errorf("unknown words %q", words)
}

func main() {
	if reexec.Init() {
		return
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		start := time.Now()
		err := do(strings.Fields(lines.Text()))
		took := time.Since(start)
		if err != nil {
			fmt.Println("error", err)
		} else {
			fmt.Println(float64(took.Nanoseconds()) / 1e3)
		}
	}
}
