package main

import (
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/clientv3util"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"
)

func keys(s *suite) {
	first, err := s.client.Put(s.ctx, "key/1", "one")
	must("put", err)
	again, err := s.client.Put(s.ctx, "key/1", "uno", clientv3.WithPrevKV())
	must("put", err)
	equal("the previous value", string(again.PrevKv.Value), "one")
	equal("one revision a write", again.Header.Revision, first.Header.Revision+1)
	for i := 2; i < 10; i++ {
		_, err = s.client.Put(s.ctx, fmt.Sprint("key/", i), fmt.Sprint(10-i))
		must("put", err)
	}
	all, err := s.client.Get(s.ctx, "key/", clientv3.WithPrefix(), clientv3.WithLimit(3),
		clientv3.WithSort(clientv3.SortByValue, clientv3.SortDescend))
	must("get", err)
	equal("the first by value", string(all.Kvs[0].Key), "key/1")
	equal("of how many", all.Count, 9)
	check("there is more", all.More)
	old, err := s.client.Get(s.ctx, "key/1", clientv3.WithRev(first.Header.Revision))
	must("get of an old revision", err)
	equal("the old value", string(old.Kvs[0].Value), "one")
	local, err := s.client.Get(s.ctx, "key/", clientv3.WithPrefix(), clientv3.WithCountOnly(), clientv3.WithSerializable())
	must("a serializable count", err)
	check("no keys in a count", len(local.Kvs) == 0)
	gone, err := s.client.Delete(s.ctx, "key/2", clientv3.WithRange("key/5"), clientv3.WithPrevKV())
	must("delete", err)
	equal("deleted", gone.Deleted, 3)
	equal("what was there", string(gone.PrevKvs[2].Value), "6")

	_, err = s.client.Compact(s.ctx, again.Header.Revision, clientv3.WithCompactPhysical())
	must("compact", err)
	_, err = s.client.Get(s.ctx, "key/1", clientv3.WithRev(first.Header.Revision))
	equal("behind a compaction", err, rpctypes.ErrCompacted)
	_, err = s.client.Get(s.ctx, "key/1", clientv3.WithRev(1<<40))
	equal("in the future", err, rpctypes.ErrFutureRev)
	_, err = s.client.Put(s.ctx, "", "x")
	equal("no key", err, rpctypes.ErrEmptyKey)
	_, err = s.client.Put(s.ctx, "nothing", "", clientv3.WithIgnoreValue())
	equal("no value to keep", err, rpctypes.ErrKeyNotFound)
	_, err = s.client.Put(s.ctx, "key/1", "x", clientv3.WithLease(12345))
	equal("no such lease", err, rpctypes.ErrLeaseNotFound)
}

func transactions(s *suite) {
	_, err := s.client.Put(s.ctx, "txn", "1")
	must("put", err)
	for _, want := range []bool{true, false} {
		answer, err := s.client.Txn(s.ctx).
			If(clientv3.Compare(clientv3.Value("txn"), "=", "1"), clientv3util.KeyMissing("txn/other")).
			Then(clientv3.OpPut("txn", "2"), clientv3.OpPut("txn/other", "x"), clientv3.OpGet("txn", clientv3.WithPrefix())).
			Else(clientv3.OpGet("txn"), clientv3.OpTxn(
				[]clientv3.Cmp{clientv3util.KeyExists("txn/other")},
				[]clientv3.Op{clientv3.OpDelete("txn/other", clientv3.WithPrevKV())}, nil)).
			Commit()
		must("transaction", err)
		equal("succeeded", answer.Succeeded, want)
		if want {
			equal("sees its own writes", answer.Responses[2].GetResponseRange().Count, 2)
		} else {
			inner := answer.Responses[1].GetResponseTxn().Responses[0].GetResponseDeleteRange()
			equal("the inner delete", string(inner.PrevKvs[0].Value), "x")
		}
	}
	_, err = s.client.Txn(s.ctx).Then(clientv3.OpPut("txn", "1"), clientv3.OpPut("txn", "2")).Commit()
	equal("one key twice", err, rpctypes.ErrDuplicateKey)
}

func wrappers(s *suite) {
	kv := namespace.NewKV(s.client, "space/")
	watcher := namespace.NewWatcher(s.client, "space/")
	put, err := kv.Put(s.ctx, "a", "1")
	must("put in a namespace", err)
	answer, err := s.client.Get(s.ctx, "space/a")
	must("get", err)
	equal("the whole key", answer.Count, 1)
	inside, err := kv.Get(s.ctx, "", clientv3.WithFromKey())
	must("get in a namespace", err)
	equal("the key inside", string(inside.Kvs[0].Key), "a")
	seen := <-watcher.Watch(s.ctx, "a", clientv3.WithRev(put.Header.Revision))
	equal("the key watched", string(seen.Events[0].Kv.Key), "a")

	ordered := ordering.NewKV(s.client, ordering.NewOrderViolationSwitchEndpointClosure(s.client))
	for i := 0; i < 20; i++ {
		put, err := s.client.Put(s.ctx, "ordered", fmt.Sprint(i))
		must("put", err)
		// After a linearizable read no older revision may be seen, whichever member answers.
		_, err = ordered.Get(s.ctx, "ordered")
		must("get", err)
		local, err := ordered.Get(s.ctx, "ordered", clientv3.WithSerializable())
		must("an ordered serializable get", err)
		check("nothing older", local.Header.Revision >= put.Header.Revision)
	}
}

func mirrored(s *suite) {
	for i := 0; i < 2500; i += 100 {
		var puts []clientv3.Op
		for j := i; j < i+100; j++ {
			puts = append(puts, clientv3.OpPut(fmt.Sprintf("mirror/%04d", j), "x"))
		}
		_, err := s.client.Txn(s.ctx).Then(puts...).Commit()
		must("100 puts", err)
	}
	syncer := mirror.NewSyncer(s.client, "mirror/", 0)
	answers, errs := syncer.SyncBase(s.ctx)
	count := 0
	for answer := range answers {
		count += len(answer.Kvs)
	}
	must("the base", <-errs)
	equal("keys in the base", count, 2500)
	updates := syncer.SyncUpdates(s.ctx)
	_, err := s.client.Put(s.ctx, "mirror/new", "y")
	must("put", err)
	update := <-updates
	must("the update", update.Err())
	equal("the update", string(update.Events[0].Kv.Key), "mirror/new")
}
