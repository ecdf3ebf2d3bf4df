// node-redis with a cache, in front of a cluster that it knows nothing of (see tests/cluster/clients.rs).
"use strict";
const assert = require("node:assert");
const { createClient } = require("redis");

const socket = { host: "127.0.0.1", port: Number(process.argv[2]), reconnectStrategy: false };
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function connected(options) {
  const c = createClient({ socket, ...options });
  c.on("error", (error) => { throw error; });
  return c.connect();
}

/** What another client writes is seen through the cache, soon. */
async function follows(c, key, value) {
  for (let n = 0; n < 500; n++) {
    if ((await c.get(key)) === value) return;
    await pause(10);
  }
  throw new Error(`the cache is stale: ${key}`);
}

async function main() {
  const cached = await connected({
    RESP: 3, clientSideCache: { ttl: 0, maxEntries: 0, evictPolicy: "LRU" },
  });
  const writer = await connected({ RESP: 2 });
  const keys = ["foo", "bar", "qux"];
  for (const value of ["1", "2", "3"]) {
    for (const key of keys) {
      await writer.set(key, value);
      await follows(cached, key, value);
    }
    // Every value comes out of the cache, whichever shard it is of.
    const before = Number(/cmdstat_get:calls=(\d+)/.exec(await writer.info("commandstats"))?.[1] ?? 0);
    for (let n = 0; n < 100; n++) for (const key of keys) assert.equal(await cached.get(key), value);
    const after = Number(/cmdstat_get:calls=(\d+)/.exec(await writer.info("commandstats"))?.[1] ?? 0);
    assert.ok(after - before < 10, `${after - before} requests reached one node`);
  }
  assert.deepEqual(await cached.multi().get("foo").get("foo").exec(), ["3", "3"]);
  cached.destroy();
  writer.destroy();
  console.log("ok");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
