"""redis-py in Sentinel mode: finds primary and replicas through pointsman, and goes on over a failover (see
tests/answers/clients.rs). Arguments: port of the Sentinel answers, their password or an empty one, seconds to
wait for the message."""
import json
import sys
import threading
import time

import redis
from redis.sentinel import MasterNotFoundError, Sentinel, SlaveNotFoundError

port, password = int(sys.argv[1]), sys.argv[2] or None
saw = {"client": f"redis-py {redis.__version__}", "before": "", "after": "", "replica": "", "rounds": 0, "errors": []}
passing = (redis.ConnectionError, redis.TimeoutError, MasterNotFoundError, SlaveNotFoundError, redis.ReadOnlyError)
sentinel = Sentinel([("127.0.0.1", port)], sentinel_kwargs={"password": password}, socket_timeout=2, decode_responses=True)
primary, replica = sentinel.master_for("main", retry=None), sentinel.slave_for("main", retry=None)


def until(work, patience=20):
    """Work that a failover may disturb: again until it is done, as an application would."""
    end = time.monotonic() + patience
    while True:
        try:
            return work()
        except passing as error:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def write(n):
    try:
        primary.set("key", n)
    except passing as error:
        saw["errors"].append(repr(error))
        raise


def replicated(n):
    end = time.monotonic() + 20
    while until(lambda: replica.get("key")) != str(n):
        assert time.monotonic() < end, "the replica did not get it"
        time.sleep(0.01)


def address():
    return "{}:{}".format(*sentinel.discover_master("main"))


asked = redis.Redis("127.0.0.1", port, password=password, decode_responses=True)
# Not by its methods: they pass an option on that its own parsers do not know.
ask = lambda *words: asked.execute_command(" ".join(("SENTINEL",) + words[:1]), *words[1:])
assert ask("GET-MASTER-ADDR-BY-NAME", "main") == sentinel.discover_master("main")
assert ask("GET-MASTER-ADDR-BY-NAME", "nobody") is None
assert ask("MASTER", "main")["is_master"] and len(ask("SLAVES", "main")) == 2
assert ask("SENTINELS", "main") == []
assert asked.ping() and asked.info("sentinel")["master0"]["status"] == "ok"
saw["before"] = address()
primary.set("key", "0")
replicated(0)
saw["replica"] = "{}:{}".format(*sentinel.discover_slaves("main")[0])
news = asked.pubsub()
news.subscribe("+switch-master")
assert news.get_message(timeout=5)["type"] == "subscribe"
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set())).start()
print("ready", flush=True)
while not stop.is_set():
    saw["rounds"] += 1
    until(lambda: write(saw["rounds"]))
replicated(saw["rounds"])
saw["after"] = until(address)
message = news.get_message(timeout=float(sys.argv[3]))
saw["message"] = message and message["data"]
print(json.dumps(saw), flush=True)
