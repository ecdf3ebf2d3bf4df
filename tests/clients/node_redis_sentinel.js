// node-redis in Sentinel mode: finds primary and replicas through pointsman, and goes on over a failover (see
// tests/answers/clients.rs). Arguments: port of the Sentinel answers, their password or an empty one.
"use strict";
const assert = require("node:assert");
const { createClient, createSentinel } = require("redis");

const [port, password] = [Number(process.argv[2]), process.argv[3] || undefined];
const saw = {
  client: `node-redis ${require("redis/package.json").version}`,
  before: "", after: "", replica: "", message: null, rounds: 0, errors: [],
};
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

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

async function main() {
  const asked = createClient({ socket: { port }, password });
  asked.on("error", () => {});
  await asked.connect();
  const c = createSentinel({
    name: "main", sentinelRootNodes: [{ host: "127.0.0.1", port }],
    sentinelClientOptions: { password }, replicaPoolSize: 1, scanInterval: 100,
  });
  c.on("error", () => {}); // A failover breaks connections; what matters is what comes after.
  await c.connect();
  const at = (node) => `${node.host}:${node.port}`;
  const replicated = (n) => until(async () => assert.equal(await c.get("key"), String(n)));
  await c.set("key", "0");
  await replicated(0);
  saw.before = at(c.getMasterNode());
  const found = await asked.sendCommand(["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"]);
  assert.equal(saw.before, found.join(":"));
  saw.replica = JSON.parse(JSON.stringify([...c.getReplicaNodes().keys()].map(at)))[0];
  await asked.subscribe("+switch-master", (text) => { saw.message = text; });
  let stopping = false;
  process.stdin.on("data", () => {}).on("end", () => { stopping = true; });
  console.log("ready");
  while (!stopping) await until(() => c.set("key", String(++saw.rounds)));
  await replicated(saw.rounds);
  saw.after = await until(async () => at(c.getMasterNode()));
  console.log(JSON.stringify(saw));
  process.exit(0);
}

main();
