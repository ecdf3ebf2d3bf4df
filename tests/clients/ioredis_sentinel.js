// ioredis in Sentinel mode: finds primary and replicas through pointsman, and goes on over a failover (see
// tests/answers/clients.rs). Arguments: port of the Sentinel answers, their password or an empty one.
"use strict";
const assert = require("node:assert");
const Redis = require("ioredis");

const [port, sentinelPassword] = [Number(process.argv[2]), process.argv[3] || null];
const saw = {
  client: `ioredis ${require("ioredis/package.json").version}`,
  before: "", after: "", replica: "", message: null, rounds: 0, errors: [],
};
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function client(options) {
  const c = new Redis({
    sentinels: [{ host: "127.0.0.1", port }], name: "main", sentinelPassword,
    sentinelRetryStrategy: () => 10, retryStrategy: () => 10, ...options,
  });
  c.on("error", () => {}); // A failover breaks connections; what matters is what comes after.
  return c;
}

/** Work that a failover may disturb: again until it is done, as an application would. */
async function until(work) {
  for (const end = Date.now() + 20_000; ;) {
    try {
      return await work();
    } catch (error) {
      if (Date.now() > end) throw error;
      await pause(10);
    }
  }
}

async function address(c) {
  const info = await c.info("server");
  return `127.0.0.1:${/tcp_port:(\d+)/.exec(info)[1]}`;
}

const replicated = (replica, n) => until(async () => assert.equal(await replica.get("key"), String(n)));

async function main() {
  const asked = new Redis({ port, password: sentinelPassword });
  const found = await asked.sentinel("get-master-addr-by-name", "main");
  assert.equal(await asked.sentinel("get-master-addr-by-name", "nobody"), null);
  const [primary, replica] = [client(), client({ role: "slave" })];
  await primary.set("key", "0");
  await replicated(replica, 0);
  saw.before = await address(primary);
  assert.equal(saw.before, found.join(":"));
  saw.replica = await address(replica);
  asked.on("message", (channel, text) => { saw.message = text; });
  await asked.subscribe("+switch-master");
  let stopping = false;
  process.stdin.on("data", () => {}).on("end", () => { stopping = true; });
  console.log("ready");
  while (!stopping) await until(() => primary.set("key", String(++saw.rounds)));
  await replicated(replica, saw.rounds);
  saw.after = await until(() => address(primary));
  console.log(JSON.stringify(saw));
  process.exit(0);
}

main();
