// The client of the rows about diff.v1: containerd's own types, one call for whoever is behind a socket.
// One command a line, one line of microseconds and digest back.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/diff/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// apply SOCKET MEDIA DIGEST SIZE KIND SOURCE OPTIONS: a blob unpacked into what the mount shows.
func apply(words []string) (string, error) {
	size, err := strconv.ParseInt(words[3], 10, 64)
	if err != nil {
		return "", err
	}
	ctx := metadata.AppendToOutgoingContext(context.Background(), "containerd-namespace", "default")
	connection, err := grpc.DialContext(ctx, "unix://"+words[0],
		grpc.WithInsecure(), grpc.WithBlock())
	if err != nil {
		return "", err
	}
	defer connection.Close()
	asked := &diff.ApplyRequest{
		Diff: &types.Descriptor{MediaType: words[1], Digest: digest.Digest(words[2]), Size_: size},
		Mounts: []*types.Mount{
			{Type: words[4], Source: words[5], Options: strings.Split(words[6], ",")},
		},
	}
	start := time.Now()
	reply, err := diff.NewDiffClient(connection).Apply(ctx, asked)
	took := time.Since(start)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%v %v", float64(took.Nanoseconds())/1e3, reply.Applied.Digest), nil
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		said, err := "", error(nil)
		if len(words) != 8 || words[0] != "apply" {
			err = fmt.Errorf("unknown words %q", words)
		} else {
			said, err = apply(words[1:])
		}
		if err != nil {
			said = "error " + err.Error()
		}
		fmt.Println(said)
	}
}
