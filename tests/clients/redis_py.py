"""redis-py, synchronous: every feature once, then rounds of work over a failover (see tests/clients.rs)."""
import json
import sys
import threading

import redis
from redis.cache import CacheConfig

port = int(sys.argv[1])
saw = {"client": f"redis-py {redis.__version__}", "features": [], "skipped": [], "rounds": 0, "after": 0, "messages_after": 0, "errors": []}
stopping = threading.Event()
lock = threading.Lock()
# It has no cache with older servers.
caches = [int(n) for n in redis.Redis("127.0.0.1", port).info()["redis_version"].split(".")] >= [7, 4]


def client(**options):
    return redis.Redis("127.0.0.1", port, decode_responses=True, retry=None, **options)


def feature(name, body):
    try:
        body()
        saw["features"].append(name)
    except Exception as error:  # the judge sees what it was
        saw["errors"].append([name, repr(error)])


def handshake():
    for protocol in (2, 3):
        c = client(protocol=protocol, client_name="me")
        assert c.ping() and c.client_getname() == "me"
        assert c.client_info().get("lib-name", "redis-py") == "redis-py"


def pool():
    c = client(max_connections=8)
    threads = [threading.Thread(target=lambda: [c.incr("pool") for _ in range(50)]) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert c.get("pool") == "400"


def pipeline():
    p = client().pipeline(transaction=False)
    for n in range(1000):
        p.set(f"p{n}", n)
        p.get(f"p{n}")
    assert p.execute()[1::2] == [str(n) for n in range(1000)]


def transaction():
    c, other = client(), client()
    c.set("t", 1)
    assert c.transaction(lambda p: (p.get("t"), p.multi(), p.incr("t")), "t") == [2]
    with c.pipeline() as p:
        p.watch("t")
        other.set("t", 7)
        p.multi()
        p.set("t", 8)
        try:
            p.execute()
            raise AssertionError("the lost race was not seen")
        except redis.WatchError:
            pass
    assert c.get("t") == "7"


def pubsub():
    c = client(protocol=3)
    s = c.pubsub()
    s.subscribe("a")
    s.psubscribe("p*")
    assert [s.get_message(timeout=5)["type"] for _ in range(2)] == ["subscribe", "psubscribe"]
    assert c.publish("a", "1") == 1 and c.publish("px", "2") == 1
    assert [s.get_message(timeout=5)["data"] for _ in range(2)] == ["1", "2"]
    s.unsubscribe()
    assert s.get_message(timeout=5)["type"] == "unsubscribe"


def blocking():
    c = client()
    assert c.blpop("empty", timeout=0.1) is None
    threading.Timer(0.1, lambda: client().rpush("queue", "x")).start()
    assert c.blpop("queue", timeout=10) == ("queue", "x")


def scripts():
    c = client()
    script = c.register_script("return {KEYS[1], ARGV[1]}")
    c.script_flush()
    assert script(keys=["k"], args=["v"]) == ["k", "v"]
    assert c.evalsha(script.sha, 1, "k", "w") == ["k", "w"]


def large():
    c, value = client(), "x" * 3_000_000
    assert c.set("large", value) and c.get("large") == value


def cache_follows(c, writer, value):
    """What another client writes is seen through the cache, soon."""
    writer.set("cached", value)
    for _ in range(500):
        if c.get("cached") == value:
            return
        stopping.wait(0.01)
    raise AssertionError("the cache is stale")


def cache():
    if not caches:
        return saw["skipped"].append("cache")
    c = client(protocol=3, cache_config=CacheConfig())
    for value in ("1", "2", "3"):
        cache_follows(c, client(), value)


for name, body in [("handshake", handshake), ("pool", pool), ("pipeline", pipeline), ("transaction", transaction),
                   ("pubsub", pubsub), ("blocking", blocking), ("scripts", scripts), ("large", large), ("cache", cache)]:
    feature(name, body)


def note(what, body):
    """Runs one piece of work; an error is noted, a lost race is none."""
    try:
        return body()
    except redis.WatchError:
        return None
    except Exception as error:
        with lock:
            saw["errors"].append([what, repr(error)])


def round_of(c, script, cached, who, n):
    key, value = f"key-{who}", f"key-{who}-{n}"
    note("set", lambda: c.set(key, value))
    got = note("get", lambda: c.get(key))
    if got is not None and not got.startswith(key + "-"):
        saw["errors"].append(["get", f"somebody else's value {got}"])
    note("incr", lambda: c.incr(f"n-{who}"))
    note("pipeline", lambda: c.pipeline(transaction=False).set(key, value).get(key).execute())
    note("exec", lambda: c.pipeline(transaction=True).set(key, value).incr(f"m-{who}").execute())
    note("exec", lambda: c.transaction(lambda p: (p.get(key), p.multi(), p.set(key, value)), key))
    note("script", lambda: script(keys=[key], args=[n], client=c))
    note("push", lambda: c.rpush(f"q-{who}", value))
    note("blpop", lambda: c.blpop(f"q-{who}", timeout=1))
    note("publish", lambda: c.publish("news", value))
    if n % 20 == 0:
        note("large", lambda: (c.set(f"big-{who}", "x" * 1_000_000), c.get(f"big-{who}")))
        if cached:
            note("cache", lambda: cache_follows(cached, c, f"{who}-{n}"))


def work(c, who, cached):
    script = c.register_script("return ARGV[1]")
    n, after = 0, 0
    while after < 20:
        round_of(c, script, cached, who, n)
        n += 1
        with lock:
            saw["rounds"] += 1
            if stopping.is_set():
                after += 1
                saw["after"] += 1


def listen():
    s = client(protocol=3).pubsub()
    s.subscribe("news")
    while not done.is_set():
        message = note("listen", lambda: s.get_message(timeout=0.1))
        if message and message["type"] == "message" and stopping.is_set():
            saw["messages_after"] += 1


done = threading.Event()
listener = threading.Thread(target=listen)
listener.start()
pooled = client()
cached = client(protocol=3, cache_config=CacheConfig()) if caches else None
workers = [threading.Thread(target=work, args=(pooled, who, cached if who == 0 else None)) for who in range(4)]
[w.start() for w in workers]
while saw["rounds"] < 20:
    stopping.wait(0.01)
print("ready", flush=True)
sys.stdin.read()
stopping.set()
[w.join() for w in workers]
done.set()
listener.join()
print(json.dumps(saw), flush=True)
