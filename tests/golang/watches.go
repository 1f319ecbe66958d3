package main

import (
	"context"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// next gives `count` events of a watch, as text.
func next(what string, channel clientv3.WatchChan, count int) []string {
	var events []string
	for len(events) < count {
		answer, open := <-channel
		check(what+": the watch is open", open)
		must(what, answer.Err())
		for _, e := range answer.Events {
			text := fmt.Sprintf("%v %s=%s", e.Type, e.Kv.Key, e.Kv.Value)
			if e.PrevKv != nil {
				text += " was " + string(e.PrevKv.Value)
			}
			events = append(events, text)
		}
	}
	return events
}

func watches(s *suite) {
	ctx, cancel := context.WithCancel(s.ctx)
	first, err := s.client.Put(s.ctx, "watch/a", "1")
	must("put", err)
	all := s.client.Watch(ctx, "watch/", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithRev(first.Header.Revision))
	deletes := s.client.Watch(ctx, "watch/", clientv3.WithPrefix(), clientv3.WithFilterPut(), clientv3.WithRev(first.Header.Revision))
	fresh := s.client.Watch(ctx, "watch/fresh", clientv3.WithCreatedNotify())
	created := <-fresh
	check("created is told", created.Created)
	_, err = s.client.Put(s.ctx, "watch/a", "2")
	must("put", err)
	_, err = s.client.Delete(s.ctx, "watch/a")
	must("delete", err)
	_, err = s.client.Put(s.ctx, "watch/fresh", "3")
	must("put", err)
	equal("all events", next("all", all, 4), []string{
		"PUT watch/a=1", "PUT watch/a=2 was 1", "DELETE watch/a= was 2", "PUT watch/fresh=3",
	})
	equal("deletes", next("deletes", deletes, 1), []string{"DELETE watch/a="})
	equal("a fresh one", next("fresh", fresh, 1), []string{"PUT watch/fresh=3"})

	head, err := s.client.Get(s.ctx, "watch/fresh")
	must("get", err)
	must("a progress request", s.client.RequestProgress(ctx))
	for {
		answer, open := <-fresh
		check("the watch is open", open)
		must("progress", answer.Err())
		if answer.IsProgressNotify() {
			check("progress is up to now", answer.Header.Revision >= head.Header.Revision)
			break
		}
	}
	cancel()
	for range all {
	}

	old := s.client.Watch(s.ctx, "watch/a", clientv3.WithRev(1))
	answer := <-old
	equal("behind a compaction", answer.Err(), rpctypes.ErrCompacted)
	check("the revision to go on from", answer.CompactRevision > 1)
	_, open := <-old
	check("and the end", !open)
}

// fragments: one revision of more bytes than a message may have is put together again by the client.
func fragments(s *suite) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(s.ctx))
	defer cancel()
	large := strings.Repeat("x", 1<<20)
	first, err := s.client.Put(s.ctx, "large/0", large)
	must("put", err)
	for i := 1; i < 5; i++ {
		_, err := s.client.Put(s.ctx, fmt.Sprint("large/", i), large)
		must("put", err)
	}
	channel := s.client.Watch(ctx, "large/", clientv3.WithPrefix(), clientv3.WithFragment(), clientv3.WithRev(first.Header.Revision))
	equal("events in fragments", len(next("fragments", channel, 5)), 5)
	_, err = s.client.Delete(s.ctx, "large/", clientv3.WithPrefix())
	must("delete", err)
	equal("deletes at once", len(next("fragments", channel, 5)), 5)
}

// crash: a watch and a lease outlive the member they were opened at, and no event is lost or comes twice.
func crash(s *suite) {
	lease, err := s.client.Grant(s.ctx, 30)
	must("grant", err)
	alive, err := s.client.KeepAlive(s.ctx, lease.ID)
	must("keep alive", err)
	first, err := s.client.Put(s.ctx, "crash/0", "", clientv3.WithLease(lease.ID))
	must("put", err)
	channel := s.client.Watch(s.ctx, "crash/", clientv3.WithPrefix(), clientv3.WithRev(first.Header.Revision))
	equal("before", next("before", channel, 1), []string{"PUT crash/0="})
	s.please("crash")
	if len(s.endpoints) == 1 {
		s.please("revive")
	}
	var want []string
	for i := 1; i <= 20; i++ {
		key := fmt.Sprintf("crash/%d", i)
		// A put that failed is not repeated by the client: it may have happened. This one may be.
		for {
			_, err = s.client.Put(s.ctx, key, "x")
			if err == nil {
				break
			}
			must("in time", s.ctx.Err())
			answer, err := s.client.Get(s.ctx, key)
			if err == nil && answer.Count == 1 {
				break
			}
		}
		want = append(want, fmt.Sprintf("PUT %s=x", key))
	}
	got := next("after", channel, len(want))
	// A put that was answered with an error and done all the same stands twice, with a revision of its own.
	equal("after", strings.Join(unique(got), "\n"), strings.Join(want, "\n"))
	if len(s.endpoints) > 1 {
		s.please("revive")
	}
	for len(alive) > 0 {
		<-alive
	}
	check("kept alive behind the crash", <-alive != nil)
	left, err := s.client.TimeToLive(s.ctx, lease.ID, clientv3.WithAttachedKeys())
	must("time to live", err)
	check("the lease is there", left.TTL > 0 && len(left.Keys) == 1)
}

func unique(texts []string) []string {
	var out []string
	for _, text := range texts {
		if len(out) == 0 || out[len(out)-1] != text {
			out = append(out, text)
		}
	}
	return out
}
