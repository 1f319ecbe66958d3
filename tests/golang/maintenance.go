package main

import (
	"crypto/sha256"
	"io"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func maintenance(s *suite) {
	_, err := s.client.Put(s.ctx, "maintained", "x")
	must("put", err)
	members, err := s.client.MemberList(s.ctx)
	must("members", err)
	equal("members", len(members.Members), len(s.endpoints))
	var leader uint64
	hashes := map[uint32]bool{}
	for _, endpoint := range s.endpoints {
		status, err := s.client.Status(s.ctx, endpoint)
		for err == nil && status.StorageVersion != "3.7.0" {
			// It follows the cluster's version, in a real etcd in steps of seconds.
			time.Sleep(50 * time.Millisecond)
			status, err = s.client.Status(s.ctx, endpoint)
		}
		must("status", err)
		equal("the version", status.Version, "3.7.1")
		check("a leader", status.Leader != 0 && (leader == 0 || leader == status.Leader))
		leader = status.Leader
		// Up to date from here on.
		one := &suite{endpoints: []string{endpoint}}
		client := one.dial()
		_, err = client.Get(s.ctx, "maintained")
		must("get", err)
		hash, err := client.HashKV(s.ctx, endpoint, 0)
		must("hash", err)
		hashes[hash.Hash] = true
		_, err = client.Defragment(s.ctx, endpoint)
		must("defragment", err)
		must("close", client.Close())
	}
	equal("one hash", len(hashes), 1)
	alarms, err := s.client.AlarmList(s.ctx)
	must("alarms", err)
	equal("alarms", len(alarms.Alarms), 0)
	_, err = s.client.AlarmDisarm(s.ctx, &clientv3.AlarmMember{Alarm: etcdserverpb.AlarmType_NONE})
	must("disarm", err)

	snapshot, err := s.client.SnapshotWithVersion(s.ctx)
	must("snapshot", err)
	bytes, err := io.ReadAll(snapshot.Snapshot)
	must("the snapshot's bytes", err)
	body := bytes[:len(bytes)-sha256.Size]
	check("whole pages", len(body)%512 == 0 && len(body) > 0)
	check("the digest is right", [sha256.Size]byte(bytes[len(body):]) == sha256.Sum256(body))
	equal("the storage version", snapshot.Version, "3.7.0")

	_, err = s.client.MemberRemove(s.ctx, 1)
	equal("no such member", err, rpctypes.ErrMemberNotFound)
	added, err := s.client.MemberAddAsLearner(s.ctx, []string{"http://127.0.0.1:1"})
	for err == rpctypes.ErrUnhealthy && s.ctx.Err() == nil {
		// Until the members have known each other for five seconds.
		time.Sleep(50 * time.Millisecond)
		added, err = s.client.MemberAddAsLearner(s.ctx, []string{"http://127.0.0.1:1"})
	}
	must("a learner", err)
	_, err = s.client.MemberPromote(s.ctx, added.Member.ID)
	equal("behind", err, rpctypes.ErrMemberLearnerNotReady)
	_, err = s.client.MemberUpdate(s.ctx, added.Member.ID, []string{"http://127.0.0.1:2"})
	must("update", err)
	left, err := s.client.MemberRemove(s.ctx, added.Member.ID)
	must("remove", err)
	equal("members left", len(left.Members), len(s.endpoints))

	if len(s.endpoints) == 1 {
		return
	}
	target := members.Members[0].ID
	if target == leader {
		target = members.Members[1].ID
	}
	for _, member := range members.Members {
		if member.ID == leader {
			client := (&suite{endpoints: member.ClientURLs}).dial()
			_, err := client.MoveLeader(s.ctx, target)
			must("move leader", err)
			must("close", client.Close())
		}
	}
	status, err := s.client.Status(s.ctx, s.endpoints[0])
	must("status", err)
	check("it moved", status.Leader != leader)
}
