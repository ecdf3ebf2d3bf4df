// ioredis' Cluster: to it pointsman is a cluster of one node (see tests/cluster/clients.rs).
"use strict";
const assert = require("node:assert");
const Redis = require("ioredis");

const port = Number(process.argv[2]);

async function main() {
  const c = new Redis.Cluster([{ host: "127.0.0.1", port }], { scaleReads: "slave" });
  c.on("node error", (error) => { throw error; });
  for (let number = 0; number < 200; number++) {
    assert.equal(await c.set(`key:${number}`, number), "OK");
    assert.equal(await c.get(`key:${number}`), String(number));
  }
  assert.deepEqual(c.nodes("master").map((node) => node.options.port), [port]);
  assert.deepEqual(await c.mget("{t}a", "{t}b"), [null, null]);
  assert.deepEqual(
    await c.multi().set("{t}a", 1).incr("{t}a").exec(),
    [[null, "OK"], [null, 2]],
  );
  const pipe = c.pipeline();
  for (let number = 0; number < 50; number++) pipe.incr(`{key}:${number}`);
  for (const [error, value] of await pipe.exec()) assert.deepEqual([error, value], [null, 1]);
  const came = new Promise((resolve) => c.on("message", (_, message) => resolve(message)));
  assert.equal(await c.subscribe("ch"), 1);
  await c.publish("ch", "m");
  assert.equal(await came, "m");
  c.disconnect();
  console.log("ok");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
