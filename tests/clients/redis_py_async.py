"""redis-py with asyncio: every feature once, then rounds of work over a failover (see tests/clients.rs)."""
import asyncio
import json
import sys

import redis
import redis.asyncio as aio

port = int(sys.argv[1])
saw = {"client": f"redis-py asyncio {redis.__version__}", "features": [], "rounds": 0, "after": 0, "messages_after": 0, "errors": []}


def client(**options):
    return aio.Redis(host="127.0.0.1", port=port, decode_responses=True, retry=None, **options)


async def handshake():
    for protocol in (2, 3):
        c = client(protocol=protocol, client_name="me")
        assert await c.ping() and await c.client_getname() == "me"
        await c.aclose()


async def pool():
    c = client()
    await asyncio.gather(*[c.incr("pool") for _ in range(200)])
    assert await c.get("pool") == "200"


async def pipeline():
    p = client().pipeline(transaction=False)
    for n in range(1000):
        p.set(f"p{n}", n).get(f"p{n}")
    assert (await p.execute())[1::2] == [str(n) for n in range(1000)]


async def transaction():
    c, other = client(), client()
    await c.set("t", 1)
    async with c.pipeline() as p:
        await p.watch("t")
        await other.set("t", 7)
        p.multi()
        p.set("t", 8)
        try:
            await p.execute()
            raise AssertionError("the lost race was not seen")
        except redis.WatchError:
            pass
    assert await c.pipeline(transaction=True).incr("t").incr("t").execute() == [8, 9]


async def pubsub():
    c = client(protocol=3)
    s = c.pubsub()
    await s.subscribe("a")
    assert (await s.get_message(timeout=5))["type"] == "subscribe"
    assert await c.publish("a", "1") == 1
    assert (await s.get_message(timeout=5))["data"] == "1"
    await s.aclose()


async def blocking():
    c = client()
    assert await c.blpop("empty", timeout=0.1) is None
    popped = asyncio.create_task(c.blpop("queue", timeout=10))
    await asyncio.sleep(0.1)
    await c.rpush("queue", "x")
    assert await popped == ("queue", "x")
    gone = asyncio.create_task(c.blpop("queue", timeout=10))
    await asyncio.sleep(0.1)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert await c.ping()


async def scripts():
    c = client()
    script = c.register_script("return {KEYS[1], ARGV[1]}")
    await c.script_flush()
    assert await script(keys=["k"], args=["v"]) == ["k", "v"]


async def large():
    c, value = client(), "x" * 3_000_000
    assert await c.set("large", value) and await c.get("large") == value


async def note(what, work):
    """Awaits one piece of work; an error is noted, a lost race is none."""
    try:
        return await work
    except redis.WatchError:
        return None
    except Exception as error:
        saw["errors"].append([what, repr(error)])


async def round_of(c, script, who, n):
    key, value = f"key-{who}", f"key-{who}-{n}"
    await note("set", c.set(key, value))
    got = await note("get", c.get(key))
    if got is not None and not got.startswith(key + "-"):
        saw["errors"].append(["get", f"somebody else's value {got}"])
    await note("incr", c.incr(f"n-{who}"))
    await note("pipeline", c.pipeline(transaction=False).set(key, value).get(key).execute())
    await note("exec", c.pipeline(transaction=True).set(key, value).incr(f"m-{who}").execute())
    await note("script", script(keys=[key], args=[n], client=c))
    await note("push", c.rpush(f"q-{who}", value))
    await note("blpop", c.blpop(f"q-{who}", timeout=1))
    await note("publish", c.publish("news", value))
    if n % 20 == 0:
        await note("large", c.set(f"big-{who}", "x" * 1_000_000))
        await note("large", c.get(f"big-{who}"))


async def main():
    for feature in (handshake, pool, pipeline, transaction, pubsub, blocking, scripts, large):
        before = len(saw["errors"])
        await note(feature.__name__, feature())
        if len(saw["errors"]) == before:
            saw["features"].append(feature.__name__)
    c, stopping = client(), asyncio.Event()

    async def work(who):
        script, n, after = c.register_script("return ARGV[1]"), 0, 0
        while after < 20:
            await round_of(c, script, who, n)
            n += 1
            saw["rounds"] += 1
            if stopping.is_set():
                after += 1
                saw["after"] += 1

    async def listen():
        s = client(protocol=3).pubsub()
        await s.subscribe("news")
        while True:
            message = await note("listen", s.get_message(timeout=0.1))
            if message and message["type"] == "message" and stopping.is_set():
                saw["messages_after"] += 1

    listener = asyncio.create_task(listen())
    workers = [asyncio.create_task(work(who)) for who in range(4)]
    while saw["rounds"] < 20:
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    stopping.set()
    await asyncio.gather(*workers)
    await asyncio.sleep(0.2)
    listener.cancel()
    print(json.dumps(saw), flush=True)


asyncio.run(main())
