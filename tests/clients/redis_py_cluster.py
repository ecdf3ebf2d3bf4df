"""redis-py's RedisCluster: to it pointsman is a cluster of one node (see tests/cluster/clients.rs)."""
import sys
import time

from redis import Redis
from redis.cache import CacheConfig
from redis.cluster import RedisCluster

port = int(sys.argv[1])
for protocol in (2, 3):
    c = RedisCluster(host="127.0.0.1", port=port, protocol=protocol, decode_responses=True)
    nodes = c.get_nodes()
    assert [node.port for node in nodes] == [port], nodes
    for number in range(200):
        assert c.set(f"key:{number}", number)
        assert c.get(f"key:{number}") == str(number)
    with c.pipeline() as pipe:
        for number in range(200):
            pipe.incr(f"key:{number}")
        assert pipe.execute() == [number + 1 for number in range(200)]
    assert c.mget_nonatomic("key:1", "key:2") == ["2", "3"]
    assert c.mset_nonatomic({"a": 1, "b": 2})
    assert c.delete("a", "b") == 2
    assert c.eval("return redis.call('GET', KEYS[1])", 1, "key:7") == "8"
    assert c.keyslot("foo") == c.cluster_keyslot("foo") == 12182
    assert c.dbsize() == 200
    assert len(set(c.scan_iter(match="key:*", count=50))) == 200
    pubsub = c.pubsub()
    pubsub.subscribe("ch")
    assert pubsub.get_message(timeout=5)["type"] == "subscribe"
    c.publish("ch", "m")
    assert pubsub.get_message(timeout=5)["data"] == "m"
    pubsub.close()
    c.flushall()
    c.close()

# A client that knows nothing of clusters, with a cache. It has none with older servers.
writer = Redis("127.0.0.1", port)
if [int(n) for n in writer.info()["redis_version"].split(".")] >= [7, 4]:
    cached = Redis("127.0.0.1", port, protocol=3, decode_responses=True, cache_config=CacheConfig())
    for value in ("1", "2", "3"):
        for key in ("foo", "bar", "qux"):
            writer.set(key, value)
            deadline = time.monotonic() + 10
            while cached.get(key) != value:
                assert time.monotonic() < deadline, "the cache is stale"
    assert cached.get_cache().size == 3
    cached.close()
print("ok")
