// Command golang does with the official Go client what programs do with it, against the endpoints given, and ends with
// status 0 when every answer was right. Faults are asked of whoever started it: a line "please WHAT" on standard output,
// a line on standard input when that is done. `please crash` kills a member (the leader, of three) while the client goes on,
// `please revive` starts it again.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// suite is what the parts share.
type suite struct {
	endpoints []string
	client    *clientv3.Client
	ctx       context.Context
	answers   *bufio.Reader
}

func main() {
	endpoints := strings.Split(os.Args[1], ",")
	ctx, cancel := context.WithTimeout(context.Background(), 80*time.Second)
	defer cancel()
	s := &suite{endpoints: endpoints, ctx: ctx, answers: bufio.NewReader(os.Stdin)}
	s.client = s.dial()
	defer s.client.Close()
	parts := []struct {
		name string
		run  func(*suite)
	}{
		{"maintenance", maintenance},
		{"keys", keys},
		{"transactions", transactions},
		{"wrappers", wrappers},
		{"watches", watches},
		{"fragments", fragments},
		{"leases", leases},
		{"mutex", mutex},
		{"election", election},
		{"software transactional memory", stm},
		{"mirror", mirrored},
		{"a crash", crash},
	}
	for _, part := range parts {
		part.run(s)
		fmt.Println("passed:", part.name)
	}
}

func (s *suite) dial() *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   s.endpoints,
		DialTimeout: 5 * time.Second,
		Logger:      zap.NewNop(),
	})
	must("dial", err)
	return client
}

// please asks for a fault and returns when it has happened.
func (s *suite) please(what string) {
	fmt.Println("please", what)
	_, err := s.answers.ReadString('\n')
	must("the answer to "+what, err)
}

func must(what string, err error) {
	if err != nil {
		fail("%s: %v", what, err)
	}
}

// equal compares by what Go prints.
func equal(what string, got, want any) {
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		fail("%s: got %s, want %s", what, g, w)
	}
}

func check(what string, ok bool) {
	if !ok {
		fail("%s", what)
	}
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}
